r"""The base of every control mode, and its settings: fields of a dataclass, with what the request's model needs.

The workload has no pydantic, so bounds and descriptions are metadata of the fields; `simyard.requests.control` builds
the models of the HTTP API and of Prefect's forms from them. A field's annotation says what it takes:

| annotation | takes |
|---|---|
| `float` | a number from `low` to `high` |
| `bool` | true or false |
| `str`, `tuple[str, ...]` | a name, different names |
| `tuple[float, float, float]` | as many numbers |
| `Mapping[str, float]` | a number for each joint that is named: `{"elbow": 0.5}` |
| `float \| Mapping[str, float]` | one number for all joints, or a number for each that is named |
| a dataclass, `tuple[<dataclass>, ...]` | an object with its settings, a list of 1 to `most` such objects |

`| None` marks a setting that may be left out and then is None; null itself is not taken.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from simyard.core.errors import RequestError, unknown
from simyard.runner.newton.robots import Robot, check_joints

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Allowed values and description of a setting."""

    about: str
    """One sentence, with the unit."""
    low: float = -math.inf
    """The least that each number may be."""
    high: float = math.inf
    """The most."""
    most: int = 100
    """Length of the longest list."""
    example: str = ""
    """JSON, for values with a structure."""


@dataclass(frozen=True, kw_only=True)
class OwnRobot:
    """Robot that a mode brings, so that a request names none."""

    file: Path
    """In this package: a bundle."""
    format: str
    """`urdf`, `mjcf` or `usd`."""
    first_pose: Mapping[str, float]
    """Radians or metres by joint; `initial_positions` go before."""


@dataclass(frozen=True)
class Problem:
    """A rule between several values that a request breaks."""

    location: tuple[str | int, ...]
    """The value's place in the section, such as `("keyframes", 1, "time_s")`."""
    value: object
    """The value as it was given."""
    allowed: str
    """The values that would do, in words."""


class Mode:
    """One way to drive a robot.

    To add one, write a file in `modes/`, named as its `task_mode`, with one subclass: a dataclass whose fields are its
    settings (`setting`), and whose docstring begins with what it does. The request's model, the OpenAPI document and
    Prefect's forms follow from it.

    A mode is checked against the robot before anything is simulated, and asked for targets once a control step, for all
    worlds at once.
    """

    DRIVES: ClassVar[bool] = True
    """Whether the mode drives the joints."""
    ROBOT: ClassVar[OwnRobot | None] = None
    """The robot that the mode brings; None where the request names one."""

    def own_time(self, steps: int) -> tuple[float, int] | None:
        """Return seconds of a control step and physics steps in it; None where the request's `physics` decides.

        Raises:
            RequestError: So many control steps cannot be.
        """
        return None

    def problems(self) -> Iterator[Problem]:
        """Yield the rules between settings that are broken; each setting by itself is within its limits."""
        yield from ()

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse settings that this robot cannot carry out.

        Args:
            robot: As it stands in one world.
            objects: Names of the bodies that are free to move there.
            policy: The job's policy file, where it has one and it is on this machine.

        Raises:
            RequestError: If a joint is unknown.
        """
        assert dataclasses.is_dataclass(self), "a mode is a dataclass of its settings"
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                check_joints(f"control.{field.name}", value, robot)

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Get ready for `targets`: make what lies on the simulation's device, and open the policy."""
        raise NotImplementedError

    def targets(self, step: int) -> torch.Tensor | None:
        """Return the targets of the driven joints from this control step on, `(num_envs, driven)`.

        Radians or metres, on the simulation's device; None where nothing pulls at them.
        """
        raise NotImplementedError

    def success(self) -> torch.Tensor | None:
        """Return True for each world that has reached the goal, `(num_envs,)`; None for a mode without success."""
        return None


def setting(
    about: str,
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Callable[[], Any] | None = None,
    low: float = -math.inf,
    high: float = math.inf,
    most: int = 100,
    example: str = "",
) -> Any:
    """Declare a field of a dataclass as a setting of the request.

    Args:
        about: One sentence, with the unit.
        default: Value where the setting is left out; a setting without one must be given.
        default_factory: The same for a value that can be changed.
        low: The least that each number may be.
        high: The most.
        most: Length of the longest list.
        example: JSON, for values with a structure.
    """
    limits = {"limits": Limits(about=about, low=low, high=high, most=most, example=example)}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=limits)
    return dataclasses.field(default=default, metadata=limits)


def types_of(kind: type[Any]) -> dict[str, Any]:
    """Return the type of each setting of a dataclass, without the None of those that may be left out."""
    hints = get_type_hints(kind)
    return {field.name: _without_none(hints[field.name]) for field in dataclasses.fields(kind)}


def limits_of(kind: type[Any]) -> dict[str, Limits]:
    """Return the limits of each setting of a dataclass."""
    return {field.name: field.metadata["limits"] for field in dataclasses.fields(kind)}


def from_plain(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build a dataclass of settings from JSON values that the request's model has checked.

    Raises:
        RequestError: If there is no such setting: another version of simyard wrote the job.
    """
    kinds = types_of(kind)
    for name in values:
        if name not in kinds:
            raise unknown("field of control", name, kinds, code="bad_control")
    return kind(**{name: _built(kinds[name], value) for name, value in values.items()})


def _built(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return from_plain(kind, value)
    if get_origin(kind) is tuple:
        return tuple(_built(get_args(kind)[0], item) for item in value)
    return value


def _without_none(hint: Any) -> Any:
    if get_origin(hint) is not types.UnionType:
        return hint
    arms = [arm for arm in get_args(hint) if arm is not type(None)]
    return arms[0] if len(arms) == 1 else arms[0] | arms[1]


def of_joint(value: float | Mapping[str, float] | None, name: str, default: float) -> float:
    """Return the number of a joint: the one for all, or its own, or the default."""
    if isinstance(value, Mapping):
        return value.get(name, default)
    return default if value is None else value


def wrong(where: str, value: object, allowed: str) -> RequestError:
    """Return the error for a value that this robot or scene does not allow."""
    return RequestError(f"{where} is {value!r}.", code="bad_control", advice=f"Allowed: {allowed}.")
