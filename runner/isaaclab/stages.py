"""A training in stages: one after another in this process, each a training by Isaac Lab's API that is watched."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.core.artifacts import STAGES
from simyard.core.errors import Category, Failure, RequestError, WorkloadError, unknown
from simyard.core.files import AttemptPaths, write_json
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, ResumePoint, Stage, StageFacts
from simyard.core.stages import BestCheckpoint, StageRun, Stages, now, stages_beside
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab.overrides import TaskConfig
from simyard.runner.isaaclab.training import train
from simyard.runner.progress import say_activity, say_all_stages
from simyard.runner.rl import Library, get_library
from simyard.runner.rl.base import TrainingWatch

# --- before the start -------------------------------------------------------------------------------------------------


def check(job: JobSpec, library: Library, files: Mapping[str, Path]) -> Facts:
    """Check every stage of a registered task as a training of its own, and return the facts of all.

    Raises:
        RequestError: A stage cannot be.
    """
    assert job.stages is not None
    parts = []
    for index, stage in enumerate(job.stages):
        with _named(stage):
            facts, config = isaaclab_lookup.resolve(job.in_stage(index), library, files)
            if stage.until is not None:
                _require_metric(stage.until.metric, config, library)
        parts.append(facts)
    notes = dict.fromkeys(note for facts in parts for note in facts.notes)
    stages = tuple(StageFacts(rollout=facts.rollout, overrides=facts.overrides) for facts in parts)
    rooms = [facts.room for facts in parts if facts.room is not None]
    room = replace(rooms[0], size_bytes=sum(room.size_bytes for room in rooms)) if rooms else None
    return replace(parts[0], notes=tuple(notes), stages=stages, room=room)


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Have a refusal in the body name the stage."""
    try:
        yield
    except RequestError as error:
        failure = error.failure
        message = f"Stage {stage.name!r}: {failure.message}"
        raise RequestError(message, code=failure.code, advice=failure.advice) from error


def _require_metric(tag: str, config: TaskConfig, library: Library) -> None:
    """Refuse a metric that nothing logs, where that is known: the managers' own, and those of the library's runner."""
    group, _, term = tag.partition("/")
    known = [library.reward_tag, library.length_tag]
    for manager, prefix in (("rewards", "Episode_Reward"), ("terminations", "Episode_Termination")):
        terms = config.env.get(manager)
        if isinstance(terms, dict) and terms:
            known += [f"{prefix}/{name}" for name, value in terms.items() if value is not None]
    if tag not in known and any(one.partition("/")[0] == group for one in known) and term:
        raise unknown("metric", tag, known, code="unknown_metric")


# --- the loop ---------------------------------------------------------------------------------------------------------


def train_in_stages(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Train stage after stage, from where the attempt's checkpoint left off.

    Raises:
        WorkloadError: A stage that may not fail did not reach its condition, or the iterations of all were used up.
    """
    began = time.monotonic()
    course = _Course(attempt, facts, paths)
    while course.begin_next():
        course.train()
    done = course.done
    if done < attempt.job.last_iteration:
        say_all_stages(done)
    print(f"Training time: {time.monotonic() - began:.2f} seconds")


class _Course(TrainingWatch):
    """The stages of a job on their way: which one runs, and how its condition stands."""

    def __init__(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        assert attempt.job.stages is not None and facts.stages is not None
        self._attempt, self._facts, self._paths = attempt, facts, paths
        self._job, self._stages = attempt.job, attempt.job.stages
        self._library = get_library(attempt.job.library)
        self._state = (attempt.resume.stages if attempt.resume else None) or Stages()
        self._env: Any = None
        self._reward = math.nan
        self._newest = attempt.resume.checkpoint.name if attempt.resume else None
        self._resumes = self._state.running is not None
        self.first_iteration = self.done = attempt.start_iteration

    # --- which one, and from where ------------------------------------------------------------------------------------

    def begin_next(self) -> bool:
        """Begin the next stage, or go on with the one that was interrupted; return False where all are over."""
        if self._resumes:
            return True
        last = self._state.runs[-1] if self._state.runs else None
        index = 0 if last is None else last.stage + 1
        goes_back = last is not None and last.why == "not_reached" and self._stages[last.stage].on_not_reached
        if last is not None and goes_back == "go_back":
            index = last.stage - 1
        if index >= len(self._stages):
            return False
        stage = self._stages[index]
        if self.done >= self._job.last_iteration:
            raise _out_of_iterations(stage, self._job)
        start = last.start if last is not None and goes_back == "go_back" else self._start_of(stage, last)
        run = StageRun(
            stage=index, name=stage.name, kind=stage.kind, start=start, began=self.done, began_at=now(),
            goal=stage.until.in_words() if stage.until else None,
        )  # fmt: skip
        self._state = self._state.begin(run)
        if start is None:
            self._state = replace(self._state, steps=0)
        self._write()
        return True

    def _start_of(self, stage: Stage, last: StageRun | None) -> str | None:
        """Return the name of the checkpoint that a stage begins with; None for none."""
        if stage.checkpoint is not None:
            return stage.checkpoint.checkpoint.name
        if stage.start == "scratch" or last is None:
            return None
        if stage.start == "best" and last.best is not None:
            return last.best.name
        return self._newest

    # --- one stage ----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train the stage that has begun, to its end."""
        run, number = self._state.runs[-1], len(self._state.runs)
        stage = self._stages[run.stage]
        say_activity(f"beginning stage {run.stage + 1} of {len(self._stages)}, {run.name}")

        # A stage that was interrupted goes on with the attempt's checkpoint, and with what has become of its settings.
        resume = self._attempt.resume if self._resumes else self._resume_point(run, stage)
        self._resumes = False
        cap = min(stage.max_iterations, self._job.last_iteration - run.began)
        job = replace(
            self._job.in_stage(run.stage),
            resume=resume and replace(resume, iteration=run.began),
            max_iterations=cap if resume else run.began + cap,
        )
        part = replace(self._attempt, job=job, start_iteration=self.done, resume=resume)
        own = self._facts.stages[run.stage] if self._facts.stages else self._facts
        facts = replace(self._facts, rollout=own.rollout, overrides=own.overrides)
        self.first_iteration, self.seconds = self.done, self._state.seconds
        self._last = run.began + cap
        with self._library.watched(self):
            train(
                part, facts, self._paths, steps_done=self._state.steps,
                more_arguments=(f"--run_timestamp={number:03d}-{run.name}",),
            )  # fmt: skip
        if self._state.running is not None:
            raise RuntimeError(f"the training of stage {run.name!r} was left at iteration {self.done}")
        ended = self._state.runs[-1]
        print(f"stage {run.name} has ended after {self.done - run.began} iterations: {ended.in_words()}")
        if ended.why == "not_reached" and stage.on_not_reached == "fail":
            raise _not_reached(ended)

    def _resume_point(self, run: StageRun, stage: Stage) -> ResumePoint | None:
        """Return the checkpoint that a stage begins with, which is brought to where attempts have theirs."""
        if run.start is None:
            return None
        if stage.checkpoint is not None and run.start == stage.checkpoint.checkpoint.name:
            return replace(stage.checkpoint, iteration=run.began)
        target = self._paths.inputs / run.start
        for made in self._paths.work.glob(self._library.checkpoint_glob):
            if made.name == run.start:
                shutil.copyfile(made, target)
        file = InputFile(name=run.start, key="", sha256="", size_bytes=0)
        return ResumePoint(checkpoint=file, iteration=run.began, trusted=True)

    # --- as the library's loop sees it --------------------------------------------------------------------------------

    def begin(self, env: Any) -> None:
        """Note the environment, whose steps are counted on."""
        self._env = env

    def iterated(self, iteration: int, metrics: Mapping[str, float], seconds: float) -> bool:
        """Judge the stage's condition by what an iteration has logged, and end the stage where it is over."""
        run = self._state.runs[-1]
        gate = self._stages[run.stage].until
        self.done = iteration + 1
        self._reward = metrics.get(self._library.reward_tag, math.nan)
        steps = int(getattr(self._env, "common_step_counter", 0))
        self._state = replace(self._state, steps=steps, seconds=seconds)
        if gate is not None and (value := metrics.get(gate.metric)) is not None:
            self._state = replace(self._state, held=self._state.held + 1 if gate.holds(value) else 0)
            self._state = self._state.change(value=value if math.isfinite(value) else None)

        is_reached = gate is not None and self._state.held >= gate.for_iterations
        if not is_reached and self.done < self._last:
            return False
        why = "reached" if is_reached else "over" if gate is None else "not_reached"
        self._state = self._state.change(ended=self.done, ended_at=now(), why=why)
        return True

    def saving(self, file: Path) -> None:
        """Write how the stages stand beside a checkpoint, before it: one without the other does not count."""
        best = self._state.runs[-1].best
        if math.isfinite(self._reward) and (best is None or self._reward > best.reward):
            own = BestCheckpoint(name=file.name, iteration=self.done, reward=self._reward)
            self._state = self._state.change(best=own)
        self._newest = file.name
        write_json(stages_beside(file), self._state.to_json())
        self._write()

    def _write(self) -> None:
        write_json(self._paths.output / STAGES.name, self._state.to_json())


def _not_reached(run: StageRun) -> WorkloadError:
    return WorkloadError(
        Failure(
            code="stage_not_reached",
            category=Category.USER,
            message=f"Stage {run.name!r} ended at iteration {run.ended}: {run.in_words()}.",
            advice="Give it more maxIterations or a nearer value, or let onNotReached go_on or go_back.",
        )
    )


def _out_of_iterations(stage: Stage, job: JobSpec) -> WorkloadError:
    return WorkloadError(
        Failure(
            code="stages_out_of_iterations",
            category=Category.USER,
            message=f"Stage {stage.name!r} cannot begin: the job's {job.max_iterations} iterations are used up.",
            advice="Raise maxIterations, which is for all stages together.",
        )
    )
