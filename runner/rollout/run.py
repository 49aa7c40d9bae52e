"""A rollout, whoever drives it: `rollout.zarr`, `render.mp4`, `summary.json` and the task's log, whatever its end."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypedDict

from simyard.core.artifacts import RENDER, ROLLOUT, SUMMARY
from simyard.core.errors import Category, Failure, Stopped, WorkloadError
from simyard.core.files import AttemptPaths, write_json
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.evaluation.summary import wilson
from simyard.runner.progress import say_count
from simyard.runner.recording.arrays import pack
from simyard.runner.recording.reading import ArrayForm, MeanReturn, mean_return, open_foreign, open_rollout, size_of
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.step_clock import StepClock
from simyard.runner.video.cameras import Cameras
from simyard.runner.video.encoding import VideoFacts, verify
from simyard.runner.video.films import RolloutFilm
from simyard.runner.video.trajectories import VideoError

REPORT_EVERY_S = 1.0


class Render(VideoFacts):
    """Facts of `render.mp4`."""

    file: str


class Success(TypedDict):
    """Success of the episodes in `summary.json`; None where nobody measured it."""

    rate: float | None
    interval_95: list[float] | None


Summary = TypedDict(
    "Summary",
    {
        "task": str,
        "profile": str,
        "num_envs": int,
        "steps": int,
        "seed": int,
        "episodes": int | None,
        "recorded_steps": int | None,
        "return": MeanReturn | None,
        "success": Success,
        "keys": dict[str, ArrayForm],
        "size_bytes": int,
        "first_steps_seconds": float | None,
        "environment_steps_per_second": float | None,
        "video": Render | None,
    },
)
"""Content of `summary.json`; `video` is None where neither the request nor the task asked for one."""


def rollout(
    drive: Callable[[Recording, AttemptSpec, Facts, AttemptPaths], None],
    attempt: AttemptSpec,
    facts: Facts,
    paths: AttemptPaths,
) -> None:
    """Run a rollout and leave `rollout.zarr`, `summary.json` and, if asked for, `render.mp4` in the output folder.

    Args:
        drive: Simulates the whole job, recording as it goes.
        attempt: The job, and this try at it.
        facts: Findings of the check before.
        paths: Files of the attempt.

    Raises:
        WorkloadError: If what the job promises is not there in the end.
        Exception: Whatever the simulator or the task raised; what was recorded until then is kept.
    """
    began = time.monotonic()
    with _stoppable():
        with Recording(attempt, facts, paths) as recording:
            drive(recording, attempt, facts, paths)
        recording.seal()
    print(f"Rollout time: {time.monotonic() - began:.2f} seconds")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the supervisor's SIGTERM into an exception: what was recorded is packed before the grace is over."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: packing must not be interrupted
        raise Stopped

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Recording:
    """Opens the recorder, the film and the log; seals them when the rollout is done, and keeps them when it is not."""

    def __init__(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        assert attempt.job.rollout is not None
        self._job, self._wanted, self._facts, self._paths = attempt.job, attempt.job.rollout, facts, paths
        self.log = _open_log(paths.user_log)
        self.recorder: RolloutRecorder | None = None
        self.video: RolloutFilm | None = None
        self._step = 0
        self._step_s = 0.0
        self._pictures = 0
        self._reported = 0.0
        self._clock = StepClock(self._job.num_envs, self._wanted.steps)
        self._over = threading.Event()

    def open(self, *, control_period_s: float, longest: int, **attributes: Any) -> tuple[RolloutRecorder, RolloutFilm]:
        """Begin to record.

        Args:
            control_period_s: Seconds between two rows.
            longest: Steps of the longest episode.
            attributes: More of the store's own attributes.

        Raises:
            WorkloadError: If a film is wanted and cannot be made here.
        """
        job, self._step_s = self._job, control_period_s
        if self._wanted.cameras:
            attributes["cameras"] = [camera.to_json() for camera in self._wanted.cameras]
        try:
            self.video = RolloutFilm(self._paths.root, control_period_s, wanted=self._wanted.video)
        except VideoError as error:
            raise no_video(error.reason) from error
        self._clock = StepClock(job.num_envs, self._wanted.steps)
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
            after_step=self._clock.note,
        )
        threading.Thread(target=self._report_progress, name="progress", daemon=True).start()
        return self.recorder, self.video

    @contextmanager
    def cameras(self, model: Any, now: Any, bodies: Mapping[str, int], origin: Any = (0, 0, 0)) -> Iterator[Cameras]:
        """Open the request's cameras, of which there may be none; call it after `open`, before the first step.

        Args:
            model: The Newton model, of worlds that are alike.
            now: Its state.
            bodies: Index of each body in a world, by name.
            origin: Position of the first world.

        Raises:
            WorkloadError: If this machine cannot draw.
            RequestError: If a camera is on a body that is not there.
        """
        assert self.recorder is not None
        wanted = self._wanted.cameras or ()
        try:
            cameras = Cameras(
                wanted, model, now, bodies=bodies, num_envs=self._job.num_envs, step_s=self._step_s, origin=origin
            )
        except VideoError as error:
            raise no_pictures(error.reason) from error
        with cameras:
            cameras.describe(self.recorder)
            try:
                yield cameras
            except VideoError as error:
                raise no_pictures(error.reason) from error

    def say_step(self, step: int) -> None:
        """Report the number of control steps done."""
        self._step = max(self._step, step)
        if self.recorder is None or not self.recorder.steps:
            self._clock.note(step)

    def _report_progress(self) -> None:
        while not self._over.wait(REPORT_EVERY_S):
            recorded = self.recorder.steps if self.recorder else 0
            say_count("step", min(max(recorded, self._step), self._wanted.steps), self._wanted.steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if error is None or self.recorder is None or not self.recorder.steps:
            return
        # After a failure the recorded part is packed; problems here must not hide the first one.
        try:
            self.recorder.close()
            pack(self._paths.recording, self._paths.output / ROLLOUT.name)
        except Exception as problem:
            print(f"what was recorded could not be packed: {type(problem).__name__}: {problem}")

    def seal(self) -> None:
        """Pack the arrays, draw the film, open both, and say in `summary.json` what is in them.

        Raises:
            WorkloadError: If what the job promises is not there or cannot be opened.
        """
        job, wanted, target = self._job, self._wanted, self._paths.output / ROLLOUT.name

        # One file: of the recorder's folder, or of the store that the task wrote itself.
        recorded = self.recorder.steps if self.recorder is not None else 0
        if self.recorder is not None and recorded:
            self.recorder.close()
            pack(self._paths.recording, target)
        elif target.is_dir():
            aside = target.with_name(f".{target.name}.folder")
            target.rename(aside)
            pack(aside, target)
            shutil.rmtree(aside)
        if not target.exists():
            raise _failed(
                "artifact_missing",
                "The task ended without rollout.zarr.",
                "Record with context.recorder, or write rollout.zarr into context.output.",
            )

        # It counts only when all of it can be read.
        try:
            figures = open_rollout(target) if recorded else None
            keys = figures.keys if figures else open_foreign(target)
        except ValueError as error:
            raise _failed(
                "rollout_unreadable",
                f"rollout.zarr does not open as a rollout: {error}",
                "Record with context.recorder, or follow the layout in docs/rollouts.md.",
            ) from error

        # The summary; the film is drawn only now, when nothing waits for it any more.
        counts = figures.counts if figures else None
        success: Success = {"rate": None, "interval_95": None}
        if counts and counts.measured:
            interval = wilson(counts.succeeded, counts.measured)
            success = {"rate": counts.succeeded / counts.measured, "interval_95": interval}
        summary: Summary = {
            "task": job.task,
            "profile": wanted.profile,
            "num_envs": job.num_envs,
            "steps": wanted.steps,
            "seed": job.seed,
            "episodes": counts.episodes if counts else None,
            "recorded_steps": counts.steps if counts else None,
            "return": mean_return(target) if counts and counts.episodes else None,
            "success": success,
            "keys": keys,
            "size_bytes": size_of(target),
            **self._clock.figures(),
            "video": self._draw_film() if wanted.video or (self.video and self.video.wanted) else None,
        }
        write_json(self._paths.output / SUMMARY.name, summary)
        say_count("step", wanted.steps, wanted.steps)

    def _draw_film(self) -> Render:
        """Draw and check `render.mp4`, or check the task's own; return the findings.

        Raises:
            WorkloadError: If it cannot be made, or there is nothing to make it of.
        """
        path = self._paths.output / RENDER.name

        def alive() -> None:
            # Drawing takes minutes, and the supervisor waits for progress.
            self._pictures += 1
            if time.monotonic() - self._reported > REPORT_EVERY_S:
                self._reported = time.monotonic()
                say_count("step", self._wanted.steps, self._wanted.steps, step=self._pictures)

        try:
            seen = self.video.develop(path, alive=alive) if self.video is not None else None
            if seen is None and path.exists():
                seen = verify(path, None)
        except VideoError as error:
            raise no_video(error.reason) from error
        if seen is None:
            raise no_video("the task kept no picture and wrote no render.mp4")
        return {"file": RENDER.name, **seen}


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


def no_video(reason: str) -> WorkloadError:
    """Return the error of a job whose video cannot be made."""
    return _failed(
        "video_impossible",
        f"The video that was asked for cannot be made: {reason}",
        "Do without it: set outputs.video to false, or leave --video out.",
    )


def no_pictures(reason: str) -> WorkloadError:
    """Return the error of a job whose cameras cannot take pictures."""
    return _failed(
        "cameras_impossible",
        f"The cameras that the request asks for cannot take pictures: {reason}",
        "Leave outputs.cameras out to do without them.",
    )


def _failed(code: str, message: str, advice: str) -> WorkloadError:
    return WorkloadError(Failure(code=code, category=Category.USER, message=message, advice=advice))
