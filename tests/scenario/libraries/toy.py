"""toy: `logs/toy/<task>/<time>/policy-<update>.npz`; updates are counted from 1, anew on resume.

A fifth library, of which simyard has no other word than this file. `ToyRun` of the scenario simulator is the training:
a linear policy, saved as arrays of NumPy instead of torch's.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.rl.base import CheckpointFacts, Library, Normalizer, Policy, Progress, Scale, to_int
from simyard.runner.rl.checkpoints import setting
from simyard.runner.rl.networks import OBSERVATIONS, Input, Network, as_network

_LINE = re.compile(r"^update (\d+) of \d+, return (\S+)$")
_FILE = re.compile(r"policy-(\d+)\.npz")
_WEIGHTS = "weights.npy"


class ToyPolicy(Policy):
    """Actions are the observations times a matrix."""

    library = "toy"

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        import numpy as np
        import torch

        self._env = env
        with np.load(checkpoint) as arrays:
            self._layer = torch.nn.Linear(*arrays["weights"].shape, bias=False)
            self._layer.load_state_dict({"weight": torch.from_numpy(arrays["weights"].T)})

    def begin(self) -> None:
        """Reset the environment."""
        self._observations, _ = self._env.reset()

    def step(self) -> None:
        """Play the mean."""
        import torch

        with torch.inference_mode():
            self._observations, *_ = self._env.step(self._layer(self._observations["policy"]))

    def network(self) -> Network:
        """Return the matrix."""
        module = as_network(lambda network, observations: network.layer(observations), layer=self._layer)
        given = Input(name=OBSERVATIONS, groups=self.observation_groups, shape=(self._layer.in_features,))
        return Network(module=module, inputs=(given,))

    def normalizer(self) -> Normalizer | None:
        """Return None: it does not normalise."""
        return None


class Toy(Library):
    """An update of this library is one iteration."""

    name = "toy"
    module = "toylearn"
    install = "uv pip install toylearn"
    packages = ("numpy",)
    policy = ToyPolicy
    owned_keys = {"agent.updates": "trainingConfig.maxIterations"}
    multi_gpu = False
    reward_tag = "toy/return"
    length_tag = "toy/length"
    checkpoint_glob = "logs/toy/*/*/policy-*.npz"
    file_glob = "*.npz"
    file_folder = "saved"
    file_example = "policy-12.npz"
    actor_keys = ("arrays",)
    hidden_key = "agent.layers"

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return `steps`."""
        return int(agent_cfg["steps"])

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read an update and its return."""
        match = _LINE.match(line)
        return None if match is None else Progress(done=int(match[1]), reward=float(match[2]))

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """`policy-5.npz` was saved after the fifth update of its attempt."""
        update = to_int(_FILE.fullmatch(file.name))
        return None if update is None else start_iteration + update

    def artifact_name(self, file: Path, start_iteration: int, scale: Scale) -> str:
        """Count the updates of earlier attempts too."""
        return f"policy-{self.iteration_of(file, start_iteration, scale)}.npz"

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the number of updates, over all attempts."""
        return start_iteration + 1

    def load_own(self, file: Path) -> list[Any]:
        """Load the matrix."""
        import numpy as np
        import torch

        with np.load(file) as arrays:
            return [torch.from_numpy(arrays["weights"])]

    def iteration_in_name(self, name: str) -> int | None:
        """Read the update."""
        return to_int(_FILE.fullmatch(name))

    def read_archive(
        self, file: Path, archive: zipfile.ZipFile, load_member: Callable[[str], Any]
    ) -> dict[Any, Any] | None:
        """Return the arrays as tensors, and the note beside them."""
        import numpy as np
        import torch

        if _WEIGHTS not in archive.namelist():
            return None
        weights = torch.from_numpy(np.load(io.BytesIO(archive.read(_WEIGHTS)), allow_pickle=False))
        return {"arrays": {"weights": weights}, "note": json.loads(archive.read("note.json"))}

    def wrote(self, state: Mapping[Any, Any]) -> bool:
        """Look for the arrays."""
        return "arrays" in state

    def require_playable(self, file: Path, state: Mapping[Any, Any]) -> None:
        """Refuse version 0."""
        if state["note"]["version"] == 0:
            raise RequestError(f"{file.name!r} is of toy 0.", code="checkpoint_of_old_toy", advice="Train anew.")

    def read(self, state: Mapping[Any, Any], actor: Mapping[str, Any]) -> CheckpointFacts:
        """Read the sizes of the matrix."""
        inputs, outputs = actor["weights"].shape
        return CheckpointFacts(
            inputs=inputs, outputs=outputs, hidden=(), normalized=False,
        )  # fmt: skip

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return none but what somebody sets."""
        return setting(agent_cfg, "layers")


LIBRARY = Toy()
