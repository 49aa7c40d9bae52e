"""What a job can see of the process it runs in, and a job that changes all of it.

Used by the scenario simulator, and by children of tests: never in a process that has to go on working.
"""

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

LOGGER = "library.that.is.there"
"""A logger that is there before any job."""
_OF_THE_PROCESS = ("SIMYARD_WORKLOAD", "PWD", "OLDPWD", "CRC32C_SW_MODE")
"""Variables of one process; the last is set by an import that the first job makes."""


def draw():
    """Return a number of each random generator."""
    import numpy
    import torch

    return [random.random(), float(numpy.random.rand()), float(torch.rand(()))]


def look():
    """Return as JSON what a job sees of the state of its process; two fresh processes show the same."""
    import numpy
    import torch

    logger = logging.getLogger(LOGGER)
    mask = os.umask(0)
    os.umask(mask)
    return {
        "environ": {name: value for name, value in sorted(os.environ.items()) if name not in _OF_THE_PROCESS},
        "path": sys.path[:],
        "argv": sys.argv[:],
        "umask": mask,
        "recursion limit": sys.getrecursionlimit(),
        "signals": {
            number.name: str(signal.getsignal(number))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)
        },
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "collects garbage": gc.isenabled(),
        "warnings": [str(entry) for entry in warnings.filters],
        "hooks": [f"{hook.__module__}.{hook.__qualname__}" for hook in (sys.excepthook, threading.excepthook)],
        "shows warnings with": warnings.showwarning.__module__,
        "streams": [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "root logger": [logging.root.level, [type(handler).__name__ for handler in logging.root.handlers]],
        "logger": [logger.level, logger.propagate, logger.disabled, len(logger.handlers), len(logger.filters)],
        "logging": [logging.root.manager.disable, logging.getLoggerClass().__name__],
        "numpy": [numpy.geterr(), numpy.get_printoptions()["precision"]],
        "torch": {
            "grad": torch.is_grad_enabled(),
            "dtype": str(torch.get_default_dtype()),
            "device": str(torch.get_default_device()),
            "threads": torch.get_num_threads(),
            "precision": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "anomalies": torch.is_anomaly_enabled(),
            "cudnn": [getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")],
            "tf32": [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32],
        },
    }


def litter(folder):
    """Change everything that a job can change of its process; `folder` is one of its own."""
    import numpy
    import torch

    os.environ["LITTER"] = "left"
    os.environ["HOME"] = "/nowhere"
    os.environ.pop("LANG", None)
    os.environ.pop("OMP_NUM_THREADS", None)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv[:] = ["left", "--by", "a job"]
    os.umask(0o027)
    sys.setrecursionlimit(4321)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(3600)
    gc.disable()
    warnings.simplefilter("error")
    sys.excepthook = threading.excepthook = warnings.showwarning = _ignore
    sys.stdout, sys.stderr = (Path(folder, name).open("w") for name in ("out", "err"))  # noqa: SIM115
    sys.stdin = Path("/dev/zero").open()  # noqa: SIM115
    root, logger = logging.getLogger(), logging.getLogger(LOGGER)
    root.addHandler(logging.FileHandler(f"{folder}/root.log"))
    root.setLevel(logging.CRITICAL)
    logger.addHandler(logging.StreamHandler())
    logger.addFilter(lambda record: False)
    logger.setLevel(logging.ERROR)
    logger.propagate, logger.disabled = False, True
    logging.disable(logging.ERROR)
    logging.setLoggerClass(_Logger)
    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(7)
    numpy.seterr(all="raise")
    numpy.set_printoptions(precision=2)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    torch.backends.cudnn.enabled = False
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def _ignore(*_):
    pass


class _Logger(logging.Logger):
    pass
