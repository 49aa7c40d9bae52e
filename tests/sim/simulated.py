"""Shared by the tests on the real simulator: jobs of the command, bare runs of Isaac Lab, what checkpoints hold."""

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from helpers import CommandLine, last_json

from simyard.runner.assets import embedded_root

ISAACLAB = Path(sys.executable).parent / "isaaclab"
LIBRARIES = ("rsl_rl", "skrl", "rl_games", "sb3")
ITERATIONS = 4
ROLLOUT = {"rsl_rl": 16, "skrl": 32, "rl_games": 32, "sb3": 16}
"""Steps of each environment in one iteration, as Isaac Lab's cartpole has them."""
NUM_ENVS = 16
EPISODES, SIDE_BY_SIDE, LONGEST = 7, 4, 30
"""Of an evaluation: episodes, environments, and the steps after which the task's own time-out ends an episode."""
SHORT = ("env.episode_length_s=0.5", "env.max_cart_pos=0.8")
"""Half a second, and rails so short that some carts leave them: some even begin beyond."""
ENV = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
"""rl_games compiles its model, which takes 20 s and more on a CPU and is not what these tests are about."""


@dataclass(frozen=True)
class Job:
    """A job as the command left it in its store."""

    result: dict[str, Any]
    """What `--json` printed."""
    exit_code: int
    folder: Path
    """The job's prefix in the store."""
    log: str
    """What the command printed besides."""

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        fields = json.loads(text)
        return cls(**{**fields, "folder": Path(fields["folder"])})

    @property
    def id(self) -> str:
        return str(self.result["job_id"])

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """The entries of the commit marker by name."""
        manifest = json.loads((self.folder / "artifact_manifest.json").read_text())
        return {entry["name"]: entry for entry in manifest["artifacts"]}

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints of one chain: the last one, its parent, and so on, turned around."""
        by_digest = {entry["sha256"]: entry for entry in self.manifest.values() if entry["kind"] == "checkpoint"}
        parents = {entry["parent"] for entry in by_digest.values()}
        (last,) = [e for e in by_digest.values() if e["iteration"] is not None and e["sha256"] not in parents]
        chain = [last]
        while chain[-1]["parent"] in by_digest:
            chain.append(by_digest[chain[-1]["parent"]])
        return chain[::-1]

    @property
    def final(self) -> Path:
        """The last checkpoint."""
        return self.artifacts / self.checkpoints[-1]["name"]

    def json(self, name: str) -> Any:
        return json.loads((self.artifacts / name).read_text())

    def rows(self, name: str = "metrics.csv") -> list[dict[str, str]]:
        with (self.artifacts / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def steps(self, tag: str) -> list[int]:
        """The steps at which a tag has a value."""
        return [int(row["step"]) for row in self.rows() if row[tag]]


@dataclass(frozen=True)
class Yard:
    """The command line with one home and one store for many jobs."""

    command: CommandLine
    config: Path
    home: Path
    store: Path

    def train(self, *settings: str) -> Job:
        """Run the small cartpole with some settings, to whatever end."""
        return self._job("train", self.config, *(part for setting in settings for part in ("--set", setting)))

    def again(self, job: Job) -> Job:
        """Run a job again from its frozen spec."""
        return self._job("train", "--from-job", job.id)

    def evaluate(self, job: Job | None, *arguments: object, overrides: Sequence[str] = SHORT, **env: str) -> Job:
        """Measure the policy of a job, or of a CONFIG among the arguments; of settings that differ the last counts."""
        size = (f"numEpisodes={EPISODES}", f"numEnvs={SIDE_BY_SIDE}")
        return self._with_policy("evaluate", job, arguments, [*size, *overrides], env)

    def export(self, job: Job, *arguments: object, overrides: Sequence[str] = SHORT, **env: str) -> Job:
        """Export the policy of a job, checked on a few short episodes."""
        return self._with_policy("export-policy", job, arguments, ["numEpisodes=8", "numEnvs=8", *overrides], env)

    def _with_policy(
        self, command: str, job: Job | None, arguments: Sequence[object], settings: list[str], env: dict[str, str]
    ) -> Job:
        settings = ["seed=1", "computeConfig.gpusPerNode=0", *settings]
        return self._job(command, *(["--job", job.id] if job else []), "--set", *settings, *arguments, **env)

    def _job(self, *arguments: object, **env: str) -> Job:
        return self.read(self.command(*arguments, "--store", self.store, "--json", timeout_s=600, **env))

    def read(self, done: subprocess.CompletedProcess[str]) -> Job:
        """Return the job that a command has run."""
        assert done.stdout, done.stderr
        result = last_json(done)
        return Job(result, done.returncode, self.store / "jobs" / str(result["job_id"]), done.stderr)


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def run_bare(library: str, folder: Path) -> Path:
    """Run `isaaclab train` itself with what simyard's small cartpole asks for; return its last checkpoint."""
    arguments = {
        "rsl_rl": ["agent.device=cpu"],
        "skrl": [],
        "rl_games": [
            "agent.params.config.device=cpu", "agent.params.config.device_name=cpu",
            "agent.params.config.minibatch_size=512",
        ],
        "sb3": ["--log_interval", "256", "agent.device=cpu"],
    }[library]  # fmt: skip
    folder.mkdir()
    done = subprocess.run(
        [ISAACLAB, "train", "--rl_library", library, "--task", "Isaac-Cartpole-Direct", "--num_envs", str(NUM_ENVS),
         "--seed", "1", "--max_iterations", str(ITERATIONS), "--device", "cpu", "physics=newton_mjwarp", *arguments],
        env={**os.environ, **ENV, "ISAACSIM_ASSET_ROOT": str(embedded_root(folder / "assets"))},
        cwd=folder, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    last = {"rsl_rl": "model_3.pt", "skrl": "agent_128.pt", "rl_games": "last_*_ep_4_rew_*.pth", "sb3": "model.zip"}
    (checkpoint,) = folder.glob(f"logs/{library}/**/{last[library]}")
    return checkpoint


def load(checkpoint: Path) -> dict[str, Any]:
    """Load everything that a checkpoint holds in tensors."""
    if checkpoint.suffix != ".zip":
        return dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    with zipfile.ZipFile(checkpoint) as archive:
        members = [name for name in archive.namelist() if name.endswith(".pth")]
        return {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in members}


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint, the optimiser's too, by its path."""
    return dict(_tensors("", load(checkpoint)))


def optimizer_steps(checkpoint: Path) -> int:
    """Return how often the optimiser has stepped since training began: it counts every update, and none twice."""
    return int(max(tensor.max() for name, tensor in tensors(checkpoint).items() if name.endswith("/step")))


def assert_same_weights(one: Path, other: Path) -> None:
    """Compare bit for bit."""
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert len(first) > 10
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different


def _tensors(path: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _tensors(f"{path}/{key}", item)
