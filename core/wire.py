"""Frozen dataclasses to JSON and back, by one strict decoder.

A document is a frozen dataclass that inherits `Wire`; its hints say what its JSON may hold. Read are nested
dataclasses, tuples, dicts, optionals, enums, literals and plain values. An unknown key, a missing one and a value of
another type are errors that say where. Standard library only, on Python 3.11 and 3.12: the workload reads this under
Isaac Lab's Python.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
import typing
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar, Self

from simyard.core.errors import Category, Failure, SimyardError

ABSENT = {"simyard.absent": True}
"""Metadata of a field whose key a document does not have where the value is None."""


def now() -> str:
    """Return the time in UTC as documents have it, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def now_ms() -> str:
    """Return the same to the millisecond, for documents that are made more often."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class WireError(SimyardError, ValueError):
    """Error of JSON that does not fit its document."""

    def __init__(self, message: str, *, code: str = "bad_document", advice: str = "") -> None:
        super().__init__(Failure(code=code, category=Category.USER, message=message, advice=advice))


class Wire:
    """A frozen dataclass that goes to JSON and back.

    A document that outlives the program has a field `schema_version`.
    """

    SCHEMA_VERSIONS: ClassVar[tuple[int, ...]] = (1,)
    """The values of `schema_version` that this simyard reads."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dict(json.loads(json.dumps(self.document(), default=_document)))

    def document(self) -> dict[str, object]:
        """Return the keys that the document has, in order, with values that may be documents again."""
        return _fields(self)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Decode JSON that `to_json` wrote.

        Raises:
            WireError: If it has something unknown, missing or of another type, or is of a version unknown here.
        """
        return typing.cast("Self", decode(cls, data, cls.__name__))


def decode(hint: Any, value: Any, where: str) -> Any:
    """Return a JSON value as the type that a hint names.

    Args:
        hint: A type, as `typing.get_type_hints` gives it.
        value: Plain JSON types.
        where: The value's place for errors, such as `JobSpec.limits`.

    Raises:
        WireError: If it is something else.
    """
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return _decode_union(arguments, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, _expect(list, value, where), where)
    if origin is dict:
        return {key: decode(arguments[1], one, f"{where}.{key}") for key, one in _expect(dict, value, where).items()}
    if origin is typing.Literal:
        return _choose({one: one for one in arguments}, value, where)
    if issubclass(hint, enum.Enum):
        return _choose({one.value: one for one in hint}, value, where)
    if dataclasses.is_dataclass(hint):
        return _decode_fields(hint, _expect(dict, value, where), where)
    return _expect(hint, value, where)


def check_version(version: Any, where: str, known: tuple[int, ...] = Wire.SCHEMA_VERSIONS) -> None:
    """Refuse a document of another version of the schema.

    Args:
        version: What the document says.
        where: The document's name, for the error.
        known: The versions that can be read.

    Raises:
        WireError: With the code `unknown_schema`.
    """
    if type(version) is not int or version not in known:
        readable = ", ".join(str(one) for one in known)
        newer = type(version) is int and version > max(known)
        raise WireError(
            f"{where}: schema_version is {_short(version)}; this simyard reads {readable}.",
            code="unknown_schema",
            advice="Read it with the version of simyard that wrote it, or a newer one: `pip install -U simyard`."
            if newer
            else "It is damaged, or nothing that simyard wrote.",
        )


def _decode_fields(cls: Any, data: dict[str, object], where: str) -> Any:
    hints, required = _shape(cls)
    if "schema_version" in hints and ("schema_version" in data or "schema_version" in required):
        # First: a newer document may differ in everything else.
        check_version(data.get("schema_version"), where, cls.SCHEMA_VERSIONS)
    for name, value in data.items():
        if name not in hints:
            raise WireError(f"{where} has the unknown field {name!r} ({_short(value)}); allowed: {sorted(hints)}")
    for name in required:
        if name not in data:
            raise WireError(f"{where} lacks the field {name!r}; it has {sorted(data)}")
    return cls(**{name: decode(hints[name], value, f"{where}.{name}") for name, value in data.items()})


@cache
def _shape(cls: Any) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return the types of a dataclass's fields, and the names of those without a default."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    required = tuple(
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    return {field.name: hints[field.name] for field in fields}, required


def _decode_union(arms: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arms:
        return None
    rest = [arm for arm in arms if arm is not type(None)]
    if len(rest) == 1:  # its own error says more than that no arm fits
        return decode(rest[0], value, where)
    for arm in rest:
        try:
            return decode(arm, value, where)
        except WireError:
            continue
    raise WireError(f"{where} is {_short(value)}, expected {' or '.join(_name(arm) for arm in arms)}")


def _decode_tuple(items: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(decode(items[0], item, f"{where}[{n}]") for n, item in enumerate(value))
    if len(value) != len(items):
        raise WireError(f"{where} has {len(value)} items, expected {len(items)}")
    return tuple(decode(hint, item, f"{where}[{n}]") for n, (hint, item) in enumerate(zip(items, value, strict=True)))


def _choose(allowed: dict[Any, Any], value: Any, where: str) -> Any:
    for one, meaning in allowed.items():
        if type(one) is type(value) and one == value:
            return meaning
    raise WireError(f"{where} is {_short(value)}, expected one of {list(allowed)}")


def _expect(kind: Any, value: Any, where: str) -> Any:
    """Return a plain value of a kind; a whole number is a float too, a truth value never a number."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise WireError(f"{where} is {_short(value)}, expected {_name(kind)}")
    if kind is float and not math.isfinite(value):
        raise WireError(f"{where} is {value}, expected a finite number")
    return value


def _name(hint: Any) -> str:
    """Return the common name of a JSON type."""
    if hint is type(None):
        return "null"
    if hint is dict or dataclasses.is_dataclass(hint):
        return "an object"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _document(value: Any) -> dict[str, object]:
    return value.document() if isinstance(value, Wire) else _fields(value)


def _fields(value: Any) -> dict[str, object]:
    return {
        field.name: content
        for field in dataclasses.fields(value)
        if (content := getattr(value, field.name)) is not None or not ABSENT.items() <= field.metadata.items()
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
