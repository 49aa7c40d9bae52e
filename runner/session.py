"""The workload process: it checks jobs, runs one after another, each in a fresh environment, and says how they ended.

The supervisor starts it before the job is ready, so that importing Isaac Lab overlaps everything else, and talks to it
over a socket, one JSON object a line. When the supervisor dies the socket closes, and this process kills its family.

A job that fails costs the process its life, as does one that leaves behind what cannot be put back: the next job never
pays for the last one.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from simyard.core.errors import DISK_FULL, GPU_OUT_OF_MEMORY, Category, Failure, SimyardError, Stopped, known_failure
from simyard.core.files import AttemptPaths, read_json, sha256_of, write_json
from simyard.core.records import Opened, WorkloadAccount
from simyard.core.specs import AttemptSpec, Bounds, Facts
from simyard.runner import event_writers, messages
from simyard.runner.adapter import Adapter, UnfitProcessError, adapter_of
from simyard.runner.gpu_memory import Peak, explained, held_bytes
from simyard.runner.imported import LoadedCode, Status, installed
from simyard.runner.isolation import Isolation, flush_c_streams, memory_bytes
from simyard.runner.messages import Message
from simyard.runner.rl import Library, Scale, get_library
from simyard.runner.rl.base import tensors_of
from simyard.runner.workload import TOKEN, kill_family


def serve(control: socket.socket, simulator: str, library: str | None, bounds: Bounds) -> NoReturn:
    """Answer requests until the bounds are reached, a job has failed or the supervisor is gone.

    Args:
        control: The connected socket.
        simulator: The adapter's name.
        library: What to import ahead; None for nothing in particular.
        bounds: When to make room for a new process.
    """
    # Children must not have the socket: as long as one held it, the supervisor would not hear that this one is gone.
    control.set_inheritable(False)
    os.register_at_fork(after_in_child=lambda: os.close(control.detach()))

    # As all was before anything of the simulator was imported.
    packages = installed()
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_receive, args=(control, requests), name="requests", daemon=True).start()

    # Importing takes most of a start: it begins before the first job is ready.
    adapter = adapter_of(simulator)()
    adapter.preload(library)
    session = _Session(adapter, bounds, packages)
    while True:
        try:
            request = messages.parse(requests.get(timeout=bounds.idle_s))
        except queue.Empty:
            with suppress(OSError):  # for a supervisor that takes this process just now
                control.sendall(messages.encode(messages.Stale(leaving=f"it had no job for {bounds.idle_s:.0f} s")))
            _leave(0)
        reply = session.answer(request)
        control.sendall(messages.encode(replace(reply, request=request.request)))

        # A process that has failed, or has served enough, makes room for a new one.
        if isinstance(reply, messages.Stale | messages.Done) and reply.leaving is not None:
            _leave(reply.code if isinstance(reply, messages.Done) else 0)
        # While the supervisor still prepares the job that was checked.
        if isinstance(reply, messages.Checked):
            adapter.import_rest()


def _receive(control: socket.socket, requests: queue.Queue[str]) -> None:
    # A supervisor that dies before it has read everything resets the connection.
    with suppress(OSError), control.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            requests.put(line)
    # End of file: the supervisor is gone, and nobody would collect what this process goes on to do.
    if token := os.environ.get(TOKEN):
        kill_family(token)
    os.killpg(0, signal.SIGKILL)


class _Session:
    """State of a process from one job to the next."""

    def __init__(self, adapter: Adapter, bounds: Bounds, packages: Mapping[str, Status]) -> None:
        self.adapter = adapter
        self.packages = packages
        self.bounds = bounds
        self.jobs = 0
        self.code = LoadedCode()
        self.isolation = Isolation()
        self.streams = _Streams()

    def answer(self, request: Message) -> Message:
        """Serve a request; a reply with `leaving` is the last one, and gives the reason."""
        match request:
            case messages.ImportAll():
                self.adapter.import_rest()
                return messages.Imported(only_one_job=self.adapter.only_one_job())
            case messages.Check():
                return self._check(request)
            case messages.TellFindings():
                return messages.Found(findings=self.adapter.findings(), evidence=self._evidence())
            case messages.TellTasks():
                return self._tasks(request)
            case messages.RunAttempt():
                return self._run(AttemptPaths(Path(request.root)))
        raise ValueError(f"no request of a workload: {request}")

    def _evidence(self) -> dict[str, Status]:
        """Return the status of each file that findings came from."""
        return {**self.code.evidence(), **self.packages}

    def _check(self, request: messages.Check) -> Message:
        """Check a job."""
        files = {digest: Path(path) for digest, path in request.files.items()}

        def check(overlay: Path | None) -> Message:
            return messages.Checked(facts=self.adapter.check(request.job, overlay, files))

        return self._in_users_code(check, request.overlay, request.job.import_callback)

    def _tasks(self, request: messages.TellTasks) -> Message:
        """Tell the registered tasks."""

        def tell(overlay: Path | None) -> Message:
            registered, tasks = self.adapter.tasks(
                request.names, overlay, request.import_callback, measure=request.measure
            )
            self.code.remember()
            return messages.ToldTasks(registered=registered, tasks=tasks, evidence=self._evidence())

        return self._in_users_code(tell, request.overlay, request.import_callback)

    def _in_users_code(
        self, act: Callable[[Path | None], Message], folder: str | None, callback: str | None
    ) -> Message:
        """Do something that may run a user's code, in our own as it is on the disk now, and forget theirs."""
        if changed := self.code.changed():
            return messages.Stale(leaving=f"{changed} is not what it was when it was imported")
        overlay = Path(folder) if folder else None
        self.isolation.begin()
        try:
            return act(overlay)
        except UnfitProcessError as error:
            return messages.Stale(leaving=str(error))
        except Exception as error:
            if not isinstance(error, SimyardError):
                traceback.print_exc()
            return messages.Refused(failure=_failure(error))
        finally:
            self.isolation.end(overlay, _top_level(callback))
            self.code.remember()

    def _run(self, paths: AttemptPaths) -> messages.Done:
        """Run an attempt between two looks at the process, and say whether it may serve another."""
        attempt = AttemptSpec.from_json(read_json(paths.spec))
        self.isolation.begin()
        with self.streams.into(paths):
            code, leaving, untold = run(paths)
        self.isolation.end(paths.overlay, _top_level(attempt.job.import_callback))

        self.jobs += 1
        leaving = leaving or self.adapter.only_one_job()
        if leaving is None and self.jobs >= self.bounds.jobs:
            leaving = f"it has served {self.jobs} jobs, as many as it may"
        if leaving is None:  # what follows takes a moment
            leaving = self.isolation.left_over() or self.adapter.left_over()
            self.code.remember()
        memory, on_gpus = memory_bytes(), held_bytes()  # of what could be freed nothing is counted
        leaving = leaving or beyond(self.bounds, memory, on_gpus)
        return messages.Done(code=code, leaving=leaving, memory_bytes=memory, gpu_memory_bytes=on_gpus, failure=untold)


def beyond(bounds: Bounds, memory: int, on_gpus: int | None) -> str | None:
    """Return the bound that a process has passed with its memory, in words; None if it may serve another job."""
    for kind, size, most in (("memory", memory, bounds.memory_bytes), ("GPU memory", on_gpus, bounds.gpu_memory_bytes)):
        if size is not None and size > most:
            return f"it has {size / 1e9:.1f} GB of {kind}, more than {most / 1e9:.1f} GB"
    return None


def run(paths: AttemptPaths) -> tuple[int, str | None, Failure | None]:
    """Run the attempt in `paths` to its end and write the workload's own account of it.

    Returns:
        The exit code, 0 when the simulator came back without an error, else 1; why this process must not take another
        job, in words, None when it may; and its failure where the account could not be written, on a full disk say.
    """
    attempt = AttemptSpec.from_json(read_json(paths.spec))
    facts = Facts.from_json(read_json(paths.facts))
    os.chdir(paths.work)
    left, peak = None, Peak()
    try:
        event_writers.write_at_once()
        try:
            adapter_of(attempt.job.simulator)().run(attempt, facts, paths)
        finally:
            event_writers.close_all()
        account = WorkloadAccount(failure=None, opened=open_results(paths, attempt, facts))
    except Stopped:
        account = WorkloadAccount(failure=None, opened=())  # why it was stopped, the supervisor knows
        left = "its job was stopped"
    except BaseException as error:  # SystemExit too: an argument parser's exit is a failure like any other
        with suppress(OSError):  # the disk may be full
            traceback.print_exc()
        failure = _failure(error)
        if failure.code == GPU_OUT_OF_MEMORY:
            with suppress(Exception):  # a driver in trouble says nothing
                failure = explained(failure, peak.demand(attempt.job.num_envs))
        account = WorkloadAccount(failure=failure, opened=())
        left = "its job failed"
    try:
        write_json(paths.outcome, account.to_json())
    except OSError as error:
        return 1, left or "its account could not be written", account.failure or _failure(error)
    return 0 if account.failure is None else 1, left, None


def run_alone(paths: AttemptPaths) -> int:
    """Run the attempt in `paths`, its output going to its own files; return the exit code."""
    with _Streams().into(paths):
        code, *_ = run(paths)
    return code


def open_afterwards(paths: AttemptPaths) -> None:
    """Give the account of a workload that trained to its end and hung or died before it gave one itself."""
    attempt = AttemptSpec.from_json(read_json(paths.spec))
    facts = Facts.from_json(read_json(paths.facts))
    account = WorkloadAccount(failure=None, opened=open_results(paths, attempt, facts))
    write_json(paths.outcome, account.to_json())


def _failure(error: BaseException) -> Failure:
    if isinstance(error, SimyardError):
        return error.failure
    if isinstance(error, SystemExit):
        return Failure(
            code="exit_called",
            category=Category.USER,
            message=f"The process was left by sys.exit({error.code!r}) before the work was done.",
            advice="Return instead, or raise what went wrong; what was printed is in command.stdout.log.",
        )
    if isinstance(error, ModuleNotFoundError):
        return Failure(
            code="missing_dependency",
            category=Category.USER,
            message=f"ModuleNotFoundError: {error}",
            advice=f"Put {error.name!r} into the package, or install it for the simulator's Python.",
        )
    # However deep it lies: libraries wrap what a constructor raises.
    cause: BaseException | None = error
    while cause is not None:
        found = known_failure(f"{type(cause).__name__}: {cause}".splitlines()[0])
        if found is not None and found.code in (GPU_OUT_OF_MEMORY, DISK_FULL):
            return found
        cause = cause.__cause__ or cause.__context__
    text = str(error).strip()
    return Failure(
        code="exception",
        category=Category.USER,
        message=f"{type(error).__name__}: {text}" if text else type(error).__name__,
        advice="The traceback is in command.stderr.log.",
    )


def _top_level(callback: str | None) -> str | None:
    """Return the top-level module of an `import_callback`."""
    return None if callback is None else callback.partition(":")[0].partition(".")[0]


class _Streams:
    """Both streams of this process, child processes' and C++ prints included.

    A job's go to files: a file never fills up as a pipe does, and outlives the supervisor.
    """

    def __init__(self) -> None:
        self._own = {number: os.dup(number) for number in (1, 2)}
        for copy in self._own.values():
            os.set_inheritable(copy, False)

    @contextmanager
    def into(self, paths: AttemptPaths) -> Iterator[None]:
        """Send standard output and error to the job's files, while the body runs."""
        self._flush()
        for number, path in ((1, paths.stdout), (2, paths.stderr)):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(descriptor, number)
            os.close(descriptor)
        try:
            yield
        finally:
            self._flush()
            for number, copy in self._own.items():
                os.dup2(copy, number)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # a job may have closed it
                stream.flush()
        flush_c_streams()


def _leave(code: int) -> NoReturn:
    """End without the interpreter's own clean-up, in which simulators hang or crash after the work is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def open_results(paths: AttemptPaths, attempt: AttemptSpec, facts: Facts) -> tuple[Opened, ...]:
    """Open the files that the attempt promised, on the simulator's own Python.

    Of a training that is the newest checkpoint, which counts only when it loads and its weights are finite. Other kinds
    open what they write before it gets its name.
    """
    if attempt.node:
        return ()  # the first machine collects
    if attempt.job.kind != "train":
        return tuple(
            Opened(name=str(path.relative_to(paths.output)), sha256=sha256_of(path), finite=None, error=None)
            for path in sorted(paths.output.rglob("*"))
            if path.is_file()
        )
    library = get_library(attempt.job.library)
    scale = Scale(num_envs=attempt.job.num_envs, rollout=facts.rollout)
    numbered = [
        (iteration, path.stat().st_mtime_ns, path)
        for path in paths.work.glob(library.checkpoint_glob)
        if (iteration := library.iteration_of(path, attempt.start_iteration, scale)) is not None
    ]
    return (open_checkpoint(max(numbered)[-1], library),) if numbered else ()


def open_checkpoint(path: Path, library: Library) -> Opened:
    """Load one checkpoint and look at every tensor in it."""
    record = Opened(name=path.name, sha256=None, tensors=0, finite=None, error=None)
    try:
        record = replace(record, sha256=sha256_of(path))
        tensors = [tensor for part in library.load_own(path) for _, tensor in tensors_of("", part)]
        finite = all(bool(tensor.isfinite().all()) for tensor in tensors)
        return replace(record, tensors=len(tensors), finite=finite)
    except Exception as error:
        return replace(record, error=f"{type(error).__name__}: {error}")
