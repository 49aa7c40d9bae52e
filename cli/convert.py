"""`simyard convert`: a downloaded rollout for other people's training code; no store is asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from simyard import convert as converting


def convert(rollout: Path, out: Path, to: str, *, quiet: bool) -> dict[str, Any]:
    """Convert a rollout, with a progress bar; return what was written.

    Raises:
        RequestError: If it cannot be converted.
    """
    with (
        open(os.devnull, "w") as nowhere,
        click.progressbar(length=100, label=out.name, file=nowhere if quiet else sys.stderr) as bar,
    ):
        return converting.convert(rollout, out, to, lambda done, total: bar.update(100 * done // total - bar.pos))


def describe(found: dict[str, Any]) -> str:
    """Return what was written as text."""
    lines = [f"{found['episodes']} episodes, {found['steps']} steps in {found['out']}"]
    lines += [f"  {key:24} {name}" for key, name in sorted(found["keys"].items())]
    return "\n".join(lines)
