"""Stands for the process of a flow run, which the flow host becomes: a worker starts it, and it ends as that one ends.

    python -S flow_stub.py    uses the flow host at the address of `SIMYARD_FLOW_HOST`

Where no flow host answers, it becomes the flow run itself, as a worker does without it; that only takes longer. It
imports the standard library alone, and little of that: it starts in a twentieth of a second.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping

ADDRESS = "SIMYARD_FLOW_HOST"
ANSWER_S = 10.0
"""Seconds within which the flow host has forked."""


def short(address: str) -> str:
    """Return a path that leads to a socket and is no longer than such a path may be: its folder is opened for good."""
    folder, name = os.path.split(address)
    return f"/proc/self/fd/{os.open(folder, os.O_PATH)}/{name}"


def hand_over(address: str, order: Mapping[str, object]) -> tuple[int, socket.socket] | None:
    """Return the process that a flow host has become, and where it says how it ended; None where there is no host."""
    host = socket.socket(socket.AF_UNIX)
    host.settimeout(ANSWER_S)
    data = json.dumps(order).encode() + b"\n"
    try:
        host.connect(short(address))
        host.sendall(data[socket.send_fds(host, [data], [0, 1, 2]) :])
        pid = int(host.recv(32))
        host.sendall(b"go\n")  # without it the process ends: nobody may be both here and there
    except (OSError, ValueError):
        host.close()
        return None
    host.settimeout(None)
    return pid, host


def end_with(pid: int, host: socket.socket) -> None:
    """Pass on signals until the process has ended, and end as it did."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: os.kill(pid, number))
    code = int(host.recv(32) or -signal.SIGKILL)  # a host that was killed took it along
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    order = {"env": dict(os.environ), "cwd": os.getcwd()}
    if ADDRESS in os.environ and (found := hand_over(os.environ[ADDRESS], order)):
        end_with(*found)
    os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])
