"""`simyard cache`: compiled kernels, for other machines of this kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.shared import JSON, Group, emit

if TYPE_CHECKING:
    from simyard.tasks.shared.kernels import Exported, Imported

PROJECT = click.option("--project", default="default", show_default=True, help="Whose jobs' kernels.")


@click.group(cls=Group)
def cache() -> None:
    """Bring compiled kernels from one machine to others of its kind."""


@cache.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@PROJECT
@JSON
def export_(file: Path, project: str, as_json: bool) -> None:
    """Write what this machine has compiled into FILE, a .tar.gz; print the digest that an import asks for."""
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.shared.kernels import export_kernels

    def describe(found: Exported) -> str:
        return (
            f"{found.file}: {found.files:,} files of project {found.project}, {found.size_bytes / 1e6:.1f} MB\n"
            f"made on: {found.made_on.in_words()}\nsha256:  {found.sha256}"
        )

    emit(export_kernels(MachineSettings.from_env(), project, file), as_json, describe)


@cache.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--sha256", required=True, metavar="DIGEST", help="As the export printed it: your word that FILE is that."
)
@PROJECT
@JSON
def import_(file: Path, sha256: str, project: str, as_json: bool) -> None:
    """Take in the kernels that `export` wrote on a machine with this GPU, driver, processor and these packages.

    They run as machine code in the next job. Nothing that this machine has compiled is replaced.
    """
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.shared.kernels import import_kernels

    def describe(found: Imported) -> str:
        return (
            f"{found.new:,} files are new for project {found.project}, {found.there:,} were there\n"
            f"trusted: sha256 {found.sha256}, as you named it\nmade on: {found.made_on.in_words()}, as this machine"
        )

    emit(import_kernels(MachineSettings.from_env(), project, file, sha256), as_json, describe)
