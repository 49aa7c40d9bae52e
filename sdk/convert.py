"""Rollouts for other people's training code: diffusion_policy's replay buffers and robomimic's datasets.

`diffusion_policy`: a folder, a Zarr v2 group that `ReplayBuffer` reads. `data/action`; `data/obs`, which is the
recorded `obs` or, without one, `obs/policy`; every other quantity under its key, with `_` for `/`, because a replay
buffer has no groups below `data`. `meta/episode_ends`.

`robomimic`: one HDF5 file. For each episode `data/demo_<number>` with `actions`, `rewards` if a `reward` was recorded
(robomimic reads zeros without it), `dones` (1 on the last step of an episode that terminated: not at a time limit) and
everything else below `obs`: `obs/policy` as `obs/policy`, other keys with `_` for `/`. `num_samples` and, if it was
measured, `success` are attributes of a demo, `total` and `env_args` those of `data`; `mask/successful` lists the demos
that succeeded. There is no `next_obs`: set `train.hdf5_load_next_obs` to False, as robomimic's imitation configs do.

Values are copied to the bit. Actions are made `(steps, values)`, and single numbers `(steps, 1)` but for the reward, as
both formats expect. The whole is written beside and renamed, in the memory of one shard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError, StoreError
from simyard.core.files import replacing
from simyard.runner.recording.reading import open_rollout, opened, quantities

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FORMATS = ("diffusion_policy", "robomimic")
"""Formats a rollout can be converted to."""
_ACTION, _REWARD, _OBSERVATION = "action", "reward", "obs"
_POLICY_OBSERVATION = "obs/policy"
_CHUNK_BYTES = 2_000_000
"""Bytes of a replay buffer's own chunks."""
_GYM = 2
"""robomimic's number for environments that gym makes, which Isaac Lab also writes."""
_TERMINATED = 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Piece:
    """Some rows of one quantity."""

    key: str
    """Of the quantity."""
    start: int
    """Row of the first of them, in all episodes joined."""
    values: Array
    """`(rows, ...)`, as the format has them."""


class Source:
    """An open rollout, read in pieces."""

    def __init__(self, root: Any, progress: Progress) -> None:
        import numpy as np

        meta = root["meta"]
        self.ends: Array = np.asarray(meta["episode_ends"][:])
        self.success: Array = np.asarray(meta["success"][: len(self.ends)])
        self.termination: Array = np.asarray(meta["termination"][: len(self.ends)])
        self.steps = int(self.ends[-1])
        self.attributes: dict[str, Any] = dict(root.attrs)
        self._arrays = quantities(root)
        self._progress = progress
        self._done = 0

    @property
    def keys(self) -> list[str]:
        """Names of the quantities."""
        return list(self._arrays)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of one step of a quantity, as both formats have it."""
        shape = tuple(self._arrays[key].shape[1:])
        if key == _ACTION:
            return (math.prod(shape),)
        return shape if shape or key == _REWARD else (1,)

    def dtype(self, key: str) -> Any:
        """Return the type of a quantity's values."""
        return self._arrays[key].dtype

    def pieces(self, key: str, multiple: int = 1) -> Iterator[Piece]:
        """Read a quantity, in pieces of whole shards and of a multiple of some rows."""
        array = self._arrays[key]
        rows = math.lcm((array.shards or array.chunks)[0], multiple)
        for start in range(0, self.steps, rows):
            values = array[start : min(start + rows, self.steps)]
            yield Piece(key, start, values.reshape(len(values), *self.shape(key)))
            self._done += len(values)
            self._progress(self._done, self.steps * len(self._arrays))


def convert(rollout: Path, out: Path, to: str, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Convert a rollout.

    Args:
        rollout: The folder or the zip file.
        out: What to make; it must not exist.
        to: One of `FORMATS`.
        progress: Called with the rows of all quantities that are written, and how many there are.

    Returns:
        `out`, `format`, `episodes`, `steps` and `keys`: by recorded key its name in the new file or folder.

    Raises:
        RequestError: If it is no rollout, a broken one, or one that cannot be converted, or if `out` exists.
        StoreError: If something cannot be written.
    """
    if to not in FORMATS:
        raise RequestError(f"Unknown format {to!r}.", code="bad_command", advice=f"Allowed: {', '.join(FORMATS)}.")
    if out.exists() or out.is_symlink():
        raise RequestError(f"{out} exists.", code="output_exists", advice="Name another OUT, or remove it first.")
    _check_installed(to)
    try:
        found = open_rollout(rollout)
    except ValueError as error:
        advice = "Name the rollout.zarr of a job: the folder, or the one file that was downloaded."
        raise RequestError(f"{rollout} is no rollout: {error}", code="bad_rollout", advice=advice) from error
    if not found.counts.episodes:
        raise RequestError(f"{rollout} holds no episode.", code="empty_rollout", advice="Record at least one.")
    names = _names(list(found.keys), to)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with opened(rollout) as (root, _), replacing(out) as beside:
            _WRITERS[to](Source(root, progress), beside, names)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error}", code="not_written", advice="Is the disk full?") from error
    counts = found.counts
    return {"out": str(out), "format": to, "episodes": counts.episodes, "steps": counts.steps, "keys": names}


def _check_installed(to: str) -> None:
    try:
        import zarr  # noqa: F401

        if to == "robomimic":
            import h5py  # noqa: F401
    except ImportError as error:
        raise RequestError(
            f"{error.name} is not installed.",
            code="not_installed",
            advice="Install it with: pip install 'simyard[rollouts]'.",
        ) from error


def _names(keys: list[str], to: str) -> dict[str, str]:
    """Return by recorded key its name in the other format.

    Raises:
        RequestError: If there is no action, or two quantities would have the same name.
    """
    if _ACTION not in keys:
        raise RequestError(
            f"The rollout has no quantity {_ACTION!r}, which is what a policy learns.",
            code="no_action",
            advice=f"It has: {', '.join(keys)}. Record the actions as {_ACTION!r}.",
        )
    if to == "robomimic":
        known = {_ACTION: "actions", _REWARD: "rewards"}
        names = {key: known.get(key) or f"obs/{_flat(key.removeprefix('obs/'))}" for key in keys}
    else:
        names = {key: _flat(key) for key in keys}
        if _OBSERVATION not in keys and _POLICY_OBSERVATION in keys:
            names[_POLICY_OBSERVATION] = _OBSERVATION
    for key, name in names.items():
        if same := [other for other, its in names.items() if its == name and other != key]:
            raise RequestError(
                f"Both {key!r} and {same[0]!r} would be {name!r}.",
                code="same_name",
                advice="Record one by another name.",
            )
    return names


def _flat(key: str) -> str:
    return key.replace("/", "_")


def _write_replay_buffer(source: Source, beside: Path, names: dict[str, str]) -> None:
    import numcodecs
    import zarr

    root = zarr.create_group(beside, zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    compressor = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    for key, name in names.items():
        shape, dtype = source.shape(key), source.dtype(key)
        rows = max(1, _CHUNK_BYTES // (math.prod(shape) * dtype.itemsize))
        rows = 1 << (rows.bit_length() - 1)  # a power of two, as shards are: pieces are whole chunks
        array = data.create_array(
            name, shape=(source.steps, *shape), dtype=dtype, chunks=(rows, *shape), compressors=compressor
        )
        for piece in source.pieces(key, rows):
            array[piece.start : piece.start + len(piece.values)] = piece.values
    ends = meta.create_array("episode_ends", shape=source.ends.shape, dtype="int64", chunks=source.ends.shape,
                             compressors=None)  # fmt: skip
    ends[:] = source.ends


def _write_demos(source: Source, beside: Path, names: dict[str, str]) -> None:
    import h5py
    import numpy as np

    starts = np.concatenate([[0], source.ends[:-1]])
    with h5py.File(beside, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = source.steps
        task = source.attributes.get("task")
        kwargs: dict[str, Any] = {}
        data.attrs["env_args"] = json.dumps(
            {"env_name": task if isinstance(task, str) else "", "type": _GYM, "env_kwargs": kwargs}
        )
        for number, (start, end) in enumerate(zip(starts, source.ends, strict=True)):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = int(end - start)
            if (success := int(source.success[number])) >= 0:
                demo.attrs["success"] = bool(success)
            dones = np.zeros(end - start, np.int64)
            dones[-1] = source.termination[number] == _TERMINATED
            demo.create_dataset("dones", data=dones)
            demo.create_group("obs")
        if (source.success >= 0).any():
            demos = [f"demo_{number}" for number in np.flatnonzero(source.success == 1)]
            file.create_dataset("mask/successful", data=np.array(demos, dtype="S"))
        for key, name in names.items():
            for piece in source.pieces(key):
                _fill(data, name, piece, starts, source.ends)


def _fill(data: Any, name: str, piece: Piece, starts: Array, ends: Array) -> None:
    """Write the rows of a piece into the demos they belong to."""
    import numpy as np

    stop = piece.start + len(piece.values)
    first, last = np.searchsorted(ends, piece.start, "right"), np.searchsorted(starts, stop, "left")
    for number in range(int(first), int(last)):
        demo, start, end = data[f"demo_{number}"], int(starts[number]), int(ends[number])
        low, high = max(start, piece.start), min(end, stop)
        rows = piece.values[low - piece.start : high - piece.start]
        if high - low == end - start:
            demo.create_dataset(name, data=rows)
        else:
            dataset = demo.require_dataset(name, (end - start, *rows.shape[1:]), rows.dtype, exact=True)
            dataset[low - start : high - start] = rows


_WRITERS = {"diffusion_policy": _write_replay_buffer, "robomimic": _write_demos}
