"""How a case is run: the jobs, who can be killed, and what a job's owner does then."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
from faults import SLOW_DOWN, CutRequest, Proxy, Trickle
from faults import Fault as NetworkFault
from helpers import HANG_S, CommandLine, make_bucket
from kill_machine import HERE, Machine, fill, in_words, lean, processes_with
from promises import FINAL, Left, Problem, broken, read_journal

from simyard.core.files import sweep
from simyard.core.records import JobResult
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import sweep_kept
from simyard.tasks.shared import history

SAFE_S = 3.0
"""Seconds after which something that was saved is safe: 30, by the factor of hurried.py."""
LEFT_S = 10.0
"""Seconds within which everything of a job that has ended is gone."""
MOST_TRIES = 12
"""How often a person tries again before they give up: each fault costs at most a few tries."""
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGSTOP": signal.SIGSTOP}
Faults = dict[tuple[str, str], float]
"""Weights of what can happen, by victim and action."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to somebody."""

    victim: str
    action: str
    share: float
    """When: this share of the usual time of the job, or of its simulator where that is the victim."""
    seconds: float
    """For how long, where it passes."""


@dataclass(frozen=True)
class Case:
    """A job and its faults."""

    seed: int
    number: int
    way: str
    """The kind of job, and by whom it is run."""
    store: str
    """`folder` or `s3`."""
    faults: tuple[Fault, ...]

    def concerns(self, word: str) -> bool:
        """Return whether a word of `--only` means it."""
        return word in (self.way, self.store, *self.way.split("/"), *(fault.victim for fault in self.faults))


class Way:
    """A kind of job, and by whom it is run."""

    weight: ClassVar[float] = 1.0
    faults: ClassVar[Faults] = {}
    kind: ClassVar[str]
    total: ClassVar[int]
    """Units of work."""
    command: ClassVar[str]
    """Of `simyard`."""

    def config(self) -> dict[str, Any]:
        """Return the request."""
        raise NotImplementedError

    def trained(self) -> str:
        """Put a policy that was trained before into the store; return its job."""
        job_id, source = self.machine.trained
        for entry in source.list():
            self.store.put_bytes(entry.key, source.get_bytes(entry.key))
        return job_id

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
        lengths = self.machine.length(type(self), self.case) if self.case.faults else (0.0, 0.0)
        self.machine.await_health()
        with self._stack:
            self._prepare()
            began = time.time()
            inflicting = threading.Thread(target=self._inflict, args=(began, *lengths), daemon=True)
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
            for fault in self.happened:
                fault["recovery_s"] = self._recovery(fault, left, began)
            status, attempts = self.verdict(job_id)
            return {
                "job": job_id,
                "status": status,
                "attempts": attempts,
                "took_s": round(took_s, 1),
                "worked_s": max([line.at - began for line in left.journal], default=took_s),
                "faults": self.happened,
                "problems": [list(problem) for problem in self.broken(left)],
            }

    def take_to_its_end(self) -> str:
        """Do what the job's owner does until it has ended for good; return its id."""
        raise NotImplementedError

    def victims(self, victim: str) -> list[psutil.Process]:
        """Return the processes of a victim; none while it is not there."""
        with suppress(psutil.Error):
            match victim:
                case "workload":
                    return [p for p in processes_with("LEAN_JOURNAL", self.journal) if "--control" in p.cmdline()]
                case "S3 server":
                    assert self.machine.s3_process is not None
                    return [psutil.Process(self.machine.s3_process.pid)]
                case _:
                    process = self.machine.child(victim).process
                    return [psutil.Process(process.pid)] if process else []
        return []

    def verdict(self, job_id: str) -> tuple[str | None, int]:
        """Return how it ended, and the number of its attempts."""
        result = history.result_of(self.store, job_id)
        return (result.status, result.attempts) if result else (None, 0)

    def broken(self, left: Left) -> list[Problem]:
        """Return the broken promises."""
        return broken(left)

    def settle(self) -> None:
        """End what is kept on purpose."""

    def keep(self) -> Path:
        """Keep what is left of a case whose promises were broken, and return where."""
        name = f"{self.case.seed}-{self.case.number}{'' if self.case.faults else '-undisturbed'}"
        kept = HERE.parents[1] / "build" / "kills" / name
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
        self.settle()
        # As the next job does on this machine.
        for pattern in ("workload-*", "*/*"):
            sweep(self.home / "work", pattern)
        sweep_kept(self.home / "work", self.store)
        deadline = time.monotonic() + LEFT_S
        while (self._processes() or self._files()) and time.monotonic() < deadline:
            time.sleep(0.2)
        # A flow run that was set going once more ends by itself, as soon as the machine gets round to it.
        deadline = time.monotonic() + HANG_S
        while self._goes_on(job_id) and time.monotonic() < deadline:
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

    def _goes_on(self, job_id: str) -> bool:
        """Return whether Prefect says that somebody is about to run the job, or runs it."""
        return any(state not in FINAL for _, state in self._states(job_id))

    def _states(self, job_id: str) -> list[tuple[str, str]]:
        return self.states_of(job_id)

    def states_of(self, job_id: str) -> list[tuple[str, str]]:
        """Return names and states of its flow runs, in the order of their beginnings."""
        runs = self.machine.prefect.ask(
            "/flow_runs/filter", {"flow_runs": {"name": {"any_": [self.name, job_id]}}, "sort": "START_TIME_ASC"}
        )
        return [(run["name"], run["state_type"]) for run in runs]

    def _processes(self) -> list[str]:
        """Return the processes of this case that still run, in words."""
        return in_words(processes_with("LEAN_JOURNAL", self.journal))

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

    def _inflict(self, began: float, length: float, worked: float) -> None:
        def moment(fault: Fault) -> float:
            return began + fault.share * (worked if fault.victim == "workload" else length)

        for fault in sorted(self.case.faults, key=moment):
            row = asdict(fault) | {"hit_at": None, "recovery_s": None}
            self.happened.append(row)
            while time.time() < moment(fault) and not self.over.wait(0.02):
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


OF_A_WORKLOAD: Faults = {("workload", "SIGKILL"): 4, ("workload", "SIGTERM"): 1, ("workload", "SIGSTOP"): 1}
OF_SERVERS: Faults = {
    ("Prefect server", "SIGKILL"): 1,
    ("Prefect server", "SIGSTOP"): 1,
    ("S3 server", "away"): 1,
    ("S3 server", "slow"): 1,
    ("S3 server", "503"): 1,
    ("S3 server", "SIGSTOP"): 1,
}
OF_A_JOB: Faults = {
    **OF_A_WORKLOAD,
    ("control process", "SIGKILL"): 4,
    ("control process", "SIGTERM"): 2,
    ("control process", "SIGSTOP"): 1,
    **OF_SERVERS,
    ("disk", "full"): 1,
    ("store's disk", "full"): 1,
}


class ByCommand(Way):
    """A command takes the job to its end; its owner runs it again, or resumes the job, until it has."""

    faults = OF_A_JOB

    def take_to_its_end(self) -> str:
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config() | {"name": self.name, "retries": 5}))
        return self.insist(
            (*self.command.split(), path),
            lambda job_id: ("jobs", "resume", job_id),
            lambda: self.store.list_dirs("jobs"),
            self._is_over,
        )

    def insist(
        self,
        start: tuple[object, ...],
        resume: Callable[[str], tuple[object, ...]],
        names: Callable[[], list[str]],
        is_over: Callable[[str], bool],
    ) -> str:
        """Start something, again where nothing came of it, and resume it until it is over; return its id."""
        before, simyard = set(names()), self.simyard()
        own_id: str | None = None
        for _ in range(MOST_TRIES):
            what = start if own_id is None else resume(own_id)
            self.machine.await_health()  # nobody tries again before that
            self.process = simyard.start(*what, "--store", self.store_url, "--json")
            out, err = self.process.communicate(HANG_S)
            self.said.append(f"{what}: {self.process.returncode}\n{out}\n{err}")
            if "Traceback" in err:
                self.tracebacks.append(err.strip().splitlines()[-1])
            own_id = next(iter(set(names()) - before), None)
            if own_id is not None and is_over(own_id):
                return own_id
            time.sleep(1.0)  # as a person does, at least
        if own_id is None:
            raise AssertionError(f"nothing came of {MOST_TRIES} tries: {self.said[-1]}")
        return own_id

    def simyard(self) -> CommandLine:
        """Return the command line of its owner."""
        env = {
            **os.environ, **self.machine.prefect.env, **self.store_env, **lean(self.journal),
            "SIMYARD_HOME": str(self.home), "TMPDIR": str(self.tmp),
        }  # fmt: skip
        return CommandLine(env, self.machine.host)

    def _states(self, job_id: str) -> list[tuple[str, str]]:
        # A command that was killed after its job's success tells Prefect nothing more, and nobody goes on with it.
        result = self.result_key(job_id)
        if self.store.exists(result):
            ended = self.store.stat(result).modified.timestamp()
            ours = ("control process", "driver")
            if any(one["victim"] in ours and (one["hit_at"] or 0.0) > ended - 1.0 for one in self.happened):
                return []
        return self.states_of(job_id)

    def result_key(self, job_id: str) -> str:
        """Return the key of the result."""
        return JobKeys(job_id).result

    def _is_over(self, job_id: str) -> bool:
        state = history.job_status(self.store, job_id)
        return isinstance(state, JobResult) and state.status == "succeeded"

    def victims(self, victim: str) -> list[psutil.Process]:
        if victim != "control process":
            return super().victims(victim)
        with suppress(psutil.Error, AttributeError):
            return [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        return []


GPUS = {"gpusPerNode": 0}
TIMEOUTS = {"graceSeconds": 1, "closeSeconds": 1, "firstIterationSeconds": 60, "iterationSeconds": 60}


class Training(Way):
    """A policy is trained for twenty iterations."""

    kind, total = "train", 20
    command = "train"

    def config(self) -> dict[str, Any]:
        """Return the request."""
        training = {"task": "Lean", "rlLibrary": "lean", "numEnvs": 1, "maxIterations": self.total, "seed": 1}
        return {"description": "0.12", "trainingConfig": training, "computeConfig": GPUS, "timeouts": TIMEOUTS}


class Evaluation(Way):
    """A policy is measured for twenty episodes."""

    kind, total = "evaluate", 20
    command = "evaluate"

    def config(self) -> dict[str, Any]:
        """Return the request, for a policy that is in the store."""
        source = {"mode": "evaluate", "fromJob": {"jobId": self.trained()}, "numEnvs": 1, "numEpisodes": self.total}
        return {"description": "0.12", "trainingConfig": source, "computeConfig": GPUS, "timeouts": TIMEOUTS}


class Export(Way):
    """A policy is exported, in six steps."""

    kind, total = "export", 6
    command = "export-policy"

    def config(self) -> dict[str, Any]:
        """Return the request, for a policy that is in the store."""
        source = {"fromJob": {"jobId": self.trained()}}
        return {"description": "0.2", "exportConfig": source, "computeConfig": GPUS, "timeouts": TIMEOUTS}


class Rollout(Way):
    """A task is simulated for twenty steps."""

    kind, total = "rollout", 20
    command = "rollout"

    def config(self) -> dict[str, Any]:
        """Return the request."""
        return {
            "description": "0.12", "runtime_profile": "isaac_lab_rollout", "isaac_lab": {"task_class_or_name": "Lean"},
            "execution": {"num_envs": 2, "steps": self.total}, "compute_config": {"gpus_per_node": 0},
        }  # fmt: skip


class TrainingByCommand(ByCommand, Training):
    """`simyard train`."""

    weight = 4.0


class EvaluationByCommand(ByCommand, Evaluation):
    """`simyard evaluate`."""


class ExportByCommand(ByCommand, Export):
    """`simyard export-policy`."""


class RolloutByCommand(ByCommand, Rollout):
    """`simyard rollout --wait`: without it a process goes on with the job that its owner knows nothing of."""

    command = "rollout --wait"


class TrainingInKeptSession(TrainingByCommand):
    """`simyard train` on a machine that keeps a warm simulator."""

    weight = 1.0
    faults = OF_A_JOB | {("session server", "SIGKILL"): 4, ("session server", "SIGSTOP"): 1}

    def _prepare(self) -> None:
        super()._prepare()
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config()))
        done = self.simyard()("sessions", "start", path, "--store", self.store_url, timeout_s=HANG_S)
        assert done.returncode == 0, done.stderr

    def victims(self, victim: str) -> list[psutil.Process]:
        if victim != "session server":
            return super().victims(victim)
        with suppress(psutil.Error):
            return [p for p in processes_with("LEAN_JOURNAL", self.journal) if "--session" in p.cmdline()]
        return []

    def settle(self) -> None:
        self.simyard()("sessions", "stop", "--all", timeout_s=HANG_S)


WAYS_OF_COMMANDS: dict[str, type[Way]] = {
    "train/command": TrainingByCommand,
    "evaluate/command": EvaluationByCommand,
    "export/command": ExportByCommand,
    "rollout/command": RolloutByCommand,
    "train/kept": TrainingInKeptSession,
}
