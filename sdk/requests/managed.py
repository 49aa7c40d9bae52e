"""The body of `POST /v1/training-runs`: rollouts, a trainer, and when to stop."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails

from simyard.core.errors import unknown
from simyard.requests.base import Name, Override, Physics, Reference, _Model
from simyard.requests.config import first_problems
from simyard.requests.control import Control
from simyard.requests.jobs import Body, ComputeConfig, LibraryName, ShortTimeouts
from simyard.requests.rollout import (
    AssetId,
    ExecutionConfig,
    IsaacLabConfig,
    OutputsConfig,
    PhysicsConfig,
    PolicyRef,
    RobotRef,
    RolloutRequest,
    SceneId,
    SceneRef,
)
from simyard.runner.rl import LIBRARIES

PLACEHOLDERS = (
    "dataset_manifest_path", "output_dir", "checkpoint_in_uri", "checkpoint_in_path", "run_id", "iteration_id",
    "iteration", "seed",
)  # fmt: skip
"""Placeholders that `args_template` and `env` may name in braces."""
MASK = "********"
"""Stands for a value of `env` wherever a request is kept or shown."""
LOCAL = "local"
"""The `image_uri` of a trainer that is a child process."""
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_DRIVEN = "policy"
"""The `task_mode` of rollouts that a checkpoint drives."""
_UNDRIVEN = "random"
"""Their `task_mode` while there is no checkpoint yet."""

Line = Annotated[str, StringConstraints(max_length=32_000, pattern=r"^[^\x00]*$")]
Image = Annotated[str, StringConstraints(min_length=1, max_length=4000, pattern=r"^[^\x00-\x1f\x7f]+$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")]


class RolloutTemplate(_Model):
    """The rollouts of every iteration; what is not said here is as in a rollout's own request."""

    rollout_parallelism: int = Field(1, strict=True, ge=1, le=256)
    """Rollouts side by side, each in a simulator of its own that stays for the whole run."""
    episodes_per_iteration: int = Field(1, strict=True, ge=1, le=10_000_000)
    """The least an iteration's dataset has; every environment gives one or more, so more waves are run if need be."""
    runtime_profile: Literal["standard", "isaac_lab_rollout"] = "standard"
    """Driver of the rollouts: simyard itself, or a task package or registered task."""
    robot: RobotRef | None = None
    """The robot; required by the standard profile, unless the `task_mode` brings one."""
    scene: SceneRef | None = None
    """Scene the robot stands in."""
    scene_id: SceneId | None = None
    """The same, of a built-in scene, in short."""
    physics: PhysicsConfig = PhysicsConfig()
    """Time steps."""
    num_envs: int = Field(1, strict=True, ge=1, le=131_072)
    """Environments of each rollout."""
    steps: int = Field(strict=True, ge=1, le=10_000_000)
    """Control steps of each environment."""
    seed: int = Field(42, strict=True, ge=0, le=2**31 - 1)
    """Of the first rollout; each one after it has the next."""
    control: Control = Field({}, validate_default=True)
    """Control of the robot; with `task_mode` `policy` the newest checkpoint drives it."""
    rl_library: LibraryName | None = None
    """The library whose format checkpoints have; `rsl_rl` unless it is said."""
    isaac_lab: IsaacLabConfig | None = None
    """The task; required by the profile `isaac_lab_rollout`."""
    outputs: OutputsConfig = OutputsConfig()
    """Outputs besides the arrays."""
    overrides: tuple[Override, ...] = Field((), max_length=200)
    """Hydra overrides, for registered tasks."""
    compute_config: ComputeConfig = ComputeConfig()
    """Machine, GPUs and priority."""
    timeouts: ShortTimeouts = ShortTimeouts()
    """Timeouts of a rollout."""

    @property
    def is_driven(self) -> bool:
        """Whether checkpoints drive the rollouts."""
        return bool(self.control.task_mode == _DRIVEN)

    @property
    def jobs(self) -> int:
        """Rollouts of an iteration: whole waves, so many that there are enough episodes whatever they do."""
        wave = self.rollout_parallelism * self.num_envs
        return self.rollout_parallelism * -(-self.episodes_per_iteration // wave)

    def rollout(self, name: str, retries: int, policy: PolicyRef | None) -> RolloutRequest:
        """Return the request of one rollout, with the template's seed; without a policy one that acts at random.

        Raises:
            ValidationError: If the template is none of a rollout.
        """
        control = self.control if policy or not self.is_driven else {"task_mode": _UNDRIVEN}
        if policy is not None and self.rl_library:
            policy = policy.model_copy(update={"rl_library": self.rl_library})
        return RolloutRequest(
            name=name,
            runtime_profile=self.runtime_profile,
            robot=self.robot,
            scene=self.scene or SceneRef(scene_id=self.scene_id),
            physics=self.physics,
            execution=ExecutionConfig(num_envs=self.num_envs, steps=self.steps, seed=self.seed),
            outputs=self.outputs,
            control=control,
            isaac_lab=self.isaac_lab,
            policy=policy,
            overrides=self.overrides,
            compute_config=self.compute_config,
            timeouts=self.timeouts,
            retries=retries,
        )

    @model_validator(mode="after")
    def _is_a_rollout(self) -> Self:
        if self.scene and self.scene_id:
            raise ValueError("give scene or scene_id, not both")
        if self.rl_library is not None and self.rl_library not in LIBRARIES:
            error = unknown("rl_library", self.rl_library, LIBRARIES).failure
            raise ValueError(f"{error.message} {error.advice}")
        driven_by = [PolicyRef(asset_id=f"asset-{'0' * 64}")] if self.is_driven else []
        try:
            for policy in (None, *driven_by):
                self.rollout("rollout", 0, policy)
        except ValidationError as error:
            problems, others = first_problems(error)
            raise ValueError("; ".join([*map(_in_words, problems), *others])) from error
        return self


def _in_words(problem: ErrorDetails) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


class TrainerResources(_Model):
    """Resources of a trainer."""

    gpu: int = Field(0, strict=True, ge=0, le=64)
    """GPUs; the HTTP API requires one unless the site allows trainers without."""
    cpu: float = Field(1.0, gt=0, le=1024, allow_inf_nan=False)
    """Processor cores."""
    memory_gb: float = Field(4.0, gt=0, le=100_000, allow_inf_nan=False)
    """Memory; a trainer that takes more is ended."""


class WorkerVariable(_Model):
    """A value that no request and no record has to hold: that of a variable of the worker which calls the trainer."""

    variable: Variable
    """Its name there, one of those that the site lists in `SIMYARD_TRAINER_VARIABLES`."""


def _form_of(value: object) -> str:
    """Return which of its two forms a value has, so that an error speaks of that one alone."""
    return "variable" if isinstance(value, dict | WorkerVariable) else "value"


Value = Annotated[
    Annotated[WorkerVariable, Tag("variable")] | Annotated[Line, Tag("value")],
    Discriminator(_form_of),
]


class TrainerSpec(_Model):
    """The trainer: any program that keeps the contract."""

    image_uri: Image
    """The container's image; `local` runs it as a child process on the machine of the rollouts."""
    entrypoint: Line | None = None
    """The program and its first arguments, as a shell would split them; left out it is the image's own."""
    args_template: tuple[Line, ...] = Field((), max_length=1000)
    """More arguments; placeholders in braces are filled in, `{{` is a brace."""
    env: dict[Variable, Value] = Field({}, max_length=1000)
    """Environment variables; the same placeholders. Values are kept apart from all records, and never shown."""
    resources: TrainerResources = TrainerResources()
    """Resources of the trainer."""
    timeout_seconds: float = Field(3600.0, gt=0, le=30 * 86400, allow_inf_nan=False)
    """Wall-clock limit of one call."""

    @property
    def program(self) -> list[str]:
        """The entrypoint, split; empty where the image's own counts."""
        return shlex.split(self.entrypoint or "")

    @model_validator(mode="after")
    def _can_be_filled_in(self) -> Self:
        try:
            program = self.program
        except ValueError as error:
            raise ValueError(f"entrypoint {self.entrypoint!r} cannot be split as a shell does: {error}") from error
        if (self.entrypoint is not None or self.image_uri == LOCAL) and not (program and program[0]):
            raise ValueError(f"entrypoint {self.entrypoint!r} names no program")
        named = {f"args_template[{index}]": text for index, text in enumerate(self.args_template)}
        named |= {f"env.{name}": text for name, text in self.env.items() if isinstance(text, str)}
        for where, text in named.items():
            for match in _PLACEHOLDER.finditer(text):
                if match[0] in ("{{", "}}") or match[1] in PLACEHOLDERS:
                    continue
                shown = MASK if where.startswith("env.") else repr(text)
                raise ValueError(
                    f"{where}: {shown} has {match[0]!r}, which is no placeholder; allowed: "
                    + ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                    + "; write {{ for a brace"
                )
        return self


def fill_in(text: str, values: dict[str, str]) -> str:
    """Return a template's text with every placeholder replaced; it was checked when the request was."""
    return _PLACEHOLDER.sub(lambda match: match[0][0] if match[1] is None else values[match[1]], text)


class LoopPolicy(_Model):
    """Length of the loop."""

    max_iterations: int = Field(strict=True, ge=1, le=1_000_000)
    """Iterations at most, failed ones included."""
    max_wallclock_hours: float | None = Field(None, gt=0, le=100_000, allow_inf_nan=False)
    """From the run's beginning, pauses included; checked before each rollout and each call of the trainer."""
    stop_on_iteration_failure: bool = Field(True, strict=True)
    """Whether a failed iteration ends the run; otherwise it goes on from the last good checkpoint."""
    rollout_retry_limit: int = Field(1, strict=True, ge=0, le=20)
    """Further attempts at a rollout after a failure of the machine."""
    trainer_retry_limit: int = Field(1, strict=True, ge=0, le=20)
    """Further calls of the trainer after any failure of it."""


class SuccessCriteria(_Model):
    """Criteria of success."""

    metric: Name = "mean_return"
    """A number of the trainer's `metrics.json`, else one of the rollouts: `mean_return`, `success_rate`."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better."""
    target: float | None = Field(None, allow_inf_nan=False)
    """The run ends when the metric has reached it."""
    min_delta: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Least improvement that counts."""
    patience_iterations: int | None = Field(None, strict=True, ge=1, le=1_000_000)
    """The run ends after so many iterations in a row that measured the metric and were not better."""


class BudgetPolicy(_Model):
    """Budget of the run."""

    max_credits: float | None = Field(None, gt=0, allow_inf_nan=False)
    """One credit is one USD of GPU time at the site's price; checked before each rollout and each call."""


class TrainingRunRequest(Body):
    """A managed training run: rollouts, dataset, trainer, checkpoint, again."""

    project_id: Name = "default"
    """Project of the run."""
    name: Name = "managed-training"
    """Display name."""
    rollout_template: RolloutTemplate
    """The rollouts of every iteration."""
    trainer_spec: TrainerSpec
    """Trainer that turns them into the next checkpoint."""
    loop_policy: LoopPolicy
    """Length of the loop."""
    success_criteria: SuccessCriteria = SuccessCriteria()
    """Criteria of success."""
    budget_policy: BudgetPolicy = BudgetPolicy()
    """Budget of the run."""
    checkpoint_init_uri: Reference | None = None
    """The checkpoint to begin from: a path relative to the JSON, or a store URI."""
    checkpoint_init_asset_id: AssetId | None = None
    """The same, uploaded."""
    checkpoint_init_trained_under: Physics | None = None
    """The engine that it was trained under, whose order of joints rollouts keep; left out what its upload says, else
    taken to be that of the rollouts, and their reports say so."""

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.checkpoint_init_uri and self.checkpoint_init_asset_id:
            raise ValueError("give checkpoint_init_uri or checkpoint_init_asset_id, not both")
        if self.checkpoint_init_trained_under and not (self.checkpoint_init_uri or self.checkpoint_init_asset_id):
            raise ValueError("checkpoint_init_trained_under is of a checkpoint to begin from, and there is none")
        return self
