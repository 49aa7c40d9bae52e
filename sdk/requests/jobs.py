"""Requests: one model for each kind of job and one for a retraining, with common fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue

from simyard.core.errors import unknown
from simyard.requests.base import OF_OUTSIDE, AgentName, Name, Override, Physics, Reference, _Model
from simyard.requests.stages import MOST_STAGES, TrainingStage, check_stages
from simyard.requests.variations import UNKNOWN as UNKNOWN
from simyard.requests.variations import Design, Plan, Variations
from simyard.runner.evaluation.factors import FLOOR
from simyard.runner.evaluation.summary import wilson
from simyard.runner.rl import DEFAULT_LIBRARY, LIBRARIES

CODE = "code"
"""Mark of a field that names code: `sdk/requests/code.py` has the rule."""
LATEST = "latest"
"""In place of a job's id: the newest training of the store that has succeeded."""
TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}$")]
LibraryName = Annotated[str, Field(json_schema_extra={"enum": [*LIBRARIES]})]
"""Name of a library. It is checked later: with a better message, and for every kind of job in one place."""
AgentConfigMode = Literal["merge", "replace"]
Callback = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$")]
Engines = Annotated[tuple[Physics, ...], Field(max_length=3)]
Term = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.-]{0,199}$")]
Which = Annotated[str, StringConstraints(pattern=r"^(latest|best|iteration|all|every:[1-9]\d{0,6})$")]
PromotionName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Metric = Literal["return", "success_rate"]
SweepId = Annotated[str, StringConstraints(pattern=r"^sweep-[0-9a-hjkmnp-tv-z]{26}$")]
Start = Literal["incumbent", "newest", "scratch"] | SweepId
Video = Literal["first", "best", "worst"] | Annotated[int, Field(strict=True, ge=1, le=100_000)]


class ComputeConfig(_Model):
    """Machine, GPUs and priority."""

    num_nodes: int = Field(1, strict=True, ge=1, le=64)
    """Machines that train one policy together; more than one needs a pool, and GPUs."""
    gpus_per_node: int | None = Field(None, strict=True, ge=0, le=16)
    """GPUs of each machine; left out the job takes one if there is one, 0 means the CPU."""
    priority: Literal["high", "normal", "low"] = "normal"
    """Work queue of the pool that the job waits in."""
    accept_nvidia_eula: bool = Field(False, strict=True)
    """Whether you accept NVIDIA's licence for Isaac Sim; what needs Kit does not start without. A site may accept it
    for all its jobs."""

    @model_validator(mode="after")
    def _machines_have_gpus(self) -> Self:
        if self.num_nodes > 1 and self.gpus_per_node == 0:
            raise ValueError(f"{self.num_nodes} machines train together on GPUs only; gpusPerNode is 0")
        return self

    session: Literal["auto", "off"] = "auto"
    """`auto` takes a simulator that is warm where one fits; `off` starts one for this job alone."""


class Timeouts(_Model):
    """Timeouts, in seconds."""

    wall_seconds: float = Field(8 * 3600, strict=True, gt=0, le=30 * 86400)
    """The whole attempt; 8 h by default."""
    first_iteration_seconds: float = Field(15 * 60, strict=True, gt=0, le=86400)
    """From the start to the first finished iteration (or step); long enough for a cold kernel cache."""
    iteration_seconds: float = Field(30 * 60, strict=True, gt=0, le=86400)
    """From one finished iteration (or step) to the next."""
    grace_seconds: float = Field(30, strict=True, ge=0, le=3600)
    """From asking a process to end to killing it."""
    close_seconds: float = Field(60, strict=True, ge=0, le=3600)
    """Time the simulator may take to close after its last iteration."""


class ShortTimeouts(Timeouts):
    """Timeouts, in seconds, for work that is done in minutes."""

    wall_seconds: float = Field(2 * 3600, strict=True, gt=0, le=30 * 86400)
    """The whole attempt; 2 h by default."""


class Body(_Model):
    """Body of a request, of any kind."""

    SECTION: ClassVar[str | None] = None
    """The field that holds what is the kind's own; None where that stands at the top."""

    @property
    def library(self) -> str | None:
        """The library that the request names; None where it leaves that open."""
        return None


def _own_first(schema: JsonSchemaValue, model: type[BaseModel]) -> None:
    """Have a form begin with what a kind of job is about; what every job has comes after that."""
    shared = {to_camel(name) for base in (JobRequest, TaskRequest) for name in base.model_fields} - {"name"}
    fields = schema["properties"]
    schema["properties"] = {name: fields[name] for name in sorted(fields, key=lambda name: name in shared)}


class JobRequest(Body):
    """Common fields of jobs."""

    model_config = ConfigDict(json_schema_extra=_own_first)

    name: Name
    """Display name."""
    description: str = Field("", max_length=4000)
    """Purpose of the job."""
    compute_config: ComputeConfig = ComputeConfig()
    """Machine, GPUs and priority."""
    overrides: tuple[Override, ...] = Field((), max_length=200)
    """Hydra overrides, such as `agent.save_interval=20`; each must exist and change something."""
    timeouts: Timeouts = Timeouts()
    """Timeouts."""
    retries: int = Field(2, strict=True, ge=0, le=20)
    """Further attempts after an infrastructure failure, each from the last valid checkpoint."""


class TaskRequest(JobRequest):
    """A job on a task of Isaac Lab. Fields about the job as a whole may also stand in the kind's own section."""

    simulator: str = Field("isaaclab", json_schema_extra={"enum": ["isaaclab"]})
    """Name of the simulator."""
    physics: Physics | None = None
    """Physics engine: `newton`, `physx`, or on a GPU `kamino`; left out it is that of the job in `fromJob`, else the
    task's own, which without Kit is Newton."""
    custom_environment_path: Annotated[Reference | None, CODE] = None
    """A `.zip`, `.tar.gz` or `.whl` with your task package, or its folder: path, relative to the config."""
    custom_environment_s3_uri: Annotated[Reference | None, CODE] = None
    """The same as a store URI, `s3://bucket/key`."""
    custom_environment_callback: Annotated[Callback | None, CODE] = None
    """`package.module`, or `package.module:function`, that registers the task where no entry point does."""

    @property
    def section(self) -> Any:
        """Section of the kind's own fields."""
        assert self.SECTION is not None
        return getattr(self, self.SECTION)

    @property
    def library(self) -> str | None:
        """The library that the section names."""
        return str(self.section.rl_library) if self.section.rl_library else None

    @model_validator(mode="before")
    @classmethod
    def _lift_shared_fields(cls, data: Any) -> Any:
        """Accept job-wide fields in the section too: public documents show both places."""
        if not isinstance(data, Mapping) or cls.SECTION is None:
            return data
        top = dict(data)
        key = cls.SECTION if cls.SECTION in top else to_camel(cls.SECTION)
        if not isinstance(inner := top.get(key), Mapping):
            return top
        inner = dict(inner)
        own = section_fields(cls)
        for name in cls.model_fields:
            for spelling in (name, to_camel(name)):
                if spelling in inner and name not in (*own, "name", "description", "compute_config"):
                    if name in top or to_camel(name) in top:
                        raise ValueError(f"{spelling} stands at the top and in {key}; give it once")
                    top[spelling] = inner.pop(spelling)
        return top | {key: inner}

    @model_validator(mode="after")
    def _one_package(self) -> Self:
        if self.custom_environment_path and self.custom_environment_s3_uri:
            raise ValueError("give customEnvironmentPath or customEnvironmentS3Uri, not both")
        return self


def section_fields(model: type[Body]) -> list[str]:
    """Return the names of the fields in a request's own section; none where it has no section."""
    if model.SECTION is None:
        return []
    section = model.model_fields[model.SECTION].annotation
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return list(section.model_fields)


# --- train ------------------------------------------------------------------------------------------------------------


class EvaluateEvery(_Model):
    """Evaluations of checkpoints while the training goes on, in a second simulator; a number is `iterations`."""

    iterations: int | None = Field(None, strict=True, ge=1, le=10_000_000)
    """Evaluates the first checkpoint that is saved in every so many iterations, and the last one."""
    minutes: float | None = Field(None, gt=0, le=30 * 1440, allow_inf_nan=False)
    """Evaluates the newest checkpoint every so many minutes, and the last one."""
    num_episodes: int = Field(50, strict=True, ge=2, le=100_000)
    """Completed episodes of each checkpoint, shared out evenly over the environments beforehand."""
    num_envs: int | None = Field(None, strict=True, ge=1, le=1_000_000)
    """Environments side by side; left out 100, or as many as episodes if these are fewer."""
    steps_per_episode: int = Field(1000, strict=True, ge=1, le=10_000_000)
    """Longer episodes are cut off here, and counted as truncated."""
    success_termination: Term | None = None
    """The termination that means success; left out the task's own success metric says, or nothing does."""
    metric: Metric | None = None
    """Metric that the best checkpoint is chosen by and `stopWhen` goes by; left out success where the task tells of it,
    else the return."""
    record_video: bool = Field(False, strict=True)
    """Whether the first episode of each checkpoint is filmed."""
    device: Literal["same", "cpu"] = "same"
    """Device of the second simulator: the training's own (its first GPU), or the CPU."""

    @model_validator(mode="before")
    @classmethod
    def _number_is_iterations(cls, data: Any) -> Any:
        return {"iterations": data} if isinstance(data, int) and not isinstance(data, bool) else data

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.iterations is None) == (self.minutes is None):
            raise ValueError('give iterations or minutes, {"iterations": 100} say')
        return self


class StopWhen(_Model):
    """Conditions on the evaluations, the first of which that holds ends the training."""

    target: float | None = Field(None, allow_inf_nan=False)
    """The whole 95 % interval of a checkpoint's `evaluateEvery.metric` is at least this."""
    plateau: int | None = Field(None, strict=True, ge=2, le=10_000)
    """So many evaluated checkpoints in a row are no better than the best before them."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.target is None and self.plateau is None:
            raise ValueError("give target or plateau")
        return self


class TrainingConfig(_Model):
    """Task, library and length of the training."""

    mode: Literal["train"] = "train"
    """Must be `train`; an evaluation is sent with `simyard evaluate`."""
    task: TaskId = "Isaac-Cartpole-v0"
    """Registered id of the Isaac Lab task, such as `Isaac-Cartpole-Direct`; an id of 2.x, which ends in `-v0`, is
    turned into that of 3.0."""
    rl_library: LibraryName = DEFAULT_LIBRARY
    """Reinforcement-learning library; the default is Isaac Lab's own."""
    agent: AgentName | None = None
    """Agent that the task registers for the library, by its key (`rsl_rl_with_symmetry_cfg_entry_point`) or its short
    form (`with_symmetry`); of skrl also `PPO`, `AMP`, `IPPO` and `MAPPO`. Left out it is that of the job in
    `resume.fromJob`, else the library's own."""
    agent_config: Annotated[Reference | None, CODE] = None
    """YAML or JSON file of the agent's configuration, by path (relative to the config) or store URI; overrides win over
    it. Left out, what the task registers holds, or with a job to go on from what that job used."""
    agent_config_mode: AgentConfigMode = "merge"
    """`merge` sets the file's keys in the registered configuration; `replace` puts the file in its place."""
    num_envs: int = Field(4096, strict=True, ge=1, le=1_000_000)
    """Environments simulated side by side; 1024 to 8192 on a GPU, some hundreds on a CPU."""
    max_iterations: int = Field(1500, strict=True, ge=1, le=10_000_000)
    """Policy updates of this job, on top of those of a checkpoint it resumes from."""
    seed: int | None = Field(None, strict=True, ge=0, le=2**31 - 1)
    """Random seed; left out it is 42, Isaac Lab's own default, so that a job repeats."""
    export_policy: bool = Field(False, strict=True)
    """Whether a second job exports the trained policy when this one has succeeded."""
    evaluate_every: EvaluateEvery | None = None
    """Evaluations of checkpoints while the training goes on, `100` or `{"iterations": 100, "numEpisodes": 200}`; left
    out none is evaluated."""
    stop_when: StopWhen | None = None
    """Ends the training before its last iteration, by those evaluations; left out all iterations are done."""
    reward_audit: bool = Field(False, strict=True)
    """Whether what zero, random and held actions earn, by reward term, is measured beside the training's start."""

    @model_validator(mode="after")
    def _end_is_measured(self) -> Self:
        stop, every = self.stop_when, self.evaluate_every
        if stop is None:
            return self
        if every is None:
            raise ValueError("stopWhen goes by the evaluations, and there are none; give evaluateEvery")
        if stop.target is not None and every.metric is None:
            raise ValueError("stopWhen.target has the unit of a metric; name it in evaluateEvery.metric")
        if stop.target is not None and every.metric == "success_rate":
            highest = wilson(every.num_episodes, every.num_episodes)[0]
            if not 0 < stop.target <= highest:
                raise ValueError(
                    f"stopWhen.target is {stop.target:g}, and {every.num_episodes} successes in as many episodes show "
                    f"a success rate of {math.floor(1000 * highest) / 1000:g} or more; give a target from 0 to there, "
                    "or more numEpisodes"
                )
        return self


class Resume(_Model):
    """Checkpoint to go on from: of a job of the same store, or a file; and what is kept beside those of this job."""

    from_job: str | None = None
    """Id of a job; its newest valid checkpoint is taken."""
    checkpoint: Reference | None = None
    """Path (relative to the config) or URI of a checkpoint file."""
    iteration: int | None = Field(None, strict=True, ge=0)
    """With `checkpoint`: iterations it had seen, when the file's name does not say; with `from_job`: which one."""
    trained_under: Physics | None = None
    """With `checkpoint`: the engine that it was trained under, whose order of joints it keeps; left out it is taken to
    be this job's, and the report says so."""
    exact: bool = Field(True, strict=True)
    """Whether the simulation's state is kept beside checkpoints and taken up again; on a GPU it is not either way."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        both = self.from_job is not None and self.checkpoint is not None
        neither = self.from_job is None and self.checkpoint is None
        # A training from scratch may say here how it is to be resumed.
        if both or (neither and ("exact" not in self.model_fields_set or self.iteration is not None)):
            raise ValueError("give either from_job or checkpoint")
        if self.trained_under is not None and self.checkpoint is None:
            raise ValueError(OF_OUTSIDE)
        return self


class TrainRequest(TaskRequest):
    """A training job. Fields of `trainingConfig` that are about the job as a whole may also stand at the top."""

    SECTION: ClassVar[str] = "training_config"

    name: Name = "training"
    """Display name."""
    training_config: TrainingConfig
    """Task, library and length of the training."""
    resume: Resume | None = None
    """A checkpoint to go on from; left out training starts from scratch."""
    stages: tuple[TrainingStage, ...] = Field((), max_length=MOST_STAGES)
    """Stages to train in, one after another, in one simulator; each has its own `maxIterations`."""

    @model_validator(mode="after")
    def _stages_can_be(self) -> Self:
        if self.stages and self.resume is not None and (self.resume.from_job or self.resume.checkpoint):
            raise ValueError("stages and resume: name the checkpoint as the start of the first stage")
        if self.stages:
            check_stages(self.stages, self.budget)
        return self

    @property
    def budget(self) -> int | None:
        """Iterations of all stages together, where the request says it."""
        given = "max_iterations" in self.training_config.model_fields_set
        return self.training_config.max_iterations if given else None


# --- what evaluation and export have in common ------------------------------------------------------------------------


class FromJob(_Model):
    """A checkpoint, or several, of a training job in the same store."""

    job_id: str
    """Id of the training job, whose task, library, package, overrides and `computeConfig` are taken over too, the last
    on one GPU; `latest` means the newest training that has succeeded."""
    which: Which = "latest"
    """`latest`, `best` (as `evaluateEvery` has measured it, else by the mean return of training) or `iteration`; to
    evaluate also `all` and `every:N`."""
    iteration: int | None = Field(None, strict=True, ge=0)
    """Number of the iteration, with `iteration`."""

    @model_validator(mode="after")
    def _iteration_is_named(self) -> Self:
        if (self.which == "iteration") != (self.iteration is not None):
            raise ValueError("which 'iteration' and an iteration go together")
        return self


class PolicyConfig(_Model):
    """Policy and its task. The first of the four sources that is given counts, in the order they stand here."""

    SOURCES: ClassVar[tuple[str, ...]] = ("checkpoint_path", "policy_s3_uri", "policy_path", "from_job")

    checkpoint_path: Reference | None = None
    """Path of a checkpoint, relative to the config's folder or the one above it."""
    policy_s3_uri: Reference | None = None
    """Store URI of a checkpoint, `s3://bucket/key`."""
    policy_path: Reference | None = None
    """The same as `checkpointPath`, or an absolute path."""
    normalizer_path: Reference | None = None
    """Observation statistics that the library keeps in a file of their own (sb3: `model_vecnormalize.pkl`), as
    `policyPath` or a store URI; left out, the one beside the checkpoint is taken."""
    from_job: FromJob | None = None
    """A training job's checkpoint. With no source at all the newest checkpoint beside the config is taken."""
    trained_under: Physics | None = None
    """With a file: the engine that it was trained under, whose order of joints the policy keeps; left out it is that of
    the job in `fromJob`, else taken to be this job's, and the report says so."""
    task: TaskId | None = None
    """Registered id of the task; with `fromJob` it is the job's."""
    rl_library: LibraryName | None = None
    """The library that trained it; with `fromJob` the job's, else `rsl_rl`."""
    agent: AgentName | None = None
    """Agent that the task registers for the library, by its key (`rsl_rl_with_symmetry_cfg_entry_point`) or its short
    form (`with_symmetry`); of skrl also `PPO`, `AMP`, `IPPO` and `MAPPO`. Left out it is that of the job in
    `fromJob`, else the library's own."""
    agent_config: Annotated[Reference | None, CODE] = None
    """YAML or JSON file of the agent's configuration, by path (relative to the config) or store URI; overrides win over
    it. Left out, what the task registers holds, or with a job to go on from what that job used."""
    agent_config_mode: AgentConfigMode = "merge"
    """`merge` sets the file's keys in the registered configuration; `replace` puts the file in its place."""
    seed: int | None = Field(None, strict=True, ge=0, le=2**31 - 1)
    """Random seed; left out it is 42."""

    @model_validator(mode="after")
    def _task_is_known(self) -> Self:
        if self.task is None and self.from_job is None:
            raise ValueError("task is missing; only with fromJob is it known")
        return self

    @model_validator(mode="after")
    def _engine_is_of_a_file(self) -> Self:
        has_file = self.checkpoint_path or self.policy_s3_uri or self.policy_path or not self.from_job
        if self.trained_under is not None and not has_file:
            raise ValueError(OF_OUTSIDE)
        return self


def _require_pairs(across: tuple[Physics, ...], num_envs: int | None, num_episodes: int) -> None:
    """Refuse engines that cannot be compared by pairs of episodes.

    Raises:
        ValueError: If there is one alone, or one twice; or if environments would have several episodes each, of which
            only the first begin alike.
    """
    if across and (len(across) < 2 or len(set(across)) < len(across)):
        raise ValueError(f"across names two or more different engines, not {list(across)}: ['newton', 'physx'] say")
    if across and num_envs is not None and num_envs < num_episodes:
        raise ValueError(
            f"across plays each of the {num_episodes} episodes in an environment of its own, and numEnvs is "
            f"{num_envs}; leave numEnvs out"
        )


# --- evaluate ---------------------------------------------------------------------------------------------------------


class EvaluationConfig(PolicyConfig):
    """Policy to evaluate, and the measurement."""

    mode: Literal["evaluate"] = "evaluate"
    """Must be `evaluate`; a training is sent with `simyard train`."""
    MOST_ENVS: ClassVar[int] = 100
    """Environments where nobody says how many."""
    MOST_PLANNED: ClassVar[int] = 20_000
    """Episodes that a plan may come to."""
    MOST_SIDE_BY_SIDE: ClassVar[int] = 1_000_000
    """Environments of all arms together."""

    num_envs: int | None = Field(None, strict=True, ge=1, le=1_000_000)
    """Environments side by side; left out 100, or as many as episodes if these are fewer."""
    num_episodes: int = Field(50, strict=True, ge=1, le=1_000_000)
    """Completed episodes to measure, shared out evenly over the environments beforehand."""
    steps_per_episode: int = Field(1000, strict=True, ge=1, le=10_000_000)
    """Longer episodes are cut off here, and counted as truncated."""
    success_termination: Term | None = None
    """The termination that means success; left out the task's own success metric says, or nothing does."""
    record_video: bool | None = Field(None, strict=True)
    """Whether to film episodes; left out a config that names its `task` does, and one that takes it from `fromJob` does
    not."""
    video_episodes: tuple[Video, ...] = Field(("first", "best", "worst"), min_length=1, max_length=20)
    """Episodes to film: `first`, `best`, `worst` or numbers in order of completion."""
    require_video: bool = Field(False, strict=True)
    """Whether the job fails where no video can be made; otherwise the figures stand without."""
    across: Engines = ()
    """Physics engines to play every episode in, `["newton", "physx"]`: the others are compared with the first, pair by
    pair; left out the job's own engine alone."""

    variations: Variations = {}
    """Conditions to play every episode under once more, each compared pair by pair with the task's own: factors and
    their levels, `{"motorStrength": [0.5, 0.75], "actionDelay": [1, 2]}`."""
    design: Design = "one_at_a_time"
    """Arms of the variations: a factor at a time, every combination, or samples between lowest and highest levels."""
    design_samples: int = Field(32, strict=True, ge=2, le=256)
    """Arms of a Latin hypercube."""
    floor: float = Field(FLOOR, strict=True, ge=0, le=1)
    """Success rate below which a policy has failed: how far each factor may go is told by it. Where nothing says what
    success is, the share of the return that is kept."""
    plan: Plan | None = None
    """How many episodes are enough; left out `numEpisodes` says it."""
    record: bool = Field(False, strict=True)
    """Whether failed episodes are kept as data, in `rollout.zarr`."""

    @model_validator(mode="after")
    def _each_arm_has_its_pairs(self) -> Self:
        if self.variations and self.across:
            raise ValueError("variations and across: vary conditions in one engine, or compare engines; not both")
        if self.variations and self.num_envs is not None and self.num_envs != self.num_episodes:
            raise ValueError(
                f"variations plays each of the {self.num_episodes} episodes in an environment of its own, and numEnvs "
                f"is {self.num_envs}; leave numEnvs out"
            )
        if self.plan and self.plan.half_width is not None and (self.variations or self.across):
            raise ValueError("plan.halfWidth stops a plain evaluation; of variations and engines give plan.difference")
        if self.record and (self.across or (self.plan and self.plan.half_width is not None)):
            raise ValueError("record keeps the episodes of one engine, all of which count; leave across or plan out")
        if self.record and self.from_job and (self.from_job.which == "all" or self.from_job.which.startswith("every:")):
            raise ValueError("record keeps the episodes of one checkpoint; name it with fromJob.which")
        if self.plan and self.plan.difference is not None and "num_episodes" in self.model_fields_set:
            raise ValueError("plan.difference says how many episodes there are; leave numEpisodes out")
        if self.plan and self.plan.half_width is not None and (self.record_video or self.require_video):
            raise ValueError("plan.halfWidth counts whole rounds of episodes, and films none; leave recordVideo out")
        return self

    @model_validator(mode="after")
    def _each_pair_has_an_environment(self) -> Self:
        _require_pairs(self.across, self.num_envs if "num_envs" in self.model_fields_set else None, self.num_episodes)
        return self

    @model_validator(mode="after")
    def _films_are_of_episodes(self) -> Self:
        beyond = [number for number in self.video_episodes if isinstance(number, int) and number > self.num_episodes]
        if beyond:
            raise ValueError(f"videoEpisodes names episode {beyond[0]}, and there are {self.num_episodes}")
        return self


class EvaluateRequest(TaskRequest):
    """An evaluation of one policy, or of several checkpoints of one job."""

    SECTION: ClassVar[str] = "training_config"

    name: Name = "evaluation"
    """Display name."""
    training_config: EvaluationConfig
    """Policy to evaluate, and the measurement."""
    timeouts: ShortTimeouts = ShortTimeouts()
    """Timeouts."""


# --- export -----------------------------------------------------------------------------------------------------------


class JointLimits(_Model):
    """Limits of a robot's joint."""

    model_config = ConfigDict(allow_inf_nan=False)

    max_velocity: float | None = Field(None, gt=0)
    """rad/s or m/s."""
    position: tuple[float, float] | None = None
    """rad or m, lowest and highest."""
    max_effort: float | None = Field(None, gt=0)
    """N m or N."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give maxVelocity, position or maxEffort")
        if self.position is not None and self.position[0] >= self.position[1]:
            raise ValueError(f"position is the lowest and the highest, not {list(self.position)}")
        return self


class Robot(_Model):
    """The real robot: the checklist holds the policy's training to it."""

    model_config = ConfigDict(allow_inf_nan=False)

    sensors: list[Term] | None = Field(None, max_length=1000)
    """Sensors it has, such as `joint_encoders` and `imu`, and observation terms that it measures otherwise. Once they
    are named, everything else that the policy sees is privileged."""
    noise: dict[Term, Annotated[float, Field(ge=0)]] = Field({}, max_length=1000)
    """Standard deviation of each observation as the robot measures it, by term."""
    delay_s: tuple[Annotated[float, Field(ge=0, le=60)], Annotated[float, Field(ge=0, le=60)]] | None = None
    """Least and most seconds from a measurement to the motion that follows it."""

    @model_validator(mode="after")
    def _delays_in_order(self) -> Self:
        if self.delay_s is not None and self.delay_s[0] > self.delay_s[1]:
            raise ValueError(f"delayS is the least and the most, not {list(self.delay_s)}")
        return self


PackageFile = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*$", max_length=300)
]
"""Path of a file below the folder of the job's package."""


class Mujoco(_Model):
    """Files of the job's package (`customEnvironmentPath`) for plain MuJoCo, the second simulator of every export."""

    functions: PackageFile | None = None
    """Python file with functions for the terms that are not Isaac Lab's: the dictionaries `observations`, `rewards` and
    `terminations`, by term."""
    model: PackageFile | None = None
    """MJCF or URDF of the robot; left out it is Newton's conversion of the task's own."""


class Answer(_Model):
    """Answer of a person to an item of the checklist."""

    ok: bool = Field(strict=True)
    """Whether it is fine."""
    by: Name
    """Name of the person."""
    note: str = Field("", max_length=4000)
    """Grounds for the answer."""


class ExportConfig(PolicyConfig):
    """Policy to export, and the checks."""

    MOST_ENVS: ClassVar[int] = 64
    """Environments where nobody says how many."""

    num_envs: int | None = Field(None, strict=True, ge=1, le=100_000)
    """Environments of the rollouts that the checks are made on; left out 64, or as many as episodes if these are
    fewer."""
    num_episodes: int = Field(64, strict=True, ge=2, le=100_000)
    """Episodes of those rollouts."""
    other_physics: Term | None = None
    """Physics preset of the second simulator; left out another one that the task has."""
    action_limits: dict[Term, JointLimits] = Field({}, max_length=1000)
    """Limits of the robot's joints, by joint name."""
    robot: Robot = Robot()
    """The robot that the policy is to run on."""
    mujoco: Mujoco = Mujoco()
    """Files for the second simulator."""
    checklist_answers: dict[Term, Answer] = Field({}, max_length=100)
    """Answers of a person to the items that no program can settle."""

    @model_validator(mode="after")
    def _answers_are_to_items(self) -> Self:
        if not self.checklist_answers:
            return self
        from simyard.runner.exporting.checks import CHECKS

        for item in self.checklist_answers:
            if item not in CHECKS:
                error = unknown("checklist item", item, CHECKS).failure
                raise ValueError(f"{error.message} {error.advice}")
        return self


class ExportRequest(TaskRequest):
    """An export of one policy for a robot, with the proof that it is the same policy."""

    SECTION: ClassVar[str] = "export_config"

    name: Name = "export"
    """Display name."""
    export_config: ExportConfig
    """Policy to export, and the checks."""
    timeouts: ShortTimeouts = ShortTimeouts()
    """Timeouts."""

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        source = self.export_config.from_job
        if source and source.which not in ("latest", "best", "iteration"):
            raise ValueError(f"which {source.which!r} names several checkpoints; export one: latest, best or iteration")
        return self


# --- retrain ----------------------------------------------------------------------------------------------------------


class Comparison(_Model):
    """Measurement of the new policy and the promoted one: the same for both."""

    metric: Metric = "return"
    """Metric to compare; more is better for both."""
    num_episodes: int = Field(200, strict=True, ge=10, le=1_000_000)
    """Completed episodes of each policy: four times as many halve the noise."""
    num_envs: int | None = Field(None, strict=True, ge=1, le=1_000_000)
    """Environments side by side; left out 100, or as many as episodes if these are fewer."""
    steps_per_episode: int = Field(1000, strict=True, ge=1, le=10_000_000)
    """Longer episodes are cut off here, and counted as truncated."""
    seed: int = Field(42, strict=True, ge=0, le=2**31 - 1)
    """Of both evaluations, so that both policies meet the same starts."""
    success_termination: Term | None = None
    """The termination that means success; left out the task's own success metric says, or nothing does."""
    min_delta: float = Field(0.0, ge=0, allow_inf_nan=False)
    """The whole 95 % interval of the difference must lie above this; in the metric's own unit."""
    across: Engines = ()
    """Physics engines that the new policy must hold in, `["newton", "physx"]`: it is compared with the promoted one in
    the first, and must keep `floor` in each of the others."""
    floor: float = Field(0.8, gt=0, le=1, allow_inf_nan=False)
    """Share of its metric in the first engine that the new policy must keep in the others: the whole 95 % interval of
    what it keeps must lie above this."""

    @model_validator(mode="after")
    def _each_pair_has_an_environment(self) -> Self:
        _require_pairs(self.across, self.num_envs if "num_envs" in self.model_fields_set else None, self.num_episodes)
        return self


class RetrainRequest(Body):
    """A training, whose policy is promoted only where it is better beyond noise than the one promoted before."""

    SECTION: ClassVar[str] = "evaluation"

    promotion: PromotionName
    """Name below which the store keeps the promoted policy."""
    training: TrainRequest
    """The training, as `simyard train` takes it."""
    start: Start = "incumbent"
    """The checkpoint to begin from: of the promoted policy, of the newest training of the same task, or none; or the id
    of a sweep, for the best training of it, whose values are then overrides before the training's own."""
    evaluation: Comparison = Comparison()
    """Measurement of both policies."""

    @property
    def library(self) -> str | None:
        """The library that the training names."""
        return self.training.library

    @model_validator(mode="after")
    def _compared_in_its_own_engine(self) -> Self:
        from simyard.runner.isaaclab.physics import engine_of

        named, across = engine_of(self.training), self.evaluation.across
        if across and named not in (None, across[0]):
            raise ValueError(
                f"training is on physics {named!r}, and evaluation.across begins with {across[0]!r}; name {named!r} "
                "first"
            )
        return self

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.training.resume is not None and self.start != "scratch":
            raise ValueError(
                f"training.resume and start {self.start!r} both name a beginning; leave resume out, or set start to "
                "'scratch'"
            )
        if self.training.stages and self.start != "scratch":
            raise ValueError(
                f"training.stages begin with checkpoints of their own, and start is {self.start!r}; set it to 'scratch'"
            )
        return self
