"""A process that has imported torch once, and has played simulators as often as a test wants one.

A start costs a played simulator two seconds of processor time, nearly all of them in `import torch`. This process has
done that; for each order it forks, and the child goes on as `python -m simyard.runner` itself: its own process, with
its own id, session, environment, folder and streams. It is the child of who ordered it, as one that was started is, so
that its exit code is its own, and nothing stands between it and signals. What is tested of the start itself starts.

    python nursery.py FD    takes orders at a connected socket
"""

import ctypes
import gc
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
import uuid

from simyard.runner.adapter import ADAPTERS
from simyard.runner.workload import TOKEN, ChildWorkload

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Nursery:
    """Such a process, seen from who orders.

    Args:
        env: The environment of a workload; orders may have others.
        python: The Python to run it.
    """

    def __init__(self, env, python=sys.executable):
        self._lock = threading.Lock()
        self._orders, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [python, __file__, str(theirs.fileno())],
            env={**env, TOKEN: "-" * len(uuid.uuid4().hex)},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        assert self._orders.recv(1), "it has ended"

    def start(self, folder, *, library, env, bounds):
        """Do what `ChildWorkload.start` does."""
        folder.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex
        ours, theirs = socket.socketpair()
        log = folder / "workload.log"
        order = {
            "env": {**env, TOKEN: token},
            "cwd": str(folder),
            "umask": _umask(),
            "arguments": ["--simulator", "isaaclab", "--bounds", json.dumps(bounds.to_json()), "--library", library],
        }
        with self._lock, theirs, log.open("ab") as output, open(os.devnull, "rb") as nothing:
            _adopt(True)  # the child's parent ends at once, and then it is ours
            try:
                streams = [nothing.fileno(), output.fileno(), output.fileno(), theirs.fileno()]
                socket.send_fds(self._orders, [json.dumps(order).encode() + b"\n"], streams)
                pid = int(self._orders.recv(64))
            finally:
                _adopt(False)
        return ChildWorkload(Child(pid), ours, token, log)

    def close(self):
        self._orders.close()
        self._process.wait()


class Child:
    """A child process that somebody else started: what `subprocess.Popen` offers of one."""

    def __init__(self, pid):
        self.pid = pid
        self.returncode = None
        self._ended = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a played simulator", timeout)
            with self._lock:
                if self.returncode is None:
                    self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                    os.close(self._ended)
        return self.returncode


def _umask():
    """Return this process's mask; it changes where the flows are imported."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _adopt(on):
    assert ctypes.CDLL(None).prctl(_SUBREAPER, int(on), 0, 0, 0) == 0


def serve(orders):
    """Fork for each order, and say which process it has become. Returns in children alone: their order."""
    orders.sendall(b"+")
    while True:
        data, streams, _, _ = socket.recv_fds(orders, 1 << 20, 4)
        while data and not data.endswith(b"\n"):
            data += orders.recv(1 << 20)
        if not data:
            os._exit(0)
        said, says = os.pipe()
        if (between := os.fork()) == 0:
            if os.fork() > 0:
                os._exit(0)
            os.setsid()  # from now on it can be signalled as a group
            os.write(says, f"{os.getpid()}".encode())
            for descriptor in (said, says, orders.detach()):
                os.close(descriptor)
            return become(json.loads(data), streams)
        for descriptor in (says, *streams):
            os.close(descriptor)
        pid = os.read(said, 64)
        os.close(said)
        os.waitpid(between, 0)
        orders.sendall(pid)


def become(order, streams):
    """Have this process be what a new one would be."""
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
        os.close(stream)
    _show_token(order["env"][TOKEN])
    os.environ.clear()
    os.environ.update(order["env"])
    os.umask(order["umask"])
    os.chdir(order["cwd"])
    numpy = sys.modules["numpy"]
    numpy.random.seed()  # torch begins with the same seed in every process, Python draws another after a fork
    os.set_inheritable(streams[3], True)
    return ["--control", str(streams[3]), *order["arguments"]]


def _show_token(token):
    """Write the token over the one that this process began with: others read it where the system keeps that."""
    entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    begins = f"{TOKEN}=".encode()
    place = next(place for place in iter(entries) if ctypes.string_at(place).startswith(begins))
    ctypes.memmove(place + len(begins), token.encode(), len(token))


if __name__ == "__main__":
    from simulator import Scenario

    Scenario().preload("rsl_rl")
    assert len(os.listdir("/proc/self/task")) == 1, "a thread runs: a child would not have it, and maybe wait for it"
    gc.freeze()  # or each child looks through all of it, and copies it by that
    arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    # From here on this process is what was ordered; see simulator.py.
    sys.argv = ["simyard.runner", *arguments]
    ADAPTERS["isaaclab"] = Scenario
    runpy.run_module("simyard.runner", run_name="__main__", alter_sys=True)
