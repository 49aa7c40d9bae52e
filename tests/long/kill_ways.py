"""How a case is run: the servers that all cases share, the jobs, who can be killed, and what its owner does then."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
from faults import SLOW_DOWN, CutRequest, Proxy, Trickle
from faults import Fault as NetworkFault
from helpers import (
    EMPTY_DATABASE,
    HANG_S,
    PREFECT,
    CommandLine,
    FlowHost,
    Server,
    _keep_database,
    end,
    free_port,
    make_bucket,
    wait_until,
)
from promises import Left, broken, read_journal

from simyard.cli.processes import Child, Children
from simyard.core.records import JobResult
from simyard.store.store import Store
from simyard.tasks.shared import history

if TYPE_CHECKING:
    from kills import Case, Fault

HERE = Path(__file__).parent
HURRIED = str(HERE / "hurried.py")
SAFE_S = 3.0
"""Seconds after which something that was saved is safe: 30, by the factor of hurried.py."""
LEFT_S = 10.0
"""Seconds within which everything of a job that has ended is gone."""
MOST_TRIES = 12
"""How often a person tries again before they give up: each fault costs at most a few tries."""
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGSTOP": signal.SIGSTOP}
Faults = dict[tuple[str, str], float]
"""Weights of what can happen, by victim and action."""


class Machine:
    """The servers that cases share; what is ended of them is started again, as `simyard up` does it."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.lengths: dict[tuple[str, str], float] = {}
        """Seconds that an undisturbed job takes, by way and store."""

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

    def length(self, way: type[Way], case: Case) -> float:
        """Return how long such a job takes undisturbed; it is run once for that."""
        known = self.lengths.get((case.way, case.store))
        if known is None:
            with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder:
                quiet = way(self, replace(case, faults=()), Path(folder))
                row = quiet.run()
                if row["problems"]:
                    raise AssertionError(f"undisturbed, kept in {quiet.keep()}: {row['problems']}")
            known = self.lengths[case.way, case.store] = row["took_s"]
        return known


def answers(url: str) -> bool:
    """Return whether somebody answers there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Way:
    """A kind of job, and by whom it is run."""

    weight: ClassVar[float] = 1.0
    faults: ClassVar[Faults] = {}

    def __init__(self, machine: Machine, case: Case, folder: Path) -> None:
        self.machine = machine
        self.case = case
        self.folder = folder
        self.home, self.tmp = folder / "home", folder / "tmp"
        self.journal = folder / "journal"
        self.name = f"case-{case.seed}-{case.number}-{os.getpid()}-{time.time_ns() % 10**9}"
        self.happened: list[dict[str, Any]] = []
        self.said: list[str] = []
        """What its owner saw, for those who look into a broken promise."""
        self.tracebacks: list[str] = []
        self.over = threading.Event()
        self.outage_s = 0.0
        self._passing: list[threading.Thread] = []
        self._stack = ExitStack()
        self._network: NetworkFault | None = None

    def run(self) -> dict[str, Any]:
        """Run the job among its faults; return what is known of it then."""
        length = self.machine.length(type(self), self.case) if self.case.faults else 0.0
        self.machine.await_health()
        with self._stack:
            self._prepare()
            began = time.time()
            inflicting = threading.Thread(target=self._inflict, args=(began, length), daemon=True)
            inflicting.start()
            try:
                job_id = self.take_to_its_end()
            finally:
                took_s = time.time() - began
                self.over.set()
                inflicting.join()
                for passing in self._passing:
                    passing.join()
            self.machine.await_health()
            left = self._look(job_id)
            result = history.result_of(self.store, job_id)
            for fault in self.happened:
                fault["recovery_s"] = self._recovery(fault, left, began)
            return {
                "job": job_id,
                "status": result.status if result else None,
                "attempts": result.attempts if result else 0,
                "took_s": round(took_s, 1),
                "faults": self.happened,
                "problems": [list(problem) for problem in broken(left)],
            }

    def take_to_its_end(self) -> str:
        """Do what the job's owner does until it has ended for good; return its id."""
        raise NotImplementedError

    def victims(self, victim: str) -> list[psutil.Process]:
        """Return the processes of a victim; none while it is not there."""
        raise NotImplementedError

    def keep(self) -> Path:
        """Keep what is left of a case whose promises were broken, and return where."""
        kept = HERE.parents[1] / "build" / "kills" / f"{self.case.seed}-{self.case.number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.folder, kept, symlinks=True, ignore_dangling_symlinks=True)
        (kept / "said").write_text("\n".join(self.said))
        return kept

    # --- before and after

    def _prepare(self) -> None:
        for folder in (self.home, self.tmp):
            folder.mkdir()
        if any(fault.victim == "disk" for fault in self.case.faults):
            self._mount(self.home)
        if self.case.store == "folder":
            self.store_url, self.store_env = str(self.folder / "store"), {}
            Path(self.store_url).mkdir()
            if any(fault.victim == "store's disk" for fault in self.case.faults):
                self._mount(Path(self.store_url))
            self.store = Store.open(self.store_url)
            return
        bucket = f"bucket-{time.time_ns()}"
        direct = make_bucket(self.machine.s3, bucket)
        proxy = self._stack.enter_context(Proxy(self.machine.s3, lambda request: self._network))
        self.store_url, self.store_env = f"s3://{bucket}/store", direct | {"AWS_ENDPOINT_URL": proxy.url}
        options = {
            "endpoint_url": self.machine.s3, "access_key_id": direct["AWS_ACCESS_KEY_ID"],
            "secret_access_key": direct["AWS_SECRET_ACCESS_KEY"],
        }  # fmt: skip
        self.store = Store.open(self.store_url, options=options)

    def _mount(self, folder: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
        # Lazily: a process that is left over would keep it, and that is told otherwise.
        self._stack.callback(subprocess.run, ["umount", "--lazy", folder], check=False)

    def _look(self, job_id: str) -> Left:
        """Look at everything, once what was ended has had time to go."""
        deadline = time.monotonic() + LEFT_S
        while (self._processes() or self._files()) and time.monotonic() < deadline:
            time.sleep(0.2)
        unfinished = []
        if self.case.store == "s3":
            bucket = self.store_url.split("/")[2]
            with urllib.request.urlopen(f"{self.machine.s3}/{bucket}?uploads") as answer:
                unfinished = re.findall("<Key>(.*?)</Key>", answer.read().decode())
        return Left(
            store=self.store, job_id=job_id, kind=self.kind, total=self.total,
            journal=read_journal(self.journal, job_id), slack_s=SAFE_S + self.outage_s,
            killed_at=[fault["hit_at"] for fault in self.happened if fault["hit_at"]],
            states=self._states(job_id), tracebacks=self.tracebacks,
            processes=self._processes(), files=self._files(), unfinished=unfinished,
        )  # fmt: skip

    kind: ClassVar[str]
    total: ClassVar[int]

    def _states(self, job_id: str) -> list[tuple[str, str]]:
        runs = self.machine.prefect.ask(
            "/flow_runs/filter", {"flow_runs": {"name": {"any_": [self.name, job_id]}}, "sort": "START_TIME_ASC"}
        )
        return [(run["name"], run["state_type"]) for run in runs]

    def _processes(self) -> list[str]:
        """Return the processes of this case that still run, in words."""
        return [
            f"{process.pid} {' '.join(process.cmdline()[:6])}"
            for process in processes_with("LEAN_JOURNAL", self.journal)
        ]

    def _files(self) -> list[Path]:
        """Return the files that are nobody's any more."""
        found = [path for path in self.tmp.rglob("*")]
        for path in self.home.rglob("*"):
            name = path.relative_to(self.home)
            if path.is_file() and (name.parts[0] not in ("cache", "assets") or path.suffix in (".lock", ".partial")):
                found.append(path)
        if self.case.store == "folder":
            found += [path for path in Path(self.store_url).rglob("*") if re.search(r"#\d+$|\.partial$", path.name)]
        return found

    # --- faults

    def _inflict(self, began: float, length: float) -> None:
        for fault in self.case.faults:
            row = asdict(fault) | {"hit_at": None, "recovery_s": None}
            self.happened.append(row)
            while time.time() < began + fault.share * length and not self.over.wait(0.02):
                pass
            # It may not be there yet: then it is met as soon as it is.
            while not self.over.is_set():
                if self._do(fault):
                    row["hit_at"] = time.time()
                    break
                time.sleep(0.02)

    def _do(self, fault: Fault) -> bool:
        """Do it; return whether there was anybody to do it to."""
        if fault.action == "full":
            place = self.home if fault.victim == "disk" else Path(self.store_url)
            self.outage_s += fault.seconds
            fill(place / "ballast")
            self._pass(fault.seconds, (place / "ballast").unlink)
            return True
        if fault.victim == "S3 server" and fault.action != "SIGSTOP":
            self.outage_s += fault.seconds
            self._network = {"away": CutRequest(), "slow": Trickle(4, 0.2), "503": SLOW_DOWN}[fault.action]

            def over() -> None:
                self._network = None

            self._pass(fault.seconds, over)
            return True
        found = self.victims(fault.victim)
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(SIGNALS[fault.action])
        if found and fault.action == "SIGSTOP":
            self.outage_s += fault.seconds

            def go_on() -> None:
                for process in found:
                    with suppress(psutil.Error):
                        process.send_signal(signal.SIGCONT)

            self._pass(fault.seconds, go_on)
        return bool(found)

    def _pass(self, seconds: float, undo: Callable[[], Any]) -> None:
        """Undo something after a while; the case is over when all is undone."""

        def wait() -> None:
            time.sleep(seconds)
            undo()

        self._passing.append(threading.Thread(target=wait, daemon=True))
        self._passing[-1].start()

    def _recovery(self, fault: dict[str, Any], left: Left, began: float) -> float | None:
        """Return the seconds from a fault to the next sign of work, of another process where one was ended."""
        hit = fault["hit_at"]
        if hit is None:
            return None
        before = {line.pid for line in left.journal if line.at <= hit}
        after = [line for line in left.journal if line.at > hit]
        fault["hit_at"] = round(hit - began, 2)
        if not after:
            return None  # the work was done
        others = [line for line in after if line.pid not in before]
        return round((others[0] if others else after[0]).at - hit, 2)


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


def fill(path: Path) -> None:
    """Leave no room where this file is."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


OF_A_JOB: Faults = {
    ("workload", "SIGKILL"): 4,
    ("workload", "SIGTERM"): 1,
    ("workload", "SIGSTOP"): 1,
    ("control process", "SIGKILL"): 4,
    ("control process", "SIGTERM"): 2,
    ("control process", "SIGSTOP"): 1,
    ("Prefect server", "SIGKILL"): 1,
    ("Prefect server", "SIGSTOP"): 1,
    ("S3 server", "away"): 1,
    ("S3 server", "slow"): 1,
    ("S3 server", "503"): 1,
    ("S3 server", "SIGSTOP"): 1,
    ("disk", "full"): 1,
    ("store's disk", "full"): 1,
}


class ByCommand(Way):
    """A command takes the job to its end; its owner runs it again, or resumes the job, until it has."""

    faults = OF_A_JOB
    command: ClassVar[str]

    def config(self) -> dict[str, Any]:
        """Return the request."""
        raise NotImplementedError

    def take_to_its_end(self) -> str:
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config() | {"name": self.name, "retries": 5}))
        env = {
            **os.environ, **self.machine.prefect.env, **self.store_env, "SIMYARD_HOME": str(self.home),
            "SIMYARD_PYTHON": str(HERE / "lean" / "python"), "LEAN_PYTHON": sys.executable,
            "LEAN_JOURNAL": str(self.journal), "TMPDIR": str(self.tmp),
        }  # fmt: skip
        simyard = CommandLine(env, self.machine.host)
        before = set(self._jobs())
        for _ in range(MOST_TRIES):
            job_id = next(iter(set(self._jobs()) - before), None)
            what = (self.command, path) if job_id is None else ("jobs", "resume", job_id)
            self.process = simyard.start(*what, "--store", self.store_url, "--json")
            out, err = self.process.communicate(HANG_S)
            self.said.append(f"{what}: {self.process.returncode}\n{out}\n{err}")
            if "Traceback" in err:
                self.tracebacks.append(err.strip().splitlines()[-1])
            job_id = next(iter(set(self._jobs()) - before), None)
            if job_id is not None and self._is_over(job_id):
                return job_id
            time.sleep(1.0)  # as a person does, at least
        if job_id is None:
            raise AssertionError(f"no job came of {MOST_TRIES} tries: {self.said[-1]}")
        return job_id

    def _is_over(self, job_id: str) -> bool:
        state = history.job_status(self.store, job_id)
        return isinstance(state, JobResult) and state.status == "succeeded"

    def _jobs(self) -> list[str]:
        return self.store.list_dirs("jobs")

    def victims(self, victim: str) -> list[psutil.Process]:
        with suppress(psutil.Error, AttributeError):
            match victim:
                case "workload":
                    return [p for p in processes_with("LEAN_JOURNAL", self.journal) if "--control" in p.cmdline()]
                case "control process":
                    return [psutil.Process(self.process.pid)] if self.process.poll() is None else []
                case "Prefect server":
                    process = self.machine.child("Prefect server").process
                    return [psutil.Process(process.pid)] if process else []
                case "S3 server":
                    assert self.machine.s3_process is not None
                    return [psutil.Process(self.machine.s3_process.pid)]
        return []


class Training(ByCommand):
    kind, command, total = "train", "train", 20
    weight = 4.0

    def config(self) -> dict[str, Any]:
        return {
            "description": "0.12",
            "trainingConfig": {
                "task": "Lean", "rlLibrary": "lean", "numEnvs": 1, "maxIterations": self.total, "seed": 1,
            },
            "computeConfig": {"gpusPerNode": 0},
            "timeouts": {"graceSeconds": 1, "closeSeconds": 1, "firstIterationSeconds": 60, "iterationSeconds": 60},
        }  # fmt: skip


WAYS: dict[str, type[Way]] = {"train/command": Training}
