"""The way of a training to the store: also its checkpoints, and its metrics as one table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from simyard.core.artifacts import CHECKPOINTS, EVENTS, NORMALIZER
from simyard.core.files import AttemptPaths
from simyard.core.records import CheckpointRecord, by_iteration
from simyard.core.specs import AttemptSpec
from simyard.runner.rl import Library, Scale
from simyard.store.store import Store, sha256_file
from simyard.tasks.attempt.uploader import Mirror
from simyard.tasks.metrics.table import LiveMetrics


class TrainingMirror(Mirror):
    """Checks every checkpoint before it goes, and keeps an index of those that went."""

    def __init__(
        self,
        store: Store,
        attempt: AttemptSpec,
        paths: AttemptPaths,
        library: Library,
        scale: Scale,
        *,
        on_lines: Callable[[list[str]], None],
    ) -> None:
        super().__init__(store, attempt, paths, unit="iteration", total=attempt.job.last_iteration, on_lines=on_lines)
        self.checkpoints: list[CheckpointRecord] = []
        self._library = library
        self._scale = scale
        self._metrics = LiveMetrics(
            paths.work / "logs", step_offset=library.step_offset(attempt.start_iteration, scale)
        )
        self._index_is_old = False
        self._reward_is_logged = False

    def _carry_all(self) -> None:
        self._carry_checkpoints()
        self._carry_metrics()
        super()._carry_all()
        if self._index_is_old:
            # After the events: a checkpoint counts when the metrics up to it are in the store too.
            self._store.put_json(self._keys.checkpoints, [record.to_json() for record in self.checkpoints])
            self._index_is_old = False

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

    def _carry_metrics(self) -> None:
        if self._metrics.update():
            self._metrics.table.write_csv(self._paths.metrics)
            self._metrics.table.write_time_csv(self._paths.metrics_time)
            # Some libraries print the reward, which is newer than the log; the others only log it.
            if self._reward_is_logged or self.status.reward is None:
                self.note(reward=self._metrics.latest(self._library.reward_tag))
                self._reward_is_logged = self.status.reward is not None

    def _carry_checkpoints(self) -> None:
        for path in sorted(
            self._paths.work.glob(self._library.checkpoint_glob), key=lambda found: found.stat().st_mtime_ns
        ):
            now = path.stat()
            mark = (now.st_size, now.st_mtime_ns)
            if self._sent.get(path) != mark and self._carry_checkpoint(path):
                self._sent[path] = mark

    def _carry_checkpoint(self, path: Path) -> bool:
        """Send one checkpoint if it is whole. A copy is checked, hashed and sent: the original may be rewritten."""
        copy = self._paths.root / "sending" / path.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
        try:
            if not self._library.is_complete(copy):
                return False
            start = self._attempt.start_iteration
            iteration = self._library.iteration_of(copy, start, self._scale)
            if iteration is not None and iteration <= start:
                return True  # the one this attempt took up
            name = self._library.artifact_name(copy, start, self._scale)
            key = self._keys.file(CHECKPOINTS.name + name)
            digest = sha256_file(copy)
            self._store.put_file(key, copy)
            self._remember(name, key, digest, copy.stat().st_size, iteration)
            self._index_is_old = True
            return True
        finally:
            copy.unlink()

    def _remember(self, name: str, key: str, digest: str, size: int, iteration: int | None) -> None:
        others = [record for record in self.checkpoints if record.name != name]
        numbered = [record for record in others if record.iteration is not None]
        taken_up = self._attempt.resume.checkpoint.sha256 if self._attempt.resume else None
        record = CheckpointRecord(
            name=name, key=key, sha256=digest, size_bytes=size, iteration=iteration,
            parent=numbered[-1].sha256 if numbered else taken_up,
        )  # fmt: skip
        self.checkpoints = by_iteration([*others, record])
