"""The simulators and the protocol of their adapters, and what all adapters say of a machine: device, packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from simyard.core.errors import RequestError, unknown
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, JobSpec
from simyard.core.task_facts import TaskFacts
from simyard.runner.rl import LIBRARIES


class UnfitProcessError(Exception):
    """A job is good, and needs a process that has imported less than this one; its text is the reason, in words."""


class Adapter:
    """One simulator, seen from inside the workload process, on the simulator's own Python."""

    kinds: ClassVar[tuple[str, ...]] = ("train", "evaluate", "export", "rollout")
    """The kinds of jobs it can do."""

    def preload(self, library: str | None) -> None:
        """Import the modules of jobs with this library; called while the job is still being prepared."""

    def import_rest(self) -> None:
        """Import the rest that a running job needs; called while the process waits for a checked job to begin."""

    def only_one_job(self) -> str | None:
        """Return the reason a process can serve one job only; None if it can serve one after another."""
        return None

    def left_over(self) -> str | None:
        """Describe state of the simulator that a job has left in this process; None if there is none."""
        return None

    def findings(self) -> dict[str, Any]:
        """Return the findings of checks about this environment, for `refuse_known` of others; plain JSON."""
        return {}

    @classmethod
    def refuse_known(cls, job: JobSpec, findings: Mapping[str, Any]) -> None:
        """Refuse a job without the simulator, as `check` would.

        Args:
            job: The job, which brings no code of its own.
            findings: Of another process in the same environment.

        Raises:
            RequestError: If it is certain that `check` would refuse it.
        """

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
        """Check the job against what is installed, without starting the simulator.

        Args:
            job: The job.
            overlay: Folder of the job's own packages, if it has any.
            files: Where those of its inputs lie that are on this machine already, by digest.

        Raises:
            RequestError: If the task, the library or an override does not exist or does nothing, or a checkpoint
                does not fit.
            UnfitProcessError: If another process must check it: never raised in one that has checked none.
        """
        raise NotImplementedError

    def tasks(
        self, names: Sequence[str] | None, overlay: Path | None, import_callback: str | None, *, measure: bool
    ) -> tuple[tuple[str, ...], tuple[TaskFacts, ...]]:
        """Return the ids of all registered tasks, and the facts about some of them, without starting the simulator.

        Args:
            names: Ids; unknown ones are passed over, and None stands for all that the user's package registers, or for
                all where there is none.
            overlay: Folder of the user's package, if there is one.
            import_callback: As in a job.
            measure: Whether to make the environment of each for what only that tells.

        Raises:
            RequestError: If there are no tasks here, or the package does not import.
        """
        raise RequestError("This simulator registers no tasks.", code="no_tasks", advice="Use 'isaaclab'.")

    def run(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        """Run the job in a fresh environment and return when it is done; the current folder is `paths.work`.

        Raises:
            Exception: Whatever the simulator or the task raised.
        """
        raise NotImplementedError


SIMULATORS = {"isaaclab": "IsaacLab", "newton": "Newton"}
"""The simulators: the folder of each beside this file, and the class in its `adapter.py`. To add one, name it here."""
ADAPTERS: dict[str, type[Adapter]] = {}
"""The adapters that were imported."""


def adapter_of(name: str) -> type[Adapter]:
    """Return a simulator's adapter, or raise `RequestError` with the names there are."""
    if name not in SIMULATORS:
        raise unknown("simulator", name, SIMULATORS, code="unknown_simulator")
    if name not in ADAPTERS:
        ADAPTERS[name] = getattr(importlib.import_module(f"simyard.runner.{name}.adapter"), SIMULATORS[name])
    return ADAPTERS[name]


_PACKAGES = (
    "isaaclab", "isaacsim", "isaacsim-kernel", "newton", "warp-lang", "mujoco-warp", "ovphysx", "ovstage", "torch",
    "numpy", "gymnasium",
)  # fmt: skip
"""Besides those of the libraries."""


def device_of(gpus: int | None) -> str:
    """Return `cpu` or `cuda:0` for what a request says of GPUs; None takes one if there is one.

    Raises:
        RequestError: If it asks for more than there are.
    """
    import torch

    if gpus == 0:
        return "cpu"
    if gpus and gpus > 1 and torch.cuda.device_count() < gpus:
        raise RequestError(
            f"computeConfig.gpusPerNode is {gpus}, and this machine has {torch.cuda.device_count()} CUDA devices.",
            code="no_gpu",
            advice="Ask for fewer, or run through a pool whose machines have as many.",
        )
    if torch.cuda.is_available():
        return "cuda:0"
    if gpus:
        raise RequestError(
            f"computeConfig.gpusPerNode is {gpus}, but this machine has no usable CUDA device.",
            code="no_gpu",
            advice="Use 0 for the CPU, or run through a pool that has GPUs.",
        )
    return "cpu"


def versions(device: str) -> dict[str, str]:
    """Return the versions of what is installed and decides the result."""
    found = {"python": sys.version.split()[0]}
    for package in (*_PACKAGES, *(name for library in LIBRARIES.values() for name in library.packages)):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device != "cpu":
        import torch

        found["cuda"] = str(torch.version.cuda)
    return found
