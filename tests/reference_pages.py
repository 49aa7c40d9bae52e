"""Pages of the reference, made from the code: commands, fields of requests, events, files. `make pages` writes them."""

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from simyard.cli.main import _HEADINGS, main
from simyard.core.artifacts import ARTIFACTS, EVERY_JOB
from simyard.requests.jobs import EvaluateRequest, ExportRequest, RetrainRequest, TrainRequest
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.rollout import RolloutRequest
from simyard.requests.sweeps import SweepRequest
from simyard.tasks.managed.record import EVENT_TYPES

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- made by `make pages`: change the code, not this page -->\n"
REQUESTS = {
    "Training": (TrainRequest, "training.md"),
    "Evaluation": (EvaluateRequest, "evaluation.md"),
    "Export": (ExportRequest, "evaluation.md"),
    "Rollout": (RolloutRequest, "rollouts.md"),
    "Managed training run": (TrainingRunRequest, "managed-training.md"),
    "Retraining": (RetrainRequest, "retraining.md"),
    "Sweep": (SweepRequest, "sweeps.md"),
}


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in cells)} |\n"


def commands_page() -> str:
    """Return every command with its arguments and options."""
    page = f"# Commands\n\n{MADE}\n`simyard` alone says where you stand. Exit codes: 0 succeeded, 1 the job failed, "
    page += "2 the request is bad, 130 canceled. [A tour](../commands.md) has them with their output.\n"
    for heading, names in _HEADINGS.items():
        page += f"\n## {heading}\n"
        for name in names:
            page += "".join(_command(main.commands[name], f"simyard {name}"))
    return page


def _command(command: click.Command, path: str) -> Iterator[str]:
    if command.hidden:
        return
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _command(child, f"{path} {name}")
        return
    words = [
        param.make_metavar(click.Context(command)) for param in command.params if isinstance(param, click.Argument)
    ]
    text = "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", (command.help or "").split("\f")[0]))
    yield f"\n### {path}\n\n`{' '.join([path, *words])}`\n\n{text}\n"
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    if options:
        yield "\n| option | |\n|---|---|\n"
    for option in options:
        names, described = option.get_help_record(click.Context(command)) or ("", "")
        yield row(f"`{names}`", described)


def fields_page() -> str:
    """Return every field of every request."""
    page = (
        f"# Fields of requests\n\n{MADE}\nNames are taken in camelCase and in snake_case; an unknown one is refused. "
    )
    page += "JSON schemas of the same are in `docs/schemas/`.\n"
    for title, (model, about) in REQUESTS.items():
        page += f"\n## {title}\n\nExplained in [{about.removesuffix('.md').replace('-', ' ')}](../{about}).\n\n"
        page += "| field | default | meaning |\n|---|---|---|\n"
        for name, field in _fields(model):
            given = field.get_default(call_default_factory=True, validated_data={})
            default = "required" if field.is_required() else f"`{json.dumps(_plain(given))}`"
            page += row(f"`{name}`", default, field.description or "")
    return page


def _fields(
    model: type[BaseModel], path: str = "", seen: tuple[type[BaseModel], ...] = ()
) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted name of every field that holds a value, those of inner models too."""
    for name, field in model.model_fields.items():
        at = f"{path}{field.alias or name}"
        inner = list(dict.fromkeys(_models(field.annotation)))
        if not inner or set(inner) & set(seen):
            yield at, field
        many = typing.get_origin(field.annotation) is tuple or any(
            typing.get_origin(arm) is tuple for arm in typing.get_args(field.annotation)
        )
        for other in inner:
            if other not in seen:
                yield from _fields(other, f"{at}{'[]' if many else ''}.", (*seen, other))


def _models(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for arm in typing.get_args(hint):
        yield from _models(arm)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    return list(value) if isinstance(value, tuple | frozenset | set) else value


def events_page() -> str:
    """Return every type of event."""
    page = (
        f"# Events of managed runs\n\n{MADE}\nThey stand in the store, in order, and `simyard managed watch`, the API "
    )
    page += (
        "and webhooks pass them on: see [managed training](../managed-training.md).\n\n| event | when |\n|---|---|\n"
    )
    return page + "".join(row(f"`{name}`", when) for name, when in EVENT_TYPES.items())


def files_page() -> str:
    """Return every artifact that jobs leave."""
    page = f"# Files of a job\n\n{MADE}\nBelow `artifacts/`, by the manifest's names. A file without a row is of kind "
    page += "`provenance`. [Jobs](../jobs.md) says what is in them.\n\n"
    page += "| file | kind | media type | every successful |\n|---|---|---|---|\n"
    for one in ARTIFACTS:
        of = "job" if one.promised_by == EVERY_JOB else ", ".join(one.promised_by)
        page += row(f"`{one.name}`", one.kind, f"`{one.media_type}`", of)
    return page


def reference_pages() -> dict[Path, str]:
    """Return the pages with their text."""
    return {
        REFERENCE / "commands.md": commands_page(),
        REFERENCE / "fields.md": fields_page(),
        REFERENCE / "events.md": events_page(),
        REFERENCE / "files.md": files_page(),
    }
