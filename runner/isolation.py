"""Isolation of the jobs of one process: its state is recorded before a job and put back after it.

Nothing is imported here that the process has not imported already: a library that no job used has no state.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from simyard.runner.engine_objects import EngineObjects
from simyard.runner.rl import LIBRARIES
from simyard.runner.workload import TOKEN, with_token

MAX_DESCRIPTORS = 64
"""Descriptors that may be open beyond those after the first job: drivers and libraries keep some, a leak has no end."""
_LINGERING_S = 2.0
"""Seconds a thread may take to end after its job."""
_HARMLESS_THREADS = ("TMonitor",)
"""Threads that a library starts once for a process: the one that looks after tqdm's progress bars."""
_FREEZE_MODULES = 200
"""So many modules more, and what they hold is set aside from garbage collection again."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)


class Isolation:
    """The state of this process before a job: random generators, settings, registries, threads, descriptors."""

    def __init__(self) -> None:
        """Take nothing down yet: what is imported ahead belongs to the state."""
        self._frozen_modules = 0
        self._descriptors: int | None = None
        self._objects = EngineObjects()
        self._threads: set[threading.Thread] = set()
        self._modules: set[str] = set()
        self._restore: list[Callable[[], object]] = []

    def begin(self) -> None:
        """Take the state down, before a job."""
        # What imports left is millions of objects: to go through them takes the collector most of a second each time,
        # and simulators collect when they make an environment and when they close one.
        if len(sys.modules) >= self._frozen_modules + _FREEZE_MODULES:
            gc.collect()
            gc.freeze()
            self._frozen_modules = len(sys.modules)
        self._threads = set(threading.enumerate())
        self._modules = set(sys.modules)
        self._restore = [*_process_state(), *_logging_state(), *_random_state(), *_torch_state(), *_registries()]

    def end(self, own_code: Path | None = None, own_module: str | None = None) -> None:
        """Put back what was taken down.

        Args:
            own_code: A folder of the user's packages: what was imported from it is forgotten, so that the next job
                imports it anew, with no state of this one in it.
            own_module: A top-level module of the user's that is forgotten too, with all below it.
        """
        for restore in self._restore:
            restore()
        folder = None if own_code is None else f"{own_code}{os.sep}"
        for name in set(sys.modules) - self._modules:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if name.partition(".")[0] == own_module or (folder and file.startswith(folder)):
                del sys.modules[name]

    def left_over(self) -> str | None:
        """Free a job's memory, and describe the rest of it that stays; None if nothing does.

        Returns:
            What of the job cannot be put back, in words: the process must not take another one then.
        """
        # Memory that nothing refers to any more.
        if (zarr := sys.modules.get("zarr.core.sync")) is not None:
            zarr.cleanup_resources()  # its threads; it starts others when it needs them
        self._objects.clear_caches()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if left := self._objects.left_over():
            return left

        # Threads.
        deadline = time.monotonic() + _LINGERING_S
        for thread in set(threading.enumerate()) - self._threads:
            if type(thread).__name__ not in _HARMLESS_THREADS:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return f"the job left a thread running: {thread.name!r}"

        # Processes; those that have ended are cleared away.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                if children := (task / "children").read_text(encoding="ascii").split():
                    return f"the job left a process running: {children[0]}"
        # One whose parent has ended is nobody's child any more, but it has inherited the environment.
        others = with_token(token) if (token := os.environ.get(TOKEN)) else ()
        if other := next((pid for pid in others if pid != os.getpid()), None):
            return f"the job left a process running: {other}"

        # Files.
        count = len(os.listdir("/proc/self/fd"))
        if self._descriptors is None:
            self._descriptors = count
        more = count - self._descriptors
        return f"jobs left {more} file descriptors open" if more > MAX_DESCRIPTORS else None


def memory_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def flush_c_streams() -> None:
    """Flush the streams of compiled code."""
    ctypes.CDLL(None).fflush(None)


def _process_state() -> Iterator[Callable[[], object]]:
    environ, folder = dict(os.environ), os.getcwd()
    path, argv = list(sys.path), list(sys.argv)
    streams = sys.stdin, sys.stdout, sys.stderr
    mask = os.umask(0o022)
    os.umask(mask)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    filters = list(warnings.filters)
    hooks = sys.excepthook, threading.excepthook, warnings.showwarning
    limit, collects = sys.getrecursionlimit(), gc.isenabled()

    def restore() -> None:
        # Only what differs: each change of the environment goes through to C.
        for name in set(os.environ) - set(environ):
            del os.environ[name]
        for name, value in environ.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        os.chdir(folder)
        sys.path[:], sys.argv[:] = path, argv
        sys.stdin, sys.stdout, sys.stderr = streams
        os.umask(mask)
        signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm of one job would end the next
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        warnings.filters[:] = filters  # type: ignore[index]
        sys.excepthook, threading.excepthook, warnings.showwarning = hooks
        with warnings.catch_warnings():  # at its end, what was shown once is forgotten: the next job is warned too
            pass
        sys.setrecursionlimit(limit)
        (gc.enable if collects else gc.disable)()

    yield restore


def _logging_state() -> Iterator[Callable[[], object]]:
    """Loggers that are there, with levels and handlers; of those that come with an import only files are closed."""

    def loggers() -> dict[str, logging.Logger]:
        known = {n: item for n, item in logging.root.manager.loggerDict.items() if isinstance(item, logging.Logger)}
        return {"": logging.root, **known}

    before = {
        name: (logger.level, logger.propagate, logger.disabled, list(logger.handlers), list(logger.filters))
        for name, logger in loggers().items()
    }
    disabled, logger_class = logging.root.manager.disable, logging.getLoggerClass()

    def restore() -> None:
        for name, logger in loggers().items():
            kept = (
                before[name][3]
                if name in before
                else [h for h in logger.handlers if not isinstance(h, logging.FileHandler)]
            )
            for handler in [handler for handler in logger.handlers if handler not in kept]:
                logger.removeHandler(handler)
                with suppress(Exception):
                    handler.close()
            if name in before:
                level, logger.propagate, logger.disabled, logger.handlers[:], logger.filters[:] = before[name]
                logger.setLevel(level)
        logging.disable(disabled)
        logging.setLoggerClass(logger_class)

    yield restore


def _random_state() -> Iterator[Callable[[], object]]:
    state = random.getstate()
    yield lambda: random.setstate(state)
    if (numpy := sys.modules.get("numpy")) is not None:
        legacy, errors, printing = numpy.random.get_state(), numpy.geterr(), numpy.get_printoptions()
        yield lambda: (numpy.random.set_state(legacy), numpy.seterr(**errors), numpy.set_printoptions(**printing))


def _torch_state() -> Iterator[Callable[[], object]]:
    torch = sys.modules.get("torch")
    if torch is None:
        return
    generator, grad, dtype = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    anomalies = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()

    def determinism() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    deterministic = determinism()
    flags = [(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")]
    flags.append((torch.backends.cuda.matmul, "allow_tf32"))
    before = [(place, name, getattr(place, name)) for place, name in flags]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        torch.set_rng_state(generator)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_default_device().type != "cpu":
            torch.set_default_device(None)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        if determinism() != deterministic:  # to say it imports torch's compiler, which takes seconds
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.autograd.set_detect_anomaly(*anomalies)
        for place, name, value in before:
            setattr(place, name, value)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        elif torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(torch.initial_seed())

    yield restore


def _registries() -> Iterator[Callable[[], object]]:
    """Gymnasium's tasks that were there before, Hydra's one global object, and what the libraries keep.

    A task that was added stays: the module that did it was imported for good, and does not do it again.
    """
    if (gymnasium := sys.modules.get("gymnasium")) is not None:
        tasks: Mapping[str, Any] = dict(gymnasium.registry)
        yield lambda: gymnasium.registry.update(tasks)

    def clear_hydra() -> None:
        if (hydra := sys.modules.get("hydra.core.global_hydra")) is not None:
            hydra.GlobalHydra.instance().clear()

    yield clear_hydra

    def leave_libraries() -> None:
        for library in LIBRARIES.values():
            if library.module in sys.modules:
                library.leave_process()

    yield leave_libraries
