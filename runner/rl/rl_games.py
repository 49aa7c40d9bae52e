"""rl_games: `logs/rl_games/<name>/<time>/nn/last_<name>_ep_<epoch>_rew_<reward>.pth`; epochs are absolute."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.rl.base import Library, Progress, Scale, to_int

_EPOCH = re.compile(r"\bepoch: (\d+)/")
_FILE = re.compile(r".*_ep_(\d+)_rew_.*\.pth")
_MINIBATCH = "agent.params.config.minibatch_size"


class RlGames(Library):
    """An epoch of this library is one iteration."""

    name = "rl_games"
    module = "rl_games"
    install = "uv pip install rl-games==1.6.5 gym"
    prints_absolute = True
    reward_tag = "rewards/iter"
    checkpoint_glob = "logs/rl_games/*/*/nn/*.pth"
    absolute_iterations = True

    def device_overrides(self, device: str) -> list[str]:
        """Return both names the library reads."""
        return [f"agent.params.config.device={device}", f"agent.params.config.device_name={device}"]

    def rollout(self, agent_cfg: dict[str, Any]) -> int:
        """Return `params.config.horizon_length`."""
        return int(agent_cfg["params"]["config"]["horizon_length"])

    def fit(self, agent_cfg: dict[str, Any], scale: Scale, given: set[str]) -> tuple[list[str], list[str]]:
        """Fit the minibatch, which must divide the batch: the library asserts it after the simulator has started."""
        wanted = int(agent_cfg["params"]["config"]["minibatch_size"])
        batch = scale.transitions
        if batch % wanted == 0:
            return [], []
        fitted = max(size for size in range(1, min(wanted, batch) + 1) if batch % size == 0)
        rule = f"it must divide numEnvs x horizon_length = {scale.num_envs} x {scale.rollout} = {batch}"
        if _MINIBATCH in given:
            raise RequestError(
                f"Override {_MINIBATCH}={wanted} does not fit: {rule}.",
                code="bad_override",
                advice=f"The nearest size that does is {fitted}.",
            )
        return [f"{_MINIBATCH}={fitted}"], [f"minibatch_size fitted from {wanted} to {fitted}: {rule}"]

    def prepare_resume(self, checkpoint: Path, folder: Path, start_iteration: int) -> Path:
        """Return a copy with the job's own count: the library trains until *its* count reaches the limit."""
        import torch

        state = torch.load(checkpoint, map_location="cpu", weights_only=False)
        state["epoch"] = start_iteration
        target = folder / checkpoint.name
        torch.save(state, target)
        return target

    def iteration_in_name(self, name: str) -> int | None:
        """Read the epoch."""
        return to_int(_FILE.fullmatch(name))

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read the epoch of a statistics line."""
        epoch = to_int(_EPOCH.search(line))
        return None if epoch is None else Progress(done=epoch)

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """The epoch is in the name; `<name>.pth` is the best so far and has none."""
        return self.iteration_in_name(file.name)

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """Some tags count epochs from 1, the others the frames before the epoch."""
        if tag.endswith("/iter") or tag.startswith("Episode/"):
            return start_iteration + 1
        return start_iteration * scale.transitions
