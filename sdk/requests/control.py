"""The `control` section of a rollout's request: one model a control mode, told apart by `task_mode`.

The models are built from the modes' own files (`simyard.runner.newton.modes`): a file that is added there is in the
request, in the OpenAPI document and in Prefect's forms. A task package or a registered task reads `control` itself, so
the profile `isaac_lab_rollout` takes whatever JSON knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    ModelWrapValidatorHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from simyard.core.errors import unknown
from simyard.core.foreign import require_plain
from simyard.requests.base import _title
from simyard.requests.config import MOST_PROBLEMS
from simyard.requests.jobs import UNKNOWN
from simyard.runner.newton.control import TASK_MODE, Setup
from simyard.runner.newton.mode import Limits, Mode, from_plain, limits_of, types_of
from simyard.runner.newton.modes import DEFAULT, MODES

MAX_PARAMETERS_BYTES = 256 * 1024
"""Of `control` and of `task_args`, as JSON: they are read on every attempt and kept in every record."""
_NOT_ALLOWED = "not_allowed"
"""Type of the validation errors of values that are beyond their limits."""


def plain(value: dict[str, object]) -> dict[str, object]:
    """Return a JSON object, as it is.

    Raises:
        ValueError: If it is not plain, or larger than anybody writes by hand.
    """
    require_plain(value)
    if len(json.dumps(value)) > MAX_PARAMETERS_BYTES:
        raise ValueError(f"it is larger than {MAX_PARAMETERS_BYTES:,} bytes of JSON")
    return value


# --- the type of a setting --------------------------------------------------------------------------------------------


def _allowed(words: str) -> WrapValidator:
    """Replace pydantic's own message by the allowed values; one about a part of the value stays."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            if any(problem["loc"] for problem in error.errors(include_url=False, include_input=False)):
                raise
            raise PydanticCustomError(_NOT_ALLOWED, f"Input should be {words}") from None

    return WrapValidator(check)


def _type(kind: Any, limits: Limits) -> Any:
    """Return the pydantic type of a setting; `simyard.runner.newton.mode` lists the kinds."""
    item = get_args(kind)
    if kind is bool:
        return Annotated[bool, Field(strict=True), _allowed("true or false")]
    if kind is float:
        return _number(limits)
    if kind is str:
        return Annotated[str, StringConstraints(strict=True, min_length=1, max_length=300), _allowed("a name")]
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _section(kind)
    if get_origin(kind) is Mapping:
        return _by_joint(limits)
    if get_origin(kind) is not tuple:  # float | Mapping[str, float]
        return _for_joints(limits)
    of_items: Any = GenericAlias(list, (_type(item[0], limits),))
    if item[-1] is not Ellipsis:
        words = f"a list of {len(item)} numbers from {limits.low:g} to {limits.high:g}"
        return Annotated[of_items, Field(min_length=len(item), max_length=len(item)), _allowed(words)]
    several = Field(min_length=1, max_length=limits.most)
    if item[0] is str:
        unique = Field(json_schema_extra={"uniqueItems": True})
        return Annotated[of_items, several, _allowed("a list of names"), AfterValidator(_different), unique]
    return Annotated[of_items, several, _allowed(f"a list of 1 to {limits.most:,}: {limits.example}")]


def _number(limits: Limits) -> Any:
    within = Field(strict=True, ge=limits.low, le=limits.high, allow_inf_nan=False)
    return Annotated[float, within, _allowed(f"a number from {limits.low:g} to {limits.high:g}")]


def _by_joint(limits: Limits) -> Any:
    by_joint: Any = GenericAlias(dict, (str, _number(limits)))
    return Annotated[by_joint, _allowed('an object of numbers by joint, such as {"elbow": 0.5}')]


def _for_joints(limits: Limits) -> Any:
    """Take one number for all joints or a number by joint; what is wrong is said of the one that was meant."""
    later = ConfigDict(defer_build=True)
    one, by_joint = TypeAdapter(_number(limits), config=later), TypeAdapter(_by_joint(limits), config=later)

    def choose(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return (by_joint if isinstance(value, Mapping) else one).validate_python(value)

    return Annotated[_number(limits) | _by_joint(limits), WrapValidator(choose)]


def _different(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise PydanticCustomError(_NOT_ALLOWED, "Input should be a list of different names")
    return names


# --- the models -------------------------------------------------------------------------------------------------------


def _error(type_: str, message: str, location: tuple[str | int, ...], value: object) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError(type_, message),
        loc=location,
        input=value,
    )


def _errors(problems: Iterable[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data("control", list(problems))


def _without_default(schema: JsonSchemaValue) -> None:
    """Keep null, which is not taken, out of what forms send."""
    schema.pop("default", None)


class _Settings(BaseModel):
    """Settings under the names that the documentation has; anything else is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, field_title_generator=lambda name, field: _title(name)
    )

    @model_validator(mode="wrap")
    @classmethod
    def _unknown_names_have_a_nearest(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            problems = error.errors(include_url=False)
        raise _errors(
            _error(
                UNKNOWN, str(unknown("field", problem["loc"][0], cls.model_fields)), problem["loc"], problem["input"]
            )
            if problem["type"] == "extra_forbidden" and index < MOST_PROBLEMS
            else _error(problem["type"], problem["msg"], problem["loc"], problem["input"])
            for index, problem in enumerate(problems)
        )


class ControlModel(_Settings):
    """Control of the robot."""

    task_mode: Any = None
    """Kind of control, such as `policy`."""

    def to_plain(self) -> dict[str, JsonValue]:
        """Return the section as JSON has it, without what was left out."""
        return self.model_dump(mode="json", exclude_unset=True)


class TaskControl(ControlModel):
    """For the profile `isaac_lab_rollout`: a registered task takes these, a task class reads any fields as it likes."""

    model_config = ConfigDict(title="of a task", extra="allow")

    task_mode: Any = Field(
        None,
        description="`zero` (the default), `random` or `policy` for a registered task; anything for a task class.",
        examples=["zero", "random", "policy"],
        json_schema_extra=_without_default,
    )
    sample: Any = Field(
        None,
        description="Whether a policy's actions are drawn from its distribution; else they are its mean.",
        examples=[True, False],
        json_schema_extra=_without_default,
    )


def _declared(kind: type[Any]) -> dict[str, Any]:
    """Return a dataclass's settings as `create_model` takes them."""
    limits, types = limits_of(kind), types_of(kind)
    found = {}
    for field in fields(kind):
        default: Any = ... if field.default is MISSING else field.default  # ... is required
        if field.default_factory is not MISSING:
            default = field.default_factory()
        if isinstance(default, tuple):
            default = [*default]
        about: Any = Field(default, description=limits[field.name].about)
        if default is None:  # where there is a default, the type's own extra (`uniqueItems`) stands
            about = Field(None, description=limits[field.name].about, json_schema_extra=_without_default)
        found[field.name] = (_type(types[field.name], limits[field.name]), about)
    return found


@cache
def _section(kind: type[Any]) -> Any:
    model = create_model(
        kind.__name__, __base__=_Settings, __doc__=kind.__doc__, __module__=__name__, **_declared(kind)
    )
    _BY_NAME[model.__name__] = model
    names = " and ".join(repr(field.name) for field in fields(kind))
    return Annotated[model, _allowed(f"an object with {names}")]


def _model(name: str, mode: type[Mode]) -> type[ControlModel]:
    default: Any = {"default": name} if name == DEFAULT else {}
    declared = {
        TASK_MODE: (Literal[name], Field(description=f"`{name}`: {mode.__doc__}", **default)),
        **_declared(mode),
        **_declared(Setup),
    }
    return create_model(
        f"{mode.__name__}Control",
        __base__=ControlModel,
        __doc__=mode.__doc__,
        __module__=__name__,
        __cls_kwargs__={"title": name},
        **declared,
    )


_BY_NAME: dict[str, type[BaseModel]] = {}
MODELS: dict[str, type[ControlModel]] = {name: _model(name, mode) for name, mode in MODES.items()}
"""The model of each `task_mode` of the standard profile."""
_BY_NAME |= {model.__name__: model for model in MODELS.values()}


def __getattr__(name: str) -> type[BaseModel]:
    """Return a model that was built here, by its name, as pickle looks for it."""
    if name not in _BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _BY_NAME[name]


# --- the union --------------------------------------------------------------------------------------------------------


class _ByTaskMode:
    """A union of the models, in which `task_mode`, and the request's profile, name the one that counts."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Prefect's forms know anyOf, and not the oneOf that pydantic writes for a discriminator.
        union = handler.generate_schema(Union[(*MODELS.values(), TaskControl)])
        return core_schema.with_info_wrap_validator_function(_read, union)


Control = Annotated[ControlModel, _ByTaskMode()]
"""A `control` section. The model that has it has `runtime_profile` before it."""


def standard_takes_its_modes(schema: JsonSchemaValue) -> None:
    """Narrow the JSON schema of a request: `control` of the standard profile is one of its modes, of no task."""
    properties = schema["properties"]
    profile = next(name for name in ("runtime_profile", "runtimeProfile") if name in properties)
    schema["if"] = {"properties": {profile: {"const": "isaac_lab_rollout"}}, "required": [profile]}
    schema["else"] = {"properties": {"control": {"anyOf": properties["control"]["anyOf"][: len(MODELS)]}}}


def _read(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> ControlModel:
    if isinstance(value, ControlModel):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError(_NOT_ALLOWED, "Input should be an object")
    plain(value)
    if info.data.get("runtime_profile") != "standard":
        return TaskControl.model_validate(value)
    name = value.get(TASK_MODE, DEFAULT)
    if not isinstance(name, str) or name not in MODELS:
        error = unknown(TASK_MODE, name, MODELS)
        raise _errors([_error(UNKNOWN, str(error), (TASK_MODE,), name)])
    control = MODELS[name].model_validate(value)
    kind = MODES[name]
    own = {key: item for key, item in control.to_plain().items() if key in types_of(kind)}
    if broken := list(from_plain(kind, own).problems()):
        raise _errors(_error(_NOT_ALLOWED, f"Input should be {it.allowed}", it.location, it.value) for it in broken)
    return control
