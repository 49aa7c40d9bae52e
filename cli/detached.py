"""A command that goes on by itself: it outlives this process and its terminal."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simyard.requests.settings import Site


def go_on_alone(name: str, arguments: list[str], reference: str, pool: str | None, site: Site) -> None:
    """Start `simyard ARGUMENTS` in a process of its own.

    Args:
        name: Of what it does; what it prints goes to a log of that name below the site's home.
        arguments: Of the command.
        reference: The store.
        pool: The work pool, if one is to be used.
        site: This machine.
    """
    log = site.home / "work" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "simyard", *arguments, "--store", reference]
    with log.open("ab") as output:
        subprocess.Popen(
            [*command, *(["--pool", pool] if pool else [])],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
