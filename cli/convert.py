"""`simyard convert`: a downloaded rollout for other people's training code; no store is asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.options import JSON
from simyard.cli.output import Command, emit

if TYPE_CHECKING:
    from simyard.convert import Conversion


@click.command(cls=Command)
@click.argument("rollout", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(("diffusion_policy", "robomimic")),
    required=True,
    help="A Zarr v2 replay buffer, or one HDF5 file.",
)
@JSON
def convert(rollout: Path, out: Path, to: str, as_json: bool) -> None:
    """Convert a rollout for other training code. ROLLOUT is the rollout.zarr of a job."""
    from simyard import convert as converting

    with (
        open(os.devnull, "w") as nowhere,
        click.progressbar(length=100, label=out.name, file=nowhere if as_json else sys.stderr) as bar,
    ):
        found = converting.convert(rollout, out, to, lambda done, total: bar.update(100 * done // total - bar.pos))
    emit(found, as_json, _describe)


def _describe(found: Conversion) -> str:
    lines = [f"{found['episodes']} episodes, {found['steps']} steps in {found['out']}"]
    lines += [f"  {key:24} {name}" for key, name in sorted(found["keys"].items())]
    return "\n".join(lines)
