"""`--view`: whether a job's simulation can be shown while it runs, told before anything of it begins."""

from __future__ import annotations

import subprocess

from simyard.core.errors import RequestError
from simyard.core.specs import Facts, JobSpec
from simyard.requests.settings import MachineSettings

VIEWED = ("train", "evaluate")
"""Kinds of jobs whose simulation can be shown."""
_LOOK = """from importlib import metadata, util
assert util.find_spec("isaaclab_visualizers"), "Isaac Lab's visualizers are missing"
assert int(metadata.version("viser").partition(".")[0]), "viser is too old"
"""
"""For the simulator's Python; it imports neither."""
_LOOK_S = 60.0


def require_viewer(spec: JobSpec, pool: str | None, machine: MachineSettings) -> None:
    """Refuse to show a job whose simulation is elsewhere, or in several processes, or without viser.

    Raises:
        RequestError: With the reason; nothing was started then but the Python that was asked for viser.
    """
    if pool is not None:
        raise RequestError(
            f"--view shows a simulation of this machine, and the pool {pool!r} simulates elsewhere.",
            code="no_view",
            advice="Leave --view, or leave --pool and unset SIMYARD_POOL.",
        )
    if spec.ranks > 1:
        raise RequestError(
            f"--view shows one simulation, and this job has {spec.ranks} of them, a GPU each.",
            code="no_view",
            advice="Leave --view, or set computeConfig.gpusPerNode=1.",
        )
    try:
        asked = subprocess.run(
            [machine.python, "-c", _LOOK], env=machine.workload_env(), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=_LOOK_S, check=False,
        )  # fmt: skip
        problem = asked.stderr.strip().splitlines()[-1] if asked.returncode else None
    except (OSError, subprocess.TimeoutExpired, IndexError) as error:
        problem = str(error) or "it ended without a word"
    if problem is not None:
        raise RequestError(
            f"--view needs viser 1 in the simulator's Python, {machine.python!r}: {problem}",
            code="viewer_absent",
            advice="Install it there: pip install 'simyard[view]', or pip install 'viser>=1.0.16' 'rich<15'.",
        )


def refuse_without_viewer(facts: Facts) -> None:
    """Refuse to show a simulation that Isaac Lab's viewer is not made for.

    Raises:
        RequestError: It runs in Kit, or by the scripts of Isaac Lab 2.3.
    """
    if facts.kit or facts.flavor != "api":
        where = "in Kit, Isaac Sim's app" if facts.kit else f"by the scripts of Isaac Lab {facts.version}"
        raise RequestError(
            f"--view shows what Isaac Lab 3.0 simulates without Kit, and this job is simulated {where}.",
            code="no_view",
            advice="Leave --view; or take another engine, such as physics=newton, where the task has it.",
        )
