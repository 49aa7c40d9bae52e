"""One call of a trainer, on the machine that has the simulators: lay out, run, judge, keep, say how it ended."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.errors import Category, Failure, SimyardError, StoreError, WorkloadError
from simyard.core.records import Heartbeat, TrainerOutcome, ended, this_process
from simyard.core.specs import InputFile
from simyard.core.wire import Wire
from simyard.requests.managed import LOCAL, TrainerSpec, fill_in
from simyard.requests.settings import Site
from simyard.store.backend import on_disk
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.attempt.transfer import readable_lines
from simyard.tasks.managed.dataset import MANIFEST, bring, iteration_id
from simyard.tasks.managed.engines.base import INPUT, OUTPUT, STDERR, STDOUT, Engine, Exit, TrainerCall
from simyard.tasks.managed.engines.container import ContainerEngine
from simyard.tasks.managed.engines.local import LocalEngine, find_program
from simyard.tasks.managed.run import RunSpec, now
from simyard.tasks.shared import inputs
from simyard.tasks.shared.heartbeat import HeartbeatWriter
from simyard.tasks.shared.inputs import find_input

CHECKPOINT, CHECKPOINT_URI, METRICS = "checkpoint.pt", "checkpoint_out_uri.txt", "metrics.json"
"""Files that a trainer leaves: one of the first two, and the third."""
MAX_METRICS_BYTES = 1_000_000
POLL_S = 0.05
MIRROR_S = 5.0
"""Seconds by which the logs in the store may lag behind."""
GRACE_S = 10.0
"""From asking a trainer to end to killing it."""
TAIL_LINES = 20


@dataclass(frozen=True, kw_only=True)
class TrainerAttempt(Wire):
    """One call: which, of what."""

    run_id: str
    iteration: int
    number: int
    """Counted from 1 in its iteration."""
    dataset_sha256: str
    checkpoint: InputFile | None
    """Checkpoint that it goes on from; None for none."""

    @property
    def name(self) -> str:
        """The name of its process or container."""
        return f"simyard-{self.run_id}-{self.iteration}-{self.number}"

    def key(self, name: str) -> str:
        """The key of something that it leaves in the store."""
        return RunKeys(self.run_id).iteration(self.iteration).trainer_file(self.number, name)


@dataclass(frozen=True, kw_only=True)
class TrainerStatus(Heartbeat):
    """The heartbeat of a call, `status.json` below its key."""

    attempt: TrainerAttempt


@dataclass(frozen=True, kw_only=True)
class TrainerObserver:
    """Callbacks of a call while it runs."""

    lines: Callable[[list[str]], None] = lambda lines: None
    stopped: Callable[[], Failure | None] = lambda: None
    """Returns the failure that ends the call now; None while it may go on."""


def engine_for(trainer: TrainerSpec, site: Site) -> Engine:
    """Return the engine that runs this trainer."""
    return LocalEngine(site) if trainer.image_uri == LOCAL else ContainerEngine()


def check_trainer(run: RunSpec, site: Site) -> None:
    """Check on this machine, before the first rollout, that the trainer could be called.

    Raises:
        RequestError: If its image, its program or its GPUs are not there.
    """
    trainer = run.asked.trainer_spec
    engine_for(trainer, site).require(trainer.image_uri, trainer.resources.gpu)
    if trainer.image_uri == LOCAL:
        find_program(trainer.program, Path(run.folder), site.python)


def run_trainer(attempt: TrainerAttempt, run: RunSpec, store: Store, site: Site, observer: TrainerObserver) -> None:
    """Call the trainer, and write how that ended; a success means that its output is in the store.

    Raises:
        WorkloadError: If it failed; the outcome says so too.
        BaseException: What interrupted it; the trainer was ended.
    """
    call = _Call(attempt, run, store, site, observer)
    failure: Failure | None = None
    metrics: dict[str, Any] | None = None
    checkpoint: InputFile | None = None
    try:
        metrics, checkpoint = call.run()
    except SimyardError as error:
        failure = error.failure
    finally:
        call.close()
    call.carry_logs()
    outcome = TrainerOutcome(
        number=attempt.number,
        status=ended(failure),
        failure=failure,
        dataset_sha256=attempt.dataset_sha256,
        seconds=round(call.seconds, 3),
        gpu_seconds=round(call.seconds * run.asked.trainer_spec.resources.gpu, 3),
        ended_at=now(),
        tail=tuple(call.tail) if failure else (),
        metrics=metrics,
        checkpoint=checkpoint,
    )
    store.put_record(attempt.key("outcome.json"), outcome)
    call.clean_up()
    if failure is not None:
        raise WorkloadError(failure)


def outcome_of(attempt: TrainerAttempt, store: Store) -> TrainerOutcome | None:
    """Return the outcome of a call; None for one that has not ended."""
    return store.get_record_or_none(attempt.key("outcome.json"), TrainerOutcome)


def past_calls(store: Store, run_id: str, iteration: int) -> list[int]:
    """Return the numbers of the calls of the trainer that were begun in an iteration, in order."""
    return sorted(int(name) for name in store.list_dirs(RunKeys(run_id).iteration(iteration).trainer))


def past_outcomes(store: Store, run_id: str, iteration: int) -> list[TrainerOutcome]:
    """Return the outcomes of those calls that have ended, in order."""
    keys = RunKeys(run_id).iteration(iteration)
    calls = past_calls(store, run_id, iteration)
    found = (store.get_record_or_none(keys.trainer_file(call, "outcome.json"), TrainerOutcome) for call in calls)
    return [outcome for outcome in found if outcome is not None]


class _Call:
    """A call in progress."""

    def __init__(
        self, attempt: TrainerAttempt, run: RunSpec, store: Store, site: Site, observer: TrainerObserver
    ) -> None:
        self.seconds = 0.0
        """Of the trainer's own process."""
        self.tail: list[str] = []
        """The last lines it printed."""
        self._attempt = attempt
        self._run = run
        self._trainer = run.asked.trainer_spec
        self._store = store
        self._observer = observer
        self._engine = engine_for(self._trainer, site)
        beat = TrainerStatus(attempt=attempt, **this_process())
        self._heartbeat = HeartbeatWriter(store, attempt.key("status.json"), lambda: beat, MIRROR_S)
        self._folder = site.home / "work" / run.run_id / f"{attempt.iteration}-{attempt.number}"
        self._read: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._carried = 0.0

    def run(self) -> tuple[dict[str, Any], InputFile]:
        """Lay everything out, run the trainer to its end, and keep what it left: its metrics and its checkpoint.

        Raises:
            SimyardError: If it failed, or could not be begun.
        """
        self._heartbeat.write()
        call = self._prepare()
        began = time.monotonic()
        running = self._engine.start(call)
        try:
            while (ended := running.poll()) is None:
                self._follow()
                self._require_time(began)
                time.sleep(POLL_S)
        finally:
            self.seconds = time.monotonic() - began
            running.end(GRACE_S)
            self._follow()
        _require_success(ended)
        return self._keep()

    def close(self) -> None:
        """Leave nothing running."""
        self._engine.sweep(self._attempt.name)

    def carry_logs(self) -> None:
        """Bring the logs to the store as they are now."""
        self._carried = time.monotonic()
        for name in (STDOUT, STDERR):
            path = self._folder / name
            if path.exists() and (size := path.stat().st_size) != self._sent.get(name):
                self._store.put_file(self._attempt.key(name), path)
                self._sent[name] = size

    def clean_up(self) -> None:
        """Remove the call's folder, with its files in the store by now."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            self._folder.parent.rmdir()

    def _prepare(self) -> TrainerCall:
        attempt, trainer = self._attempt, self._trainer
        self._engine.sweep(attempt.name)
        shutil.rmtree(self._folder, ignore_errors=True)  # of a process that was killed
        for name in (INPUT, OUTPUT):
            (self._folder / name).mkdir(parents=True)
        checkpoint = bring(
            attempt.run_id, attempt.dataset_sha256, attempt.checkpoint, self._folder / INPUT, self._store
        )
        seen, output = self._engine.seen(self._folder)
        shown = f"{seen}/{checkpoint.name}" if checkpoint else ""
        values = {
            "dataset_manifest_path": f"{seen}/{MANIFEST}",
            "output_dir": output,
            "checkpoint_in_uri": Path(shown).as_uri() if shown else "",
            "checkpoint_in_path": shown,
            "run_id": attempt.run_id,
            "iteration_id": iteration_id(attempt.iteration),
            "iteration": str(attempt.iteration),
            "seed": str(self._run.asked.rollout_template.seed + attempt.iteration),
        }
        return TrainerCall(
            name=attempt.name,
            image=trainer.image_uri,
            argv=(*trainer.program, *(fill_in(text, values) for text in trainer.args_template)),
            own_entrypoint=not trainer.program,
            env={name: fill_in(text, values) for name, text in trainer.env.items()},
            folder=self._folder,
            work=Path(self._run.folder),
            gpus=trainer.resources.gpu,
            cpus=trainer.resources.cpu,
            memory_bytes=int(trainer.resources.memory_gb * 1e9),
        )

    def _require_time(self, began: float) -> None:
        """Raise `WorkloadError` for a trainer that must end now."""
        if failure := self._observer.stopped():
            raise WorkloadError(failure)
        if time.monotonic() - began > self._trainer.timeout_seconds:
            raise WorkloadError(
                Failure(
                    code="wall_clock_limit",
                    category=Category.USER,
                    message=f"The trainer was not done after {self._trainer.timeout_seconds:.0f} s.",
                    advice="Raise trainer_spec.timeout_seconds, or do less in an iteration.",
                )
            )

    def _follow(self) -> None:
        """Pass new lines on, and bring the logs to the store now and then."""
        for name in (STDOUT, STDERR):
            path = self._folder / name
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._read.get(name, 0))
                data = file.read()
            whole = data.rfind(b"\n") + 1
            self._read[name] = self._read.get(name, 0) + whole
            if lines := readable_lines(data[:whole]):
                self.tail = [*self.tail, *lines][-TAIL_LINES:]
                self._observer.lines(lines)
        if time.monotonic() - self._carried > MIRROR_S:
            with suppress(StoreError):  # the next round, or the end, tries again
                self.carry_logs()
                self._heartbeat.write()

    def _keep(self) -> tuple[dict[str, Any], InputFile]:
        """Judge the output, put it into the store, and return its metrics and its checkpoint.

        Raises:
            WorkloadError: If it is not what was promised.
        """
        output = self._folder / OUTPUT
        metrics = read_metrics(output / METRICS)
        path = self._checkpoint(output)
        self._store.put_json(self._attempt.key(METRICS), metrics)
        about = {"run_id": self._attempt.run_id, "iteration": self._attempt.iteration}
        record = inputs.upload(self._store, path, "checkpoint", about)
        return metrics, inputs.asset_file(record)

    def _checkpoint(self, output: Path) -> Path:
        """Return the one checkpoint that the trainer left, on this machine and under its usual name."""
        file, address = output / CHECKPOINT, output / CHECKPOINT_URI
        there = [path.name for path in (file, address) if os.path.lexists(path)]
        if len(there) != 1:
            raise _broken(f"It left {' and '.join(there) or 'no checkpoint'}.", _ONE_CHECKPOINT)
        if there == [CHECKPOINT]:
            _require_plain(file)
            return file
        _require_plain(address)
        lines = address.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) != 1:
            raise _broken(f"{CHECKPOINT_URI} holds {len(lines)} words, not one address.", _ONE_CHECKPOINT)
        found = find_input(lines[0], self._folder / OUTPUT, CHECKPOINT_URI).path
        copy = self._folder / CHECKPOINT
        with on_disk("read", found):
            shutil.copyfile(found, copy)
        _require_plain(copy)
        return copy


_ONE_CHECKPOINT = f"Each call must leave exactly one of {CHECKPOINT} and {CHECKPOINT_URI} in the output folder."


def read_metrics(path: Path) -> dict[str, Any]:
    """Return a trainer's metrics.

    Raises:
        WorkloadError: If it is no JSON object, or one of its numbers is not finite.
    """
    advice = f"Write an object of finite numbers to {METRICS}, and leave out what was not measured."
    if not os.path.lexists(path):
        raise _broken(f"It left no {METRICS}.", advice)
    _require_plain(path)
    if path.stat().st_size > MAX_METRICS_BYTES:
        raise _broken(f"{METRICS} has {path.stat().st_size:,} bytes.", f"Allowed: {MAX_METRICS_BYTES:,}.")
    try:
        metrics = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _broken(f"{METRICS} is not valid JSON: {error}.", advice) from error
    if not isinstance(metrics, dict):
        raise _broken(f"{METRICS} holds {type(metrics).__name__}, not an object.", advice)
    for name, value in _numbers("", metrics):
        if not math.isfinite(value):
            raise _broken(f"{METRICS}: {name} is {value}.", advice)
    return metrics


def _numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(f"{path}.{name}" if path else name, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(f"{path}[{index}]", item)
    elif isinstance(value, float):
        yield path, value


def _require_plain(path: Path) -> None:
    """Refuse anything but a regular file that is not empty; a link could name any file of this machine."""
    if path.is_symlink() or not path.is_file():
        raise _broken(f"{path.name} is no regular file.", "Write it into the output folder itself.")
    if path.stat().st_size == 0:
        raise _broken(f"{path.name} is empty.", "Close it before the program ends.")


def _require_success(ended: Exit) -> None:
    """Raise for an end that is none of a program that did its work."""
    if ended.out_of_memory:
        raise WorkloadError(
            Failure(
                code="out_of_memory",
                category=Category.RESOURCE,
                message="The trainer took more memory than trainer_spec.resources.memory_gb.",
                advice="Raise it, or load less at a time.",
            )
        )
    if ended.signal:
        raise WorkloadError(
            Failure(
                code="killed",
                category=Category.INFRA,
                message=f"The trainer was ended by {ended.signal}.",
                advice="SIGKILL from outside is often the machine's memory limit.",
            )
        )
    if ended.code:
        raise _broken(f"It ended with exit code {ended.code}.", "What it printed last is in the outcome's `tail`.")


def _broken(message: str, advice: str) -> WorkloadError:
    return WorkloadError(
        Failure(code="trainer_failed", category=Category.USER, message=f"The trainer failed: {message}", advice=advice)
    )
