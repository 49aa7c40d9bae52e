"""The registered tasks of this machine's simulator, as its own Python tells of them: for people, before any job.

A process of the simulator's Python reads configurations, which takes it some seconds a task's first time. What it said
is kept in the home, as the findings of checks are (`fingerprint.py`), while none of the files that it came from has
changed. Assets come and go without such a change: they are looked for each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simyard.core.errors import Category, RequestError, WorkloadError, listed, unknown
from simyard.core.files import held, read_json, scratch, write_json
from simyard.core.specs import JobSpec
from simyard.core.task_facts import TaskAsset, TaskFacts
from simyard.core.wire import Wire
from simyard.requests.settings import MachineSettings
from simyard.runner.assets.archives import inspect
from simyard.runner.imported import unchanged
from simyard.runner.isaaclab.physics import ENGINES
from simyard.runner.isaaclab.renames import current_id, former_ids
from simyard.runner.messages import TellTasks, ToldTasks
from simyard.runner.rl import get_library
from simyard.runner.rl.agents import DEFAULT_AGENT
from simyard.tasks.packages.install import install, registering_module
from simyard.tasks.packages.pack import find_package
from simyard.tasks.robots.recipes import RECIPES
from simyard.tasks.sessions.fingerprint import findings_path
from simyard.tasks.sessions.pool import CHECK_TIMEOUT_S, Sessions
from simyard.tasks.shared.limited import limited

_NOBODY = JobSpec(
    job_id="", kind="train", name="", simulator="isaaclab", task="", library="", num_envs=1, seed=0, session=False
)
"""A job that stands for all of Isaac Lab's: its process serves no other."""


@dataclass(frozen=True, kw_only=True)
class TaskRow(Wire):
    """A task in a list."""

    task: str
    kind: str | None
    """`direct`, `manager-based` or `multi-agent`; None where its configuration does not resolve."""
    libraries: tuple[str, ...]
    """Libraries that simyard trains it with."""
    agents: tuple[str, ...]
    """Its agents besides each library's own, `rsl_rl with_symmetry` say."""
    physics: tuple[str, ...]
    """Its engines."""
    runnable: bool
    """Whether a training can run on this machine."""
    why_not: tuple[str, ...]
    """Reasons that it cannot."""


def row(facts: TaskFacts) -> TaskRow:
    """Return a task as it stands in a list."""
    return TaskRow(
        task=facts.task,
        kind=facts.kind,
        libraries=facts.libraries,
        agents=tuple(f"{agent.library} {agent.name}" for agent in facts.agents if agent.name != DEFAULT_AGENT),
        physics=tuple(engine.name for engine in facts.engines),
        runnable=facts.runnable,
        why_not=facts.why_not,
    )


def chosen(
    tasks: Iterable[TaskFacts],
    *,
    text: str | None = None,
    runnable: bool = False,
    library: str | None = None,
    physics: str | None = None,
) -> list[TaskFacts]:
    """Return those tasks that fit.

    Args:
        tasks: The tasks.
        text: Part of an id, of 2.x too, or of the description; in upper or lower case.
        runnable: Whether they must run here.
        library: A library that trains them.
        physics: An engine that they have.

    Raises:
        RequestError: There is no such library, or no such engine.
    """
    if library is not None:
        get_library(library)
    if physics is not None and physics not in ENGINES:
        raise unknown("physics engine", physics, ENGINES)
    part = (text or "").casefold()
    return [
        facts
        for facts in tasks
        if any(part in name.casefold() for name in (facts.task, *facts.former_ids, facts.title or ""))
        and (facts.runnable or not runnable)
        and library in (None, *facts.libraries)
        and physics in (None, *(engine.name for engine in facts.engines))
    ]


def pick(tasks: Iterable[TaskFacts], task: str) -> TaskFacts:
    """Return one of several tasks, by its id or the one that it had in Isaac Lab 2.x.

    Raises:
        RequestError: It is none of them; the nearest are named.
    """
    known = {facts.task: facts for facts in tasks}
    for name in _ids(task):
        if name in known:
            return known[name]
    raise unknown("task", task, known, code="unknown_task")


def _ids(task: str) -> tuple[str, ...]:
    """Return the ids that a task may be registered by: gymnasium imports a module that stands before a colon."""
    name = task.rpartition(":")[2]
    return tuple(dict.fromkeys((name, current_id(name))))


@dataclass
class _Kept:
    """The file of what is known."""

    registered: set[str] = field(default_factory=set)
    """Ids of all tasks; none where nothing is known."""
    tasks: dict[str, TaskFacts] = field(default_factory=dict)
    """The facts about those that were asked for."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Status of each file that they came from."""


class Catalog:
    """The registered tasks of a machine's simulator."""

    def __init__(
        self, machine: MachineSettings, waiting: Callable[[str], AbstractContextManager[object]] = nullcontext
    ) -> None:
        """Ask nobody yet.

        Args:
            machine: The machine.
            waiting: Entered, with what is done, while the simulator's Python is asked.
        """
        self._machine = machine
        self._waiting = waiting
        self._path = findings_path(machine, _NOBODY, "tasks")

    def known(self) -> list[TaskFacts] | None:
        """Return all tasks, where they are kept and nothing has changed since; else None."""
        kept = self._read()
        return [_now(kept.tasks[name]) for name in sorted(kept.registered)] if _is_whole(kept) else None

    def all(self) -> list[TaskFacts]:
        """Return all tasks, sorted by id.

        Raises:
            RequestError: There is no simulator here.
            WorkloadError: Its process ended or did not answer.
        """
        return self.known() or [_now(facts) for _, facts in sorted(self._learn(None).tasks.items())]

    def one(self, task: str, *, measure: bool = False) -> TaskFacts:
        """Return one task.

        Args:
            task: Its id, or the one that it had in Isaac Lab 2.x.
            measure: Whether to make its environment for what only that tells, unless that was done.

        Raises:
            RequestError: There is no such task, or no simulator here; or it is to be measured and cannot run.
            WorkloadError: The simulator's process ended or did not answer.
        """
        ids = _ids(task)
        kept = self._read()
        if not kept.registered or not kept.registered.isdisjoint(ids):
            known = [kept.tasks[name] for name in ids if name in kept.tasks]
            if not known or (measure and not known[0].measured):
                kept = self._learn(ids, measure=measure)
        for name in ids:
            if name in kept.tasks:
                return _now(kept.tasks[name])
        raise unknown("task", task, kept.registered, code="unknown_task")

    def of_package(
        self, reference: str, base: Path, task: str | None = None, *, measure: bool = False
    ) -> list[TaskFacts]:
        """Return the tasks that a package of the user's registers, or one of them; nothing of it is kept.

        Args:
            reference: The package, as `customEnvironment` of a job names it.
            base: Folder that a relative path starts from.
            task: Id of the one that is wanted.
            measure: Whether to make its environment for what only that tells.

        Raises:
            RequestError: It is no package, does not import, or registers nothing, or not this task; or there is no
                simulator here.
            WorkloadError: The simulator's process did not answer.
        """
        found = find_package(reference, base, "--package")
        limited(inspect, found.path)
        with scratch("tasks") as folder:
            overlay = folder / "overlay"
            package = install(found.path, overlay, python=self._machine.python, scratch=folder / "build")
            callback = None if package.task_entry_points else registering_module(package)
            names = None if task is None else _ids(task)
            wanted = TellTasks(names=names, overlay=str(overlay), import_callback=callback, measure=measure)
            told = self._ask(wanted, replace(_NOBODY, packages=(found.file,)), blamed=f"The package {package.name!r}")
        if not told.tasks and task is not None:
            raise unknown("task", task, told.registered, code="unknown_task")
        if not told.tasks:
            raise RequestError(
                f"The package {package.name!r} registers no task.",
                code="no_tasks",
                advice="Its module must call gymnasium.register when it is imported; `simyard init` makes such a one.",
            )
        return [_now(facts) for facts in sorted(told.tasks, key=lambda facts: facts.task)]

    # --- what is kept ---

    def _read(self) -> _Kept:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # a broken file is as none
            read = read_json(self._path)
            if unchanged(read["evidence"]):
                tasks = {name: TaskFacts.from_json(facts) for name, facts in read["tasks"].items()}
                return _Kept(set(read["registered"]), tasks, read["evidence"])
        return _Kept()

    def _learn(self, names: tuple[str, ...] | None, *, measure: bool = False) -> _Kept:
        """Ask for tasks, all without names, and keep what is said; one process of this machine at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with held(self._path.with_suffix(".lock"), patience_s=CHECK_TIMEOUT_S):
            kept = self._read()
            if names is None and _is_whole(kept):  # somebody else was faster
                return kept
            told = self._ask(TellTasks(names=names, measure=measure), _NOBODY, blamed=repr(self._machine.python))
            measured = {name: facts for name, facts in kept.tasks.items() if facts.measured}
            new = {facts.task: facts for facts in told.tasks}
            kept = _Kept(
                registered=set(told.registered),
                tasks=kept.tasks | new | (measured if names is None else {}),
                evidence=kept.evidence | told.evidence,
            )
            tasks = {name: facts.to_json() for name, facts in kept.tasks.items()}
            write_json(self._path, {"registered": sorted(told.registered), "tasks": tasks, "evidence": kept.evidence})
        return kept

    def _ask(self, wanted: TellTasks, job: JobSpec, *, blamed: str) -> ToldTasks:
        """Have a process of the simulator's Python tell of its tasks.

        Raises:
            RequestError: It cannot, by a fault of what is blamed.
            WorkloadError: It ended or did not answer.
        """
        try:
            doing = "making the environment" if wanted.measure else "reading configurations"
            with self._waiting(doing), Sessions(self._machine) as sessions:
                lease = sessions.take(job, "")
                try:
                    return lease.workload.tasks(wanted, CHECK_TIMEOUT_S)
                finally:
                    lease.give_back()
        except WorkloadError as error:
            if error.failure.category is not Category.USER:
                raise
            raise _not_here(f"{blamed} ends the simulator's process. {error.failure.message.rstrip('.')}.") from error
        except ValueError as error:  # a package's code may write whatever it likes to its socket
            raise _not_here(f"{blamed} gives an answer that is none: {error}") from error
        except FileNotFoundError as error:
            raise _not_here(f"There is no Python {self._machine.python!r}.") from error


def _not_here(message: str) -> RequestError:
    return RequestError(
        message,
        code="no_simulator",
        advice="Name a Python that has Isaac Lab 3.0 and simyard in SIMYARD_PYTHON; `simyard doctor` says more.",
    )


def _is_whole(kept: _Kept) -> bool:
    return bool(kept.registered) and kept.tasks.keys() >= kept.registered


def _now(facts: TaskFacts) -> TaskFacts:
    """Return what is known of a task with what may change at any time: its assets, and so whether it runs."""
    root = facts.asset_root or ""
    assets = tuple(
        asset if "://" in root else TaskAsset(path=asset.path, here=os.path.exists(f"{root}/{asset.path}"))
        for asset in facts.assets
    )
    why_not = facts.why_not
    if missing := [asset.path for asset in assets if asset.here is False]:
        robots = sorted({recipe.name for recipe in RECIPES.values() if recipe.target in missing})
        built = f"`simyard assets build {' '.join(robots)}` makes" if robots else ""
        copied = f"`simyard assets mirror {facts.task}` copies" if len(robots) < len(missing) else ""
        how = " and ".join(filter(None, (built, copied)))
        why_not = (*why_not, f"not here: {listed(missing, 3)}; {how} {'it' if len(missing) == 1 else 'them'}")
    return replace(facts, former_ids=former_ids(facts.task), assets=assets, why_not=why_not, runnable=not why_not)
