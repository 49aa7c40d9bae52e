"""Shared by tests: the real command line as a child process, and how to wait for what it does."""

import json
import os
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

from simyard.requests.config import check_config
from simyard.requests.jobs import TrainRequest

SIMYARD = str(Path(sys.executable).parent / "simyard")
PREFECT = str(Path(sys.executable).parent / "prefect")
HANG_S = 600
"""Seconds after which a child process of a test hangs: no machine is that slow, whatever runs beside it."""
LIBRARIES = ("rsl_rl", "rl_games", "sb3", "skrl")
"""The reinforcement-learning libraries, in the order in which forms show them."""
SCENARIO = {"SIMYARD_PYTHON": str(Path(__file__).parent / "scenario" / "python"), "SCENARIO_PYTHON": sys.executable}
"""What has a machine play the scenario that a job's description says, in place of the simulator."""
EMPTY_DATABASE = Path(__file__).parents[1] / "build" / f"prefect-{metadata.version('prefect')}.db"
"""A Prefect server's database as it is at first: its hundred migrations take five seconds of processor time."""
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

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return the answer of its API; None where there is nothing."""
        data = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, kind, method=method)
        for patience_s in (1, 2, 4, 8, 0):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                # Prefect on SQLite answers 503 while its database is locked; its own clients repeat that too.
                if error.code != 503 or not patience_s:
                    raise
                time.sleep(patience_s)
        raise AssertionError("unreachable")

    def flow_runs(self, idempotency_key: str) -> list[dict[str, Any]]:
        """Return the flow runs of an idempotency key."""
        return list(self.ask("/flow_runs/filter", {"flow_runs": {"idempotency_key": {"any_": [idempotency_key]}}}))


class Command:
    """A running `simyard` that `flow_host.py` has become; it is used as a `subprocess.Popen` is.

    Args:
        host: Where it becomes that.
        arguments: What follows `simyard`.
        env: Its whole environment.
        program: A Python file that it becomes in place of `simyard`, whose standard input is a pipe.
    """

    def __init__(
        self, host: "FlowHost", arguments: list[str], env: dict[str, str], program: Path | None = None
    ) -> None:
        self.returncode: int | None = None
        its_in, into = os.pipe()
        self.stdin = open(into, "w")  # noqa: SIM115
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        self.stdout, self.stderr = open(out), open(err)  # noqa: SIM115
        order = {"arguments": arguments, "program": program and str(program), "env": env, "cwd": os.getcwd()}
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(host.address)
        socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], [its_in, its_out, its_err])
        for stream in (its_in, its_out, its_err):
            os.close(stream)
        if program is None:
            self.stdin.close()
        self._said = connection.makefile()
        self._connection = connection
        self.pid = int(self._said.readline())
        connection.sendall(b"go\n")

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("simyard", timeout or 0.0)
            self.returncode = int(self._said.readline())
            self._said.close()
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what is written until both streams are closed, by the command and by all that it started."""
        deadline = None if timeout is None else time.monotonic() + timeout
        written: list[list[str]] = [[], []]
        readers = [
            threading.Thread(target=lambda stream=stream, into=into: into.append(stream.read()), daemon=True)
            for stream, into in zip((self.stdout, self.stderr), written, strict=True)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(deadline and max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("simyard", timeout or 0.0)
        self.wait(deadline and max(0.0, deadline - time.monotonic()))
        (out,), (err,) = written
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
        self.stdout.close()
        self.stderr.close()


@dataclass(frozen=True)
class FlowHost:
    """Where `flow_host.py` takes orders."""

    address: str


@contextmanager
def hosting_flows() -> Iterator[FlowHost]:
    """Run a flow host while the body runs."""
    # A socket's path must be short, numpy may not have threads that a fork would lose, and Prefect makes its home.
    with tempfile.TemporaryDirectory(prefix="simyard-") as folder:
        address = f"{folder}/orders"
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("flow_host.py"), address],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PREFECT_HOME": folder},
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield FlowHost(address)
        finally:
            end(process)


@dataclass(frozen=True)
class CommandLine:
    """The `simyard` command, run for real, each time as a process of its own."""

    env: dict[str, str]
    host: FlowHost | None = None
    """Becomes the command, so that nothing is imported again; without one it is the installed program."""

    def __call__(self, *arguments: object, timeout_s: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        process = self.start(*arguments, **env)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(["simyard", *arguments], process.returncode, out, err)

    def start(self, *arguments: object, **env: str) -> Any:
        """Start, in a process group of its own."""
        given, env = [str(argument) for argument in arguments], {**self.env, **env}
        if self.host is not None:
            return Command(self.host, given, env)
        return subprocess.Popen(
            [SIMYARD, *given],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests on a port of its own while the body runs; yield the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def serving_prefect(home: Path, port: int | None = None) -> Iterator[Server]:
    """Run a Prefect server with a home and a port of its own while the body runs."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    database = home / "prefect.db"
    if EMPTY_DATABASE.exists() and not database.exists():
        shutil.copyfile(EMPTY_DATABASE, database)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: _healthy(url, process), HANG_S, f"Prefect server: {(home / 'server.log').read_text()}")
        if not EMPTY_DATABASE.exists():
            _keep_database(database)
        yield Server(url, {"PREFECT_HOME": str(home), "PREFECT_API_URL": url})
    finally:
        end(process)


def _keep_database(database: Path) -> None:
    """Keep the database of a server that has just begun, for those to come."""
    EMPTY_DATABASE.parent.mkdir(exist_ok=True)
    beside = EMPTY_DATABASE.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(database)) as ours, closing(sqlite3.connect(beside)) as copy:
        ours.backup(copy)
    beside.rename(EMPTY_DATABASE)


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

    from simyard.deployments.apply import apply_prefect_file

    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        apply_prefect_file(client)


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


def make_bucket(address: str, name: str) -> dict[str, str]:
    """Make a bucket on an S3 server; return the environment in which it is reached."""
    urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT")).close()
    return {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "robot", "AWS_SECRET_ACCESS_KEY": "the-secret-key",
        "AWS_REGION": "us-east-1",
    }  # fmt: skip


def changed(config: Any, changes: dict[str, Any], dot: str = "__") -> Any:
    """Return a copy of a config with changes, given by the path of each field, whose parts `dot` separates."""
    copied = json.loads(json.dumps(config))
    for key, value in changes.items():
        node = copied
        *folders, last = key.split(dot)
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = value
    return copied


def last_json(completed: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the object that `--json` promises as the last line of stdout."""
    return dict(json.loads(completed.stdout.strip().splitlines()[-1]))


def train_request(config: Any) -> TrainRequest:
    """Check the config of a training."""
    return check_config(config, TrainRequest)
