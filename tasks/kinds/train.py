"""Training: checkpoints, and one metrics table of all attempts."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from simyard.core.artifacts import (
    CHECKPOINTS,
    CURVES,
    EVALUATIONS,
    EVENTS,
    METRICS,
    METRICS_SUMMARY,
    METRICS_TIME,
    NORMALIZER,
    STAGES,
    TRAINING_CONFIG,
    WORLD,
    promised,
)
from simyard.core.evaluations import Evaluations
from simyard.core.files import STATE_SUFFIX, AttemptPaths, superfluous_states, write_json
from simyard.core.records import CheckpointRecord, JobResult, Outcome, by_iteration
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, ResumePoint
from simyard.core.stages import MAX_BYTES, Stages, stages_beside
from simyard.runner.progress import Reader, training_reader
from simyard.runner.rl import Library, Scale, get_library
from simyard.store.store import READ_BYTES, Store, sha256_file
from simyard.tasks.attempt.transfer import AttemptUploader, mark_of
from simyard.tasks.kinds.base import Figures, Kind, lacking, read_file
from simyard.tasks.metrics.events import EventReader, Series
from simyard.tasks.metrics.table import Border, LiveMetrics, MetricsTable, draw_curves, folder_of, is_time
from simyard.tasks.shared.documents import ArtifactWriter, interval, number
from simyard.tasks.shared.evaluations import columns_of, read_evaluations, with_rewards
from simyard.tasks.shared.history import Artifact, PastAttempt, Verdict
from simyard.tasks.shared.usage import speed


class TrainingUploader(AttemptUploader):
    """Checks every checkpoint before it goes, and keeps an index of those that went; its metrics are one table."""

    def __init__(
        self, store: Store, attempt: AttemptSpec, paths: AttemptPaths, facts: Facts | None, **more: Any
    ) -> None:
        super().__init__(store, attempt, paths, facts, **more)
        self.checkpoints: list[CheckpointRecord] = []
        self._library = library = get_library(attempt.job.library)
        self._scale = scale = Scale(num_envs=attempt.job.num_envs, rollout=facts.rollout if facts else 1)
        self._metrics = LiveMetrics(paths.work / "logs", library.step_offset(attempt.start_iteration, scale), folder_of)
        self._index_is_old = False
        self._reward_is_logged = False
        self.published: tuple[CheckpointRecord, ...] = ()
        """The checkpoints that the store's index has."""
        self.evaluations: Callable[[], Evaluations | None] = lambda: None
        """Returns what was measured of them so far; its columns stand beside the metrics."""
        self._in_table: Evaluations | None = None

    def _send_all(self) -> None:
        self._send_checkpoints()
        self._send_metrics()
        super()._send_all()
        if self._index_is_old:
            # After the events: a checkpoint counts when the metrics up to it are in the store too.
            dropped = self._drop_states()
            self._store.put_json(self._keys.checkpoints, [record.to_json() for record in self.checkpoints])
            self._index_is_old = False
            self.published = tuple(self.checkpoints)
            for state in dropped:  # no index names them any more
                self._store.delete(state.key)

    def _files(self) -> Iterator[tuple[Path, str]]:
        yield from super()._files()
        for path in (self._paths.metrics, self._paths.metrics_time, self._paths.evaluations):
            yield path, path.name
        work = self._paths.work
        runs = sorted(work.glob("logs/*/*/*"), key=lambda run: run.name)
        for run in runs:
            for path in sorted(run.glob("params/*.yaml")):
                if run == runs[-1] or not self._attempt.job.stages:
                    yield path, f"params/{path.name}"
                if self._attempt.job.stages:  # each stage has its own, and those of the last one are the job's
                    yield path, f"params/{run.name}/{path.name}"
            for path in sorted(run.glob("git/*.diff")):
                yield path, f"{path.stem}_git_diff.txt"
            if self._library.normalizer_glob:
                for path in sorted(run.glob(self._library.normalizer_glob)):
                    yield path, NORMALIZER.name + path.name
            for path in sorted(run.glob("**/events.out.tfevents.*")):
                yield path, f"{EVENTS.name}{path.relative_to(work / 'logs')}"

    def _send_metrics(self) -> None:
        arrived, evaluated = self._metrics.update(), self.evaluations()
        if evaluated is not None and evaluated is not self._in_table:
            reward = self._metrics.table.columns().get(self._library.reward_tag)
            self._metrics.table.put(columns_of(evaluated, reward, self._library, self._scale))
            self._in_table, arrived = evaluated, True
        if arrived:
            stages = self._stages_in(self._paths.output / STAGES.name)
            self._metrics.table.write_csv(self._paths.metrics, _borders(stages, self._library, self._scale))
            self._metrics.table.write_time_csv(self._paths.metrics_time)
            # Some libraries print the reward, which is newer than the log; the others only log it.
            if self._reward_is_logged or self.status.reward is None:
                self.note(reward=self._metrics.latest(self._library.reward_tag))
                self._reward_is_logged = self.status.reward is not None

    def _send_checkpoints(self) -> None:
        found = self._paths.work.glob(self._library.checkpoint_glob)
        for path in sorted(found, key=lambda path: path.lstat().st_mtime_ns):
            with self._opened(path) as file:
                if file is None or self._sent.get(str(path)) == (mark := mark_of(file)):
                    continue
                with self._opened(path.with_name(path.name + STATE_SUFFIX)) as state:
                    if self._send_checkpoint(file, path, state):
                        self._sent[str(path)] = mark

    def _send_checkpoint(self, file: IO[bytes], path: Path, state: IO[bytes] | None) -> bool:
        """Send one checkpoint if it is whole. A copy is checked, hashed and sent: the original may be rewritten."""
        with tempfile.TemporaryDirectory(prefix="sending-", dir=self._paths.root) as folder:
            copy = Path(folder) / path.name
            for source, target in ((file, copy), (state, copy.with_name(path.name + STATE_SUFFIX))):
                if source is not None:
                    with target.open("xb") as opened:
                        shutil.copyfileobj(source, opened, READ_BYTES)
            return self._send_copy(copy, self._stages_in(stages_beside(path)))

    def _stages_in(self, path: Path) -> Stages | None:
        """Read how the stages of the job stand; None for a job without, and where nothing that can be read says so."""
        if self._attempt.job.stages is None:
            return None
        with self._opened(path) as file:
            return Stages.read(file.read(MAX_BYTES + 1)) if file else None

    def _send_state(self, copy: Path, name: str) -> InputFile:
        """Send the state that was written before a checkpoint."""
        sha256 = sha256_file(copy)
        key = self._keys.state(name)
        self._store.put_file(key, copy)
        return InputFile(name=name, key=key, sha256=sha256, size_bytes=copy.stat().st_size)

    def _drop_states(self) -> list[InputFile]:
        """Take the oldest states off their records, where there are too many; return those."""
        with_state = [index for index, record in enumerate(self.checkpoints) if record.state is not None]
        states = [state for record in self.checkpoints if (state := record.state) is not None]
        count = superfluous_states([state.size_bytes for state in states])
        for index in with_state[:count]:
            self.checkpoints[index] = replace(self.checkpoints[index], state=None)
        return states[:count]

    def _send_copy(self, copy: Path, stages: Stages | None) -> bool:
        if not self._library.is_complete(copy):
            return False
        if self._attempt.job.stages is not None and stages is None:
            return True  # the job could not go on from it
        start, resume = self._attempt.start_iteration, self._attempt.resume
        iteration = self._library.iteration_of(copy, start, self._scale)
        if iteration is not None and iteration <= start:
            return True  # the one that this attempt resumed from
        name = self._library.artifact_name(copy, start, self._scale)
        others = [record for record in self.checkpoints if record.name != name]
        numbered = [record for record in others if record.iteration is not None]
        resumed_from = resume.checkpoint.sha256 if resume else None
        state = copy.with_name(copy.name + STATE_SUFFIX)
        record = CheckpointRecord(
            name=name,
            key=self._keys.file(CHECKPOINTS.name + name),
            sha256=sha256_file(copy),
            size_bytes=copy.stat().st_size,
            iteration=iteration,
            parent=numbered[-1].sha256 if numbered else resumed_from,
            stages=stages,
            # In the store before the checkpoint, which counts with it; nobody goes on from one without a number.
            state=self._send_state(state, name + STATE_SUFFIX) if iteration is not None and state.exists() else None,
        )
        self._store.put_file(record.key, copy)
        self.checkpoints = by_iteration([*others, record])
        self._index_is_old = True
        return True


class TrainingKind(Kind):
    """A policy is trained."""

    name = "train"
    unit = "iteration"
    reward_name = "final reward"
    config = TRAINING_CONFIG
    uploader_type = TrainingUploader
    rebuilt = (METRICS.name, METRICS_TIME.name, CHECKPOINTS.name, EVALUATIONS.name)

    def total(self, spec: JobSpec) -> int:
        """Return the iterations the policy has seen in the end."""
        return spec.last_iteration

    def inputs(self, spec: JobSpec, resume: ResumePoint | None) -> list[InputFile]:
        """Return also the checkpoints of others, and those that stages may begin with; the state beside may be lost."""
        others = (resume.others or ()) if resume else ()
        outside = (stage.checkpoint.checkpoint for stage in spec.stages or () if stage.checkpoint)
        return [*super().inputs(spec, resume), *others, *outside]

    def reader(self, attempt: AttemptSpec, facts: Facts) -> Reader:
        """Return the reader of the library's output."""
        job = attempt.job
        scale = Scale(num_envs=job.num_envs, rollout=facts.rollout)
        return training_reader(get_library(job.library), scale, attempt.start_iteration)

    def missing(self, spec: JobSpec, outcome: Outcome, artifacts: tuple[Artifact, ...]) -> list[str]:
        """Ask for the last iteration's checkpoint, the very file that was opened, and for metrics."""
        promises = [*promised(self.name), *([WORLD.name] if spec.ranks > 1 else [])]
        problems = lacking([*promises, *([STAGES.name] if spec.stages else [])], artifacts)
        last = outcome.done if outcome.ended_early else outcome.total
        final = [a for a in artifacts if a.kind == CHECKPOINTS.kind and a.iteration == last]
        if not final:
            problems.append(f"no checkpoint of iteration {last}")
        elif outcome.opened and outcome.opened[-1].sha256 != final[-1].sha256:
            problems.append(f"{final[-1].name} is not the file that was opened")
        if not any(artifact.kind == EVENTS.kind for artifact in artifacts):
            problems.append("no metrics: the library wrote no TensorBoard events")
        return problems

    def keep(self, spec: JobSpec, verdict: Verdict, writer: ArtifactWriter) -> Figures:
        """Make metrics and curves anew, from the event files of all attempts."""
        library, scratch = get_library(spec.library), writer.scratch
        table = MetricsTable()
        seconds = 0
        for attempt, takeover in verdict.chain:
            seconds = _add_events(table, spec, library, attempt, takeover, writer, seconds)
        scale = _scale(spec, verdict)
        evaluated = _kept_evaluations(spec, verdict, table.columns().get(library.reward_tag), scale, writer)
        if evaluated is not None:
            table.put(columns_of(evaluated, table.columns().get(library.reward_tag), library, scale))
        summary = table.summary()
        if not summary:
            return Figures()
        text = read_file(writer.store, verdict.artifacts, STAGES.name) if spec.stages else None
        stages = Stages.read(text.encode()) if text else None
        borders = _borders(stages, library, Scale(num_envs=spec.num_envs, rollout=1))
        table.write_csv(scratch / METRICS.name, borders)
        writer.add(METRICS)
        if table.write_time_csv(scratch / METRICS_TIME.name):
            writer.add(METRICS_TIME)
        (scratch / METRICS_SUMMARY.name).write_text(json.dumps(summary, indent=2, allow_nan=False), encoding="utf-8")
        writer.add(METRICS_SUMMARY)
        if draw_curves(table.columns(), library.reward_tag, spec.name, scratch / CURVES.name, borders or ()):
            writer.add(CURVES)
        final = summary[library.reward_tag]["final"]["value"] if library.reward_tag in summary else None
        steps_per_s = speed(spec, verdict.chain[-1][0])
        return Figures(
            reward=None if final is None else float(final),
            metrics=summary,
            stages=stages,
            evaluations=evaluated,
            notes=(*evaluated.problems, *evaluated.warnings) if evaluated else (),
            # As of other kinds; in a library's own loop nobody times the first steps.
            summary={
                "first_steps_seconds": None,
                "environment_steps_per_second": steps_per_s and round(steps_per_s, 1),
                **({"evaluations": evaluated.to_summary()} if evaluated else {}),
            },
        )

    def headline(self, result: JobResult) -> str:
        """Return the iterations done and the final reward."""
        reward = "" if result.reward is None else f", final reward {result.reward:.2f}"
        found = (result.summary or {}).get("evaluations")
        if not found:
            return f"{result.done} of {result.total} iterations{reward}"
        value = f"{number(found['value'])} {interval(found['interval_95'])}"
        best = f", best {found['metric'].replace('_', ' ')} {value} at iteration {found['iteration']}"
        return f"{result.done} of {result.total} iterations{reward}{best}"


def _scale(spec: JobSpec, verdict: Verdict) -> Scale:
    """Return the scale of a training, as its newest attempt knows it."""
    known = [attempt.facts for attempt, _ in verdict.chain if attempt.facts]
    return Scale(num_envs=spec.num_envs, rollout=known[-1].rollout if known else 1)


def _kept_evaluations(
    spec: JobSpec, verdict: Verdict, reward: Series | None, scale: Scale, writer: ArtifactWriter
) -> Evaluations | None:
    """Keep the evaluations as the last attempt left them, with the rewards beside them; None where there are none."""
    if not verdict.chain or (spec.evaluate_every is None and not spec.reward_audit):
        return None
    key = verdict.chain[-1][0].keys.file(EVALUATIONS.name)
    found = read_evaluations(writer.store, key)
    if found is None:
        return None
    found = with_rewards(found, reward, get_library(spec.library), scale)
    write_json(writer.scratch / EVALUATIONS.name, found.to_json())
    writer.add(EVALUATIONS)
    return found


def _borders(stages: Stages | None, library: Library, scale: Scale) -> list[Border] | None:
    """Return where the stages of a job begin, in steps of its reward."""
    if stages is None:
        return None
    return [Border(library.first_step(library.reward_tag, run.began, scale), run.name) for run in stages.runs]


def _add_events(
    table: MetricsTable,
    spec: JobSpec,
    library: Library,
    attempt: PastAttempt,
    takeover: int | None,
    writer: ArtifactWriter,
    seconds: int,
) -> int:
    """Add the events of an attempt, up to the iteration at which a later one took over.

    Args:
        table: Where to.
        spec: The job.
        library: Its library.
        attempt: The attempt.
        takeover: That iteration; None for the last attempt.
        writer: Reads each object once.
        seconds: Of the job before this attempt, on the axis of the tags that count them.

    Returns:
        The seconds after it.
    """
    if attempt.facts is None:
        return seconds
    latest = seconds
    scale = Scale(num_envs=spec.num_envs, rollout=attempt.facts.rollout)
    offset = library.step_offset(attempt.status.start_iteration if attempt.status else 0, scale)
    prefix = attempt.keys.file(EVENTS.name.removesuffix("/"))
    for entry in writer.store.list(prefix):
        new = EventReader(writer.fetch(entry.key)).read_new()
        if takeover is not None:
            new = _until(new, {tag: library.first_step(tag, takeover, scale) - offset for tag in new})
        folder = folder_of(entry.key.removeprefix(prefix + "/").split("/")[:-1])
        table.add(folder, new, offset, seconds)
        seen = (step for tag, series in new.items() if is_time(tag) for step in series.steps)
        latest = max(latest, seconds + max(seen, default=0))
    return latest


def _until(events: dict[str, Series], first_steps: dict[str, int]) -> dict[str, Series]:
    """Return the events before those that a later attempt wrote again.

    Tags that count seconds say nothing of iterations: of theirs those are kept that were written before the first
    scalar that is not.
    """
    kept = {tag: series.before(first_steps[tag]) for tag, series in events.items() if not is_time(tag)}
    dropped = (
        wall
        for tag in kept
        for step, wall in zip(events[tag].steps, events[tag].walls, strict=True)
        if step >= first_steps[tag]
    )
    until = min(dropped, default=math.inf)
    return kept | {tag: series.written_before(until) for tag, series in events.items() if is_time(tag)}
