"""The fields of a `control` section: what each may be, checked without a robot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from simyard.core.errors import RequestError, unknown

MISSING = object()
"""The default of a field that must be given."""
MOST_KEYFRAMES = 10_000


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field; subclasses know what it may be."""

    about: str
    """One sentence, with the unit."""
    default: Any = MISSING
    """What counts where it is left out."""

    def read(self, where: str, value: Any) -> Any:
        """Return the value as it is used.

        Args:
            where: The field's full name, for errors.
            value: As the request has it.

        Raises:
            RequestError: If it is not allowed.
        """
        raise NotImplementedError

    def joints(self, value: Any) -> Iterable[str]:
        """Return the names of joints in a value that was read."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Number(Field):
    """A number within bounds."""

    low: float
    """The least that is allowed."""
    high: float
    """The most."""

    def read(self, where: str, value: Any) -> float:
        """Take any finite number within the bounds."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:  # NaN is within no bounds
            raise wrong(where, value, f"a number from {self.low:g} to {self.high:g}")
        return float(value)


@dataclass(frozen=True, kw_only=True)
class Flag(Field):
    """True or false."""

    def read(self, where: str, value: Any) -> bool:
        """Take a bool alone."""
        if not isinstance(value, bool):
            raise wrong(where, value, "true or false")
        return value


@dataclass(frozen=True, kw_only=True)
class Text(Field):
    """A name."""

    def read(self, where: str, value: Any) -> str:
        """Take any text but an empty one."""
        if not isinstance(value, str) or not 0 < len(value) <= 300:
            raise wrong(where, value, "a name")
        return value


@dataclass(frozen=True, kw_only=True)
class Texts(Field):
    """Some names."""

    def read(self, where: str, value: Any) -> tuple[str, ...]:
        """Take a list of different names."""
        if not isinstance(value, list | tuple) or not 0 < len(value) <= 100:
            raise wrong(where, value, "a list of names")
        found = tuple(Text(about=self.about).read(f"{where}[{index}]", item) for index, item in enumerate(value))
        if len(set(found)) < len(found):
            raise wrong(where, value, "a list of different names")
        return found


@dataclass(frozen=True, kw_only=True)
class Vector(Field):
    """Numbers, so many and within bounds."""

    length: int
    """How many."""
    low: float
    """The least that each may be."""
    high: float
    """The most."""

    def read(self, where: str, value: Any) -> tuple[float, ...]:
        """Take a list of the length."""
        if not isinstance(value, list | tuple) or len(value) != self.length:
            raise wrong(where, value, f"a list of {self.length} numbers from {self.low:g} to {self.high:g}")
        each = Number(about=self.about, low=self.low, high=self.high)
        return tuple(each.read(f"{where}[{index}]", item) for index, item in enumerate(value))


@dataclass(frozen=True, kw_only=True)
class OfJoints(Field):
    """A number for each joint that is named: `{"elbow": 0.5}`."""

    low: float
    """The least that each may be."""
    high: float
    """The most."""

    def read(self, where: str, value: Any) -> dict[str, float]:
        """Take an object of numbers."""
        if not isinstance(value, Mapping):
            raise wrong(where, value, 'an object of numbers by joint, such as {"elbow": 0.5}')
        each = Number(about=self.about, low=self.low, high=self.high)
        return {str(name): each.read(f"{where}.{name}", item) for name, item in value.items()}

    def joints(self, value: Mapping[str, float]) -> Iterable[str]:
        """Return every name."""
        return tuple(value or ())


@dataclass(frozen=True, kw_only=True)
class ForJoints(OfJoints):
    """One number for all joints, or a number for each that is named."""

    def read(self, where: str, value: Any) -> Any:
        """Take a number, or an object of numbers."""
        if isinstance(value, Mapping):
            return super().read(where, value)
        return Number(about=self.about, low=self.low, high=self.high).read(where, value)

    def joints(self, value: Any) -> Iterable[str]:
        """Return every name, if there are any."""
        return tuple(value) if isinstance(value, Mapping) else ()


@dataclass(frozen=True, kw_only=True)
class Section(Field):
    """An object of fields of its own."""

    fields: Mapping[str, Field]
    """What is in it."""

    def read(self, where: str, value: Any) -> dict[str, Any]:
        """Take an object with no other fields."""
        if not isinstance(value, Mapping):
            raise wrong(where, value, f"an object with {', '.join(map(repr, self.fields))}")
        return read_fields(value, self.fields, f"{where}.")

    def joints(self, value: Mapping[str, Any] | None) -> Iterable[str]:
        """Return the names in all of its fields."""
        return [name for key, item in (value or {}).items() for name in self.fields[key].joints(item)]


@dataclass(frozen=True)
class Keyframe:
    """Where some joints are to be at one time."""

    time_s: float
    """Seconds from the beginning."""
    positions: Mapping[str, float]
    """Radians or metres by joint."""


@dataclass(frozen=True, kw_only=True)
class Keyframes(Field):
    """Times that increase, each with positions by joint."""

    _ITEM = {
        "time_s": Number(about="Seconds from the beginning.", low=0, high=1e6),
        "positions": OfJoints(about="Radians or metres by joint.", low=-1e4, high=1e4),
    }

    def read(self, where: str, value: Any) -> tuple[Keyframe, ...]:
        """Take a list of objects whose times increase."""
        if not isinstance(value, list | tuple) or not 0 < len(value) <= MOST_KEYFRAMES:
            example = '[{"time_s": 1.0, "positions": {"elbow": 0.5}}, …]'
            raise wrong(where, value, f"a list of 1 to {MOST_KEYFRAMES:,} keyframes: {example}")
        frames: list[Keyframe] = []
        for index, item in enumerate(value):
            here = f"{where}[{index}]"
            if not isinstance(item, Mapping):
                raise wrong(here, item, "an object with 'time_s' and 'positions'")
            frame = Keyframe(**read_fields(item, self._ITEM, f"{here}."))
            if frames and frame.time_s <= frames[-1].time_s:
                raise wrong(f"{here}.time_s", frame.time_s, f"more than that of the one before, {frames[-1].time_s:g}")
            frames.append(frame)
        return tuple(frames)

    def joints(self, value: tuple[Keyframe, ...]) -> Iterable[str]:
        """Return every joint that is named at any time."""
        return [name for frame in value for name in frame.positions]


def read_fields(given: Mapping[str, Any], fields: Mapping[str, Field], prefix: str = "control.") -> dict[str, Any]:
    """Read an object's fields, with the defaults of those that are left out.

    Raises:
        RequestError: If one is unknown, missing or not allowed.
    """
    for name in given:
        if name not in fields:
            raise unknown(f"field of {prefix.removesuffix('.')}", name, fields, code="bad_control")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            values[name] = field.read(f"{prefix}{name}", given[name])
        elif field.default is MISSING:
            raise RequestError(f"{prefix}{name} is missing.", code="bad_control", advice=f"Give it: {field.about}")
        else:
            values[name] = field.default
    return values


def per_joint(value: float | Mapping[str, float], names: Iterable[str], default: float) -> list[float]:
    """Return a number for each joint: the one for all, or its own, or the default."""
    if isinstance(value, Mapping):
        return [value.get(name, default) for name in names]
    return [value for _ in names]


def wrong(where: str, value: object, allowed: str) -> RequestError:
    """Return the error for a value that is not allowed."""
    shown = repr(value)
    if isinstance(value, float) and math.isnan(value):
        shown = "NaN"
    shown = shown if len(shown) <= 120 else shown[:120] + "…"
    return RequestError(f"{where} is {shown}.", code="bad_control", advice=f"Allowed: {allowed}.")
