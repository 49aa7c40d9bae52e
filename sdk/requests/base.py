"""The base of all models of requests: spelling, titles in forms, and the texts that several of them have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Text = StringConstraints(min_length=1, max_length=4000, pattern=r"^[^\x00-\x1f\x7f]+$")
FILE = "file"
"""Mark of a field that names a file: a path or a URI. The service looks at each of them."""
Reference = Annotated[str, _Text, FILE]
AgentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w{0,199}$")]
Physics = Literal["newton", "physx", "kamino"]
OF_OUTSIDE = "trainedUnder is of a checkpoint file; a job of the store tells it itself, so leave it out"
"""Refusal of an engine that nobody is asked for."""
Override = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]+$")]


_SHORT = {
    "num": "number of", "envs": "environments", "gpus": "GPUs", "gpu": "GPU", "cpu": "CPU", "rl": "RL", "uri": "URI",
    "s3": "S3", "id": "ID", "urdf": "URDF", "usd": "USD", "mjcf": "MJCF", "gb": "in GB", "args": "arguments",
}  # fmt: skip
"""Parts of names, spelled out for forms."""


def _title(name: str) -> str:
    """Return a field's title in a form."""
    words = " ".join(_SHORT.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


def parts_of(model: BaseModel, where: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """Yield every field of a model and of the models in it, lists of them too: its place, itself and its value."""
    for name, field in type(model).model_fields.items():
        value, at = getattr(model, name), f"{where}.{name}".lstrip(".")
        yield at, field, value
        if isinstance(value, BaseModel):
            yield from parts_of(value, at)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from parts_of(item, f"{at}[{index}]")


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
        defer_build=True,  # a command needs one of the requests
        field_title_generator=lambda name, field: _title(name),
    )
