"""`simyard completion`: commands and options completed by the shell."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

from simyard.cli.shared import Command
from simyard.core.errors import RequestError

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", required=False)
def completion(shell: str | None) -> None:
    """Print a script for the shell: eval "$(simyard completion)" in its start-up file.

    SHELL is bash, zsh or fish; left out, that of $SHELL.
    """
    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    kind = get_completion_class(name) if name in SHELLS else None
    if kind is None:
        raise RequestError(
            f"{name!r} is no shell that is completed.", code="bad_shell", advice=f"Allowed: {', '.join(SHELLS)}."
        )
    from simyard.cli.main import main

    click.echo(kind(main, {}, "simyard", "_SIMYARD_COMPLETE").source())
