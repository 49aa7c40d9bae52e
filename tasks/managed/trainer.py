"""One call of a trainer, on the machine that has the simulators: lay out, run, judge, keep, say how it ended."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BufferedRandom
from pathlib import Path
from typing import IO, Any

from simyard.core.errors import (
    DISK_FULL,
    GPU_OUT_OF_MEMORY,
    Category,
    Failure,
    SimyardError,
    StoreError,
    WorkloadError,
    known_failure,
)
from simyard.core.files import full_disk, open_inside, own, sweep
from simyard.core.foreign import parse_json
from simyard.core.records import ended, this_process
from simyard.core.run_records import TrainerAttempt, TrainerOutcome, TrainerStatus
from simyard.core.specs import InputFile
from simyard.core.wire import now_ms
from simyard.requests.managed import LOCAL, TrainerSpec, WorkerVariable, fill_in
from simyard.requests.settings import MachineSettings
from simyard.runner.gpu_memory import explained
from simyard.store.backend import on_disk
from simyard.store.keys import RunKeys
from simyard.store.store import READ_BYTES, Store
from simyard.tasks.managed.dataset import MANIFEST, fetch_dataset, iteration_id
from simyard.tasks.managed.engines.base import INPUT, OUTPUT, STDERR, STDOUT, Engine, Exit, TrainerCall
from simyard.tasks.managed.engines.container import ContainerEngine
from simyard.tasks.managed.engines.local import LocalEngine, find_program
from simyard.tasks.managed.run import RunSpec, trainer_env, value_of
from simyard.tasks.shared import inputs
from simyard.tasks.shared.gate import Gate
from simyard.tasks.shared.heartbeat import HeartbeatWriter
from simyard.tasks.shared.logs import GrowingLog

CHECKPOINT, CHECKPOINT_URI, METRICS = "checkpoint.pt", "checkpoint_out_uri.txt", "metrics.json"
"""Files that a trainer leaves: one of the first two, and the third."""
MAX_METRICS_BYTES = 1_000_000
MAX_URI_BYTES = 4_000
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
        RequestError: If its image, its program, its GPUs or its variables are not there.
    """
    trainer = run.asked.trainer_spec
    engine_for(trainer, machine).require(trainer.image_uri, trainer.resources.gpu)
    for value in trainer.env.values():
        if isinstance(value, WorkerVariable):
            value_of(value.variable, machine)
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
    before = store.get_record_or_none(call_key(attempt, "status.json"), TrainerStatus)
    used = before.seconds if before else 0.0  # by trainers of this call whose callers were killed
    began: float | None = None

    def beat() -> TrainerStatus:
        seconds = used + (time.monotonic() - began if began is not None else 0.0)
        return TrainerStatus(**this_process(), attempt=attempt, seconds=round(seconds, 3))

    heartbeat = HeartbeatWriter(store, call_key(attempt, "status.json"), beat, UPLOAD_S)
    logs = _Logs(attempt, folder, store, observer)
    failure: Failure | None = None
    mark: BufferedRandom | None = None
    kept: _Kept | None = None
    seconds = uploaded = 0.0
    try:
        heartbeat.write()
        # Nothing of a process that was killed is left: of this call, and of others that had ended but for their folder.
        engine.sweep(attempt.name)
        shutil.rmtree(folder, ignore_errors=True)
        sweep(machine.home / "work", "*/*")
        with on_disk("use", folder):
            mark = own(folder)
            call = _lay_out(attempt, run, engine, folder, store, trainer_env(run, store, machine))

        # Run it to its end.
        began = time.monotonic()
        with on_disk("use", folder):
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
        _require_success(end, logs.tail)
        kept = _keep(attempt, folder / OUTPUT, engine.seen(folder)[1], store)
    except SimyardError as error:
        failure = error.failure
        if failure.code == "trainer_failed":  # on a full disk it cannot say so in its log
            failure = full_disk(folder, failure.message) or failure
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
        gpu_seconds=round((used + seconds) * trainer.resources.gpu, 3),
        ended_at=now_ms(),
        tail=tuple(logs.tail) if failure else (),
        metrics=kept.metrics if kept else None,
        checkpoint=kept.checkpoint if kept else None,
    )
    store.put_record(call_key(attempt, "outcome.json"), outcome)
    shutil.rmtree(folder, ignore_errors=True)
    if mark is not None:
        mark.close()
    with suppress(OSError):
        folder.parent.rmdir()
    if failure is not None:
        raise WorkloadError(failure)


def _lay_out(
    attempt: TrainerAttempt, run: RunSpec, engine: Engine, folder: Path, store: Store, env: Mapping[str, str]
) -> TrainerCall:
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
        env={name: fill_in(text, values) for name, text in env.items()},
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
        self._logs = {name: GrowingLog(folder, name) for name in (STDOUT, STDERR)}
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
            with suppress(OSError), open_inside(self._folder, name) as file:
                size = os.fstat(file.fileno()).st_size
                if size != self._sent.get(name):
                    self._store.put_opened(call_key(self._attempt, name), file)
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


def gpu_seconds_of_calls(store: Store, run_id: str, iteration: int, gpus: int) -> dict[int, float]:
    """Return the GPU seconds of the calls that were begun in an iteration; one without an outcome by its heartbeat."""
    keys = RunKeys(run_id).iteration(iteration)
    found = {outcome.number: outcome.gpu_seconds for outcome in past_outcomes(store, run_id, iteration)}
    for call in past_calls(store, run_id, iteration):
        beat = store.get_record_or_none(keys.trainer_file(call, "status.json"), TrainerStatus)
        found.setdefault(call, beat.seconds * gpus if beat else 0.0)
    return found


@dataclass(frozen=True)
class _Kept:
    """The output of a call, in the store."""

    metrics: dict[str, Any]
    checkpoint: InputFile


def _keep(attempt: TrainerAttempt, output: Path, seen: str, store: Store) -> _Kept:
    """Judge the output, and put it into the store.

    Args:
        attempt: The call.
        output: What it left: nothing in it is opened but by `open_inside` and the gate.
        seen: The same folder as the trainer saw it.
        store: The run's.

    Raises:
        WorkloadError: If it is not what was promised.
    """
    metrics = read_metrics(output)

    # The one checkpoint: a copy of it is judged and kept, under its usual name.
    there = [name for name in (CHECKPOINT, CHECKPOINT_URI) if os.path.lexists(output / name)]
    if len(there) != 1:
        raise _broken(f"It left {' and '.join(there) or 'no checkpoint'}.", _ONE_CHECKPOINT)
    file = output.parent / CHECKPOINT
    if there == [CHECKPOINT]:
        with on_disk("copy", file), _open(output, CHECKPOINT) as left, file.open("xb") as copy:
            shutil.copyfileobj(left, copy, READ_BYTES)
    else:
        lines = _read(output, CHECKPOINT_URI, MAX_URI_BYTES).decode(errors="replace").split()
        if len(lines) != 1:
            raise _broken(f"{CHECKPOINT_URI} holds {len(lines)} words, not one address.", _ONE_CHECKPOINT)
        Gate(store).copy(lines[0], output, seen, file, CHECKPOINT_URI)
    if file.stat().st_size == 0:
        raise _broken(f"{CHECKPOINT} is empty.", "Close it before the program ends.")

    store.put_json(call_key(attempt, METRICS), metrics)
    about = {"run_id": attempt.run_id, "iteration": attempt.iteration}
    return _Kept(metrics, inputs.asset_file(inputs.upload(store, file, "checkpoint", about)))


_ONE_CHECKPOINT = f"Each call must leave exactly one of {CHECKPOINT} and {CHECKPOINT_URI} in the output folder."


def read_metrics(output: Path) -> dict[str, Any]:
    """Return a trainer's metrics.

    Raises:
        WorkloadError: If it is no JSON object, or one of its numbers is not finite.
    """
    advice = f"Write an object of finite numbers to {METRICS}, and leave out what was not measured."
    if not os.path.lexists(output / METRICS):
        raise _broken(f"It left no {METRICS}.", advice)
    data = _read(output, METRICS, MAX_METRICS_BYTES)
    try:
        metrics = parse_json(data)
    except ValueError as error:
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


def _open(output: Path, name: str) -> IO[bytes]:
    """Open a file of the output.

    Raises:
        WorkloadError: If it is none, or a link that could name any file of this machine.
    """
    try:
        return open_inside(output, name)
    except OSError as error:
        advice = "Write it into the output folder itself."
        raise _broken(f"{name} cannot be read: {error.strerror}.", advice) from error


def _read(output: Path, name: str, most: int) -> bytes:
    """Return the content of a small file of the output.

    Raises:
        WorkloadError: If it is none, is empty, or has more bytes than that.
    """
    with _open(output, name) as file:
        data = file.read(most + 1)
    if not data:
        raise _broken(f"{name} is empty.", "Close it before the program ends.")
    if len(data) > most:
        raise _broken(f"{name} has more than {most:,} bytes.", "Write less into it.")
    return data


def _require_success(end: Exit, tail: Sequence[str]) -> None:
    """Raise for an end that is none of a program that did its work; `tail` has the last lines that it printed."""
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
    elif end.code and (known := _known(tail, GPU_OUT_OF_MEMORY)):
        failure = explained(replace(known, advice="Give it smaller batches, or a smaller network."))
    elif end.code:
        failure = _known(tail, DISK_FULL)
    if failure is not None:
        raise WorkloadError(failure)
    if end.code:
        raise _broken(f"It ended with exit code {end.code}.", "What it printed last is in the outcome's `tail`.")


def _known(lines: Sequence[str], code: str) -> Failure | None:
    known = (known_failure(line) for line in reversed(lines))  # a traceback ends with its exception
    return next((failure for failure in known if failure and failure.code == code), None)


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
