"""`rollout.zarr` while it is written: a Zarr v3 group to which whole episodes are appended.

    zarr.json                 attributes: format, format_version, control_period_s, num_envs, finished, the caller's
    data/<key>                (steps, ...): one array a quantity, all episodes joined
    meta/episode_ends         (episodes,) int64: where each episode ends in `data`, cumulative
    meta/success              (episodes,) int8: 1, 0, or -1 where nobody measured it
    meta/termination          (episodes,) int8: why it ended; the legend is in its attributes
    meta/env                  (episodes,) int32: the environment it happened in
    meta/start_step           (episodes,) int64: the simulation's step of its first row

A `/` in a key makes groups: `obs/policy` is the array `data/obs/policy`. Episodes are in the order in which they ended,
those of the same step by environment; those that were cut off come last. A quantity's attributes are `unit`, `names`
(of the entries of its last axis) and `about`, where they are known. Axes have names, which xarray needs: `step` and
`episode`, and the others by their array, `obs:policy:1`.

zarr makes the metadata. The chunks are encoded and written here, in the process of the simulation: zarr-python takes
two to four times as long for a shard, with zarrs' codec pipeline three to six times (benchmarks/recording.py).

A reader, and whoever finds the folder after a `kill -9`, sees whole episodes alone: the rows are there before the
length of an array says so, and `episode_ends` grows last.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.files import replacing
from simyard.runner.recording.quantities import Description, Layout, Quantity

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FORMAT = "simyard.rollout"
FORMAT_VERSION = 1
TIME_LIMIT, TERMINATED, CUT_OFF = range(3)
"""Values of `meta/termination`."""
LEGEND = ("time limit", "terminated", "cut off because the run ended")
"""Meanings of these values, in their order."""
NOT_MEASURED = -1
"""Value of `meta/success`."""
_ROWS_MOST = 1 << 16
_CHUNK_BYTES = 1 << 17
_CHUNK_ROWS_MOST = 1 << 12
_META_CHUNK = 1 << 14
_TIME_LAST_MOST = 1 << 10
"""Values of a row up to which a chunk is turned."""


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Facts of some episodes, in their order."""

    episode_ends: Array = field(metadata={"dtype": "int64"})
    """`(episodes,)`: rows of all episodes up to each."""
    success: Array = field(metadata={"dtype": "int8"})
    """`(episodes,)`: 1, 0 or -1."""
    termination: Array = field(metadata={"dtype": "int8"})
    """`(episodes,)`: the cause of each end."""
    env: Array = field(metadata={"dtype": "int32"})
    """`(episodes,)`: the environment of each."""
    start_step: Array = field(metadata={"dtype": "int64"})
    """`(episodes,)`: the simulation's step of the first row."""

    def __len__(self) -> int:
        return len(self.episode_ends)

    def __getitem__(self, part: slice) -> Episodes:
        return Episodes(**{each.name: getattr(self, each.name)[part] for each in fields(self)})

    def __add__(self, other: Episodes) -> Episodes:
        import numpy as np

        pairs = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        return Episodes(**{name: np.concatenate(pair) for name, pair in pairs.items()})


class RolloutStore:
    """Writes whole shards, and commits the episodes that lie in them."""

    def __init__(self, folder: Path, attributes: Mapping[str, Any], *, control_period_s: float, num_envs: int) -> None:
        """Make a store without an episode.

        Raises:
            ValueError: If the attributes cannot be stored.
            FileExistsError: If something is there already.
        """
        import zarr

        own = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "control_period_s": control_period_s,
            "num_envs": num_envs,
            "finished": False,
        }
        if reserved := sorted(set(attributes) & set(own)):
            raise ValueError(f"Attributes {', '.join(map(repr, reserved))} are the recorder's own. Rename yours.")
        try:
            everything = json.loads(json.dumps({**own, **attributes}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"The attributes cannot be stored as JSON: {error}") from error
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} exists and is not empty. Record into a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._root = zarr.create_group(folder, zarr_format=3, attributes=everything)
        self._root.create_group("data")
        self._root.create_group("meta")
        legends = {
            "success": {"1": "succeeded", "0": "failed", str(NOT_MEASURED): "not measured"},
            "termination": {str(value): meaning for value, meaning in enumerate(LEGEND)},
        }
        self._meta = {
            each.name: _MetaArray(self._root, folder, each.name, each.metadata["dtype"], legends.get(each.name))
            for each in fields(Episodes)
        }
        self._data: dict[str, _ShardedArray] = {}
        self._layout: Layout | None = None

    def create(self, layout: Layout, descriptions: Mapping[str, Description], shard_bytes: int) -> int:
        """Make the arrays of all quantities.

        Args:
            layout: What a step consists of.
            descriptions: By key, where there are any.
            shard_bytes: Of one shard of every quantity, all together, before compression.

        Returns:
            Rows of a shard, the same for all quantities.
        """
        rows = min(_ROWS_MOST, _power_of_two(shard_bytes // layout.row_bytes))
        for quantity in layout.quantities:
            attributes = descriptions.get(quantity.key, Description()).attributes()
            self._data[quantity.key] = _ShardedArray(self._root, self._folder, quantity, rows, attributes)
        self._layout = layout
        return rows

    def write(self, number: int, lanes: Sequence[Array], rows: int) -> None:
        """Write one shard of every quantity; nothing shows it yet.

        Args:
            number: Of the shard, counted from 0.
            lanes: For each lane `(rows of a shard, width)`.
            rows: How many of them there are; all of them but in the last shard.
        """
        assert self._layout is not None
        for quantity in self._layout.quantities:
            self._data[quantity.key].write(number, lanes[quantity.lane][:, quantity.columns], rows)

    def commit(self, episodes: Episodes) -> None:
        """Show further episodes, all of whose rows are written."""
        if not len(episodes):
            return
        steps = int(episodes.episode_ends[-1])
        for array in self._data.values():
            array.grow(steps)
        for name in sorted(self._meta, key=lambda name: name == "episode_ends"):
            self._meta[name].append(getattr(episodes, name))

    def finish(self) -> None:
        """Mark the store as complete."""
        path = self._folder / "zarr.json"
        root = json.loads(path.read_text(encoding="utf-8"))
        root["attributes"]["finished"] = True
        _replace(path, json.dumps(root, indent=2).encode())


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


class _Chunks:
    """An array's folder: its chunks, and the length that its metadata shows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metadata = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        self._zeros = ".0" * (len(self._metadata["shape"]) - 1)

    def path(self, number: int) -> Path:
        return self._folder / f"c.{number}{self._zeros}"

    def grow(self, length: int) -> None:
        self._metadata["shape"][0] = length
        _replace(self._folder / "zarr.json", json.dumps(self._metadata, indent=2).encode())


class _MetaArray:
    """One number an episode; its newest chunk is written anew as it fills."""

    def __init__(self, root: Any, folder: Path, name: str, dtype: str, legend: Mapping[str, str] | None) -> None:
        import numpy as np

        root.create_array(
            f"meta/{name}", shape=(0,), dtype=dtype, chunks=(_META_CHUNK,), compressors=_compressors(),
            chunk_key_encoding=_KEYS, attributes={"legend": legend} if legend else {}, dimension_names=("episode",),
        )  # fmt: skip
        self._chunks = _Chunks(folder / "meta" / name)
        self._tail = np.zeros(_META_CHUNK, dtype)
        self._length = 0

    def append(self, values: Array) -> None:
        done = 0
        while done < len(values):
            start = self._length % _META_CHUNK
            count = min(len(values) - done, _META_CHUNK - start)
            self._tail[start : start + count] = values[done : done + count]
            self._tail[start + count :] = 0
            _replace(self._chunks.path(self._length // _META_CHUNK), _codec().encode(self._tail))
            self._length += count
            done += count
        self._chunks.grow(self._length)


class _ShardedArray:
    """One quantity; a shard is written once, whole."""

    def __init__(self, root: Any, folder: Path, quantity: Quantity, rows: int, attributes: Mapping[str, Any]) -> None:
        from zarr.codecs import TransposeCodec

        row = quantity.shape
        self._rows = min(rows, _CHUNK_ROWS_MOST, _power_of_two(_CHUNK_BYTES // quantity.row_bytes))
        self._count = rows // self._rows
        self._dtype = quantity.dtype
        # With time as the last axis each value's course lies together, and a third more is saved. In images neighbours
        # are alike already.
        self._time_last = 1 < math.prod(row) <= _TIME_LAST_MOST
        order = (*range(1, len(row) + 1), 0)
        axes = [":".join((*quantity.key.split("/"), str(axis))) for axis in range(1, len(row) + 1)]
        root.create_array(
            f"data/{quantity.key}", shape=(0, *row), dtype=quantity.dtype, chunks=(self._rows, *row),
            shards=(rows, *row), filters=[TransposeCodec(order=order)] if self._time_last else [],
            compressors=_compressors(), chunk_key_encoding=_KEYS, attributes=dict(attributes),
            dimension_names=("step", *axes),
        )  # fmt: skip
        self._chunks = _Chunks(folder.joinpath("data", *quantity.key.split("/")))
        self.grow = self._chunks.grow

    def write(self, number: int, values: Array, rows: int) -> None:
        import google_crc32c
        import numpy as np

        codec = _codec()
        index = np.full((self._count, 2), np.iinfo(np.uint64).max, "<u8")
        position, before = 0, b""
        with self._chunks.path(number).open("wb") as file:
            for chunk in range(-(-rows // self._rows)):
                part = values[chunk * self._rows : (chunk + 1) * self._rows]
                part = np.ascontiguousarray(part.T if self._time_last else part)
                encoded = codec.encode(part.view(self._dtype))
                if encoded == before:  # a picture that is held: it stands there once
                    index[chunk] = index[chunk - 1]
                    continue
                file.write(encoded)
                before = encoded
                index[chunk] = position, len(encoded)
                position += len(encoded)
            table = index.tobytes()
            file.write(table + google_crc32c.value(table).to_bytes(4, "little"))


_KEYS = {"name": "default", "separator": "."}
"""One file a chunk, and no folder for each."""


def _codec() -> Any:
    """Return the codec of a chunk.

    On states, actions and observations bit-shuffled lz4 saves as much as zstd does (a seventh; the last bits of
    simulated floats are noise), at three times its speed.
    """
    from numcodecs import Blosc

    return Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE)


def _compressors() -> Any:
    """Return the same for the metadata."""
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")


def _power_of_two(limit: int) -> int:
    """Return the largest power of two up to a limit, at least 1."""
    return 1 << (max(1, limit).bit_length() - 1)


def _replace(path: Path, data: bytes) -> None:
    """Replace a small file; not durably, because this is done many times a second."""
    with replacing(path) as beside:
        beside.write_bytes(data)
