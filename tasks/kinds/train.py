"""Training: checkpoints, and one metrics table of all attempts."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from simyard.core.artifacts import (
    CHECKPOINTS,
    CURVES,
    EVENTS,
    METRICS,
    METRICS_SUMMARY,
    METRICS_TIME,
    NORMALIZER,
    TRAINING_CONFIG,
    WORLD,
    promised,
)
from simyard.core.files import STATE_SUFFIX, AttemptPaths, superfluous_states
from simyard.core.records import CheckpointRecord, JobResult, Outcome, by_iteration
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, ResumePoint
from simyard.runner.progress import Reader, training_reader
from simyard.runner.rl import Library, Scale, get_library
from simyard.store.store import READ_BYTES, Store, sha256_file
from simyard.tasks.attempt.transfer import AttemptUploader, mark_of
from simyard.tasks.kinds.base import Figures, Kind, lacking
from simyard.tasks.metrics.events import EventReader, Series
from simyard.tasks.metrics.table import LiveMetrics, MetricsTable, draw_curves, is_time
from simyard.tasks.shared.documents import ArtifactWriter
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
        self._metrics = LiveMetrics(
            paths.work / "logs", step_offset=library.step_offset(attempt.start_iteration, scale)
        )
        self._index_is_old = False
        self._reward_is_logged = False

    def _send_all(self) -> None:
        self._send_checkpoints()
        self._send_metrics()
        super()._send_all()
        if self._index_is_old:
            # After the events: a checkpoint counts when the metrics up to it are in the store too.
            dropped = self._drop_states()
            self._store.put_json(self._keys.checkpoints, [record.to_json() for record in self.checkpoints])
            self._index_is_old = False
            for state in dropped:  # no index names them any more
                self._store.delete(state.key)

    def _files(self) -> Iterator[tuple[Path, str]]:
        yield from super()._files()
        for path in (self._paths.metrics, self._paths.metrics_time):
            yield path, path.name
        work = self._paths.work
        for run in work.glob("logs/*/*/*"):
            for path in sorted(run.glob("params/*.yaml")):
                yield path, f"params/{path.name}"
            for path in sorted(run.glob("git/*.diff")):
                yield path, f"{path.stem}_git_diff.txt"
            if self._library.normalizer_glob:
                for path in sorted(run.glob(self._library.normalizer_glob)):
                    yield path, NORMALIZER.name + path.name
            for path in sorted(run.glob("**/events.out.tfevents.*")):
                yield path, f"{EVENTS.name}{path.relative_to(work / 'logs')}"

    def _send_metrics(self) -> None:
        if self._metrics.update():
            self._metrics.table.write_csv(self._paths.metrics)
            self._metrics.table.write_time_csv(self._paths.metrics_time)
            # Some libraries print the reward, which is newer than the log; the others only log it.
            if self._reward_is_logged or self.status.reward is None:
                self.note(reward=self._metrics.latest(self._library.reward_tag))
                self._reward_is_logged = self.status.reward is not None

    def _send_checkpoints(self) -> None:
        found = self._paths.work.glob(self._library.checkpoint_glob)
        for path in sorted(found, key=lambda path: path.lstat().st_mtime_ns):
            with self._opened(path) as file:
                if file is None or self._sent.get(path) == (mark := mark_of(file)):
                    continue
                with self._opened(path.with_name(path.name + STATE_SUFFIX)) as state:
                    if self._send_checkpoint(file, path.name, state):
                        self._sent[path] = mark

    def _send_checkpoint(self, file: IO[bytes], name: str, state: IO[bytes] | None) -> bool:
        """Send one checkpoint if it is whole. A copy is checked, hashed and sent: the original may be rewritten."""
        with tempfile.TemporaryDirectory(prefix="sending-", dir=self._paths.root) as folder:
            copy = Path(folder) / name
            for source, path in ((file, copy), (state, copy.with_name(name + STATE_SUFFIX))):
                if source is not None:
                    with path.open("xb") as target:
                        shutil.copyfileobj(source, target, READ_BYTES)
            return self._send_copy(copy)

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

    def _send_copy(self, copy: Path) -> bool:
        if not self._library.is_complete(copy):
            return False
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
    rebuilt = (METRICS.name, METRICS_TIME.name, CHECKPOINTS.name)

    def total(self, spec: JobSpec) -> int:
        """Return the iterations the policy has seen in the end."""
        return spec.last_iteration

    def inputs(self, spec: JobSpec, resume: ResumePoint | None) -> list[InputFile]:
        """Return the checkpoint to resume from; the state beside it may be lost."""
        return [resume.checkpoint] if resume else []

    def reader(self, attempt: AttemptSpec, facts: Facts) -> Reader:
        """Return the reader of the library's output."""
        job = attempt.job
        scale = Scale(num_envs=job.num_envs, rollout=facts.rollout)
        return training_reader(get_library(job.library), scale, attempt.start_iteration)

    def missing(self, spec: JobSpec, outcome: Outcome, artifacts: tuple[Artifact, ...]) -> list[str]:
        """Ask for the last iteration's checkpoint, the very file that was opened, and for metrics."""
        problems = lacking((*promised(self.name), *([WORLD.name] if spec.ranks > 1 else [])), artifacts)
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
        summary = table.summary()
        if not summary:
            return Figures()
        table.write_csv(scratch / METRICS.name)
        writer.add(METRICS)
        if table.write_time_csv(scratch / METRICS_TIME.name):
            writer.add(METRICS_TIME)
        (scratch / METRICS_SUMMARY.name).write_text(json.dumps(summary, indent=2, allow_nan=False), encoding="utf-8")
        writer.add(METRICS_SUMMARY)
        if draw_curves(table.columns(), library.reward_tag, spec.name, scratch / CURVES.name):
            writer.add(CURVES)
        final = summary[library.reward_tag]["final"]["value"] if library.reward_tag in summary else None
        steps_per_s = speed(spec, verdict.chain[-1][0])
        return Figures(
            reward=None if final is None else float(final),
            metrics=summary,
            # As of other kinds; in a library's own loop nobody times the first steps.
            summary={
                "first_steps_seconds": None,
                "environment_steps_per_second": steps_per_s and round(steps_per_s, 1),
            },
        )

    def headline(self, result: JobResult) -> str:
        """Return the iterations done and the final reward."""
        reward = "" if result.reward is None else f", final reward {result.reward:.2f}"
        return f"{result.done} of {result.total} iterations{reward}"


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
        # One folder a job, whatever each attempt called its run: the tags keep their names.
        # `rsl_rl/cartpole/2026-01-01_10-00-00/rank_1` becomes `rsl_rl/rank_1`.
        folder = entry.key.removeprefix(prefix + "/").split("/")[:-1]
        table.add("/".join(folder[:1] + folder[3:]), new, offset, seconds)
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
