"""Look into a file of a user in a process of its own, which may take so much memory and time, and no more.

The service and the commands look into files of users before a job exists, and supervisors do it beside the keys of the
store. All of it happens here, in a child that knows no secret. Where it passes a limit, or dies of what it reads, the
file is refused, and nobody else notices.

    files = limited(archives.inspect, path).files
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints

from simyard.core.errors import Category, Failure, RequestError, SimyardError
from simyard.core.wire import Wire, decode
from simyard.runner.assets.archive_formats import show

MEMORY_BYTES = 2 << 30
"""Address space of the child: the JSON of the largest glTF takes half of it."""
CPU_S = 60
"""Seconds of a processor: the largest archive takes 20."""
WALL_S = 300
"""Seconds altogether: disks may be slow."""
ANSWER_BYTES = 32 << 20
"""JSON of an answer, which the parent has to hold."""
_START_S = 30
"""Further seconds after which the child is killed from outside; it ends itself before."""
_SLOTS = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))
"""Children at once, so that many files together have a limit too."""
_PATIENCE_S = 30
"""Seconds that a call waits for the others to end."""
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "PXR_WORK_THREAD_LIMIT": "1"}
"""Set in the child: each thread would reserve address space that nobody uses."""
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""Variables that the child inherits; others may hold credentials."""

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("simyard.limited")


def limited(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function in a child process with limits, and return what it returns.

    Args:
        function: One that its module has by name; it returns None, a path, plain JSON or a document.
        *arguments: Its arguments, the user's file first.
        **options: Its arguments by name.

    Raises:
        RequestError: A limit was passed, the file breaks its reader, or too many are looked into at this moment.
        SimyardError: From the function itself.
        OSError: From the function itself.
    """
    file = Path(str(arguments[0])).name
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if not _SLOTS.acquire(timeout=_PATIENCE_S):
        raise RequestError(
            f"{show(file)} waits behind others that are looked into.",
            code="too_many_requests",
            advice="Send it again in a minute.",
        )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", __name__, *map(str, (MEMORY_BYTES, CPU_S, WALL_S))],
            input=pickle.dumps((function, arguments, options)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=inherited | _ENVIRONMENT,
            timeout=WALL_S + _START_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _too_costly(file, f"{WALL_S} s") from error
    finally:
        _SLOTS.release()

    # It ended without an answer.
    match -done.returncode:
        case 0:
            answer = json.loads(done.stdout)
        case signal.SIGXCPU:
            raise _too_costly(file, f"{CPU_S} s of a processor")
        case signal.SIGALRM:
            raise _too_costly(file, f"{WALL_S} s")
        case number:
            how = f"signal {number}" if number > 0 else f"exit code {-number}"
            raise _unreadable(file, f"the process that read it ended with {how}")

    # It answered.
    match answer:
        case {"returned": value}:
            hint = get_type_hints(function).get("return", Any)
            return cast("T", Path(value) if hint is Path else decode(hint, value, function.__name__))
        case {"failure": data}:
            failure = Failure.from_json(data)
            if failure.category is Category.USER:
                raise RequestError(failure.message, code=failure.code, advice=failure.advice)
            raise SimyardError(failure)
        case {"os_error": [number, text, name]}:
            raise OSError(number, text, name)
        case {"too_long": count}:
            raise _unreadable(file, f"what is in it takes {count:,} bytes to list; allowed are {ANSWER_BYTES:,}")
        case {"out_of_memory": _}:
            raise _too_costly(file, f"{MEMORY_BYTES / 2**30:g} GiB of memory")
        case _:
            logger.error("%s of %r: %s", function.__name__, file, answer["traceback"])
            raise _unreadable(file, answer["unforeseen"])


def _too_costly(file: str, limit: str) -> RequestError:
    return RequestError(
        f"To look into {show(file)} takes more than {limit}.",
        code="file_too_costly",
        advice=f"Allowed for one file: {MEMORY_BYTES / 2**30:g} GiB of memory, {CPU_S} s of a processor, {WALL_S} s in "
        "all. Leave out what the job does not need, or split it.",
    )


def _unreadable(file: str, why: str) -> RequestError:
    return RequestError(
        f"{show(file)} cannot be read: {why}.",
        code="file_unreadable",
        advice="Write it again with another program: it breaks what reads files of its kind.",
    )


def _answer() -> dict[str, Any]:
    """Call the function that the standard input names; return what became of it."""
    try:
        function, arguments, options = pickle.load(sys.stdin.buffer)  # the parent wrote it
        returned = function(*arguments, **options)
        plain = returned.to_json() if isinstance(returned, Wire) else returned
        return {"returned": str(plain) if isinstance(plain, Path) else plain}
    except SimyardError as error:
        return {"failure": error.failure.to_json()}
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
            return {"out_of_memory": str(error)}
        return {"os_error": [error.errno, error.strerror, error.filename and str(error.filename)]}
    except Exception as error:
        return {"unforeseen": f"{type(error).__name__}: {error}"[:300], "traceback": traceback.format_exc()}


def _main(memory_bytes: int, cpu_s: int, wall_s: int) -> None:
    """Be the child."""
    for what, most in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_CORE, 0)):
        allowed = resource.getrlimit(what)[1]  # the site's own limit may be lower
        resource.setrlimit(what, (most if allowed == resource.RLIM_INFINITY else min(most, allowed), allowed))
    signal.alarm(wall_s)  # it ends itself, whether or not its parent lives
    os.nice(10)
    gc.disable()  # it looks at millions of values again and again, and few processes are shorter
    # Whatever libraries print goes elsewhere: the answer is alone on its stream.
    with open(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        text = json.dumps(_answer())
        out.write(text if len(text) <= ANSWER_BYTES else json.dumps({"too_long": len(text)}))


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
