"""The body of `POST /v0/jobs`: a robot, a scene and how to drive it, or a task package that does."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, StringConstraints, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from simyard.core.errors import RequestError
from simyard.requests.base import OF_OUTSIDE, Name, Physics, Reference, _Model
from simyard.requests.cameras import MOST_CAMERAS, CameraConfig, check_cameras
from simyard.requests.control import Control, plain, standard_takes_its_modes
from simyard.requests.jobs import CODE, FromJob, JobRequest, LibraryName, ShortTimeouts, TaskId
from simyard.runner.newton.control import read_control
from simyard.runner.newton.modes import MODES
from simyard.runner.newton.scenes import SCENES, check_scene_id

AssetId = Annotated[str, StringConstraints(pattern=r"^asset-[0-9a-f]{64}$")]
Module = Annotated[str, StringConstraints(max_length=300, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
SceneId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"), Field(examples=[*SCENES])]

Parameters = Annotated[dict[str, Any], AfterValidator(plain)]


def _given(model: _Model, fields: tuple[str, ...]) -> list[str]:
    return [name for name in fields if getattr(model, name) is not None]


BundleFile = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class RobotRef(_Model):
    """A robot: one file, or a `.zip` bundle of it with its meshes. Exactly one source."""

    urdf_uri: Reference | None = None
    """Path (relative to the JSON) or store URI of a URDF."""
    usd_uri: Reference | None = None
    """The same of a USD."""
    mjcf_uri: Reference | None = None
    """The same of an MJCF (MuJoCo's XML)."""
    urdf_asset_id: AssetId | None = None
    """An uploaded URDF."""
    usd_asset_id: AssetId | None = None
    """An uploaded USD."""
    mjcf_asset_id: AssetId | None = None
    """An uploaded MJCF."""
    file: BundleFile | None = None
    """Path of the robot's file in a bundle of several; else what was said at its upload."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = tuple(name for name in RobotRef.model_fields if name != "file")
        if len(given := _given(self, sources)) != 1:
            raise ValueError(f"give one of {', '.join(sources)}; there are {given or 'none'}")
        return self


class SceneRef(_Model):
    """A scene: a USD, or a built-in one by its name."""

    scene_id: SceneId | None = None
    """A built-in scene; beside a USD it is no more than a label."""
    usd_uri: Reference | None = None
    """Path (relative to the JSON) or store URI of a USD, or of a `.zip` bundle."""
    usd_asset_id: AssetId | None = None
    """An uploaded USD."""
    file: BundleFile | None = None
    """Path of the scene's file in the bundle, as with a robot."""

    @model_validator(mode="after")
    def _one_usd(self) -> Self:
        if self.usd_uri and self.usd_asset_id:
            raise ValueError("give usd_uri or usd_asset_id, not both")
        return self


class PhysicsConfig(_Model):
    """Time steps of the simulation."""

    dt: float = Field(0.005, gt=0, le=1, allow_inf_nan=False)
    """Seconds of a control step; a registered task has its own."""
    substeps: int = Field(2, strict=True, ge=1, le=1000)
    """Physics steps in each control step."""


class ExecutionConfig(_Model):
    """Extent of the simulation."""

    num_envs: int = Field(1, strict=True, ge=1, le=131_072)
    """Environments side by side."""
    steps: int = Field(strict=True, ge=1, le=10_000_000)
    """Control steps of each."""
    seed: int = Field(42, strict=True, ge=0, le=2**31 - 1)
    """Random seed."""


class OutputsConfig(_Model):
    """Outputs besides the arrays."""

    video: bool = Field(False, strict=True)
    """Whether `render.mp4` is promised: environment 0."""
    cameras: list[CameraConfig] = Field([], max_length=MOST_CAMERAS)
    """Cameras whose pictures are recorded in every environment."""
    log_format: Literal["zarr"] = "zarr"
    """Format of the arrays."""


class IsaacLabConfig(_Model):
    """The task of the profile `isaac_lab_rollout`."""

    task_class_or_name: TaskId
    """A class of `task_module`, or a name registered with gymnasium."""
    physics: Physics | None = None
    """Physics engine of a registered task: `newton`, `physx`, or on a GPU `kamino`; left out it is that of the job in
    `policy.from_job`, else the task's own."""
    task_module: Annotated[Module | None, CODE] = None
    """The module that has the class or registers the name; left out for tasks that are installed."""
    task_package_asset_id: Annotated[AssetId | None, CODE] = None
    """The uploaded package that has the module."""
    task_package_uri: Annotated[Reference | None, CODE] = None
    """The same by path (relative to the JSON) or store URI."""
    task_args: Parameters = {}
    """Arguments of the class, by keyword."""

    @model_validator(mode="after")
    def _package_has_a_module(self) -> Self:
        packages = _given(self, ("task_package_asset_id", "task_package_uri"))
        if len(packages) > 1:
            raise ValueError("give task_package_asset_id or task_package_uri, not both")
        if packages and self.task_module is None:
            raise ValueError(f"{packages[0]} without task_module: say which module has the task")
        return self


class PolicyRef(_Model):
    """Policy that drives the robot in `task_mode` `policy`. Exactly one source."""

    uri: Reference | None = None
    """Path (relative to the JSON) or store URI: a checkpoint for a registered task, else an ONNX file."""
    asset_id: AssetId | None = None
    """The same, uploaded."""
    from_job: FromJob | None = None
    """A checkpoint of a training job in the same store."""
    rl_library: LibraryName | None = None
    """The library that trained a checkpoint; `rsl_rl` unless `from_job` says otherwise."""
    trained_under: Physics | None = None
    """With `uri` or `asset_id`, for a registered task: the engine that it was trained under, whose order of joints it
    keeps; left out what its upload says, else taken to be this job's, and the report says so."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if len(given := _given(self, ("uri", "asset_id", "from_job"))) != 1:
            raise ValueError(f"give one of uri, asset_id, from_job; there are {given or 'none'}")
        if self.from_job and self.from_job.which not in ("latest", "best", "iteration"):
            raise ValueError(f"which {self.from_job.which!r} names several checkpoints; take latest, best or iteration")
        if self.from_job and self.trained_under is not None:
            raise ValueError(OF_OUTSIDE)
        return self


class RolloutRequest(JobRequest):
    """A rollout: simulate, record every environment, and keep the arrays."""

    name: Name = "rollout"
    """Display name."""
    job_type: Literal["rollout"] = "rollout"
    """The one type there is."""
    runtime_profile: Literal["standard", "isaac_lab_rollout"] = "standard"
    """Driver of the robot: simyard itself, or a task package."""
    robot: RobotRef | None = None
    """The robot; required by the standard profile, unless the `task_mode` brings one."""
    scene: SceneRef = SceneRef()
    """Scene that the robot stands in; left out it is the built-in `ground`."""
    physics: PhysicsConfig = PhysicsConfig()
    """Time steps of the simulation."""
    execution: ExecutionConfig
    """Extent of the simulation."""
    outputs: OutputsConfig = OutputsConfig()
    """Outputs besides the arrays."""
    control: Control = Field({}, validate_default=True)
    """Control of the robot: `task_mode`, and the fields of that mode."""
    isaac_lab: IsaacLabConfig | None = None
    """The task; required by the profile `isaac_lab_rollout`."""
    policy: PolicyRef | None = None
    """Policy that drives the robot in `task_mode` `policy`."""
    timeouts: ShortTimeouts = ShortTimeouts()
    """Time limits."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        standard_takes_its_modes(handler.resolve_ref_schema(schema))
        return schema

    @property
    def library(self) -> str | None:
        """The library that trained the policy."""
        return self.policy.rl_library if self.policy else None

    @model_validator(mode="after")
    def _profile_has_what_it_needs(self) -> Self:
        if self.runtime_profile == "standard":
            control = read_control(self.control.to_plain())
            if self.robot is None and control.mode.ROBOT is None:
                bring = ", ".join(repr(name) for name, mode in MODES.items() if mode.ROBOT)
                raise ValueError(f"robot is missing; the standard profile drives one, unless task_mode is {bring}")
            if self.robot is not None and control.mode.ROBOT is not None:
                raise ValueError(f"leave robot out: task_mode {control.name!r} brings its own; 'pick_lift' takes yours")
            try:
                has_own_time = control.mode.own_time(self.execution.steps) is not None
            except RequestError as error:
                raise ValueError(str(error)) from error
            if has_own_time and self.physics != PhysicsConfig():
                raise ValueError(
                    f"leave physics out: task_mode {control.name!r} has a time base of its own; set control.duration_s"
                )
            if self.isaac_lab is not None:
                raise ValueError("isaac_lab goes with runtime_profile 'isaac_lab_rollout'")
            if self.policy is not None and self.policy.trained_under is not None:
                raise ValueError("trained_under is of a checkpoint for a registered task; leave it out of an ONNX file")
            if self.overrides:
                raise ValueError("overrides are for registered tasks of the profile 'isaac_lab_rollout'")
        elif self.isaac_lab is None:
            raise ValueError("isaac_lab is missing; runtime_profile 'isaac_lab_rollout' runs its task")
        return self

    @model_validator(mode="after")
    def _scene_is_known(self) -> Self:
        if self.runtime_profile == "standard" and self.scene.scene_id:
            try:
                if not (self.scene.usd_uri or self.scene.usd_asset_id):
                    check_scene_id(self.scene.scene_id)
            except RequestError as error:
                raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _cameras_fit(self) -> Self:
        step_s = self.physics.dt if self.runtime_profile == "standard" else None
        check_cameras(self.outputs.cameras, self.execution.num_envs, self.execution.steps, step_s)
        return self

    @model_validator(mode="after")
    def _a_policy_drives_where_there_is_one(self) -> Self:
        if (self.control.task_mode == "policy") != (self.policy is not None):
            raise ValueError("task_mode 'policy' and a policy go together")
        return self
