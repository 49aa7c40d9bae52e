"""What users send: the training config, checked field by field, with every problem named at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from simyard.runner.adapters import ADAPTERS
from simyard.runner.errors import RequestError, unknown
from simyard.runner.libraries import LIBRARIES

MAX_CONFIG_BYTES = 1_000_000

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=4000, pattern=r"^[^\x00-\x1f\x7f]+$")]
TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}$")]
Override = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]+$")]
Callback = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$")]


class _Model(BaseModel):
    """Field names in snake_case or camelCase; anything else is an error."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=False,
        frozen=True,
        hide_input_in_errors=False,
        use_attribute_docstrings=True,
        field_title_generator=lambda name, field: name.replace("_", " ").capitalize(),
    )


class TrainingConfig(_Model):
    """What to train, and with what."""

    mode: Literal["train"] = "train"
    """Must be `train`; evaluation has its own command."""
    task: TaskId
    """Registered id of the Isaac Lab task, such as `Isaac-Cartpole-Direct` (3.0 ids have no `-v0`)."""
    rl_library: str = Field("rsl_rl", json_schema_extra={"enum": [*LIBRARIES]})
    """Reinforcement-learning library: `rsl_rl`, `skrl`, `rl_games` or `sb3`."""
    num_envs: int = Field(4096, strict=True, ge=1, le=1_000_000)
    """Environments simulated side by side; 1024 to 8192 on a GPU, some hundreds on a CPU."""
    max_iterations: int = Field(1500, strict=True, ge=1, le=10_000_000)
    """Policy updates of this job, on top of those of a checkpoint it resumes from."""
    seed: int | None = Field(None, strict=True, ge=0, le=2**31 - 1)
    """Random seed; left out it is 42, Isaac Lab's own default, so that a job repeats."""


class ComputeConfig(_Model):
    """What to train on."""

    num_nodes: int = Field(1, strict=True, ge=1, le=1)
    """Machines; one for now."""
    gpus_per_node: int | None = Field(None, strict=True, ge=0, le=1)
    """GPUs; left out the job takes one if there is one, 0 means the CPU."""


class Resume(_Model):
    """Where to go on from: a job of the same store, or a checkpoint file."""

    from_job: str | None = None
    """Id of a job; its newest valid checkpoint is taken."""
    checkpoint: Reference | None = None
    """Path (relative to the config) or URI of a checkpoint file."""
    iteration: int | None = Field(None, strict=True, ge=0)
    """With `checkpoint`: iterations it had seen, when the file's name does not say; with `from_job`: which one."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.from_job is None) == (self.checkpoint is None):
            raise ValueError("give either from_job or checkpoint")
        return self


class Timeouts(_Model):
    """When to lose patience, in seconds."""

    wall_seconds: float = Field(8 * 3600, strict=True, gt=0, le=30 * 86400)
    """The whole attempt; 8 h by default."""
    first_iteration_seconds: float = Field(15 * 60, strict=True, gt=0, le=86400)
    """From the start to the first finished iteration; long enough for a cold kernel cache."""
    iteration_seconds: float = Field(30 * 60, strict=True, gt=0, le=86400)
    """From one finished iteration to the next."""
    grace_seconds: float = Field(30, strict=True, ge=0, le=3600)
    """From asking a process to end to killing it."""
    close_seconds: float = Field(60, strict=True, ge=0, le=3600)
    """What the simulator may take to close after its last iteration."""


class TrainRequest(_Model):
    """A training job. Fields of `trainingConfig` that are about the job as a whole may also stand at the top."""

    name: Name = "training"
    """Display name."""
    description: str = Field("", max_length=4000)
    """What the job is for."""
    training_config: TrainingConfig
    """What to train, and with what."""
    compute_config: ComputeConfig = ComputeConfig()
    """What to train on."""
    simulator: str = Field("isaaclab", json_schema_extra={"enum": [*ADAPTERS]})
    """Which simulator."""
    overrides: tuple[Override, ...] = Field((), max_length=200)
    """Hydra overrides, such as `agent.save_interval=20`; each must exist and change something."""
    custom_environment_path: Reference | None = None
    """A `.zip`, `.tar.gz` or `.whl` with your task package: path, relative to the config."""
    custom_environment_s3_uri: Reference | None = None
    """The same as a store URI, `s3://bucket/key`."""
    custom_environment_callback: Callback | None = None
    """`package.module:function` that registers the task, where the package has no `isaaclab.tasks` entry point."""
    resume: Resume | None = None
    """A checkpoint to go on from; left out training starts from scratch."""
    timeouts: Timeouts = Timeouts()
    """When to lose patience."""
    retries: int = Field(2, strict=True, ge=0, le=20)
    """Further attempts after an infrastructure failure, each from the last valid checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _lift_shared_fields(cls, data: Any) -> Any:
        """Accept job-wide fields in `trainingConfig` too: public documents show both places."""
        if not isinstance(data, Mapping):
            return data
        top = dict(data)
        key = "trainingConfig" if "trainingConfig" in top else "training_config"
        if not isinstance(inner := top.get(key), Mapping):
            return top
        inner = dict(inner)
        for name in _SHARED:
            for spelling in (name, to_camel(name)):
                if spelling in inner:
                    if name in top or to_camel(name) in top:
                        raise ValueError(f"{spelling} stands at the top and in trainingConfig; give it once")
                    top[spelling] = inner.pop(spelling)
        return top | {key: inner}

    @model_validator(mode="after")
    def _one_package(self) -> Self:
        if self.custom_environment_path and self.custom_environment_s3_uri:
            raise ValueError("give customEnvironmentPath or customEnvironmentS3Uri, not both")
        return self


_SHARED = (
    "simulator",
    "overrides",
    "custom_environment_path",
    "custom_environment_s3_uri",
    "custom_environment_callback",
    "resume",
    "timeouts",
    "retries",
)


def read_config(path: Path, settings: Iterable[str] = ()) -> dict[str, Any]:
    """Read a config file and apply `key=value` settings to it.

    Args:
        path: A JSON file with one object.
        settings: `dotted.key=value`; a key that begins with `env.` or `agent.`, or is `physics`, is a Hydra override,
            a bare field of `trainingConfig` needs no prefix. Values are JSON, or else text.

    Raises:
        RequestError: If the file cannot be read or is not an object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)  # no further: /dev/zero has no end
        if len(data) > MAX_CONFIG_BYTES:
            raise RequestError(
                f"{str(path)!r} is too large for a config.",
                code="bad_config",
                advice=f"Allowed: {MAX_CONFIG_BYTES:,} bytes.",
            )
        config = json.loads(data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except OSError as error:
        raise RequestError(
            f"Cannot read {str(path)!r}: {error.strerror}.", code="no_config", advice="Name a JSON file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{str(path)!r} is not valid JSON: {error}.",
            code="bad_config",
            advice="Mend the file; the README has an example.",
        ) from error
    if not isinstance(config, dict):
        raise RequestError(
            f"{str(path)!r} holds {type(config).__name__}, not an object.",
            code="bad_config",
            advice='A config looks like {"trainingConfig": {"task": "Isaac-Cartpole-Direct"}}.',
        )
    for setting in settings:
        _apply(config, setting)
    return config


def train_request(config: Mapping[str, Any]) -> TrainRequest:
    """Check a config.

    Raises:
        RequestError: Naming every problem: the field, what was given, what is allowed.
    """
    try:
        request = TrainRequest.model_validate(config)
    except ValidationError as error:
        problems = [_explain(dict(problem)) for problem in error.errors()]
        raise RequestError(
            "; ".join(problems) + ".", code="bad_config", advice="Mend the config and send it again."
        ) from None
    if request.training_config.rl_library not in LIBRARIES:
        raise unknown("rlLibrary", request.training_config.rl_library, LIBRARIES, code="unknown_library")
    return request


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        repeated = sorted({key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1})
        raise ValueError(f"key {repeated[0]!r} stands twice in one object")
    return seen


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _apply(config: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise RequestError(f"--set {setting!r} is not key=value.", code="bad_setting", advice="For example numEnvs=64.")
    if key.startswith(("env.", "agent.")) or key in ("physics", "renderer", "presets"):
        overrides = config.setdefault("overrides", [])
        if not isinstance(overrides, list):
            raise RequestError(
                f"overrides is {overrides!r}, not a list.", code="bad_config", advice='Write ["key=value"].'
            )
        overrides.append(setting)
        return
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        value = text
    first, *rest = key.split(".")
    in_training = {to_camel(name) for name in TrainingConfig.model_fields} | set(TrainingConfig.model_fields)
    path = ["trainingConfig", first] if not rest and first in in_training else [first, *rest]
    node = config
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise RequestError(f"--set {setting!r}: {part!r} is no object.", code="bad_setting", advice="Name a field.")
    node[path[-1]] = value


def _explain(problem: dict[str, Any]) -> str:
    """Return one validation problem in words."""
    where = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        fields = _fields(problem["loc"][:-1])
        error = unknown("key", problem["loc"][-1], fields, code="bad_config")
        return f"{where}: {error.failure.message} {error.failure.advice}".rstrip(".")
    if problem["type"] == "missing":
        return f"{where} is missing"
    given = repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, not {given if len(given) < 80 else given[:77] + '…'}"


def _fields(location: tuple[Any, ...]) -> list[str]:
    model: Any = TrainRequest
    for part in location:
        field = next((f for name, f in model.model_fields.items() if part in (name, to_camel(name))), None)
        annotation = field.annotation if field else None
        arms = [arm for arm in getattr(annotation, "__args__", (annotation,)) if isinstance(arm, type)]
        model = next((arm for arm in arms if issubclass(arm, BaseModel)), model)
    return [to_camel(name) for name in model.model_fields]
