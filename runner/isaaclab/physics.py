"""Physics engines: the one that a job uses, and the preset of its task that brings it.

A request names an engine; a task has presets of Isaac Lab's, and an override may name one of them. Whatever asks for
the engine of a job asks here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from simyard.core.errors import RequestError
from simyard.core.specs import JobSpec
from simyard.runner.isaaclab.kit import is_regular

_EITHER = "physx"
"""The preset with which Isaac Lab takes the one of PhysX's two that can run."""
ENGINES: dict[str, tuple[str, ...]] = {
    "newton": ("newton_mjwarp", "newton_mjwarp_vbd_proxy", "newton"),
    "physx": ("ovphysx", "isaacsim_physx", _EITHER),
    "kamino": ("newton_kamino", "kamino"),
}
"""The presets that bring each engine, by its name in a request: of those that a task has, the first that can run here
is taken."""
_MODULES = {"ovphysx": ("ovphysx", "ovstage"), "isaacsim_physx": ("isaacsim",)}
"""Modules that a preset needs besides Isaac Lab."""
SLOW_ON_A_CPU = "kamino"
PRESETS: dict[str, list[str]] = {}
"""The physics presets of every task that this process has looked at."""
_SELECTOR = "physics="


# --- named by a job -------------------------------------------------------------------------------------------------


def is_selector(override: str) -> bool:
    """Return whether an override names a preset of an engine."""
    return override.startswith(_SELECTOR)


def preset_named(overrides: Iterable[str]) -> str | None:
    """Return the preset that overrides name; None where they name none."""
    named = [override.removeprefix(_SELECTOR) for override in overrides if is_selector(override)]
    return named[-1] if named else None


def engine_of_preset(preset: str) -> str:
    """Return the engine that a preset brings; one that only some task has stands for itself."""
    return next((engine for engine, presets in ENGINES.items() if preset in presets), preset)


class NamesEngine(Protocol):
    """A job, or a request for one."""

    @property
    def overrides(self) -> Sequence[str]:
        """Overrides of the user's."""

    @property
    def physics(self) -> str | None:
        """The field's engine."""


def engine_of(job: NamesEngine) -> str | None:
    """Return the engine that a job names, by its field or by an override; None leaves it to the task."""
    preset = preset_named(job.overrides)
    return engine_of_preset(preset) if preset else job.physics


def require_one_engine(job: JobSpec) -> None:
    """Refuse a job whose field and override name different engines.

    Raises:
        RequestError: They do.
    """
    preset = preset_named(job.overrides)
    if job.physics is not None and preset is not None and engine_of_preset(preset) != job.physics:
        raise RequestError(
            f"physics is {job.physics!r}, and override '{_SELECTOR}{preset}' brings {engine_of_preset(preset)!r}.",
            code="two_engines",
            advice=f"Leave one of them out, or name a preset of {job.physics!r}: {_listed(ENGINES[job.physics])}.",
        )


# --- of a task, on this machine -------------------------------------------------------------------------------------


def choose(job: JobSpec, device: str, *, kit_less: bool) -> str | None:
    """Return the physics preset of a job on a registered task; None leaves it to the task.

    Args:
        job: The job.
        device: `cpu` or `cuda:0`.
        kit_less: Whether Kit is not here, on which a task's own default may run.

    Raises:
        RequestError: The task or this machine does not have the engine, or no job on this device ends with it.
    """
    require_one_engine(job)
    named, having = preset_named(job.overrides), presets_of(job.task)
    wanted = engine_of(job)
    if named is not None and named not in having:
        return named  # Isaac Lab says what there is
    having = [known for known in having if known != _EITHER]
    if wanted is None and not kit_less:
        return None

    # The first preset that can run here, of the engine asked for or of any: in the order of `ENGINES`.
    fitting = [
        known for name in ([wanted] if wanted else ENGINES) for known in ENGINES.get(name, (name,)) if known in having
    ]
    if named is not None and named != _EITHER:
        fitting = [named]
    preset = next((known for known in fitting if not absent(known)), fitting[0] if fitting else None)
    able = engines_of(known for known in having if not absent(known))
    if device == "cpu":
        able = [engine for engine in able if engine != SLOW_ON_A_CPU]
    if preset is None:
        if wanted is None:
            return None
        raise _not_of_task(job.task, wanted, having)
    engine = engine_of_preset(preset)
    if missing := absent(preset):
        raise RequestError(
            f"physics {engine!r} of task {job.task!r} needs {' and '.join(missing)}, which {sys.executable!r} does not "
            "have.",
            code="engine_absent",
            advice=f"Here the task has {_listed(able) or 'no engine'}; docs/training.md says how to get others.",
        )
    if device == "cpu" and engine == SLOW_ON_A_CPU:
        raise RequestError(
            f"physics {engine!r} is some 60 times slower than 'newton' on a CPU: no job of a usual size would end.",
            code="engine_too_slow",
            advice=f"Use {_listed(able) or 'another task'}, or a GPU.",
        )
    return named or preset


def refuse_known(job: JobSpec, known: Mapping[str, list[str]]) -> None:
    """Refuse an engine that the job's task does not have, without looking at the task.

    Args:
        job: The job.
        known: What stood in `PRESETS` elsewhere; a task that is not there is not refused.

    Raises:
        RequestError: Naming the engines there are.
    """
    name = job.task.split(":")[-1]
    if job.physics is not None and name in known and job.physics not in engines_of(known[name]):
        raise _not_of_task(job.task, job.physics, known[name])


def _not_of_task(task: str, engine: str, presets: list[str]) -> RequestError:
    return RequestError(
        f"Task {task!r} has no physics {engine!r}.",
        code="engine_not_of_task",
        advice=f"It has {_listed(engines_of(presets))}." if presets else "It has one engine alone: leave physics out.",
    )


def presets_of(task: str) -> list[str]:
    """Return the names of the physics presets that a registered task has."""
    from isaaclab_tasks.utils.preset_cli import enumerate_task_presets
    from isaaclab_tasks.utils.preset_target import PresetTarget

    name = task.split(":")[-1]
    PRESETS[name] = (enumerate_task_presets(name) or {}).get(PresetTarget.PHYSICS, [])
    return PRESETS[name]


def engines_of(presets: Iterable[str]) -> list[str]:
    """Return the engines that presets bring, in the order of `ENGINES`."""
    brought = set(map(engine_of_preset, presets))
    return [engine for engine in ENGINES if engine in brought] + sorted(brought - {*ENGINES})


def engine_in(env: Mapping[str, Any]) -> str | None:
    """Return the engine of a resolved configuration; None where nothing in it says.

    Args:
        env: The environment's configuration, as plain dictionaries.
    """
    physics = (env.get("sim") or {}).get("physics")
    if not isinstance(physics, Mapping):
        return None
    if "solver_cfg" in physics:
        return "kamino" if "kamino" in str(physics["solver_cfg"]).lower() else "newton"
    return "physx"


def absent(preset: str) -> list[str]:
    """Return the modules that a preset needs and this Python does not have."""
    return [module for module in _MODULES.get(preset, ()) if not is_regular(module)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
