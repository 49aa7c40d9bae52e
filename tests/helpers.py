"""Shared by tests: the real command line as a child process, and how to wait for what it does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.config import check_config
from simyard.requests import TrainRequest

SIMYARD = str(Path(sys.executable).parent / "simyard")
PREFECT = str(Path(sys.executable).parent / "prefect")
SCENARIO = {"SIMYARD_PYTHON": str(Path(__file__).parent / "scenario" / "python"), "SCENARIO_PYTHON": sys.executable}
"""What has a machine play the scenario that a job's description says, in place of the simulator."""
CONFIG = {
    "name": "test",
    "trainingConfig": {
        "mode": "train",
        "task": "Isaac-Cartpole-Direct",
        "rlLibrary": "rsl_rl",
        "numEnvs": 16,
        "maxIterations": 4,
        "seed": 1,
    },
    "computeConfig": {"numNodes": 1, "gpusPerNode": 0},
}


@dataclass(frozen=True)
class Server:
    """A running Prefect server."""

    url: str
    env: dict[str, str]


@dataclass(frozen=True)
class CommandLine:
    """The installed `simyard` command, run for real."""

    env: dict[str, str]

    def __call__(self, *arguments: object, timeout_s: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            [SIMYARD, *map(str, arguments)],
            env={**self.env, **env}, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def start(self, *arguments: object, **env: str) -> subprocess.Popen[str]:
        """Start, in a process group of its own."""
        return subprocess.Popen(
            [SIMYARD, *map(str, arguments)],
            env={**self.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip


@contextmanager
def serving_prefect(home: Path, port: int | None = None) -> Iterator[Server]:
    """Run a Prefect server with a home and a port of its own while the body runs."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: _healthy(url, process), 180, f"Prefect server: {(home / 'server.log').read_text()}")
        yield Server(url, {"PREFECT_HOME": str(home), "PREFECT_API_URL": url})
    finally:
        end(process)


def _healthy(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the Prefect server ended"
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.read() == b"true")
    except (urllib.error.URLError, OSError):
        return False


def send_deployments(server: Server) -> None:
    """Have a server know the pool and the deployments of prefect.yaml, as `simyard up` does it."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from simyard.flows.deployments import deploy

    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        deploy(client)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(happened: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Poll until `happened` returns something true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := happened():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that a test started, and its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_json(completed: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the object that `--json` promises as the last line of stdout."""
    return dict(json.loads(completed.stdout.strip().splitlines()[-1]))


def train_request(config: Any) -> TrainRequest:
    """Check the config of a training."""
    return check_config(config, TrainRequest)
