"""Newton by itself: robots and scenes from files, driven by simyard, without Isaac Lab and its tasks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, JobSpec
from simyard.runner.adapter import Adapter, device_of, versions


class Newton(Adapter):
    """The adapter of `simulator: newton`, which the standard profile of rollouts runs on."""

    kinds: ClassVar[tuple[str, ...]] = ("rollout",)

    def preload(self, library: str | None) -> None:
        """Import the engine."""
        if importlib.util.find_spec("newton"):
            import mujoco_warp  # noqa: F401
            import newton  # noqa: F401
            import torch  # noqa: F401

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
        """Read robot and scene, and build one environment of them."""
        if importlib.util.find_spec("newton") is None:
            raise RequestError(
                f"Newton is not installed for {sys.executable!r}.",
                code="no_simulator",
                advice="Install 'isaaclab==3.0.0' there, or name a Python that has it in SIMYARD_PYTHON.",
            )
        device = device_of(job.gpus)
        from simyard.runner.newton import standard  # not above: the control side imports adapters too

        notes, room = standard.check(job, files)
        return Facts(
            simulator=job.simulator,
            version=importlib.metadata.version("newton"),
            flavor="api",
            device=device,
            rollout=1,
            overrides=(),
            notes=notes,
            versions=versions(device),
            room=room,
        )

    def run(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        """Simulate and record."""
        from simyard.runner.newton import standard

        standard.run(attempt, facts, paths)
