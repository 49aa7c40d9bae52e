"""A package that is being worked on: a folder of this machine, packed as the archive that a job takes."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.core.files import lasting_scratch
from simyard.tasks.shared.inputs import LocalInput, find_input

MOST_BYTES = 64 << 20
"""Of a folder's files: code and a robot's meshes are less, and what else lies there is not meant."""
_LEFT_OUT = ("__pycache__", "build", "dist", "logs", "outputs", "wandb")


def find_package(reference: str, base: Path, what: str) -> LocalInput:
    """Return the package that a user named: a file as `find_input` finds it, or a folder, which is packed.

    The same files are the same bytes, so that a package that did not change is one object in the store.

    Args:
        reference: What the user wrote.
        base: Folder of the config.
        what: The field's name, for errors.

    Raises:
        RequestError: If there is nothing, or the folder has more than belongs to a package.
    """
    folder = (base / reference).resolve()
    if "://" in reference or not folder.is_dir():
        return find_input(reference, base, what)
    sizes = {path: path.stat().st_size for path in _files(folder)}
    problem = "" if any(path.suffix == ".py" for path in sizes) else "has no Python file"
    if (total := sum(sizes.values())) > MOST_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        problem = f"has {total:,} bytes, {sizes[largest]:,} of them in {str(largest.relative_to(folder))!r}"
    if problem:
        raise RequestError(
            f"{what}: the folder {reference!r} {problem}.",
            code="bad_package_folder",
            advice=f"Name the folder of a Python project, with {MOST_BYTES:,} bytes at most, or pack what belongs to "
            f"it as a .zip. Left out are hidden files, stores, and folders called {', '.join(_LEFT_OUT)}.",
        )

    # Without times and owners, whoever packs it and when. Of a package without a project its name is the folder's.
    above = f"{folder.name}/" if (folder / "__init__.py").is_file() else ""
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", folder.name).lstrip("._+-")[:100] or "package"
    target = lasting_scratch("package") / f"{name}.tar.gz"
    with (
        target.open("xb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in sizes:
            entry = tarfile.TarInfo(above + path.relative_to(folder).as_posix())
            entry.size, entry.mode = sizes[path], 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return find_input(str(target), base, what)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a package in order, without what lies there besides."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not _is_left_out(here / name))
        yield from (here / name for name in sorted(names) if not name.startswith(".") and (here / name).is_file())


def _is_left_out(folder: Path) -> bool:
    name = folder.name
    is_store = next((folder / "jobs").glob("job-*"), None) is not None
    return name.startswith(".") or name in _LEFT_OUT or name.endswith(".egg-info") or is_store
