"""Ids that tasks of Isaac Lab 2.x, and of the betas of 3.0, have in Isaac Lab 3.0.

`renamed_tasks.json` is the table: an old id, and the new one with the presets that make it the same task. Tasks that
3.0 has no more are not in it. 3.0 plays a task in a mode of its own, so a `-Play` id stands for the task itself.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

from simyard.core.specs import JobSpec


@functools.cache
def _table() -> dict[str, str]:
    table: dict[str, str] = json.loads(Path(__file__).with_name("renamed_tasks.json").read_text(encoding="utf-8"))
    return table


def _row(task: str) -> tuple[str, tuple[str, ...]]:
    """Return the id of a task in 3.0 and its presets; an id that is no old one stays."""
    module, colon, name = task.rpartition(":")  # gymnasium imports a module that stands before a colon
    renamed, *presets = _table().get(name, name).split(" ")
    return f"{module}{colon}{renamed}", tuple(presets)


def current_id(task: str) -> str:
    """Return the id that a task has in Isaac Lab 3.0."""
    return _row(task)[0]


def former_ids(task: str) -> tuple[str, ...]:
    """Return the ids that a task of Isaac Lab 3.0 had before, without those of its play mode."""
    return tuple(old for old, new in _table().items() if new.split(" ")[0] == task and "-Play-" not in old)


def with_current_id(job: JobSpec) -> JobSpec:
    """Return the job under its task's id in Isaac Lab 3.0; a preset that its overrides choose otherwise is theirs."""
    task, presets = _row(job.task)
    if task == job.task:
        return job
    added = tuple(preset for preset in presets if preset.partition("=")[0] not in job.overridden)
    return replace(job, task=task, renamed_from=job.task, overrides=(*added, *job.overrides))


def as_asked(job: JobSpec) -> JobSpec:
    """Return the job under the id that its request gave, for an installation that has this id."""
    if job.renamed_from is None:
        return job
    _, presets = _row(job.renamed_from)
    kept = tuple(override for override in job.overrides if override not in presets)
    return replace(job, task=job.renamed_from, renamed_from=None, overrides=kept)


def note(job: JobSpec) -> tuple[str, ...]:
    """Return the sentence for the log of a job that runs under another id than its request gave, if it does."""
    if job.renamed_from is None:
        return ()
    _, presets = _row(job.renamed_from)
    choice = f" with {', '.join(presets)}" if presets else ""
    play = "; its settings for play are not applied" if "-Play-" in job.renamed_from else ""
    return (f"task {job.renamed_from!r} of Isaac Lab 2.x is {job.task!r}{choice} in 3.0{play}",)
