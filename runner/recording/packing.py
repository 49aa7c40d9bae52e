"""A rollout as one file, as stores and download links want it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from simyard.core.files import replacing


def pack(folder: Path, target: Path) -> None:
    """Write a rollout's folder as one zip file, which zarr opens as a `ZipStore`.

    Nothing is compressed again, and the same folder gives the same bytes.

    Args:
        folder: The store.
        target: The file; it is written beside and renamed.

    Raises:
        OSError: If a file cannot be read or written; nothing is left then.
    """
    # A hidden file is one that a killed process did not complete.
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    with replacing(target, durable=True) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # dated 1980, whenever it is
            entry.external_attr = 0o644 << 16
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(entry, "w") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
