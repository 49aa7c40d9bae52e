"""Carries what an attempt produces to the store while it runs: checkpoints, metrics, logs and a heartbeat."""

from __future__ import annotations

import os
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simyard.runner.errors import SimyardError, StoreError
from simyard.runner.libraries import Library, Scale
from simyard.runner.metrics import LiveMetrics
from simyard.runner.opened import is_complete
from simyard.runner.paths import AttemptPaths
from simyard.runner.spec import AttemptSpec
from simyard.store.keys import AttemptKeys, JobKeys
from simyard.store.store import Store, sha256_file

_STYLING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_DECORATION = re.compile(r"[\s\u2580-\u259f#=_-]*")
"""Lines of nothing but blocks and rules: a terminal's logo and separators are noise in a log."""

INTERVAL_S = 5.0
"""How far the store may lie behind, plus the time of one upload."""


class Mirror:
    """One attempt's way to the store. Everything is written whole; nothing below the attempt has a second writer."""

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
        self.status: dict[str, Any] = {
            "status": "running",
            "stage": "starting",
            "start_iteration": attempt.start_iteration,
            "iteration": attempt.start_iteration,
            "last_iteration": attempt.job.last_iteration,
            "reward": None,
            "host": platform.node(),
            "pid": os.getpid(),
        }
        self.cancel_requested = threading.Event()
        self.checkpoints: list[dict[str, Any]] = []
        self.problem: SimyardError | None = None
        """The last failed upload, until one succeeds."""
        self._store = store
        self._job = JobKeys(attempt.job.job_id)
        self._keys: AttemptKeys = self._job.attempt(attempt.number)
        self._attempt = attempt
        self._paths = paths
        self._library = library
        self._scale = scale
        self._metrics = LiveMetrics(
            paths.work / "logs", step_offset=library.step_offset(attempt.start_iteration, scale)
        )
        self._sent: dict[Path, tuple[int, int]] = {}
        self._index_is_old = False
        self._reward_is_logged = False
        self._on_lines = on_lines
        self._log_offset = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin to carry, every few seconds, on a thread of its own: a slow store never slows the simulation."""
        self._sync()
        self._thread.start()

    def finish(self) -> None:
        """Stop the thread and carry what is left.

        Raises:
            SimyardError: If the store still cannot be written.
        """
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._sync()
        if self.problem:
            raise self.problem

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._sync()

    def beat(self) -> None:
        """Write the heartbeat and look for a request to stop."""
        self._try(self._beat)

    def _sync(self) -> None:
        self._try(self._carry_all, self._beat)

    def _try(self, *steps: Callable[[], None]) -> None:
        try:
            for step in steps:
                step()
            self.problem = None
        # The next round tries again: a store that is away for a minute, or a file that vanished, loses nothing.
        except SimyardError as error:
            self.problem = error
        except OSError as error:
            self.problem = StoreError(f"Cannot read what the attempt left: {error}.", code="unreadable")

    def _carry_all(self) -> None:
        self._carry_checkpoints()
        self._carry_metrics()
        for path, name in self._files():
            self._carry(path, name)
        if self._index_is_old:
            # After the events: a checkpoint counts when the metrics up to it are in the store too.
            self._store.put_json(self._keys.checkpoints, self.checkpoints)
            self._index_is_old = False
        self._forward_log()

    def _beat(self) -> None:
        self.status["updated_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        self._store.put_json(self._keys.status, self.status)
        if self._store.exists(self._job.cancel):
            self.cancel_requested.set()

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Yield everything but checkpoints, with its artifact name."""
        root, work = self._paths, self._paths.work
        for path in (
            root.runner_log,
            root.stdout,
            root.stderr,
            root.metrics,
            root.metrics_time,
            root.telemetry,
            root.diagnostics,
        ):
            yield path, path.name
        yield root.versions, root.versions.name
        for run in work.glob("logs/*/*/*"):
            for path in sorted(run.glob("params/*.yaml")):
                yield path, f"params/{path.name}"
            for path in sorted(run.glob("git/*.diff")):
                yield path, f"{path.stem}_git_diff.txt"
            for path in sorted(run.glob("**/events.out.tfevents.*")):
                yield path, f"events/{path.relative_to(work / 'logs')}"

    def _carry(self, path: Path, name: str) -> None:
        try:
            now = path.stat()
        except FileNotFoundError:
            return
        mark = (now.st_size, now.st_mtime_ns)
        if self._sent.get(path) != mark:
            self._store.put_file(self._keys.file(name), path)
            self._sent[path] = mark

    def _carry_metrics(self) -> None:
        if self._metrics.update():
            self._metrics.table.write_csv(self._paths.metrics)
            self._metrics.table.write_time_csv(self._paths.metrics_time)
            # Some libraries print the reward, which is newer than the log; the others only log it.
            if self._reward_is_logged or self.status["reward"] is None:
                self.status["reward"] = self._metrics.latest(self._library.reward_tag)
                self._reward_is_logged = self.status["reward"] is not None

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
            if not is_complete(copy):
                return False
            start = self._attempt.start_iteration
            iteration = self._library.iteration_of(copy, start, self._scale)
            if iteration is not None and iteration <= start:
                return True  # the one this attempt took up
            name = self._library.artifact_name(copy, start, self._scale)
            key = self._keys.file(f"checkpoints/{name}")
            digest = sha256_file(copy)
            self._store.put_file(key, copy)
            self._remember(name, key, digest, copy.stat().st_size, iteration)
            self._index_is_old = True
            return True
        finally:
            copy.unlink()

    def _remember(self, name: str, key: str, digest: str, size: int, iteration: int | None) -> None:
        others = [record for record in self.checkpoints if record["name"] != name]
        numbered = [record for record in others if record["iteration"] is not None]
        taken_up = self._attempt.resume.checkpoint.sha256 if self._attempt.resume else None
        record = {
            "name": name,
            "key": key,
            "sha256": digest,
            "size_bytes": size,
            "iteration": iteration,
            "parent": numbered[-1]["sha256"] if numbered else taken_up,
        }
        # In order of iterations, and within one as they came; those without a number (the best so far) last.
        self.checkpoints = sorted([*others, record], key=lambda r: (r["iteration"] is None, r["iteration"] or 0))

    def _forward_log(self) -> None:
        """Hand new lines of output on, in one batch a round."""
        if not self._paths.stdout.exists():
            return
        with self._paths.stdout.open("rb") as file:
            file.seek(self._log_offset)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._log_offset += whole
        lines = [
            _STYLING.sub("", line).rstrip() for line in data[:whole].decode("utf-8", errors="replace").splitlines()
        ]
        if lines := [line for line in lines if line and not _DECORATION.fullmatch(line)]:
            self._on_lines(lines)
