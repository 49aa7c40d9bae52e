"""Files that users name: found, measured and hashed before anything depends on them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.core.specs import InputFile
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store, sha256_file

# `asset.json` is the record that lies beside an asset's file.
_NAME = re.compile(r"(?!asset\.json\Z)[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


@dataclass(frozen=True)
class LocalInput:
    """An input on this machine, and what it will be called in the store."""

    file: InputFile
    path: Path


def find_input(reference: str, base: Path, what: str) -> LocalInput:
    """Return the file a user named: a path relative to `base`, or a URI of a store.

    Args:
        reference: What the user wrote.
        base: Folder of the config.
        what: The field's name, for errors.

    Raises:
        RequestError: If there is no such file, or its name cannot be kept.
    """
    path = _download(reference, what) if "://" in reference else _local(reference, base, what)
    check_name(path.name, what)
    digest = sha256_file(path)
    file = InputFile(name=path.name, key=keys.asset(digest, path.name), sha256=digest, size_bytes=path.stat().st_size)
    return LocalInput(file, path)


def _local(reference: str, base: Path, what: str) -> Path:
    path = (base / reference).resolve()
    if not is_file(path):
        beside = sorted(entry.name for entry in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        raise RequestError(
            f"{what}: there is no file {reference!r} (looked at {str(path)!r}).",
            code="missing_file",
            advice=f"That folder has: {', '.join(beside)}." if beside else "Name a file, relative to the config.",
        )
    return path


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


def _download(uri: str, what: str) -> Path:
    folder, _, name = uri.rpartition("/")
    target = Path(tempfile.mkdtemp(prefix="simyard-input-")) / (name or "unnamed")
    try:
        Store.open(folder).get_file(name, target)
    except KeyNotFound as error:
        raise RequestError(
            f"{what}: there is nothing at {uri!r}.", code="missing_file", advice="Check the bucket and the key."
        ) from error
    return target


def gather(files: Iterable[InputFile], inputs: Iterable[LocalInput], store: Store, folder: Path) -> dict[str, Path]:
    """Return the paths of files on this machine, by digest; those that only the store has are fetched into `folder`."""
    here = {found.file.sha256: found.path for found in inputs}
    for index, file in enumerate(files):
        if file.sha256 not in here:
            here[file.sha256] = folder / str(index) / file.name
            store.get_file(file.key, here[file.sha256], sha256=file.sha256)
    return here
