"""Rollouts: what every environment went through, as one file that zarr opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simyard.core.artifacts import RENDER, ROLLOUT, SUBMISSION, SUMMARY
from simyard.core.records import JobResult, Outcome
from simyard.core.specs import InputFile, JobSpec, ResumePoint
from simyard.runner.recording.arrays import pack
from simyard.tasks.attempt.uploader import Mirror
from simyard.tasks.kinds.base import Kind, lacking
from simyard.tasks.kinds.evaluate import read_output
from simyard.tasks.shared.documents import Keeper
from simyard.tasks.shared.history import Artifact, Verdict

RECORDING = "recording.zarr"
"""Folder of the arrays while they are written, below an attempt's files."""


class _RolloutMirror(Mirror):
    """Sends the arrays while they are written: what tells their lengths goes after what it speaks of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent_lengths: dict[Path, bytes] = {}

    def _carry_all(self) -> None:
        folder = self._paths.recording
        found = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        # Read before the shards are sent: what is written meanwhile is not spoken of yet.
        lengths = {
            path: path.read_bytes() for path in found if path.name == "zarr.json" or folder / "meta" in path.parents
        }
        names = {path: f"{RECORDING}/{path.relative_to(folder)}" for path in found}
        for path in found:
            if path not in lengths:
                self._carry(path, names[path])
        for path, data in lengths.items():
            if self._sent_lengths.get(path) != data:
                self._store.put_bytes(self._keys.file(names[path]), data)
                self._sent_lengths[path] = data
        super()._carry_all()


class RolloutKind(Kind):
    """A robot is simulated and recorded."""

    name = "rollout"
    unit = "step"
    reward_name = "mean return"
    config = SUBMISSION
    mirror_type = _RolloutMirror
    rebuilt = (f"{RECORDING}/",)

    def total(self, spec: JobSpec) -> int:
        """Return the control steps of each environment."""
        assert spec.rollout is not None
        return spec.rollout.steps

    def inputs(self, spec: JobSpec, resume: ResumePoint | None) -> list[InputFile]:
        """Return robot, scene and policy."""
        assert spec.rollout is not None
        assets = [asset.file for asset in (spec.rollout.robot, spec.rollout.scene) if asset]
        return [*assets, *super().inputs(spec, resume)]

    def missing(self, spec: JobSpec, outcome: Outcome, artifacts: tuple[Artifact, ...]) -> list[str]:
        """Ask for the film too, where one was asked for."""
        assert spec.rollout is not None
        problems = super().missing(spec, outcome, artifacts)
        return problems + (lacking([RENDER.name], artifacts) if spec.rollout.video else [])

    def keep(self, spec: JobSpec, verdict: Verdict, keeper: Keeper) -> dict[str, Any]:
        """Return the summary; where the workload could not pack its arrays, pack what it had sent of them."""
        if not any(artifact.name == ROLLOUT.name for artifact in verdict.artifacts):
            _keep_recording(verdict, keeper)
        return read_output(keeper.store, verdict.artifacts, SUMMARY.name)

    def reward(self, spec: JobSpec, figures: dict[str, Any]) -> float | None:
        """Return the mean return of the episodes, where rewards were recorded."""
        return float(figures["return"]["mean"]) if figures and figures["return"] else None

    def headline(self, result: JobResult) -> str:
        """Return the size and the success rate of the recording, in a few words."""
        summary = result.summary
        if not summary:
            return f"{result.done} of {result.total} steps"
        rate = summary["success"]["rate"]
        success = "not measured" if rate is None else f"{100 * rate:.1f} %"
        if summary["episodes"] is None:
            return f"{len(summary['keys'])} arrays of the task's own"
        return f"{summary['episodes']} episodes, {summary['recorded_steps']:,} steps, success {success}"


def _keep_recording(verdict: Verdict, keeper: Keeper) -> None:
    """Make one file of the shards that the last attempt sent before it died."""
    last = verdict.chain[-1][0] if verdict.chain else None
    if last is None:
        return
    prefix = last.keys.file(RECORDING) + "/"
    folder = keeper.scratch / "recording"
    for entry in keeper.store.list(last.keys.file(RECORDING)):
        keeper.store.get_file(entry.key, folder / entry.key.removeprefix(prefix))
    if folder.exists():
        pack(folder, keeper.scratch / ROLLOUT.name)
        keeper.add(ROLLOUT)
