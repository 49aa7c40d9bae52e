"""The workload process: it checks a job, runs it in a fresh environment, and says how it ended.

The supervisor starts it before the job is ready, so that importing Isaac Lab overlaps everything else, and talks to it
over a socket, one JSON object a line. When the supervisor dies the socket closes, and this process kills its family.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simyard.runner import event_writers, opened
from simyard.runner.adapters import get_adapter
from simyard.runner.errors import Category, Failure, SimyardError, Stopped
from simyard.runner.paths import AttemptPaths, read_json, write_json
from simyard.runner.spec import AttemptSpec, Facts, JobSpec
from simyard.runner.supervise import TOKEN, kill_family


def serve(control: socket.socket, simulator: str, library: str | None) -> None:
    """Answer requests until one job is done or the supervisor is gone.

    Args:
        control: The connected socket.
        simulator: The adapter's name.
        library: What to import ahead; None for nothing in particular.
    """
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_receive, args=(control, requests), daemon=True).start()
    adapter = get_adapter(simulator)
    adapter.preload(library)
    while True:
        request = requests.get()
        if request["op"] == "check":
            overlay = Path(request["overlay"]) if request["overlay"] else None
            files = {digest: Path(path) for digest, path in request["files"].items()}
            _send(control, _check(JobSpec.from_json(request["job"]), overlay, files))
        elif request["op"] == "run":
            code = run(AttemptPaths(Path(request["root"])))
            _send(control, {"event": "done", "code": code})
            _leave(code)


def _receive(control: socket.socket, requests: queue.Queue[dict[str, Any]]) -> None:
    with control.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            requests.put(json.loads(line))
    # End of file: the supervisor is gone, and nobody would collect what this process goes on to do.
    if token := os.environ.get(TOKEN):
        kill_family(token)
    os.killpg(0, signal.SIGKILL)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _check(job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> dict[str, Any]:
    try:
        facts = get_adapter(job.simulator).check(job, overlay, files)
    except SimyardError as error:
        return {"event": "refused", "failure": error.failure.to_json()}
    except Exception as error:
        traceback.print_exc()
        return {"event": "refused", "failure": _failure(error).to_json()}
    return {"event": "checked", "facts": facts.to_json()}


def run(paths: AttemptPaths) -> int:
    """Run the attempt in `paths` to its end and write the workload's own account of it.

    Returns:
        0 when the simulator came back without an error, else 1.
    """
    attempt = AttemptSpec.from_json(read_json(paths.spec))
    facts = Facts.from_json(read_json(paths.facts))
    _redirect_output(paths)
    os.chdir(paths.work)
    try:
        event_writers.write_at_once()
        try:
            get_adapter(attempt.job.simulator).run(attempt, facts, paths)
        finally:
            event_writers.close_all()
        account: dict[str, Any] = {"failure": None, "opened": opened.open_results(paths, attempt, facts)}
    except Stopped:
        account = {"failure": None, "opened": []}  # why it was stopped, the supervisor knows
    except BaseException as error:  # SystemExit too: an argument parser's exit is a failure like any other
        traceback.print_exc()
        account = {"failure": _failure(error).to_json(), "opened": []}
    write_json(paths.outcome, account)
    return 0 if account["failure"] is None else 1


def open_afterwards(paths: AttemptPaths) -> None:
    """Give the account of a workload that trained to its end and hung or died before it gave one itself."""
    attempt = AttemptSpec.from_json(read_json(paths.spec))
    facts = Facts.from_json(read_json(paths.facts))
    write_json(paths.outcome, {"failure": None, "opened": opened.open_results(paths, attempt, facts)})


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
    text = str(error).strip()
    return Failure(
        code="exception",
        category=Category.USER,
        message=f"{type(error).__name__}: {text}" if text else type(error).__name__,
        advice="The traceback is in command.stderr.log.",
    )


def _redirect_output(paths: AttemptPaths) -> None:
    """Send both streams to the job's files, child processes' and C++ prints included.

    A file never fills up as a pipe does, and outlives the supervisor.
    """
    for stream, path in ((sys.stdout, paths.stdout), (sys.stderr, paths.stderr)):
        stream.flush()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def _leave(code: int) -> None:
    """End without the interpreter's own clean-up, in which simulators hang or crash after the work is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
