"""A reply that comes when nobody waits for it any more is not taken for another one."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from helpers import HANG_S

from simyard.core.errors import WorkloadError
from simyard.runner.workload import TOKEN, LineSocket, Workload


def test_a_late_reply_is_not_the_end_of_the_job(tmp_path):
    ours, its = socket.socketpair()
    with its:
        workload = Workload(LineSocket(ours), "token", tmp_path / "workload.log")
        with pytest.raises(WorkloadError) as silent:
            workload.findings(0.0)
        assert silent.value.failure.code == "workload_silent"
        request = json.loads(its.recv(65536))["request"]
        late = {"event": "findings", "findings": {}, "evidence": {}, "request": request}
        its.sendall(json.dumps(late).encode() + b"\n")
        assert not workload.job_ended(0.1)
        its.sendall(json.dumps({"event": "done", "code": 3, "leaving": None, "memory_bytes": 1}).encode() + b"\n")
        assert workload.job_ended(5.0)
        assert workload.code == 3
        ours.close()


def test_a_process_whose_supervisor_dies_before_it_has_read_everything_ends_too():
    ours, its = socket.socketpair()
    code = f"""
import queue, socket
from simyard.runner import session
session._receive(socket.socket(fileno={its.fileno()}), queue.Queue())
"""
    env = {name: value for name, value in os.environ.items() if name != TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[its.fileno()], env=env, start_new_session=True
    )  # fmt: skip
    its.sendall(b"a reply that nobody reads\n")
    its.close()
    ours.close()
    assert process.wait(HANG_S) == -signal.SIGKILL
