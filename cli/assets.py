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
from simyard.core.errors import RequestError

if TYPE_CHECKING:
    from simyard.core.records import AssetRecord
    from simyard.store.store import OnBytes

QUIET_S = 2.0
"""Seconds after which a command gets a progress bar."""


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--kind", required=True, metavar="KIND", help="robot, scene, isaac_lab_task_package, checkpoint or config."
)
@click.option("--metadata", default="{}", metavar="JSON", help="An object to keep with it, of at most 64 kB.")
@click.option("--entry", metavar="FILE", help="The file of a robot's or a scene's bundle that counts: robot/arm.xml.")
@STORE
@JSON
def upload(path: Path, kind: str, metadata: str, entry: str | None, store: str | None, as_json: bool) -> None:
    """Upload a file as an asset. Prints the id that jobs name it by.

    The same bytes are one asset: uploaded again, nothing is sent, and kind and metadata are replaced. An upload that
    was interrupted goes on where it stopped.
    """
    from simyard.tasks.shared.inputs import CONFIG
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
    """Look at uploaded robots, scenes, task packages and checkpoints."""


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
