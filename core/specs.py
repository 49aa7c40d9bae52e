"""The wire contract between the control side and the workload: frozen, JSON, versioned.

Standard library only, on Python 3.11 and 3.12: the workload reads this under Isaac Lab's Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from simyard.core.stages import Gate, StageRun, Stages, Widen
from simyard.core.wire import ABSENT, Wire

SCHEMA_VERSION = 1
SAFE_GLOBALS = "SIMYARD_SAFE_GLOBALS"
"""Environment variable: dotted names of classes, separated by commas, that checkpoints may hold on this site."""


@dataclass(frozen=True, kw_only=True)
class Limits(Wire):
    """Timeouts of the supervisor, in seconds."""

    wall_s: float = 8 * 3600.0
    """The whole attempt."""
    first_iteration_s: float = 15 * 60.0
    """Start to the first finished iteration: a cold shader or kernel cache takes minutes."""
    iteration_s: float = 30 * 60.0
    """From one finished iteration to the next."""
    term_grace_s: float = 30.0
    """SIGTERM to SIGKILL."""
    close_grace_s: float = 60.0
    """Last trained iteration to the end of the process: Isaac Lab is known to hang while it closes."""


@dataclass(frozen=True, kw_only=True)
class Bounds(Wire):
    """Bounds of a process that serves job after job: beyond one of them a new process takes its place."""

    jobs: int = 200
    """Jobs."""
    memory_bytes: int = 16 * 1024**3
    """Resident memory, looked at after each job."""
    gpu_memory_bytes: int = 4 * 1024**3
    """Memory on GPUs, looked at likewise: a context, kernels and graphs; what a job had for itself is freed by then."""
    idle_s: float = 900.0
    """Seconds without a job."""


ONE_JOB = Bounds(jobs=1)
"""A process for a single job."""


@dataclass(frozen=True, kw_only=True)
class InputFile(Wire):
    """A file of the job's, kept in the store under its digest."""

    name: str
    """Base name, with the ending the user gave it."""
    key: str
    """Key in the store."""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class AgentFile(Wire):
    """A user's file of an agent's configuration."""

    file: InputFile
    mode: str
    """`merge` into the registered configuration, or `replace` it."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint(Wire):
    """The checkpoint a job or an attempt starts from."""

    checkpoint: InputFile
    iteration: int
    """Iterations that were finished when it was saved; the first one still to do has this number."""
    trusted: bool = False
    """True for a checkpoint that a job of this store wrote: only those may hold pickled code."""
    state: InputFile | None = field(default=None, metadata=ABSENT)
    """The state of the training beside it; None where none was kept."""
    stages: Stages | None = field(default=None, metadata=ABSENT)
    """The job's stages when it was saved; None for a job without."""
    others: tuple[InputFile, ...] | None = field(default=None, metadata=ABSENT)
    """Earlier checkpoints that a stage may still begin with."""


@dataclass(frozen=True, kw_only=True)
class Stage(Wire):
    """A stage of a training."""

    name: str
    kind: str = "train"
    """`train` or `distill`."""
    overrides: tuple[str, ...] = ()
    """Hydra overrides, after those of the job."""
    agent: str | None = field(default=None, metadata=ABSENT)
    """As the job's; None is the job's own."""
    start: str = "previous"
    """`previous`, `best`, `last`, `scratch`, or `outside` for `checkpoint`."""
    checkpoint: ResumePoint | None = field(default=None, metadata=ABSENT)
    """The checkpoint from outside that it starts from."""
    order: str | None = field(default=None, metadata=ABSENT)
    """The engine whose order of joints and bodies that checkpoint has; None is the stage's own."""
    until: Gate | None = field(default=None, metadata=ABSENT)
    """Condition that ends it."""
    max_iterations: int
    on_not_reached: str = "fail"
    """`fail`, `go_on` or `go_back`, where the condition does not hold after `max_iterations`."""
    widen: Widen | None = field(default=None, metadata=ABSENT)
    """Ranges that grow in it."""


@dataclass(frozen=True, kw_only=True)
class PolicyFile(Wire):
    """A trained policy to evaluate or to export."""

    checkpoint: InputFile
    iteration: int | None = None
    """Iterations that were finished when it was saved; None where nothing says."""
    trusted: bool = False
    """True for a checkpoint that a job of this store wrote."""
    normalizer: InputFile | None = None
    """Observation statistics, where the library keeps them in a file of their own."""

    @property
    def label(self) -> str:
        """A short name for tables and folders, unique within a job."""
        return self.checkpoint.name.rpartition(".")[0] or self.checkpoint.name


Level = float | dict[str, Any]
"""Level of a factor; of an event the parameters that take the place of its own."""


@dataclass(frozen=True, kw_only=True)
class Arm(Wire):
    """Conditions under which the same episodes are played once more."""

    name: str
    """Every factor that is varied, with its level."""
    levels: dict[str, Level]
    """By the factor's name, as `runner/evaluation/factors.py` has it."""


@dataclass(frozen=True, kw_only=True)
class Precision(Wire):
    """Precision at which a sequential evaluation stops."""

    metric: str
    """`success_rate` or `return`."""
    half_width: float
    """Half of the interval's width, in the metric's own unit."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Wire):
    """Measurement of policies."""

    num_episodes: int
    """Completed episodes of each policy, shared out evenly over the environments."""
    steps_per_episode: int
    """Longer episodes are cut off here."""
    success_termination: str | None = None
    """The termination that means success; None leaves it to the task's own metric."""
    videos: tuple[str, ...] = ()
    """Episodes to film: `first`, `best`, `worst` or a number."""
    require_video: bool = False
    """Whether the job fails when a film cannot be made."""
    across: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Physics engines to play every episode in; the others are compared with the first. None is the job's own alone."""
    arms: tuple[Arm, ...] | None = field(default=None, metadata=ABSENT)
    """Conditions to play every episode under besides the task's own, the control arm; None is that alone."""
    design: str | None = field(default=None, metadata=ABSENT)
    """The design that the arms come from."""
    floor: float | None = field(default=None, metadata=ABSENT)
    """Success rate below which an arm has failed; where nobody says what success is, the share of the return kept."""
    until: Precision | None = field(default=None, metadata=ABSENT)
    """Precision at which it stops before `num_episodes`; None plays all of them."""
    record: bool | None = field(default=None, metadata=ABSENT)
    """Whether failed episodes are kept as data; None keeps none."""
    actions: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Actions that take the place of a policy's, of `ACTIONS`; None is a measurement of policies."""

    @property
    def times(self) -> int:
        """How often every episode is played: in each engine, or in the control arm and each other arm."""
        return len(self.across) if self.across else 1 + len(self.arms or ())


ACTIONS = ("zero", "random", "held")
"""Actions that nobody has learned: zeros, new ones in every step, and those of an episode's first step."""


@dataclass(frozen=True, kw_only=True)
class EvaluateEvery(Wire):
    """Evaluations of a training's checkpoints while it goes on, in a simulator of their own."""

    iterations: int | None = field(default=None, metadata=ABSENT)
    """From one checkpoint that is evaluated to the next; None goes by the time."""
    minutes: float | None = field(default=None, metadata=ABSENT)
    """The same in minutes; None goes by the iterations."""
    num_episodes: int
    num_envs: int
    """Environments side by side."""
    steps_per_episode: int
    success_termination: str | None = None
    video: bool = False
    """Whether an episode of each checkpoint is filmed."""
    on_cpu: bool = False
    """Whether the second simulator runs on the CPU; False is the training's device."""
    metric: str | None = None
    """`success_rate` or `return`; None is success where the task tells of it."""


@dataclass(frozen=True, kw_only=True)
class StopWhen(Wire):
    """What an evaluation must show for a training to end before its last iteration."""

    target: float | None = field(default=None, metadata=ABSENT)
    """Value that the whole 95 % interval of the metric must reach."""
    plateau: int | None = field(default=None, metadata=ABSENT)
    """Evaluated checkpoints in a row that are no better than the best before them."""


@dataclass(frozen=True, kw_only=True)
class JointLimits(Wire):
    """Limits of a robot's joint; None is not given."""

    max_velocity: float | None = field(default=None, metadata=ABSENT)
    """rad/s or m/s."""
    position: tuple[float, float] | None = field(default=None, metadata=ABSENT)
    """rad or m, lowest and highest."""
    max_effort: float | None = field(default=None, metadata=ABSENT)
    """N m or N."""


@dataclass(frozen=True, kw_only=True)
class Robot(Wire):
    """The real robot, as far as its owner tells of it."""

    sensors: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Sensors, and observation terms that it measures otherwise; None is not told."""
    noise: dict[str, float] = field(default_factory=dict)
    """Standard deviation of each observation as it is measured, before training's scale, by term."""
    delay_s: tuple[float, float] | None = field(default=None, metadata=ABSENT)
    """Least and most time from a measurement to the motion that follows it; None is not told."""


@dataclass(frozen=True, kw_only=True)
class Mujoco(Wire):
    """Files of the job's package for plain MuJoCo, below its folder."""

    functions: str | None = field(default=None, metadata=ABSENT)
    """Python file with functions of terms that are not Isaac Lab's."""
    model: str | None = field(default=None, metadata=ABSENT)
    """MJCF or URDF of the robot; None takes Newton's conversion of the task's."""


@dataclass(frozen=True, kw_only=True)
class Answer(Wire):
    """Answer of a person to an item of the checklist."""

    by: str
    """Name of the person."""
    at: str
    """Time, ISO 8601."""
    note: str
    """Observation, in the person's words."""
    ok: bool
    """Whether the policy may run as far as this item goes."""


@dataclass(frozen=True, kw_only=True)
class Export(Wire):
    """Checks of an exported policy."""

    num_episodes: int
    """Episodes of the rollouts that observations for the checks come from."""
    other_physics: str | None = None
    """Physics preset of the second simulator; None takes another one of the task's, if it has one."""
    action_limits: dict[str, JointLimits] = field(default_factory=dict)
    """Limits of the robot's joints, by name."""
    robot: Robot = field(default_factory=Robot)
    """The robot that the policy is to run on."""
    mujoco: Mujoco = field(default_factory=Mujoco)
    """Files for the second simulator."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Answers of a person to the checklist's items that no program can settle, by item."""
    curriculum: dict[str, float] | None = None
    """The stage of each curriculum term at the end of training, as far as it was logged."""
    stages: Stages | None = field(default=None, metadata=ABSENT)
    """The stages of the training when the policy was saved; None for a training without."""


@dataclass(frozen=True, kw_only=True)
class Asset(Wire):
    """A robot or a scene: a file, or a bundle with the files it refers to."""

    file: InputFile
    format: str
    """`urdf`, `mjcf` or `usd`: what the file is, or what the one in the bundle is that counts."""
    entry: str | None = field(default=None, metadata=ABSENT)
    """Path of the main file in the bundle; None where nobody named it."""


@dataclass(frozen=True, kw_only=True)
class CameraSpec(Wire):
    """Camera whose pictures a rollout records."""

    name: str
    width: int
    height: int
    """Pixels of a picture."""
    fps: float
    """Pictures a second, as far as control steps allow."""
    fov: float
    """Vertical field of view, in degrees."""
    body: str | None = None
    """The body that it is fixed to; None stands in the world."""
    position: tuple[float, float, float]
    """Position of the lens in the frame of the body, or of the world, in metres."""
    look_at: tuple[float, float, float]
    """Point in the middle of the picture, in the same frame."""

    def every(self, step_s: float) -> int:
        """Return the control steps from one picture to the next."""
        return max(1, round(1 / (step_s * self.fps)))


@dataclass(frozen=True, kw_only=True)
class Rollout(Wire):
    """Specification of a rollout."""

    profile: str
    """`standard`: simyard drives the robot on Newton; `isaac_lab_rollout`: a task package or a registered task."""
    steps: int
    """Control steps of each environment."""
    dt: float
    """Seconds of a control step."""
    substeps: int
    """Physics steps in each control step."""
    control: dict[str, Any] = field(default_factory=dict)
    """Control of the robot: `task_mode`, and the fields of that mode."""
    video: bool = False
    """Whether `render.mp4` is promised."""
    cameras: tuple[CameraSpec, ...] | None = field(default=None, metadata=ABSENT)
    """Cameras whose pictures are recorded."""
    robot: Asset | None = None
    scene: Asset | None = None
    scene_id: str | None = None
    """A built-in scene, where no file gives one."""
    task_module: str | None = None
    """The module that has the task's class, or registers its name."""
    task_args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task's class."""


@dataclass(frozen=True, kw_only=True)
class JobSpec(Wire):
    """Everything fixed about a job: enough to run it again and get the same thing."""

    job_id: str
    kind: str
    """`train`, `evaluate`, `export` or `rollout`."""
    name: str
    description: str = ""
    simulator: str
    """Name of an adapter, such as `isaaclab`."""
    task: str
    """The task's registered id; of a rollout also the name of its class, or of the mode that drives the robot."""
    renamed_from: str | None = field(default=None, metadata=ABSENT)
    """The id that the request gave, where it is one of Isaac Lab 2.x and `task` is that of 3.0."""
    library: str
    """The library's name; empty where no policy of one is involved."""
    agent: str | None = field(default=None, metadata=ABSENT)
    """The key that the task registers the agent's configuration by, such as `rsl_rl_with_symmetry_cfg_entry_point`;
    None is the library's own."""
    agent_config: AgentFile | None = field(default=None, metadata=ABSENT)
    """A file that changes that configuration."""
    physics: str | None = field(default=None, metadata=ABSENT)
    """The physics engine, such as `newton` or `physx`; None leaves it to the overrides, then to the task."""
    order: str | None = field(default=None, metadata=ABSENT)
    """The engine whose order of joints and bodies the policy has, where the job may run in another; None is the own."""
    num_envs: int
    """Environments simulated side by side."""
    seed: int
    max_iterations: int = 0
    """Of training: policy updates this job makes, on top of those of the checkpoint it resumes from."""
    stages: tuple[Stage, ...] | None = field(default=None, metadata=ABSENT)
    """Stages of a training, in order, which `max_iterations` is shared by; None for one without."""
    evaluate_every: EvaluateEvery | None = field(default=None, metadata=ABSENT)
    """Of training: which of its checkpoints are evaluated while it goes on, and how; None evaluates none."""
    stop_when: StopWhen | None = field(default=None, metadata=ABSENT)
    """Of training: when those evaluations end it; None does all iterations."""
    reward_audit: bool | None = field(default=None, metadata=ABSENT)
    """Of training: whether what unlearned actions earn is measured too."""
    policies: tuple[PolicyFile, ...] = ()
    """Of evaluation and export: what to measure or export, fewest iterations first."""
    evaluation: Evaluation | None = None
    export: Export | None = None
    rollout: Rollout | None = None
    gpus: int | None = None
    """GPUs of each machine; None takes one if there is one, 0 means the CPU."""
    nodes: int = 1
    """Machines that train together, each with as many GPUs."""
    priority: str = "normal"
    """`high`, `normal` or `low`: which of a pool's work queues it waits in."""
    accepts_eula: bool = False
    """Whether its sender accepts NVIDIA's licence for Isaac Sim."""
    overrides: tuple[str, ...] = ()
    """The user's Hydra overrides, in order."""
    packages: tuple[InputFile, ...] = ()
    """Custom environment packages, installed into this job alone."""
    import_callback: str | None = None
    """`package.module` or `package.module:function`, called before the task is looked up."""
    resume: ResumePoint | None = None
    exact: bool | None = field(default=None, metadata=ABSENT)
    """Of training: whether the simulation's state is kept beside checkpoints; None keeps it."""
    limits: Limits = field(default_factory=Limits)
    session: bool = True
    """Whether a process that has served other jobs may serve this one, or the other way round."""
    retries: int = 2
    """Further attempts after failures of the infrastructure."""
    created_at: str = ""
    """UTC, ISO 8601."""
    from_job: str | None = None
    """The job this one repeats, or whose policy it takes up."""
    request: dict[str, Any] = field(default_factory=dict)
    """The request as it came, for reference."""
    notes: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Adjustments to the request that were made before the job was frozen, in words for the report; None for none."""
    schema_version: int = SCHEMA_VERSION

    @property
    def overridden(self) -> frozenset[str]:
        """Keys that the user's overrides set."""
        return frozenset(override.partition("=")[0] for override in self.overrides)

    @property
    def first_iteration(self) -> int:
        """The number of the job's first iteration, counted from 0."""
        return self.resume.iteration if self.resume else 0

    @property
    def last_iteration(self) -> int:
        """Iterations the policy has seen at the end of the job."""
        return self.first_iteration + self.max_iterations

    def in_stage(self, index: int) -> JobSpec:
        """Return a job of stages as one stage has it: a training like any other."""
        assert self.stages is not None
        stage = self.stages[index]
        return replace(
            self,
            stages=None,
            agent=stage.agent or self.agent,
            agent_config=None if stage.agent else self.agent_config,  # that is of the job's agent
            overrides=(*self.overrides, *stage.overrides),
            max_iterations=stage.max_iterations,
            resume=stage.checkpoint,
        )

    def stage_after(self, last: StageRun | None) -> int | None:
        """Return the place of the stage that follows a run that has ended, of the first one for None.

        Returns:
            None where none follows: it was the last one, or the job fails with it.
        """
        assert self.stages is not None
        if last is None:
            return 0
        if last.why == "not_reached" and self.stages[last.stage].on_not_reached != "go_on":
            return last.stage - 1 if self.stages[last.stage].on_not_reached == "go_back" else None
        return last.stage + 1 if last.stage + 1 < len(self.stages) else None

    def counted_from(self, first_iteration: int | None) -> JobSpec:
        """Return the job with another number for its first iteration; None leaves it as it is."""
        if first_iteration is None or self.resume is None:
            return self
        return replace(self, resume=replace(self.resume, iteration=first_iteration))

    @property
    def ranks(self) -> int:
        """Processes that train together, a GPU each; 1 if the workload is one process."""
        return self.nodes * max(self.gpus or 1, 1)


@dataclass(frozen=True, kw_only=True)
class World(Wire):
    """Rendezvous of the processes of one attempt: the same on each of its machines, but for the machine's number."""

    node: int
    """This machine, counted from 0; the first one collects."""
    address: str
    """Host name or address of the first machine, as the others reach it."""
    port: int
    """Port it listens on."""
    timestamp: str
    """Name of the run's folder on all of them: `%Y-%m-%d_%H-%M-%S`."""


@dataclass(frozen=True, kw_only=True)
class AttemptSpec(Wire):
    """Specification of an attempt: the job, and the checkpoint it resumes from."""

    job: JobSpec
    number: int
    """Counted from 1."""
    start_iteration: int = 0
    """Iterations already done."""
    resume: ResumePoint | None = None
    """The checkpoint to take up, or None to start from scratch."""
    world: World | None = None
    """Rendezvous of its ranks; None for a workload of one process."""
    view: bool = False
    """Whether its simulation is shown while it runs, on this machine's loopback."""

    @property
    def node(self) -> int:
        """Index of this machine of the attempt, counted from 0."""
        return self.world.node if self.world else 0


@dataclass(frozen=True, kw_only=True)
class Room(Wire):
    """Estimate of the room that a job's files will take."""

    size_bytes: int
    what: str
    """The files that were counted, in words."""


@dataclass(frozen=True, kw_only=True)
class StageFacts(Wire):
    """The facts of a stage that may differ from those of another."""

    rollout: int
    overrides: tuple[str, ...]
    physics: str | None = field(default=None, metadata=ABSENT)
    """As the job's."""


@dataclass(frozen=True, kw_only=True)
class CustomClass(Wire):
    """A class of the user's that an agent's configuration names."""

    key: str
    """Key that names it, such as `agent.actor.class_name`."""
    name: str
    """The class, as `module:name`."""
    sha256: str
    """Digest of the module's file."""


@dataclass(frozen=True, kw_only=True)
class Facts(Wire):
    """Report of the simulator's environment on a job, before anything is simulated."""

    simulator: str
    version: str
    flavor: str
    """`api` for Isaac Lab 3.0, `scripts` for 2.3."""
    device: str
    """`cpu` or `cuda:0`."""
    physics: str | None = field(default=None, metadata=ABSENT)
    """The physics engine, by its name in requests; None where only the simulation knows."""
    agent: str | None = field(default=None, metadata=ABSENT)
    """The key by which the task registers the agent's configuration; None where nobody knows, or there is none."""
    rollout: int
    """Steps each environment takes in one iteration."""
    overrides: tuple[str, ...]
    """Every Hydra argument the run gets: the adapter's own, then the user's."""
    first_iteration: int | None = field(default=None, metadata=ABSENT)
    """The number of the job's first iteration where it is not that of the checkpoint it starts from: 0 where that is a
    teacher's; None elsewhere."""
    not_resumable: str | None = None
    """Reason checkpoints of this job cannot be resumed without the state beside them; None if they can."""
    notes: tuple[str, ...] = ()
    """Adjustments to the request, in words for the report."""
    versions: dict[str, str] = field(default_factory=dict)
    """Installed packages that decide the result, and the GPU's driver."""
    classes: tuple[CustomClass, ...] | None = field(default=None, metadata=ABSENT)
    """The user's classes that the agent's configuration names; None for none."""
    kit: bool = field(default=False, metadata=ABSENT)
    """Whether the simulation runs in Kit, Isaac Sim's app."""
    stages: tuple[StageFacts, ...] | None = field(default=None, metadata=ABSENT)
    """Those of each stage, of which the first one's stand above too; None for a job without."""
    room: Room | None = field(default=None, metadata=ABSENT)
    """Room on the machine's disk and in the store; None where nothing large is known before."""
