"""Rollouts for other people's training code: datasets of LeRobot and robomimic, diffusion_policy's replay buffers.

`lerobot`: a folder, a LeRobot dataset of version 3.0. `action`; `observation.state`, which is `joint_position`, else
`obs`, else `obs/policy`; `observation.environment_state`, which is the next of `obs`, `obs/policy` and `body_pose` that
was recorded; both as one vector. Pictures, which are uint8 of `(height, width, 3)` with even sides, become videos,
`observation.images.<camera>`. `next.reward`, `next.done` (true on the last step of every episode) and, where all
episodes were measured, `next.success`; everything else below `observation`. Floats are made float32. The rate is a
whole number where it is one within a thousandth. The table of episodes has the rollout's `success` and `termination`.

`robomimic`: one HDF5 file. For each episode `data/demo_<number>` with `actions`, `rewards` if a `reward` was recorded
(robomimic reads zeros without it), `dones` (1 on the last step of an episode that terminated: not at a time limit) and
everything else below `obs`: `obs/policy` as `obs/policy`, other keys with `_` for `/`. `next_obs` is the same one step
later; what followed the last step of an episode was not recorded, and the last observation stands there again.
`num_samples` and, if it was measured, `success` are attributes of a demo, `total`, `env_args` and `control_period_s`
those of `data`; `mask/successful` lists the demos that succeeded.

`diffusion_policy`: a folder, a Zarr v2 group that `ReplayBuffer` reads. `data/action`; `data/obs`, which is the
recorded `obs` or, without one, `obs/policy`; every other quantity under its key, with `_` for `/`, because a replay
buffer has no groups below `data`. `meta/episode_ends`. The group's attributes have `control_period_s`.

Values are copied to the bit, but for LeRobot's floats. Actions are made `(steps, values)`, and single numbers
`(steps, 1)` but for the reward, as these formats expect. `unit`, `names` and `about` of a quantity are attributes of
its arrays, LeRobot's features have the names. The whole is written beside and renamed, in the memory of one shard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from simyard.core.errors import RequestError, StoreError
from simyard.core.files import replacing
from simyard.lerobot_dataset import feature_names, write_dataset
from simyard.runner.recording.reading import ArrayForm, open_rollout, opened, quantities
from simyard.runner.video.encoding import decode, verify
from simyard.runner.video.trajectories import VideoError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FORMATS = ("lerobot", "robomimic", "diffusion_policy")
"""Formats a rollout can be converted to."""
_ACTION, _REWARD, _OBSERVATION = "action", "reward", "obs"
_POLICY_OBSERVATION = "obs/policy"
_PERIOD = "control_period_s"
_FILM = "film"
_CHUNK_BYTES = 2_000_000
"""Bytes of a replay buffer's own chunks."""
_GYM = 2
"""robomimic's number for environments that gym makes, which Isaac Lab also writes."""
_TERMINATED = 1

Progress = Callable[[int, int], None]


class Conversion(TypedDict):
    """Result of a conversion."""

    out: str
    """The new file or folder."""
    format: str
    """One of `FORMATS`."""
    episodes: int
    """Episodes in it."""
    steps: int
    """Steps of all of them."""
    keys: dict[str, str]
    """By recorded key its name there."""


@dataclass(frozen=True)
class Piece:
    """Some rows of one quantity."""

    key: str
    """Of the quantity."""
    start: int
    """Row of the first of them, in all episodes joined."""
    values: Array
    """`(rows, ...)`, as the format has them."""


@dataclass(frozen=True)
class Window:
    """Some rows of several quantities."""

    start: int
    stop: int
    """Rows, in all episodes joined."""
    values: dict[str, Array]
    """By key `(rows, ...)`."""


class Film:
    """The film of a rollout, as an array of a picture a step that is read from front to back.

    It shows one of some control steps: each of its pictures is held until the next.
    """

    def __init__(self, path: Path, root: Any) -> None:
        """Decode all of it once, to see that it fits.

        Raises:
            RequestError: If it is no video, shows other environments than the rollout has, or not every step of it.
        """
        steps = int(root["meta"]["episode_ends"][-1])
        try:
            facts = verify(path)
        except VideoError as error:
            raise _bad_film(f"{path} is no film: {error.reason}", "Name the render.mp4 of the job.") from error
        if (root["meta"]["env"][:] != 0).any():
            raise _bad_film(
                f"{path} shows environment 0, and the rollout has {root.attrs['num_envs']} of them.",
                "Roll out one environment, or record outputs.cameras, which see every one.",
            )
        self._held = max(1, round(steps / facts["frames"]))
        if -(-steps // self._held) != facts["frames"]:
            raise _bad_film(
                f"{path} has {facts['frames']} pictures, which do not show the {steps} steps of the rollout evenly.",
                "Name the render.mp4 of the same job; a film of more than two minutes shows their beginning.",
            )
        self.shape = (steps, facts["height"], facts["width"], 3)
        self.dtype = "uint8"
        self.shards = None
        self.chunks = (64,)
        self.attrs: dict[str, str] = {}
        self._pictures = (picture for picture in decode(path) for _ in range(self._held))

    def __getitem__(self, rows: slice) -> Array:
        import numpy as np

        return np.stack([next(self._pictures) for _ in range(rows.stop - rows.start)])


class Source:
    """An open rollout, read in pieces."""

    def __init__(self, root: Any, progress: Progress, film: Film | None) -> None:
        import numpy as np

        meta = root["meta"]
        self.ends: Array = np.asarray(meta["episode_ends"][:])
        self.success: Array = np.asarray(meta["success"][: len(self.ends)])
        self.termination: Array = np.asarray(meta["termination"][: len(self.ends)])
        self.steps = int(self.ends[-1])
        self.attributes: dict[str, Any] = dict(root.attrs)
        task = self.attributes.get("task")
        self.task = task if isinstance(task, str) else ""
        self.period_s = float(self.attributes["control_period_s"])
        self._arrays = quantities(root) | ({_FILM: film} if film else {})
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

    def form(self, key: str) -> ArrayForm:
        """Return shape and type of a quantity, as they were recorded."""
        array = self._arrays[key]
        return ArrayForm(shape=list(array.shape[1:]), dtype=str(array.dtype))

    def describe(self, key: str) -> dict[str, Any]:
        """Return `unit`, `names` and `about` of a quantity, as far as they are known."""
        return {name: value for name, value in self._arrays[key].attrs.items() if name in ("unit", "names", "about")}

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
            self._say(len(values))

    def windows(self, keys: Sequence[str]) -> Iterator[Window]:
        """Read several quantities together, a shard of each at a time."""
        rows = max((self._arrays[key].shards or self._arrays[key].chunks)[0] for key in keys)
        for start in range(0, self.steps, rows):
            stop = min(start + rows, self.steps)
            yield Window(start, stop, {key: self._arrays[key][start:stop] for key in keys})
            self._say((stop - start) * len(keys))

    def _say(self, rows: int) -> None:
        self._done += rows
        self._progress(self._done, self.steps * len(self._arrays))


def convert(
    rollout: Path,
    out: Path,
    to: str,
    progress: Progress = lambda done, total: None,
    *,
    film: Path | None = None,
) -> Conversion:
    """Convert a rollout.

    Args:
        rollout: The folder or the zip file.
        out: What to make; it must not exist.
        to: One of `FORMATS`.
        progress: Called with the rows of all quantities that are written, and how many there are.
        film: For LeRobot: the `render.mp4` of a rollout of one environment, to be a video too.

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
    if film is not None and to != "lerobot":
        raise _bad_film(f"A film goes into a dataset of LeRobot, not of {to!r}.", "Leave it out.")
    try:
        with opened(rollout) as (root, _):
            source = Source(root, progress, Film(film, root) if film else None)
            names = _names({key: source.form(key) for key in source.keys}, to)
            out.parent.mkdir(parents=True, exist_ok=True)
            with replacing(out) as beside:
                _WRITERS[to](source, beside, names)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error}", code="not_written", advice="Is the disk full?") from error
    counts = found.counts
    return {"out": str(out), "format": to, "episodes": counts.episodes, "steps": counts.steps, "keys": names}


def _bad_film(message: str, advice: str) -> RequestError:
    return RequestError(message, code="bad_film", advice=advice)


def _check_installed(to: str) -> None:
    try:
        import zarr  # noqa: F401

        if to == "robomimic":
            import h5py  # noqa: F401
        if to == "lerobot":
            import imageio_ffmpeg  # noqa: F401
            import pyarrow  # noqa: F401
    except ImportError as error:
        extra = "lerobot" if to == "lerobot" else "rollouts"
        raise RequestError(
            f"{error.name} is not installed.",
            code="not_installed",
            advice=f"Install it with: pip install 'simyard[{extra}]'.",
        ) from error


def _names(forms: Mapping[str, ArrayForm], to: str) -> dict[str, str]:
    """Return by recorded key its name in the other format.

    Raises:
        RequestError: If there is no action, or two quantities would have the same name.
    """
    if _ACTION not in forms:
        raise RequestError(
            f"The rollout has no quantity {_ACTION!r}, which is what a policy learns.",
            code="no_action",
            advice=f"It has: {', '.join(forms)}. Record the actions as {_ACTION!r}.",
        )
    if to == "lerobot":
        names = feature_names(forms)
    elif to == "robomimic":
        known = {_ACTION: "actions", _REWARD: "rewards"}
        names = {key: known.get(key) or f"obs/{_flat(key.removeprefix('obs/'))}" for key in forms}
    else:
        names = {key: _flat(key) for key in forms}
        if _OBSERVATION not in forms and _POLICY_OBSERVATION in forms:
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

    root = zarr.create_group(beside, zarr_format=2, attributes={_PERIOD: source.period_s})
    data, meta = root.create_group("data"), root.create_group("meta")
    compressor = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    for key, name in names.items():
        shape, dtype = source.shape(key), source.dtype(key)
        rows = max(1, _CHUNK_BYTES // (math.prod(shape) * dtype.itemsize))
        rows = 1 << (rows.bit_length() - 1)  # a power of two, as shards are: pieces are whole chunks
        array = data.create_array(
            name,
            shape=(source.steps, *shape),
            dtype=dtype,
            chunks=(rows, *shape),
            compressors=compressor,
            attributes=source.describe(key),
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
        data.attrs[_PERIOD] = source.period_s
        data.attrs["env_args"] = json.dumps({"env_name": source.task, "type": _GYM, "env_kwargs": {}})
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
            later = f"next_{name}" if name.startswith("obs/") else None
            about = source.describe(key)
            for piece in source.pieces(key):
                _fill(data, name, later, about, piece, starts, source.ends)


def _fill(
    data: Any, name: str, later: str | None, about: Mapping[str, Any], piece: Piece, starts: Array, ends: Array
) -> None:
    """Write the rows of a piece into the demos they belong to, and into those of one step later where there are any."""
    import numpy as np

    stop = piece.start + len(piece.values)
    first, last = np.searchsorted(ends, piece.start, "right"), np.searchsorted(starts, stop, "left")
    for number in range(int(first), int(last)):
        demo, start, end = data[f"demo_{number}"], int(starts[number]), int(ends[number])
        low, high = max(start, piece.start), min(end, stop)
        rows = piece.values[low - piece.start : high - piece.start]
        shape = (end - start, *rows.shape[1:])
        for path in (name, later):
            if path is not None and path not in demo:
                demo.create_dataset(path, shape, rows.dtype).attrs.update(about)
        demo[name][low - start : high - start] = rows
        if later is not None:
            begun = 1 if low == start else 0  # nothing is before the first
            demo[later][low - start + begun - 1 : high - start - 1] = rows[begun:]
            if high == end:
                demo[later][-1] = rows[-1]


_WRITERS = {"lerobot": write_dataset, "robomimic": _write_demos, "diffusion_policy": _write_replay_buffer}
