"""Opening a rollout for real: it counts only when everything in it can be read and agrees."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.recording.arrays import FORMAT, FORMAT_VERSION, LEGEND, NOT_MEASURED, Episodes
from simyard.runner.recording.episodes import Counts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def open_rollout(path: Path) -> dict[str, Any]:
    """Open a rollout, a folder or a zip file, and check it.

    Every array is there with all its shards, the first and the last of them are decoded, and all lengths agree with
    `episode_ends`. A rollout whose recorder was killed may have more rows than its episodes: they count for nothing.

    Returns:
        `episodes`, `steps` (rows of all episodes), `success` (`measured`, `succeeded` and `rate`; None where no episode
        was measured), `keys` (by key the `shape` of one step and the `dtype`), `bytes` on disk, and `finished` (False
        if the recorder was killed).

    Raises:
        ValueError: If it is no rollout, or a broken one; says why.
    """
    with opened(path) as (root, exists):
        finished = bool(root.attrs.get("finished"))
        episodes = _read_meta(root, exists, finished)
        steps = int(episodes.episode_ends[-1]) if len(episodes) else 0
        keys = {}
        for key, array in quantities(root).items():
            _check_array(f"data/{key}", array, exists, steps, finished)
            keys[key] = tuple(array.shape[1:]), str(array.dtype)
        if steps and not keys:
            raise ValueError(f"{path} lists episodes and has no array in data.")
        return figures(path, Counts().plus(episodes), keys) | {"finished": finished}


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Callable[[str], bool]]]:
    """Open a rollout without looking further.

    Yields:
        Its root group, and what says whether the store has a key.

    Raises:
        ValueError: If it is no rollout.
    """
    import zarr

    names: frozenset[str] | None = None
    if path.is_dir():
        store: Any = zarr.storage.LocalStore(path, read_only=True)
    elif path.is_file() and zipfile.is_zipfile(path):
        store = zarr.storage.ZipStore(path, mode="r")
        with zipfile.ZipFile(path) as archive:
            names = frozenset(archive.namelist())
    else:
        raise ValueError(f"{path} is {'neither a folder nor a zip file' if path.exists() else 'not there'}.")
    try:
        try:
            root = zarr.open_group(store, mode="r", zarr_format=3)
        except Exception as error:
            raise ValueError(f"{path} is no Zarr v3 group: {error}") from error
        if root.attrs.get("format") != FORMAT:
            raise ValueError(f"{path} is a Zarr group, and no rollout: its attributes have no format {FORMAT!r}.")
        if root.attrs.get("format_version") != FORMAT_VERSION:
            version = root.attrs.get("format_version")
            raise ValueError(f"{path} has the format version {version!r}. Allowed: {FORMAT_VERSION}.")
        yield root, lambda key: (path / key).is_file() if names is None else key in names
    finally:
        store.close()


def quantities(root: Any) -> dict[str, Any]:
    """Return the arrays of a rollout by key, sorted.

    Raises:
        ValueError: If the group of them is missing.
    """
    import zarr

    if not isinstance(data := root.get("data"), zarr.Group):
        raise ValueError("The group 'data' is missing.")
    members = dict(data.members(max_depth=None))
    return {key: members[key] for key in sorted(members) if isinstance(members[key], zarr.Array)}


def figures(path: Path, counts: Counts, keys: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Any]:
    """Return the figures of a rollout, as `open_rollout` does."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    measured = {"measured": counts.measured, "succeeded": counts.succeeded}
    return {
        "episodes": counts.episodes,
        "steps": counts.steps,
        "success": measured | {"rate": counts.succeeded / counts.measured} if counts.measured else None,
        "keys": {key: {"shape": list(shape), "dtype": dtype} for key, (shape, dtype) in sorted(keys.items())},
        "bytes": sum(file.stat().st_size for file in files),
    }


def _read_meta(root: Any, exists: Callable[[str], bool], finished: bool) -> Episodes:
    import numpy as np
    import zarr

    read: dict[str, Array] = {}
    for name in (each.name for each in fields(Episodes)):
        array = root.get(f"meta/{name}")
        if not isinstance(array, zarr.Array) or array.ndim != 1:
            raise ValueError(f"meta/{name} is missing.")
        count = len(read["episode_ends"]) if read else array.shape[0]
        _check_array(f"meta/{name}", array, exists, count, finished)
        read[name] = np.asarray(array[:count])
    episodes = Episodes(**read)
    if (np.diff(episodes.episode_ends, prepend=0) <= 0).any():
        raise ValueError("meta/episode_ends does not grow from episode to episode.")
    allowed = {"success": (1, 0, NOT_MEASURED), "termination": range(len(LEGEND))}
    for name, values in allowed.items():
        if not np.isin(read[name], list(values)).all():
            raise ValueError(f"meta/{name} has other values than {', '.join(map(str, values))}.")
    return episodes


def _check_array(name: str, array: Any, exists: Callable[[str], bool], length: int, finished: bool) -> None:
    """Check that an array is as long as it must be, and that it can be read."""
    if array.ndim < 1 or array.shape[0] < length or (finished and array.shape[0] != length):
        raise ValueError(f"{name} has the shape {array.shape}; its episodes take {length} rows.")
    rows = (array.shards or array.chunks)[0]
    count = math.ceil(length / rows)
    for number in range(count):
        # zarr reads zeros where a file is missing.
        key = f"{array.path}/{array.metadata.encode_chunk_key((number, *(0,) * (array.ndim - 1)))}"
        if not exists(key):
            raise ValueError(f"{name} has lost {key}, one of its {count} shards.")
    for start in sorted({0, (count - 1) * rows} if count else ()):
        try:
            array[start : min(start + rows, length)]
        except Exception as error:
            raise ValueError(f"{name} cannot be read from row {start}: {error}") from error
