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
from simyard.core.stages import MOST_RUNS, BestCheckpoint, StageRun, Stages, Widen, WidenStep, stages_beside
from simyard.core.wire import now
from simyard.runner.evaluation.compare import Contender, compare
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab.live import LiveParameter, why_not_live
from simyard.runner.isaaclab.overrides import TaskConfig
from simyard.runner.isaaclab.training import train
from simyard.runner.progress import say_activity, say_all_stages
from simyard.runner.rl import Library, get_library
from simyard.runner.rl.base import TrainingWatch

POLICY_GROUP = "policy"
"""Isaac Lab's name for the observations that a robot has."""

# --- before the start -------------------------------------------------------------------------------------------------


def check(job: JobSpec, library: Library, files: Mapping[str, Path]) -> Facts:
    """Check every stage of a registered task as a training of its own, and return the facts of all.

    Raises:
        RequestError: A stage cannot be.
    """
    assert job.stages is not None
    parts, critics = list[Facts](), set[str]()
    for index, stage in enumerate(job.stages):
        with _named(stage):
            facts, config = isaaclab_lookup.resolve(job.in_stage(index), library, files)
            for gate in (stage.until, stage.widen.gate if stage.widen else None):
                if gate is not None:
                    _require_metric(gate.metric, config, library)
            if stage.widen is not None:
                _require_live(stage.widen, config)
            if library.distills(config.agent) != (stage.kind == "distill"):
                does = "distils" if library.distills(config.agent) else "learns by reinforcement"
                raise RequestError(
                    f"kind is {stage.kind!r}, and its agent {does}.",
                    code="wrong_agent",
                    advice="Name the agent that is meant (`agent`), or the other kind: 'train', 'distill'.",
                )
            if stage.kind == "distill":
                _require_no_privileges(config, library, critics)
            critics |= library.groups_of_others(config.agent)
            if facts.first_iteration is not None:  # a job of one distillation counts from there, a stage does not
                facts = replace(facts, first_iteration=None, notes=facts.notes[:-1])
        parts.append(facts)
    notes = dict.fromkeys(note for facts in parts for note in facts.notes)
    stages = tuple(StageFacts(rollout=one.rollout, overrides=one.overrides, physics=one.physics) for one in parts)
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


def _require_no_privileges(config: TaskConfig, library: Library, critics: set[str]) -> None:
    """Refuse a student that sees what only its teacher or a critic may see.

    That is a group of theirs other than `policy`, which a robot has; and where the groups name their terms, a term of
    such a group that `policy` lacks.
    """
    student = set(library.observation_groups(config.agent) or [POLICY_GROUP])
    others = (critics | library.groups_of_others(config.agent)) - {POLICY_GROUP}
    groups = config.env.get("observations") or {}
    terms = {
        name: {term for term, value in group.items() if isinstance(value, dict) and "func" in value}
        for name, group in groups.items() if isinstance(group, dict)
    }  # fmt: skip
    found = sorted(student & others)
    if not found and POLICY_GROUP in terms:
        privileged = set().union(*(terms.get(name, set()) for name in others)) - terms[POLICY_GROUP]
        found = sorted(f"{name}.{term}" for name in student for term in terms.get(name, set()) & privileged)
    if found:
        raise RequestError(
            f"The student sees {', '.join(map(repr, found))}, which its teacher or a critic alone may see.",
            code="privileged_student",
            advice=f"Give it groups that the robot has, {POLICY_GROUP!r} say: agent.obs_groups.student.",
        )


def _require_live(widen: Widen, config: TaskConfig) -> None:
    """Refuse ranges that are none, or that nothing looks at while training runs, as far as the configuration tells."""
    known = config.flat()
    for path in widen.parameters:
        if path not in known:
            raise unknown("parameter to widen", path, known, code="bad_override")
        if (why := why_not_live(path, known)) is not None:
            raise RequestError(
                f"Parameter {path!r} cannot be widened: {why}.",
                code="not_live",
                advice="Name a range that the environment draws from at resets, or while it steps.",
            )


# --- the loop ---------------------------------------------------------------------------------------------------------


def train_in_stages(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Train stage after stage, from where the attempt's checkpoint left off.

    Raises:
        WorkloadError: A stage that may not fail did not reach its condition, or the iterations of all were used up.
    """
    began = time.monotonic()
    course = Course(attempt, facts, paths)
    while course.begin_next():
        course.train()
    course.compare()
    done = course.done
    if done < attempt.job.last_iteration:
        say_all_stages(done)
    print(f"Training time: {time.monotonic() - began:.2f} seconds")


class Course(TrainingWatch):
    """The stages of a job on their way: which one runs, and how its condition stands."""

    def __init__(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        assert attempt.job.stages is not None and facts.stages is not None
        self._attempt, self._facts, self._paths = attempt, facts, paths
        self._job, self._wanted, self._parts = attempt.job, attempt.job.stages, facts.stages
        self._library = get_library(attempt.job.library)
        self.stages = (attempt.resume.stages if attempt.resume else None) or Stages()
        self._env: Any = None
        self._live: dict[str, LiveParameter] = {}
        self._left_off: tuple[float, float] | None = None
        """Clocks at the end of the stage before."""
        self._reward = math.nan
        self._newest = attempt.resume.checkpoint.name if attempt.resume else None
        self._resumes = self.stages.running is not None
        self.first_iteration = self.done = attempt.start_iteration

    # --- which one, and from where ------------------------------------------------------------------------------------

    def begin_next(self) -> bool:
        """Begin the next stage, or go on with the one that was interrupted; return False where all are over."""
        if self._resumes:
            return True
        last = self.stages.runs[-1] if self.stages.runs else None
        index = self._job.stage_after(last)
        if index is None:
            return False
        back_from = last if last is not None and index < last.stage else None
        if back_from is not None and len(self.stages.runs) >= MOST_RUNS:
            raise _not_reached(back_from)
        stage = self._wanted[index]
        if self.done >= self._job.last_iteration:
            raise _out_of_iterations(stage, self._job)
        start = back_from.start if back_from is not None else self._start_of(stage, last)
        run = StageRun(
            stage=index, of=len(self._wanted), name=stage.name, kind=stage.kind, start=start, began=self.done,
            began_at=now(), goal=stage.until.in_words() if stage.until else None,
            order=self._order_of(index, start, last),
        )  # fmt: skip
        if (widen := stage.widen) is not None:
            begins = WidenStep(iteration=self.done, level=0, value=None, ranges=widen.at(0))
            run = replace(run, widened=(begins,), widen_steps=widen.steps)
        self.stages = self.stages.begin(run)
        if start is None:
            self.stages = replace(self.stages, steps=0)
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

    def _order_of(self, index: int, start: str | None, last: StageRun | None) -> str | None:
        """Return the engine whose order of joints and bodies a stage's policy has: that of what it begins with."""
        stage, own = self._wanted[index], self._parts[index].physics
        if start is None or last is None or (stage.checkpoint and start == stage.checkpoint.checkpoint.name):
            return (stage.order if start else None) or own
        return last.order

    # --- one stage ----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train the stage that has begun, to its end."""
        run, number = self.stages.runs[-1], len(self.stages.runs)
        stage = self._wanted[run.stage]
        say_activity(f"beginning stage {run.stage + 1} of {len(self._wanted)}, {run.name}")

        # A stage that was interrupted goes on with the attempt's checkpoint, and with what has become of its settings.
        goes_on, self._resumes = self._resumes, False
        resume = self._attempt.resume if goes_on else self._resume_point(run, stage)
        cap = min(stage.max_iterations, self._job.last_iteration - run.began)
        job = replace(
            self._job.in_stage(run.stage),
            resume=resume and replace(resume, iteration=run.began),
            max_iterations=cap if resume else run.began + cap,
            order=run.order,
        )
        part = replace(self._attempt, job=job, start_iteration=self.done, resume=resume)
        self.first_iteration, self.seconds = self.done, self.stages.seconds
        with self._library.watched(self):
            train(
                part, self._facts_of(run.stage), self._paths, steps_done=self.stages.steps, made=self.made,
                anew=not goes_on, more_arguments=(f"--run_timestamp={number:03d}-{run.name}",),
            )  # fmt: skip
        if self.stages.running is not None:
            raise RuntimeError(f"the training of stage {run.name!r} was left at iteration {self.done}")
        ended = self.stages.runs[-1]
        print(f"stage {run.name} has ended after {self.done - run.began} iterations: {ended.in_words()}")
        if ended.why == "not_reached" and stage.on_not_reached == "fail":
            raise _not_reached(ended)

    def _facts_of(self, index: int) -> Facts:
        """Return the job's facts as one stage has them."""
        own = self._parts[index]
        return replace(self._facts, rollout=own.rollout, overrides=own.overrides, physics=own.physics)

    def _resume_point(self, run: StageRun, stage: Stage) -> ResumePoint | None:
        """Return the checkpoint that a stage begins with, which is brought to where attempts have theirs."""
        if run.start is None:
            return None
        if stage.checkpoint is not None and run.start == stage.checkpoint.checkpoint.name:
            return replace(stage.checkpoint, iteration=run.began)
        self._file(run.start)
        file = InputFile(name=run.start, key="", sha256="", size_bytes=0)
        return ResumePoint(checkpoint=file, iteration=run.began, trusted=True)

    # --- in the end -------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Play teacher and student over the same episodes, and what a later stage made of the student."""
        runs = self.stages.runs
        distilled = [run for run in runs if run.kind == "distill"]
        if not distilled:
            return
        student = distilled[-1]
        teacher = next((run for run in runs if student.start in (run.last, run.best and run.best.name)), None)
        wanted = [("teacher", teacher, student.start), ("student", student, student.last)]
        if runs[-1] is not student:
            wanted.append(("final", runs[-1], runs[-1].last))
        contenders = [self._contender(role, run, name, (run or student).order) for role, run, name in wanted if name]
        self.stages = replace(self.stages, compared=compare(contenders, self.stages.steps))
        self._write()

    def _contender(self, role: str, run: StageRun | None, name: str, order: str | None) -> Contender:
        """Return a policy of a stage, or the teacher from outside, which the job's own agent made."""
        facts, job = self._facts_of(run.stage if run else 0), replace(self._job, stages=None)
        if run:
            job = self._job.in_stage(run.stage)
        else:
            facts = replace(facts, overrides=tuple(o for o in facts.overrides if not o.startswith("agent.")))
        return Contender(
            role=role, job=replace(job, order=order), facts=facts, stage=run.name if run else None,
            checkpoint=self._file(name),
            iteration=self._library.iteration_in_name(name),
        )  # fmt: skip

    def _file(self, name: str) -> Path:
        """Return a checkpoint where attempts have theirs, brought there if this attempt has saved it."""
        target = self._paths.inputs / name
        for made in self._paths.work.glob(self._library.checkpoint_glob):
            if made.name == name:
                shutil.copyfile(made, target)
        return target

    # --- as the library's loop sees it --------------------------------------------------------------------------------

    def made(self, env: Any) -> None:
        """Give the ranges of the stage to an environment that was just made, before its first reset."""
        widen = self._wanted[self.stages.runs[-1].stage].widen
        self._live = {path: LiveParameter(env, path) for path in (widen.parameters if widen else ())}
        if widen is not None:
            self._set(widen, self.stages.runs[-1].level)

    def _set(self, widen: Widen, level: int) -> dict[str, tuple[float, float]]:
        ranges = widen.at(level)
        for path, live in self._live.items():
            live.set(ranges[path])
        return ranges

    def begin(self, env: Any) -> None:
        """Note the environment, whose steps are counted on."""
        self._env = env
        if self._left_off is not None:
            wall, own = (after - before for before, after in zip(self._left_off, _clocks(), strict=True))
            print(f"stage {self.stages.runs[-1].name} begins {wall:.2f} s after the one before, {own:.2f} s of work")

    def iterated(self, iteration: int, metrics: Mapping[str, float], seconds: float) -> bool:
        """Judge the stage's condition by what an iteration has logged, and end the stage where it is over."""
        run = self.stages.runs[-1]
        stage = self._wanted[run.stage]
        gate, widen = stage.until, stage.widen
        self.done = iteration + 1
        self._reward = metrics.get(self._library.reward_tag, math.nan)
        steps = int(getattr(self._env, "common_step_counter", 0))
        self.stages = replace(self.stages, steps=steps, seconds=seconds)
        if gate is not None and (value := metrics.get(gate.metric)) is not None:
            self.stages = replace(self.stages, held=self.stages.held + 1 if gate.holds(value) else 0)
            self.stages = self.stages.change(value=value if math.isfinite(value) else None)

        if widen is not None:
            self._widen(widen, metrics)
            if run.level < widen.steps:  # the condition counts in the whole ranges alone
                self.stages = replace(self.stages, held=0)

        is_reached = gate is not None and self.stages.held >= gate.for_iterations
        if not is_reached and self.done < min(run.began + stage.max_iterations, self._job.last_iteration):
            return False
        if widen is not None and len(run.widened or ()) == 1:
            self._require_read()
        why = "reached" if is_reached else "over" if gate is None else "not_reached"
        self.stages = self.stages.change(ended=self.done, ended_at=now(), why=why)
        self._left_off = _clocks()
        return True

    def _widen(self, widen: Widen, metrics: Mapping[str, float]) -> None:
        """Take the next step of the ranges where the metric has held long enough, or the last one back.

        Raises:
            WorkloadError: The environment has not read them since they were set.
        """
        value, leaning = metrics.get(widen.gate.metric), self.stages.leaning
        if value is None:
            return
        leaning = max(leaning, 0) + 1 if widen.gate.holds(value) else min(leaning, 0) - 1 if widen.fell(value) else 0
        run = self.stages.runs[-1]
        change = (leaning >= widen.gate.for_iterations) - (-leaning >= widen.gate.for_iterations)
        level = min(max(run.level + change, 0), widen.steps)
        self.stages = replace(self.stages, leaning=0 if change else leaning)
        if change:
            self._require_read()
        if level != run.level:
            ranges, seen = self._set(widen, level), value if math.isfinite(value) else None
            step = WidenStep(iteration=self.done, level=level, value=seen, ranges=ranges)
            self.stages = self.stages.widen(step)
            print(f"stage {run.name}: ranges at step {level} of {widen.steps}, {widen.gate.metric} is {value:.4g}")
            self._write()

    def _require_read(self) -> None:
        unread = [path for path, live in self._live.items() if not live.is_read]
        if unread:
            raise WorkloadError(
                Failure(
                    code="not_live",
                    category=Category.USER,
                    message=f"The environment does not look at {unread[0]!r} while it runs: it cannot be widened.",
                    advice="It looked when it was made, if ever: name a parameter that it draws from at resets.",
                )
            )

    def saving(self, file: Path) -> None:
        """Write how the stages stand beside a checkpoint, before it: one without the other does not count."""
        best = self.stages.runs[-1].best
        if math.isfinite(self._reward) and (best is None or self._reward > best.reward):
            own = BestCheckpoint(name=file.name, iteration=self.done, reward=self._reward)
            self.stages = self.stages.change(best=own)
        self._newest = file.name
        self.stages = self.stages.change(last=file.name)
        write_json(stages_beside(file), self.stages.to_json())
        self._write()

    def _write(self) -> None:
        write_json(self._paths.output / STAGES.name, self.stages.to_json())


def _clocks() -> tuple[float, float]:
    """Return the time, and the processor time of this process, in seconds."""
    return time.monotonic(), time.process_time()


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
