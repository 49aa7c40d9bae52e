"""Figures of a finished rollout: the returns of its episodes, and the content of a store that a task wrote itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simyard.runner.recording.verify import opened

REWARD = "reward"
"""The array whose sums over episodes are their returns."""
_ROWS = 1 << 22
"""Rewards that are read at once."""


def mean_return(path: Path) -> dict[str, float] | None:
    """Return `mean` and `std` of the episodes' undiscounted returns; None where no reward was recorded.

    Raises:
        ValueError: If it is no rollout.
    """
    import numpy as np

    with opened(path) as (root, _):
        rewards = root.get(f"data/{REWARD}")
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


def open_foreign(path: Path) -> dict[str, Any]:
    """Open a store that a task wrote itself: any Zarr group with an array in it, each read at both ends.

    Returns:
        Figures as of `open_rollout`; what such a store does not say is None.

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
    return {
        "episodes": None,
        "steps": None,
        "success": None,
        "keys": {key: {"shape": list(array.shape), "dtype": str(array.dtype)} for key, array in arrays.items()},
        "bytes": path.stat().st_size,
    }
