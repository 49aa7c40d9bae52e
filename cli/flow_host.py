"""Process that has imported the flows once, and becomes each flow run of the worker of `simyard up`.

Importing Prefect and the flows takes a process two to ten seconds of processor time before it does anything. This one
has done that; for each order it forks, and the child goes on as the flow run: a process with its own id, session,
environment, folder and streams, which can be killed as any other. Orders come from `flow_stub.py`.

    python -m simyard.cli.flow_host ADDRESS    serves orders at a socket in the file system
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from simyard.cli.flow_stub import short

_PR_SET_PDEATHSIG = 1
_ORDER_S = 10.0
"""Seconds within which an order is whole, and is confirmed."""


def import_flows() -> None:
    """Import what flow runs import, and make sure that nothing of it would be lost in a fork."""
    import matplotlib.figure  # noqa: F401
    import prefect.engine
    import prefect.task_engine  # noqa: F401

    import simyard.flows

    for module in pkgutil.iter_modules(simyard.flows.__path__, "simyard.flows."):
        importlib.import_module(module.name)


def is_a_workers(pid: int) -> bool:
    """Return whether a process was started by a sibling of this one: a worker's stub, and no workload further down.

    A child has seen what this process knows, and runs code that its order names.
    """

    def parent(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    with suppress(OSError):
        return parent(parent(pid)) == os.getppid()
    return False


def serve(address: str, is_trusted: Callable[[int], bool] = is_a_workers) -> dict[str, Any]:
    """Fork for each order, and tell the caller how the child ended. Returns in children alone.

    A child lives no longer than its caller, nor than this process.

    Args:
        address: Path of the socket.
        is_trusted: Whether a process may give orders.

    Returns:
        The order: `env`, the child's whole environment; `cwd`, its folder; and what else the caller put in.
    """
    assert len(os.listdir("/proc/self/task")) == 1, "a thread runs: a child would not have it, and maybe wait for it"
    gc.freeze()  # or each child looks through all of it when it ends, and copies it by that
    with suppress(FileNotFoundError):
        os.unlink(address)  # of a host that was killed
    server = socket.socket(socket.AF_UNIX)
    server.bind(short(address))
    os.chmod(address, 0o600)
    server.listen(64)
    waiting = select.poll()
    waiting.register(server, select.POLLIN)
    callers: dict[int, tuple[int, socket.socket]] = {}
    """Process and caller, by the file descriptors of both: the process ends, or the caller hangs up."""
    print("ready", flush=True)
    while True:
        for fd, _ in waiting.poll():
            if fd == server.fileno():
                if (given := _fork(server, is_trusted)) is None:
                    continue
                pid, caller, order, streams = given
                if pid == 0:
                    for each, (_, other) in callers.items():
                        other.close() if each == other.fileno() else os.close(each)
                    server.close()
                    return _become(caller, order, streams)
                for stream in streams:
                    os.close(stream)
                print(f"process {pid} begins flow run {order['env'].get('PREFECT__FLOW_RUN_ID')}", flush=True)
                ended = os.pidfd_open(pid)
                callers[ended] = callers[caller.fileno()] = (pid, caller)
                waiting.register(ended, select.POLLIN)
                waiting.register(caller, select.POLLRDHUP)
            elif fd in callers:
                pid, caller = callers.pop(fd)
                waiting.unregister(fd)
                if fd == caller.fileno():
                    os.kill(pid, signal.SIGKILL)  # it was waited for in vain: Prefect has taken its stub's life
                    continue
                os.close(fd)
                _, status = os.waitpid(pid, 0)
                if callers.pop(caller.fileno(), None):
                    waiting.unregister(caller)
                with caller:
                    _tell(caller, os.waitstatus_to_exitcode(status))


def _fork(
    server: socket.socket, is_trusted: Callable[[int], bool]
) -> tuple[int, socket.socket, dict[str, Any], list[int]] | None:
    """Take an order, and fork; None where it was none."""
    caller, _ = server.accept()
    caller.settimeout(_ORDER_S)
    streams: list[int] = []
    try:
        pid, _, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if not is_trusted(pid):
            raise ValueError(f"Process {pid} gives no orders here.")
        data, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
        while not data.endswith(b"\n"):
            if not (more := caller.recv(1 << 20)):
                raise ValueError("An order ended before its end.")
            data += more
        order = json.loads(data)
        return os.fork(), caller, order, streams
    except (OSError, ValueError) as error:
        print(f"refused: {error}", file=sys.stderr, flush=True)
        caller.close()
        for stream in streams:
            os.close(stream)
        return None


def _tell(caller: socket.socket, number: int) -> bool:
    with suppress(OSError):  # it may listen no longer
        caller.sendall(f"{number}\n".encode())
        return True
    return False


def _become(caller: socket.socket, order: dict[str, Any], streams: list[int]) -> dict[str, Any]:
    """Have this process be what a new one would be; it ends where its caller has not waited."""
    is_awaited = False
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with caller, suppress(OSError):
        is_awaited = _tell(caller, os.getpid()) and caller.recv(3) == b"go\n"
    if not is_awaited:
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    tempfile.tempdir = None  # it is remembered from the first use on
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(random.SystemRandom().getrandbits(32))  # Python's own seeds itself anew
    read_settings()
    return order


def read_settings() -> None:
    """Do what Prefect does with the environment when it is imported."""
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging()


def become_flow_run() -> None:
    """Do what a worker has a process do for a flow run: `python -m prefect.engine`."""
    import prefect.engine

    sys.argv = [prefect.engine.__file__]
    runpy.run_path(prefect.engine.__file__, run_name="__main__")


if __name__ == "__main__":
    import_flows()
    serve(sys.argv[1])
    become_flow_run()
