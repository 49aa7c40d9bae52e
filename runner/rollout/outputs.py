"""Outputs of a rollout: `rollout.zarr`, `render.mp4`, `summary.json` and the task's log, whatever its end."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simyard.core.artifacts import RENDER, ROLLOUT, SUMMARY
from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.files import AttemptPaths, write_json
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.evaluation.summary import wilson
from simyard.runner.progress import say_count
from simyard.runner.recording.packing import pack
from simyard.runner.recording.reading import mean_return, open_foreign
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.recording.verify import open_rollout
from simyard.runner.video.films import RolloutFilm
from simyard.runner.video.render import verify
from simyard.runner.video.trajectories import VideoError

SAY_EVERY_S = 1.0


class Recording:
    """Opens the recorder, the film and the log; seals them when the rollout is done, and keeps them when it is not."""

    def __init__(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        assert attempt.job.rollout is not None
        self._job, self._wanted, self._facts, self._paths = attempt.job, attempt.job.rollout, facts, paths
        self.log = _open_log(paths.user_log)
        self.recorder: RolloutRecorder | None = None
        self.video: RolloutFilm | None = None
        self._step = 0
        self._pictures = 0
        self._said = 0.0
        self._began = time.monotonic()
        self._seconds: float | None = None
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._tell, name="progress", daemon=True)

    def open(self, *, control_period_s: float, longest: int, **attributes: Any) -> tuple[RolloutRecorder, RolloutFilm]:
        """Begin to record.

        Args:
            control_period_s: Seconds between two rows.
            longest: Steps of the longest episode.
            attributes: More of the store's own attributes.

        Raises:
            WorkloadError: If a film is wanted and cannot be made here.
        """
        job = self._job
        try:
            self.video = RolloutFilm(self._paths.root, control_period_s, wanted=self._wanted.video)
        except VideoError as error:
            raise WorkloadError(no_video(error.reason)) from error
        self.recorder = RolloutRecorder(
            self._paths.recording,
            num_envs=job.num_envs,
            longest=longest,
            control_period_s=control_period_s,
            scratch=self._paths.root,
            attributes={
                "job_id": job.job_id,
                "task": job.task,
                "seed": job.seed,
                "profile": self._wanted.profile,
                "versions": self._facts.versions,
                **attributes,
            },
        )
        self._began = time.monotonic()
        self._teller.start()
        return self.recorder, self.video

    def say_step(self, step: int) -> None:
        """Report the number of control steps done."""
        self._step = max(self._step, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._seconds = time.monotonic() - self._began
        if error is not None:
            self._keep()

    def seal(self) -> None:
        """Pack the arrays, draw the film, open both, and say in `summary.json` what is in them.

        Raises:
            WorkloadError: If what the job promises is not there or cannot be opened.
        """
        target = self._paths.output / ROLLOUT.name
        own = self.recorder is not None and self.recorder.steps > 0
        if self.recorder is not None and own:
            self.recorder.close()
            pack(self._paths.recording, target)
        elif target.is_dir():
            _pack_in_place(target)
        if not target.exists():
            raise WorkloadError(_NO_ROLLOUT)
        try:
            figures = open_rollout(target) if own else open_foreign(target)
        except ValueError as error:
            raise WorkloadError(_unreadable(str(error))) from error
        write_json(self._paths.output / SUMMARY.name, self._summary(figures) | {"video": self._develop()})
        say_count("step", self._wanted.steps, self._wanted.steps)

    def _develop(self) -> dict[str, Any] | None:
        if not self._wanted.video:
            return None
        path = self._paths.output / RENDER.name
        try:
            seen = self.video.develop(path, alive=self._alive) if self.video is not None else None
            if seen is None and path.exists():
                seen = verify(path, None)
        except VideoError as error:
            raise WorkloadError(no_video(error.reason)) from error
        if seen is None:
            raise WorkloadError(no_video("the task kept no picture and wrote no render.mp4"))
        return {"file": RENDER.name, **seen}

    def _summary(self, figures: dict[str, Any]) -> dict[str, Any]:
        job, wanted, success = self._job, self._wanted, figures["success"]
        interval = wilson(success["succeeded"], success["measured"]) if success else None
        return {
            "task": job.task,
            "profile": wanted.profile,
            "num_envs": job.num_envs,
            "steps": wanted.steps,
            "seed": job.seed,
            "episodes": figures["episodes"],
            "recorded_steps": figures["steps"],
            "return": mean_return(self._paths.output / ROLLOUT.name) if figures["episodes"] else None,
            "success": {"rate": success["rate"] if success else None, "interval_95": interval},
            "keys": figures["keys"],
            "size_bytes": figures["bytes"],
            "environment_steps_per_second": self._rate(),
        }

    def _rate(self) -> float | None:
        steps = max(self.recorder.steps if self.recorder else 0, self._step)
        return round(steps * self._job.num_envs / self._seconds, 1) if steps and self._seconds else None

    def _keep(self) -> None:
        """Pack the recorded part after a failure; problems here must not hide the first one."""
        if self.recorder is None or not self.recorder.steps:
            return
        try:
            self.recorder.close()
            pack(self._paths.recording, self._paths.output / ROLLOUT.name)
        except Exception as error:
            print(f"what was recorded could not be packed: {type(error).__name__}: {error}")

    def _alive(self) -> None:
        """Give a sign of life now and then: drawing takes minutes, and the watchdog asks for progress."""
        self._pictures += 1
        if time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            say_count("step", self._wanted.steps, self._wanted.steps, step=self._pictures)

    def _tell(self) -> None:
        while not self._over.wait(SAY_EVERY_S):
            recorded = self.recorder.steps if self.recorder else 0
            say_count("step", min(max(recorded, self._step), self._wanted.steps), self._wanted.steps)


def _open_log(path: Path) -> logging.Logger:
    log = logging.getLogger("simyard.user_job")
    log.setLevel(logging.INFO)
    log.propagate = False
    for old in log.handlers[:]:
        log.removeHandler(old)
        old.close()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log


def _pack_in_place(folder: Path) -> None:
    """Make the store that a task wrote itself the one file that is promised."""
    aside = folder.with_name(f".{folder.name}.folder")
    folder.rename(aside)
    pack(aside, folder)
    shutil.rmtree(aside)


_NO_ROLLOUT = Failure(
    code="artifact_missing",
    category=Category.USER,
    message="The task ended without rollout.zarr.",
    advice="Record with context.recorder, or write rollout.zarr into context.output.",
)


def _unreadable(reason: str) -> Failure:
    return Failure(
        code="rollout_unreadable",
        category=Category.USER,
        message=f"rollout.zarr does not open as a rollout: {reason}",
        advice="Record with context.recorder, or follow the layout in docs/rollouts.md.",
    )


def no_video(reason: str) -> Failure:
    """Return the failure of a job whose video cannot be made."""
    return Failure(
        code="video_impossible",
        category=Category.USER,
        message=f"The video that the request asks for cannot be made: {reason}",
        advice="Set outputs.video to false to do without it.",
    )
