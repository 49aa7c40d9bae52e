"""A recorded episode as a browser plays it: poses of bodies, their shapes and curves of joints, of a `rollout.zarr`.

It is a file of users, and so it is looked into in a child with limits. What it gives has a bound, however long the
episode: every second, third … step of it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from simyard.core.artifacts import ROLLOUT
from simyard.core.errors import RequestError
from simyard.runner.recording.arrays import LEGEND
from simyard.runner.recording.geometry import GEOMETRY, MOST_SHAPES, Geometry, body_poses
from simyard.runner.recording.reading import opened, quantities
from simyard.store.store import Store
from simyard.tasks.shared.limited import limited

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MOST_FRAMES = 2000
MOST_NUMBERS = 700_000
"""Of the poses of an episode: 2.8 MB. Of many bodies there are fewer frames."""
MOST_CURVES = 64
MOST_FETCHED = 256_000_000
"""Bytes of a rollout in a bucket, of which all is fetched for an episode; in a folder it is opened where it is."""
_ROWS = 1 << 14
"""Rows that are read at once."""
_CURVES = ("joint_position", "action", "joint_velocity", "reward")
_TYPES = ("sphere", "box", "capsule", "cylinder", "cone", "ellipsoid")
_LONGEST = 200


def playback(store: Store, key: str, size_bytes: int, episode: int) -> dict[str, Any]:
    """Return an episode of a rollout, as `read_episode` does.

    Args:
        store: The store.
        key: The rollout.
        size_bytes: Of the rollout.
        episode: Its number, counted from 1.

    Raises:
        RequestError: There is no such episode, it cannot be read, or it is too large to be fetched.
    """
    with _here(store, key, size_bytes) as path:
        return limited(read_episode, path, episode=episode)


@contextmanager
def _here(store: Store, key: str, size_bytes: int) -> Iterator[Path]:
    """Yield the rollout as a file: where it lies, or fetched."""
    if (path := store.path(key)) is not None:
        yield path
        return
    if size_bytes > MOST_FETCHED:
        raise RequestError(
            f"{ROLLOUT.name} has {size_bytes:,} bytes; up to {MOST_FETCHED:,} are fetched from a bucket to play it.",
            code="rollout_too_large",
            advice="Download it and open it with zarr, or roll out fewer environments.",
        )
    with TemporaryDirectory(prefix="simyard-playback-") as folder:
        fetched = Path(folder) / ROLLOUT.name
        store.get_file(key, fetched)
        yield fetched


def read_episode(path: Path, *, episode: int) -> dict[str, Any]:
    """Return an episode: JSON, in which arrays are little-endian float32 in base64, frame by frame.

    Args:
        path: The rollout.
        episode: Its number, counted from 1.

    Raises:
        RequestError: There is no such episode, it is no rollout, or nothing here opens rollouts.
    """
    try:
        import zarr  # noqa: F401  # `opened` needs it
    except ImportError as error:
        raise RequestError(
            "Nothing here opens rollouts: the service's Python has no zarr.",
            code="no_zarr",
            advice="pip install 'simyard[rollouts]' where the service runs, and start it again.",
        ) from error
    try:
        with opened(path) as (root, _):
            return _episode(root, episode)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RequestError(
            f"{ROLLOUT.name} cannot be played: {error}".replace(str(path), path.name),  # where it lies is ours alone
            code="no_playback",
            advice="Episodes are played that simyard's recorder has written; see docs/rollouts.md.",
        ) from error


def _episode(root: Any, episode: int) -> dict[str, Any]:
    import numpy as np

    # Where it lies, and which of its steps are shown.
    ends = np.asarray(root["meta/episode_ends"][:], np.int64)
    if not 1 <= episode <= len(ends):
        raise RequestError(
            f"There is no episode {episode}: {ROLLOUT.name} has {len(ends):,}.",
            code="no_such_episode",
            advice=f"Allowed: 1 to {len(ends)}." if len(ends) else "Nothing was recorded.",
        )
    period_s = float(root.attrs["control_period_s"])
    if not 0 < period_s < math.inf:
        raise ValueError(f"its control period is {period_s!r}")
    start, stop = int(ends[episode - 2]) if episode > 1 else 0, int(ends[episode - 1])
    arrays = quantities(root)
    geometry: Geometry | None = root.attrs.get(GEOMETRY)
    geometry = geometry or _axes_alone(root, arrays)
    bodies = len(geometry["bodies"])
    most = max(2, min(MOST_FRAMES, MOST_NUMBERS // (7 * max(1, bodies))))
    stride = max(1, math.ceil((stop - start) / most))
    frames = len(range(start, stop, stride))
    kept: dict[str, Array] = {}

    def read(key: str) -> Array:
        if key not in kept:
            if key not in arrays:
                raise ValueError(f"its geometry needs {key!r}, which was not recorded")
            parts = []
            for first in range(start, stop, _ROWS - _ROWS % stride):
                rows = np.asarray(arrays[key][first : min(first + _ROWS - _ROWS % stride, stop)], np.float64)
                parts.append(rows[::stride].reshape(len(rows[::stride]), -1))
            kept[key] = np.concatenate(parts)
        return kept[key]

    # Where the bodies are, and what joints, actions and reward do.
    poses = body_poses(geometry, read, frames)
    curves: list[dict[str, Any]] = []
    for key in (key for key in _CURVES if key in arrays and arrays[key].dtype.kind in "fiub"):
        values, about = read(key), arrays[key].attrs
        names = about.get("names") or [key] if values.shape[1] == 1 else about.get("names") or range(values.shape[1])
        for column, name in list(zip(range(values.shape[1]), names, strict=False))[: MOST_CURVES - len(curves)]:
            said = {"group": key, "name": str(name)[:_LONGEST], "unit": str(about.get("unit") or "")[:_LONGEST]}
            curves.append(said | {"values": _packed(values[:, column])})
    meta = {name: int(root[f"meta/{name}"][episode - 1]) for name in ("env", "success", "termination")}
    return {
        "episode": episode, "episodes": len(ends), "steps": stop - start, "stride": stride, "frames": frames,
        "period_s": period_s, "env": meta["env"],
        "success": {1: True, 0: False}.get(meta["success"]), "ended": LEGEND[meta["termination"]],
        "bodies": [str(body.get("name", ""))[:_LONGEST] for body in geometry["bodies"]], "poses": _packed(poses),
        "shapes": [_shape(one, bodies) for one in geometry["shapes"][:MOST_SHAPES]],
        "missing": [str(name)[:_LONGEST] for name in geometry["missing"]],
        "has_geometry": GEOMETRY in root.attrs, "curves": curves,
    }  # fmt: skip


def _axes_alone(root: Any, arrays: dict[str, Any]) -> Geometry:
    """Return a geometry for a rollout that has none: the bodies whose poses were recorded, without shapes."""
    bodies: list[dict[str, Any]] = []
    if "root_pose" in arrays and arrays["root_pose"].shape[1:] == (7,):
        bodies.append({"name": "root", "parent": -1, "pose": ["root_pose", None]})
    if "body_pose" in arrays and arrays["body_pose"].ndim == 3 and arrays["body_pose"].shape[2] == 7:
        names: Sequence[Any] = root.attrs.get("bodies") or []
        for row in range(min(arrays["body_pose"].shape[1], 64)):
            name = names[row] if row < len(names) else f"body {row}"
            bodies.append({"name": name, "parent": -1, "pose": ["body_pose", row]})
    return Geometry(bodies=bodies, shapes=[], missing=[])


def _shape(one: dict[str, Any], bodies: int) -> dict[str, Any]:
    """Return a shape, if it is one: the browser takes it as it is."""
    import numpy as np

    body, kind = int(one["body"]), one["type"]
    lengths = {"size": one["size"], "pose": one["pose"], "color": one.get("color") or [0.6, 0.65, 0.7]}
    numbers = {name: [float(value) for value in values] for name, values in lengths.items()}
    wanted = {"sphere": 1, "capsule": 2, "cylinder": 2, "cone": 2}.get(kind, 3)
    sizes = (len(numbers["size"]), len(numbers["pose"]), len(numbers["color"]))
    if not -1 <= body < bodies or kind not in _TYPES or sizes != (wanted, 7, 3):
        raise ValueError(f"a shape of its geometry is none: {str(one)[:_LONGEST]}")
    if not all(np.isfinite(values).all() for values in numbers.values()):
        raise ValueError("a shape of its geometry is not finite")
    return {"body": body, "type": kind} | numbers


def _packed(values: Array) -> str:
    import numpy as np

    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()
