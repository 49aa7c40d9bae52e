"""A rollout that is done, as its files have it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from simyard.core.files import AttemptPaths, read_json


@dataclass(frozen=True)
class Rolled:
    """What an attempt left."""

    paths: AttemptPaths

    @property
    def failure(self) -> dict[str, Any] | None:
        return read_json(self.paths.outcome)["failure"]

    @property
    def refused(self) -> dict[str, Any]:
        return read_json(self.paths.root / "refused.json")

    @property
    def facts(self) -> dict[str, Any]:
        return read_json(self.paths.facts)

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.paths.output / "summary.json")

    @cached_property
    def root(self) -> Any:
        import zarr

        return zarr.open_group(zarr.storage.ZipStore(self.paths.output / "rollout.zarr", mode="r"), mode="r")

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        import zarr

        members = self.root.members(max_depth=None)
        return {name: np.asarray(value[:]) for name, value in members if isinstance(value, zarr.Array)}

    @property
    def keys(self) -> set[str]:
        """The recorded quantities."""
        return {name.removeprefix("data/") for name in self.arrays if name.startswith("data/")}

    @cached_property
    def episodes(self) -> list[dict[str, Any]]:
        """Each with what `meta` says of it, and its rows by key."""
        meta = {name.removeprefix("meta/"): array for name, array in self.arrays.items() if name.startswith("meta/")}
        ends = meta.pop("episode_ends").tolist()
        return [
            {name: int(values[number]) for name, values in meta.items()}
            | {key: self.arrays[f"data/{key}"][start:end] for key in self.keys}
            for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]

    def by_step(self, key: str) -> np.ndarray:
        """Return `(steps, num_envs, ...)`, put together again from the episodes."""
        rows: dict[int, dict[int, Any]] = {}
        for episode in self.episodes:
            for offset, row in enumerate(episode[key]):
                rows.setdefault(episode["start_step"] + offset, {})[episode["env"]] = row
        return np.stack([np.stack([rows[step][env] for env in sorted(rows[step])]) for step in sorted(rows)])

    def __getitem__(self, key: str) -> np.ndarray:
        """Return an array by environment, `(num_envs, steps, ...)`."""
        return self.by_step(key).swapaxes(0, 1)

    def column(self, key: str, name: str) -> np.ndarray:
        return self[key][..., list(self.root[f"data/{key}"].attrs["names"]).index(name)]
