"""The stub that a worker starts for a flow run, and the host that forks for it; here it becomes a line of output."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import HANG_S, end, wait_until

from simyard.cli import flow_stub
from simyard.cli.flow_stub import ADDRESS, hand_over

HOST = """
import os, sys, time
from simyard.cli.flow_host import serve, read_settings
from simyard.cli import flow_host
flow_host.read_settings = lambda: None  # Prefect is not imported here
serve(sys.argv[1])
print(os.environ["SAID"], os.getcwd(), os.getsid(0) == os.getpid(), flush=True)
time.sleep(float(os.environ.get("SECONDS", 0)))
sys.exit(int(os.environ.get("CODE", 0)))
"""
STUB = [sys.executable, "-S", flow_stub.__file__]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A host whose address is longer than the path of a socket may be."""
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOST, folder / "orders"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.address = str(folder / "orders")  # type: ignore[attr-defined]
        yield process
        end(process)


def stub(address: str, **env: str) -> subprocess.Popen[str]:
    """Have a stub started as a worker does: by a process which is a sibling of the host."""
    worker = f"import os, subprocess, sys; sys.exit(subprocess.call({STUB!r}) % 256)"
    return subprocess.Popen(
        [sys.executable, "-c", worker], env={**os.environ, ADDRESS: address, **env}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_it_ends_as_the_process_that_the_host_became(host, tmp_path):
    with stub(host.address, SAID="hello", CODE="7") as process:
        out, err = process.communicate(timeout=HANG_S)
    assert (out, err, process.returncode) == (f"hello {os.getcwd()} True\n", "", 7)


@pytest.mark.parametrize("victim", ["stub", "host"])
def test_neither_outlives_the_other(host, victim):
    with stub(host.address, SAID="hello", SECONDS="600") as worker:
        assert worker.stdout.readline().startswith("hello")
        (child,) = psutil.Process(host.pid).children()
        (mine,) = psutil.Process(worker.pid).children()
        (mine if victim == "stub" else psutil.Process(host.pid)).kill()
        child_is_gone = lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE  # noqa: E731
        wait_until(child_is_gone, 60, "the end of the flow run")
        assert worker.wait(HANG_S) == -signal.SIGKILL % 256


def test_a_signal_reaches_the_process_that_the_host_became(host):
    with stub(host.address, SAID="hello", SECONDS="600") as worker:
        assert worker.stdout.readline().startswith("hello")
        (mine,) = psutil.Process(worker.pid).children()
        mine.terminate()
        assert worker.wait(HANG_S) == -signal.SIGTERM % 256


def test_a_workload_gives_no_orders(host):
    assert hand_over(host.address, {"env": {}, "cwd": "/"}) is None, "this process is the host's parent"
    end(host)
    assert "gives no orders here" in host.stderr.read()


def test_without_a_host_it_becomes_the_flow_run_itself(tmp_path):
    with stub(str(tmp_path / "nobody")) as process:
        _, err = process.communicate(timeout=HANG_S)
    assert "Invalid flow run id" in err, "Prefect's engine asks for one"
    assert process.returncode == 1
