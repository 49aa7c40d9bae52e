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
from simyard.core.records import ended, this_process
from simyard.core.run_records import TrainerAttempt, TrainerOutcome, TrainerStatus
from simyard.core.specs import InputFile
from simyard.requests.managed import LOCAL, TrainerSpec, fill_in
from simyard.requests.settings import MachineSettings
from simyard.store.backend import on_disk
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.dataset import MANIFEST, fetch_dataset, iteration_id
from simyard.tasks.managed.engines.base import INPUT, OUTPUT, STDERR, STDOUT, Engine, Exit, TrainerCall
from simyard.tasks.managed.engines.container import ContainerEngine
from simyard.tasks.managed.engines.local import LocalEngine, find_program
from simyard.tasks.managed.run import RunSpec, now
from simyard.tasks.shared import inputs
from simyard.tasks.shared.heartbeat import HeartbeatWriter
from simyard.tasks.shared.inputs import find_input
from simyard.tasks.shared.logs import GrowingLog

CHECKPOINT, CHECKPOINT_URI, METRICS = "checkpoint.pt", "checkpoint_out_uri.txt", "metrics.json"
"""Files that a trainer leaves: one of the first two, and the third."""
MAX_METRICS_BYTES = 1_000_000
POLL_S = 0.05
UPLOAD_S = 5.0
"""Seconds by which the logs in the store may lag behind."""
GRACE_S = 10.0
"""From asking a trainer to end to killing it."""
TAIL_LINES = 20


@dataclass(frozen=True, kw_only=True)
class TrainerObserver:
    """Callbacks of a call while it runs."""

    lines: Callable[[list[str]], None] = lambda lines: None
    stopped: Callable[[], Failure | None] = lambda: None
    """Returns the failure that ends the call now; None while it may go on."""


def call_key(attempt: TrainerAttempt, name: str) -> str:
    """Return the key of something that a call leaves in the store."""
    return RunKeys(attempt.run_id).iteration(attempt.iteration).trainer_file(attempt.number, name)


def engine_for(trainer: TrainerSpec, machine: MachineSettings) -> Engine:
    """Return the engine that runs this trainer."""
    return LocalEngine(machine) if trainer.image_uri == LOCAL else ContainerEngine()


def check_trainer(run: RunSpec, machine: MachineSettings) -> None:
    """Check on this machine, before the first rollout, that the trainer could be called.

    Raises:
        RequestError: If its image, its program or its GPUs are not there.
    """
    trainer = run.asked.trainer_spec
    engine_for(trainer, machine).require(trainer.image_uri, trainer.resources.gpu)
    if trainer.image_uri == LOCAL:
        find_program(trainer.program, Path(run.folder), machine.python)


def run_trainer(
    attempt: TrainerAttempt, run: RunSpec, store: Store, machine: MachineSettings, observer: TrainerObserver
) -> None:
    """Call the trainer, and write how that ended; a success means that its output is in the store.

    Raises:
        WorkloadError: If it failed; the outcome says so too.
        BaseException: What interrupted it; the trainer was ended.
    """
    trainer = run.asked.trainer_spec
    engine = engine_for(trainer, machine)
    folder = machine.home / "work" / run.run_id / f"{attempt.iteration}-{attempt.number}"
    status = TrainerStatus(**this_process(), attempt=attempt)
    heartbeat = HeartbeatWriter(store, call_key(attempt, "status.json"), lambda: status, UPLOAD_S)
    logs = _Logs(attempt, folder, store, observer)
    failure: Failure | None = None
    kept: _Kept | None = None
    seconds = uploaded = 0.0
    try:
        heartbeat.write()
        # Nothing of a process that was killed is left.
        engine.sweep(attempt.name)
        shutil.rmtree(folder, ignore_errors=True)
        call = _lay_out(attempt, run, engine, folder, store)

        # Run it to its end.
        began = time.monotonic()
        running = engine.start(call)
        try:
            while (end := running.poll()) is None:
                logs.follow()
                if time.monotonic() - uploaded > UPLOAD_S:
                    uploaded = time.monotonic()
                    with suppress(StoreError):  # the next round, or the end, tries again
                        logs.upload()
                        heartbeat.write()
                if why := observer.stopped() or _too_long(trainer, time.monotonic() - began):
                    raise WorkloadError(why)
                time.sleep(POLL_S)
        finally:
            seconds = time.monotonic() - began
            running.end(GRACE_S)
            logs.follow()

        # Judge what it left, and keep it.
        _require_success(end)
        kept = _keep(attempt, folder / OUTPUT, store)
    except SimyardError as error:
        failure = error.failure
    finally:
        engine.sweep(attempt.name)

    # The outcome comes last: with it the call has ended.
    logs.upload()
    outcome = TrainerOutcome(
        number=attempt.number,
        status=ended(failure),
        failure=failure,
        dataset_sha256=attempt.dataset_sha256,
        seconds=round(seconds, 3),
        gpu_seconds=round(seconds * trainer.resources.gpu, 3),
        ended_at=now(),
        tail=tuple(logs.tail) if failure else (),
        metrics=kept.metrics if kept else None,
        checkpoint=kept.checkpoint if kept else None,
    )
    store.put_record(call_key(attempt, "outcome.json"), outcome)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
    if failure is not None:
        raise WorkloadError(failure)


def _lay_out(attempt: TrainerAttempt, run: RunSpec, engine: Engine, folder: Path, store: Store) -> TrainerCall:
    """Bring the inputs of a call into its folder; return the call with everything filled in."""
    for name in (INPUT, OUTPUT):
        (folder / name).mkdir(parents=True)
    checkpoint = fetch_dataset(attempt.run_id, attempt.dataset_sha256, attempt.checkpoint, folder / INPUT, store)
    seen, output = engine.seen(folder)
    shown = f"{seen}/{checkpoint.name}" if checkpoint else ""
    values = {
        "dataset_manifest_path": f"{seen}/{MANIFEST}",
        "output_dir": output,
        "checkpoint_in_uri": Path(shown).as_uri() if shown else "",
        "checkpoint_in_path": shown,
        "run_id": attempt.run_id,
        "iteration_id": iteration_id(attempt.iteration),
        "iteration": str(attempt.iteration),
        "seed": str(run.asked.rollout_template.seed + attempt.iteration),
    }
    trainer = run.asked.trainer_spec
    return TrainerCall(
        name=attempt.name,
        image=trainer.image_uri,
        argv=(*trainer.program, *(fill_in(text, values) for text in trainer.args_template)),
        own_entrypoint=not trainer.program,
        env={name: fill_in(text, values) for name, text in trainer.env.items()},
        folder=folder,
        work=Path(run.folder),
        gpus=trainer.resources.gpu,
        cpus=trainer.resources.cpu,
        memory_bytes=int(trainer.resources.memory_gb * 1e9),
    )


class _Logs:
    """The two logs of a call in progress: read as they grow, and brought to the store."""

    def __init__(self, attempt: TrainerAttempt, folder: Path, store: Store, observer: TrainerObserver) -> None:
        self.tail: list[str] = []
        """The last lines that it printed."""
        self._attempt = attempt
        self._folder = folder
        self._store = store
        self._observer = observer
        self._logs = {name: GrowingLog(folder / name) for name in (STDOUT, STDERR)}
        self._sent: dict[str, int] = {}

    def follow(self) -> None:
        """Pass new lines on."""
        for log in self._logs.values():
            lines = log.new_lines()
            log.shorten()
            if lines:
                self.tail = [*self.tail, *lines][-TAIL_LINES:]
                self._observer.lines(lines)

    def upload(self) -> None:
        """Bring the logs to the store as they are now."""
        for name in (STDOUT, STDERR):
            path = self._folder / name
            if path.exists() and (size := path.stat().st_size) != self._sent.get(name):
                self._store.put_file(call_key(self._attempt, name), path)
                self._sent[name] = size


def outcome_of(attempt: TrainerAttempt, store: Store) -> TrainerOutcome | None:
    """Return the outcome of a call; None for one that has not ended."""
    return store.get_record_or_none(call_key(attempt, "outcome.json"), TrainerOutcome)


def past_calls(store: Store, run_id: str, iteration: int) -> list[int]:
    """Return the numbers of the calls of the trainer that were begun in an iteration, in order."""
    return sorted(int(name) for name in store.list_dirs(RunKeys(run_id).iteration(iteration).trainer))


def past_outcomes(store: Store, run_id: str, iteration: int) -> list[TrainerOutcome]:
    """Return the outcomes of those calls that have ended, in order."""
    keys = RunKeys(run_id).iteration(iteration)
    calls = past_calls(store, run_id, iteration)
    found = (store.get_record_or_none(keys.trainer_file(call, "outcome.json"), TrainerOutcome) for call in calls)
    return [outcome for outcome in found if outcome is not None]


@dataclass(frozen=True)
class _Kept:
    """The output of a call, in the store."""

    metrics: dict[str, Any]
    checkpoint: InputFile


def _keep(attempt: TrainerAttempt, output: Path, store: Store) -> _Kept:
    """Judge the output, and put it into the store.

    Raises:
        WorkloadError: If it is not what was promised.
    """
    metrics = read_metrics(output / METRICS)

    # The one checkpoint, on this machine and under its usual name.
    file, address = output / CHECKPOINT, output / CHECKPOINT_URI
    there = [path for path in (file, address) if os.path.lexists(path)]
    if len(there) != 1:
        raise _broken(f"It left {' and '.join(path.name for path in there) or 'no checkpoint'}.", _ONE_CHECKPOINT)
    _require_plain(there[0])
    if there == [address]:
        lines = address.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) != 1:
            raise _broken(f"{CHECKPOINT_URI} holds {len(lines)} words, not one address.", _ONE_CHECKPOINT)
        found = find_input(lines[0], output, CHECKPOINT_URI).path
        file = output.parent / CHECKPOINT
        with on_disk("read", found):
            shutil.copyfile(found, file)
        _require_plain(file)

    store.put_json(call_key(attempt, METRICS), metrics)
    about = {"run_id": attempt.run_id, "iteration": attempt.iteration}
    return _Kept(metrics, inputs.asset_file(inputs.upload(store, file, "checkpoint", about)))


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


def _require_success(end: Exit) -> None:
    """Raise for an end that is none of a program that did its work."""
    failure: Failure | None = None
    if end.out_of_memory:
        failure = Failure(
            code="out_of_memory",
            category=Category.RESOURCE,
            message="The trainer took more memory than trainer_spec.resources.memory_gb.",
            advice="Raise it, or load less at a time.",
        )
    elif end.signal:
        failure = Failure(
            code="killed",
            category=Category.INFRA,
            message=f"The trainer was ended by {end.signal}.",
            advice="SIGKILL from outside is often the machine's memory limit.",
        )
    if failure is not None:
        raise WorkloadError(failure)
    if end.code:
        raise _broken(f"It ended with exit code {end.code}.", "What it printed last is in the outcome's `tail`.")


def _too_long(trainer: TrainerSpec, seconds: float) -> Failure | None:
    """Return the failure of a trainer that runs for longer than it may."""
    if seconds <= trainer.timeout_seconds:
        return None
    return Failure(
        code="wall_clock_limit",
        category=Category.USER,
        message=f"The trainer was not done after {trainer.timeout_seconds:.0f} s.",
        advice="Raise trainer_spec.timeout_seconds, or do less in an iteration.",
    )


def _broken(message: str, advice: str) -> WorkloadError:
    return WorkloadError(
        Failure(code="trainer_failed", category=Category.USER, message=f"The trainer failed: {message}", advice=advice)
    )
