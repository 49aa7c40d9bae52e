"""Opens a rollout for real: it counts only when everything in it can be read and agrees."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from simyard.runner.recording.arrays import FORMAT, FORMAT_VERSION, LEGEND, NOT_MEASURED, Episodes
from simyard.runner.recording.episodes import Counts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_ROWS = 1 << 22
"""Rewards that are read at once."""


class ArrayForm(TypedDict):
    """Form of a recorded quantity."""

    shape: list[int]
    """Of one step; of an array that a task wrote itself the whole shape."""
    dtype: str
    """Type of its values, as numpy names it."""


class MeanReturn(TypedDict):
    """Undiscounted returns of the episodes."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Content of a rollout, in numbers."""

    counts: Counts
    """Episodes, steps and successes."""
    keys: dict[str, ArrayForm]
    """The form of each quantity, by its name."""
    size_bytes: int
    """Bytes on disk."""
    finished: bool
    """False if the recorder was killed."""


def open_rollout(path: Path) -> Figures:
    """Open a rollout, a folder or a zip file, and check it.

    Every array is there with all its shards, the first and the last of them are decoded, and all lengths agree with
    `episode_ends`. A rollout whose recorder was killed may have more rows than its episodes: they count for nothing.

    Raises:
        ValueError: If it is no rollout, or a broken one; says why.
    """
    import numpy as np
    import zarr

    with opened(path) as (root, exists):
        finished = bool(root.attrs.get("finished"))

        # The episodes; `episode_ends` is the first, and says how many of the others count.
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

        # The quantities: a row for each step of these.
        counts, keys = Counts().plus(episodes), {}
        for key, array in quantities(root).items():
            _check_array(f"data/{key}", array, exists, counts.steps, finished)
            keys[key] = ArrayForm(shape=list(array.shape[1:]), dtype=str(array.dtype))
        if counts.steps and not keys:
            raise ValueError(f"{path} lists episodes and has no array in data.")
    return Figures(counts=counts, keys=keys, size_bytes=size_of(path), finished=finished)


def open_foreign(path: Path) -> dict[str, ArrayForm]:
    """Open a store that a task wrote itself, any Zarr group with an array in it, and read each array at both ends.

    Returns:
        The form of each array, by its name.

    Raises:
        ValueError: If it is none, or an array cannot be read.
    """
    import zarr

    try:
        with zarr.storage.ZipStore(path, mode="r") as store:
            root = zarr.open_group(store, mode="r")
            members = dict(root.members(max_depth=None))
            arrays = {key: array for key, array in sorted(members.items()) if isinstance(array, zarr.Array)}
            for array in arrays.values():
                if array.size:
                    array[(0,) * array.ndim], array[(-1,) * array.ndim]
    except Exception as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not arrays:
        raise ValueError(f"{path.name} has no array in it")
    return {key: ArrayForm(shape=list(array.shape), dtype=str(array.dtype)) for key, array in arrays.items()}


def size_of(path: Path) -> int:
    """Return the bytes of a rollout, a folder or one file."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


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


def mean_return(path: Path) -> MeanReturn | None:
    """Return mean and standard deviation of the episodes' returns; None where no reward was recorded.

    Raises:
        ValueError: If it is no rollout.
    """
    import numpy as np

    with opened(path) as (root, _):
        rewards = root.get("data/reward")
        if rewards is None or rewards.ndim != 1:
            return None
        ends = np.asarray(root["meta/episode_ends"][:])
        totals = np.zeros(len(ends))
        for start in range(0, int(ends[-1]) if len(ends) else 0, _ROWS):
            rows = np.asarray(rewards[start : min(start + _ROWS, ends[-1])], np.float64)
            episodes = np.searchsorted(ends, np.arange(start, start + len(rows)), side="right")
            totals += np.bincount(episodes, rows, minlength=len(ends))
    if not len(totals) or not np.isfinite(totals).all():
        return None
    return {"mean": float(totals.mean()), "std": float(totals.std())}


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
