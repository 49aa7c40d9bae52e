"""Inputs of jobs: files that users name, found, measured and hashed, or upload once as assets and name by id.

An asset is its bytes: the same ones twice are one asset. The second upload sends nothing, and its file name, kind and
metadata replace those of the first.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.core.files import lasting_scratch
from simyard.core.foreign import require_plain
from simyard.core.records import AssetRecord
from simyard.core.specs import InputFile
from simyard.core.wire import now_ms
from simyard.runner.assets import archives
from simyard.runner.assets.references import is_lfs_pointer, lfs_pointer
from simyard.runner.isaaclab.physics import ENGINES
from simyard.store import keys
from simyard.store.backend import on_disk
from simyard.store.keys import AssetKeys
from simyard.store.store import KeyNotFound, OnBytes, Store, sha256_file
from simyard.store.uploads import send
from simyard.tasks.shared.limited import limited
from simyard.tasks.shared.listing import Page, Unreadable, read_each, shown

CONFIG = "config"
"""Kind of an asset that is the config of a job: the service starts the job when it is registered."""
_MODELS = (".urdf", ".usd", ".usda", ".usdc", ".usdz", ".xml", ".mjcf", ".zip")
ENDINGS = {
    "robot": _MODELS,
    "scene": _MODELS,
    "isaac_lab_task_package": (".zip", ".tar.gz", ".tgz", ".whl"),
    "checkpoint": (".pt", ".pth", ".zip", ".onnx"),
    CONFIG: (".json",),
}
"""Kinds of assets, each with the endings of its file's name, in upper or lower case."""
KINDS = tuple(ENDINGS)
MAX_METADATA_BYTES = 64 * 1024
"""Of an asset's metadata, as JSON."""

TRACKED = ("mlflow:", "wandb:")
"""Beginnings of references to files of trackers."""

_WITH_ENTRY = ("robot", "scene")

_CONTENT_TYPES = {
    ".urdf": "application/xml",
    ".xml": "application/xml",
    ".mjcf": "application/xml",
    ".json": "application/json",
    ".usda": "model/vnd.usda",
    ".usdz": "model/vnd.usdz+zip",
    ".zip": "application/zip",
    ".whl": "application/zip",
    ".tar.gz": "application/gzip",
    ".tgz": "application/gzip",
}
_OTHER = "application/octet-stream"

# `asset.json` is the record that lies beside an asset's file.
_NAME = re.compile(r"(?!asset\.json\Z)[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


@dataclass(frozen=True)
class LocalInput:
    """An input on this machine, and what it will be called in the store."""

    file: InputFile
    path: Path


def find_input(reference: str, base: Path, what: str) -> LocalInput:
    """Return the file a user named: a path relative to `base`, a URI of a store, or a reference to a tracker's file.

    Args:
        reference: What the user wrote.
        base: Folder of the config.
        what: The field's name, for errors.

    Raises:
        RequestError: If there is no such file, or its name cannot be kept.
    """
    if reference.startswith(TRACKED):
        from simyard.tasks.trackers.references import fetch

        path = fetch(reference, lasting_scratch("input"), what)
    elif "://" in reference:
        folder, _, name = reference.rpartition("/")
        path = lasting_scratch("input") / (name or "unnamed")
        try:
            Store.open(folder).get_file(name, path)
        except KeyNotFound as error:
            raise RequestError(
                f"{what}: there is nothing at {reference!r}.",
                code="missing_file",
                advice="Check the bucket and the key.",
            ) from error
    else:
        path = (base / reference).resolve()
        if not is_file(path):
            beside = sorted(entry.name for entry in path.parent.iterdir())[:8] if path.parent.is_dir() else []
            raise RequestError(
                f"{what}: there is no file {reference!r} (looked at {str(path)!r}).",
                code="missing_file",
                advice=f"That folder has: {', '.join(beside)}." if beside else "Name a file, relative to the config.",
            )
    check_name(path.name, what)
    if is_lfs_pointer(path):
        raise lfs_pointer(path.name)
    digest = sha256_file(path)
    file = InputFile(name=path.name, key=keys.asset(digest, path.name), sha256=digest, size_bytes=path.stat().st_size)
    return LocalInput(file, path)


def check_name(name: str, what: str) -> None:
    """Refuse a file's name that cannot be kept.

    Args:
        name: Without its folder.
        what: Whose name it is, for errors.

    Raises:
        RequestError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{what}: {name!r} cannot be a file's name here.",
            code="bad_name",
            advice="Use letters, digits and . _ + - alone, 128 at most, and not 'asset.json'.",
        )


def is_file(path: Path) -> bool:
    """Return True for a file that is there; False also for a name that no file system takes."""
    try:
        return path.is_file()
    except OSError:
        return False


def gather(files: Iterable[InputFile], inputs: Iterable[LocalInput], store: Store, folder: Path) -> dict[str, Path]:
    """Return the paths of files on this machine, by digest; those that only the store has are fetched into `folder`."""
    here = {found.file.sha256: found.path for found in inputs}
    for index, file in enumerate(files):
        if file.sha256 not in here:
            here[file.sha256] = folder / str(index) / file.name
            store.get_file(file.key, here[file.sha256], sha256=file.sha256)
    return here


def upload(
    store: Store,
    path: str | os.PathLike[str],
    kind: str,
    metadata: Mapping[str, Any],
    on_bytes: OnBytes | None = None,
) -> AssetRecord:
    """Make a local file an asset; return its record. An upload that was interrupted goes on where it stopped.

    Args:
        store: Where to.
        path: The file.
        kind: One of `KINDS`.
        metadata: What the user wants to be kept with it: a JSON object.
        on_bytes: Called with the number of further bytes in the store.

    Raises:
        RequestError: The file, its name, its content, the kind or the metadata is refused; nothing was written.
        StoreError: The file cannot be read, or the store not written.
    """
    path = Path(path)
    check_file(path, kind)
    metadata = _check_metadata(metadata)
    with on_disk("read", path):
        # An archive that jobs unpack is looked into.
        is_unpacked = kind != "checkpoint" and path.name.lower().endswith(tuple(archives.EXTENSIONS))
        content = limited(archives.inspect, path) if is_unpacked else None
        # What a robot or a scene names as its main file is in it; the engine that a checkpoint names is one.
        engine = metadata.get("trained_under")
        if kind == "checkpoint" and engine is not None and engine not in [*ENGINES]:
            raise unknown(f"trained_under of {path.name!r}:", str(engine), ENGINES, code="bad_metadata")
        files, entry = content.files if content else (path.name,), metadata.get("entry")
        if kind in _WITH_ENTRY and entry is not None and entry not in files:
            models = [file for file in files if file.lower().endswith(_MODELS)]
            raise unknown(f"entry of {path.name!r}:", entry, models, code="bad_metadata")
        digest = content.sha256 if content else sha256_file(path)
        size = path.stat().st_size
    own = AssetKeys(digest)
    file = InputFile(name=path.name, key=own.file(path.name), sha256=digest, size_bytes=size)
    known = store.get_record_or_none(own.record, AssetRecord)
    if known and known.filename != file.name and not store.exists(file.key):
        with suppress(KeyNotFound):  # somebody deleted it
            store.copy(own.file(known.filename), file.key)
    send(store, file, path, on_bytes=on_bytes)
    record = AssetRecord(
        asset_id=keys.asset_id_of(digest),
        kind=kind,
        filename=file.name,
        sha256=digest,
        size_bytes=size,
        content_type=next((found for end, found in _CONTENT_TYPES.items() if path.name.lower().endswith(end)), _OTHER),
        metadata=metadata,
        created_at=known.created_at if known else now_ms(),
    )
    store.put_record(own.record, record)
    return record


def entry_of(record: AssetRecord) -> str | None:
    """Return the path of a bundle's main file, where its upload names it: `entry` in the metadata."""
    entry = record.metadata.get("entry") if record.kind in _WITH_ENTRY else None
    return entry if isinstance(entry, str) else None


def trained_under_of(record: AssetRecord) -> str | None:
    """Return the engine that a checkpoint was trained under, where its upload says it: `trained_under`."""
    engine = record.metadata.get("trained_under") if record.kind == "checkpoint" else None
    return engine if isinstance(engine, str) else None


def find_asset(store: Store, asset_id: str) -> AssetRecord:
    """Return an asset's record.

    Raises:
        RequestError: It is no asset id, or the store has no such asset.
    """
    record = store.get_record_or_none(AssetKeys(keys.sha256_of_asset(asset_id)).record, AssetRecord)
    if record is None:
        raise RequestError(
            f"There is no asset {asset_id!r} in {store.url()!r}.",
            code="unknown_asset",
            advice="See `simyard assets list`, or upload it: `simyard upload FILE --kind KIND`.",
        )
    return record


def asset_file(record: AssetRecord) -> InputFile:
    """Return an asset's file as an input of a job."""
    key = AssetKeys(record.sha256).file(record.filename)
    return InputFile(name=record.filename, key=key, sha256=record.sha256, size_bytes=record.size_bytes)


def list_assets(store: Store, limit: int, after: str | None = None) -> Page[AssetRecord]:
    """Return a page of the records of assets, the newest upload first.

    Args:
        store: Their store.
        limit: The most that the page may have.
        after: What the page before said that the next one begins at.
    """
    begin = _place(after) if after is not None else None
    listed = [(entry.modified.isoformat(), entry.key) for entry in store.list(keys.ASSETS)]
    times = {keys.asset_id_of(key.split("/")[1]): modified for modified, key in listed if key.endswith("/asset.json")}
    left = sorted((at for at in times.values() if begin is None or at <= begin[0]), reverse=True)
    if not left:
        return Page()
    # A bucket's clock counts in seconds: those of one second are in the order in which they were first uploaded, which
    # their records alone say. So all of the last second are read, and of the first one those that were shown too.
    last = left[min(limit + (left.count(begin[0]) if begin else 0), len(left)) - 1]
    names = [asset_id for asset_id, at in times.items() if last <= at <= left[0]]
    rows: list[tuple[tuple[str, str, str], AssetRecord | Unreadable]] = []
    for asset_id, found in zip(
        names, read_each(names, lambda asset_id: shown(find_asset(store, asset_id))), strict=True
    ):
        place = times[asset_id], found.created_at if isinstance(found, AssetRecord) else "", asset_id
        if found is not None and (begin is None or place < begin):
            rows.append((place, found))
    rows.sort(key=lambda row: row[0], reverse=True)
    page: Page[AssetRecord] = Page()
    for _, found in rows[:limit]:
        page.add(found)
    if rows and (len(rows) > limit or left[-1] < last):
        page.more = " ".join(rows[:limit][-1][0])
    return page


def _place(text: str) -> tuple[str, str, str]:
    """Return the place of an asset in the list: the time of its upload, that of its first one, and its id.

    Raises:
        RequestError: The text names none.
    """
    modified, created_at, asset_id = [*text.split(" "), "", ""][:3]
    if not asset_id:
        raise RequestError(f"{text!r} is no place in a list.", code="bad_cursor", advice="Begin without one.")
    return modified, created_at, asset_id


def check_file(path: Path, kind: str) -> None:
    """Refuse a file that is no asset of this kind, as far as it shows from outside.

    Raises:
        RequestError: It is none.
    """
    if os.path.isdir(path):
        raise RequestError(
            f"{str(path)!r} is a folder.", code="missing_file", advice="Pack it as a .zip file, and upload that."
        )
    if not is_file(path):
        raise RequestError(
            f"There is no regular file {str(path)!r}.",
            code="missing_file",
            advice="Name a file of this machine.",
        )
    check_name(path.name, "The asset")
    check_kind(path.name, kind)
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
        is_pointer = is_lfs_pointer(path)
    except OSError as error:
        raise RequestError(
            f"Cannot read {str(path)!r}: {error.strerror}.", code="unreadable_file", advice="Check who may read it."
        ) from error
    if is_empty:
        raise RequestError(f"{str(path)!r} is empty.", code="empty_file", advice="Upload a file that has content.")
    if is_pointer:
        raise lfs_pointer(path.name)


def check_kind(name: str, kind: str) -> None:
    """Refuse a kind that there is not, or a file's name that no asset of the kind has.

    Raises:
        RequestError: It is refused.
    """
    if kind not in KINDS:
        raise unknown("kind of asset", kind, KINDS, code="unknown_asset_kind")
    endings = ENDINGS[kind]
    if not name.lower().endswith(endings):
        raise RequestError(
            f"{name!r} is not named as the file of a {kind}.",
            code="bad_asset_name",
            advice=f"Allowed: {', '.join(endings)}. Rename it, or give the kind that it is: {', '.join(KINDS)}.",
        )


def kind_by_name(name: str) -> str:
    """Return the first kind whose files may have this name; a model counts as a robot."""
    return next((kind for kind in KINDS if name.lower().endswith(ENDINGS[kind])), KINDS[0])


def _check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as what it is once it was JSON."""
    advice = f'Give an object of at most {MAX_METADATA_BYTES:,} bytes, such as {{"robot": "franka"}}.'
    if not isinstance(metadata, Mapping):
        raise RequestError(
            f"The metadata is of type {type(metadata).__name__}, not an object.", code="bad_metadata", advice=advice
        )
    try:
        require_plain(dict(metadata))
    except ValueError as error:
        raise RequestError(f"The metadata cannot be JSON: {error}.", code="bad_metadata", advice=advice) from error
    text = json.dumps(dict(metadata), ensure_ascii=False)
    size = len(text.encode())
    if size > MAX_METADATA_BYTES:
        raise RequestError(f"The metadata has {size:,} bytes.", code="bad_metadata", advice=advice)
    return dict(json.loads(text))
