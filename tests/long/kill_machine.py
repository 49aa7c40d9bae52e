"""The servers that all cases share: a Prefect server, a flow host, an S3 server, and a site with service and worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import prefect.engine
import psutil
from faults import Proxy
from helpers import (
    EMPTY_DATABASE,
    HANG_S,
    PREFECT,
    FlowHost,
    Server,
    _keep_database,
    end,
    free_port,
    make_bucket,
    send_deployments,
    wait_until,
)
from pools import Api

from simyard.cli.processes import Child, Children
from simyard.store.store import Store
from simyard.tasks.shared import api_keys

if TYPE_CHECKING:
    from kill_ways import Case, Way

HERE = Path(__file__).parent
HURRIED = str(HERE / "hurried.py")


class Machine:
    """The servers that cases share; what is ended of them is started again, as `simyard up` does it."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.lengths: dict[tuple[str, str], tuple[float, float]] = {}
        """Seconds that an undisturbed job takes, and until its simulator is done, by way and store."""

    def __enter__(self) -> Machine:
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-machine-")))
        self.children = Children(self.folder / "up", lambda text: None)
        self.stack.callback(self.children.end)
        over = threading.Event()
        keeper = threading.Thread(target=self._keep_up, args=(over,), daemon=True)
        self.stack.callback(keeper.join)
        self.stack.callback(over.set)
        self.prefect = self._serve_prefect()
        self.host = self._host_flows()
        self._s3: str | None = None
        self.s3_process: subprocess.Popen[bytes] | None = None
        keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def _keep_up(self, over: threading.Event) -> None:
        while not over.wait(0.3):
            for child in self.children.started:
                child.deaths = 0  # a thousand deaths are no reason to wait longer for the next
            self.children.restart_dead()

    def child(self, name: str) -> Child:
        """Return one of them by name."""
        return next(child for child in self.children.started if child.name == name)

    def await_health(self) -> None:
        """Wait until all of them do their work."""
        for child in self.children.started:
            wait_until(child.is_healthy, HANG_S, child.name)

    def _serve_prefect(self) -> Server:
        home, port = self.folder / "prefect", free_port()
        home.mkdir()
        if EMPTY_DATABASE.exists():
            shutil.copyfile(EMPTY_DATABASE, home / "prefect.db")
        url = f"http://127.0.0.1:{port}/api"
        env = {"PREFECT_HOME": str(home), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        child = Child("Prefect server", command, os.environ | env, lambda: answers(f"{url}/health"))
        self.children.start(child)
        wait_until(child.is_healthy, HANG_S, "the Prefect server")
        if not EMPTY_DATABASE.exists():
            _keep_database(home / "prefect.db")
        return Server(url, {"PREFECT_HOME": str(home), "PREFECT_API_URL": url})

    def _host_flows(self) -> FlowHost:
        address = f"{self.folder}/orders"
        host = subprocess.Popen(
            [sys.executable, HURRIED, str(HERE.parent / "flow_host.py"), address],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PREFECT_HOME": str(self.folder / "host")},
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.stack.callback(end, host)
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        self.host_pid = host.pid
        return FlowHost(address)

    @cached_property
    def trained(self) -> tuple[str, Store]:
        """A training, and the store that has it."""
        from kill_ways import Case, TrainingByCommand

        folder = self.folder / "trained"
        folder.mkdir()
        row = TrainingByCommand(self, Case(0, 0, "train/command", "folder", ()), folder).run()
        assert not row["problems"], row["problems"]
        return row["job"], Store.open(str(folder / "store"))

    @cached_property
    def site(self) -> Site:
        """The site, which is started when the first case needs it."""
        return Site(self)

    @property
    def s3(self) -> str:
        """The address of a real S3 server, whose data is in its memory."""
        if self._s3 is None:
            port = free_port()
            program = "import sys; from moto.server import main; main(sys.argv[1:])"
            with (self.folder / "s3.log").open("wb") as log:
                self.s3_process = subprocess.Popen(
                    [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)],
                    stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            self.stack.callback(end, self.s3_process)
            self._s3 = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{self._s3}/moto-api/"), HANG_S, "the S3 server")
        return self._s3

    def length(self, way: type[Way], case: Case) -> tuple[float, float]:
        """Return how long such a job takes undisturbed, and until its simulator is done; it is run once for that."""
        known = self.lengths.get((case.way, case.store))
        if known is None:
            with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder:
                quiet = way(self, replace(case, faults=()), Path(folder))
                row = quiet.run()
                if row["problems"]:
                    raise AssertionError(f"undisturbed, kept in {quiet.keep()}: {row['problems']}")
            known = self.lengths[case.way, case.store] = (row["took_s"], row["worked_s"])
        return known


def answers(url: str) -> bool:
    """Return whether somebody answers there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Site:
    """A service for each kind of store, and the worker of both, in one home."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.home, self.tmp, self.journal = (machine.folder / name for name in ("home", "tmp", "journal"))
        self.tmp.mkdir()
        self.proxy = machine.stack.enter_context(Proxy(machine.s3))
        bucket = make_bucket(machine.s3, "site")
        self.env = {
            **os.environ, **machine.prefect.env, **bucket, **lean(self.journal), "AWS_ENDPOINT_URL": self.proxy.url,
            "SIMYARD_HOME": str(self.home), "TMPDIR": str(self.tmp), "PREFECT_WORKER_QUERY_SECONDS": "1",
        }  # fmt: skip
        direct = {
            "endpoint_url": machine.s3, "access_key_id": bucket["AWS_ACCESS_KEY_ID"],
            "secret_access_key": bucket["AWS_SECRET_ACCESS_KEY"],
        }  # fmt: skip
        (machine.folder / "store").mkdir()
        self.addresses = {"folder": str(machine.folder / "store"), "s3": "s3://site/store"}
        self.stores = {
            "folder": Store.open(self.addresses["folder"]), "s3": Store.open(self.addresses["s3"], options=direct),
        }  # fmt: skip
        self.keys = {
            name: api_keys.create(store, "default", ["admin"], "kills")[0] for name, store in self.stores.items()
        }
        self.urls = {name: self._serve(name) for name in self.stores}

        # A worker that has the flow host become its flow runs.
        api = Api(machine.prefect)
        api.make_pool("simyard")
        pool = api("/work_pools/simyard")
        template = pool["base_job_template"]
        command = f"{sys.executable} -S {HERE / 'forked.py'} {machine.host.address} {prefect.engine.__file__}"
        template["variables"]["properties"]["command"]["default"] = command
        machine.prefect.ask("/work_pools/simyard", {"base_job_template": template}, "PATCH")
        send_deployments(machine.prefect)
        command = [PREFECT, "worker", "start", "--pool", "simyard", "--type", "process", "--name", "kills"]
        self._start(Child("worker", command, self.env, self._has_worker))

    def _serve(self, name: str) -> str:
        """Start the service of one store; return its address."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, HURRIED, "-m", "simyard.service", "--port", str(port)]
        env = self.env | {"SIMYARD_STORE": self.addresses[name]}
        self._start(Child(f"service of {name}", command, env, lambda: answers(f"{url}/healthz")))
        return url

    def _start(self, child: Child) -> None:
        self.machine.children.start(child)

    def _has_worker(self) -> bool:
        with suppress(OSError):
            found = self.machine.prefect.ask("/work_pools/simyard/workers/filter", {})
            return any(worker["status"] == "ONLINE" for worker in found or [])
        return False

    def flow_process(self, run_id: str) -> psutil.Process | None:
        """Return the process that the flow host has become for a flow run."""
        with suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(Path(f"{self.machine.host.address}.flows", run_id).read_text()))
            return process if process.ppid() == self.machine.host_pid else None
        return None


def processes_with(variable: str, value: object) -> list[psutil.Process]:
    """Return the processes that began with a variable in their environment."""
    found = []
    wanted = f"{variable}={value}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, psutil.Error), open(f"/proc/{entry.name}/environ", "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    found.append(psutil.Process(int(entry.name)))
    return [process for process in found if process.is_running()]


def in_words(processes: list[psutil.Process]) -> list[str]:
    """Return numbers and commands of those that have not ended meanwhile."""
    said = []
    for process in processes:
        with suppress(psutil.Error):
            said.append(f"{process.pid} {' '.join(process.cmdline()[:6])}")
    return said


def fill(path: Path) -> None:
    """Leave no room where this file is."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def lean(journal: Path) -> dict[str, str]:
    """Return the environment of a machine whose simulator is the lean one."""
    return {
        "SIMYARD_PYTHON": str(HERE / "lean" / "python"), "LEAN_PYTHON": sys.executable, "LEAN_JOURNAL": str(journal),
    }  # fmt: skip
