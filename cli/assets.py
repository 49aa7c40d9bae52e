"""`simyard upload` and `simyard assets`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from simyard.cli.site_store import open_site_store
from simyard.core.errors import RequestError
from simyard.store.store import OnBytes
from simyard.tasks.shared import assets

QUIET_S = 2.0
"""What takes longer than this gets a progress bar."""


def upload(path: Path, kind: str, metadata: str, reference: str | None) -> dict[str, Any]:
    """Upload a file and return the asset's record.

    Raises:
        RequestError: The file, its kind or the metadata is refused.
        KeyboardInterrupt: Ctrl-C, with what to do then.
    """
    try:
        given = json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"--metadata is not JSON: {error}.", code="bad_metadata", advice="""Write '{"robot": "franka"}'."""
        ) from error
    store = open_site_store(reference)
    try:
        with _progress(path) as on_bytes:
            return assets.upload(store, path, kind, given, on_bytes)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Stopped. Run the same command again: it goes on where it stopped.") from None


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


def list_assets(reference: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the records of the assets that were uploaded last."""
    return assets.list_assets(open_site_store(reference), limit)


def show(asset_id: str, reference: str | None) -> dict[str, Any]:
    """Return an asset's record."""
    return assets.find_asset(open_site_store(reference), asset_id)


def table(records: list[dict[str, Any]]) -> str:
    """Return the list as text."""
    if not records:
        return "No assets in this store yet."
    lines = [f"{'ASSET':70} {'KIND':22} {'BYTES':>14}  {'CREATED':20} FILE"]
    for record in records:
        about = f"{record['kind']:22} {record['size_bytes']:>14,}  {record['created_at'][:19]}Z {record['filename']}"
        lines.append(f"{record['asset_id']} {about}")
    return "\n".join(lines)


def describe(record: dict[str, Any]) -> str:
    """Return a record as text."""
    shown = record | {"size_bytes": f"{record['size_bytes']:,}", "metadata": json.dumps(record["metadata"])}
    return "\n".join(f"{name:13} {value}" for name, value in shown.items())
