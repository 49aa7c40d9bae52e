"""Managed runs, driven by a command, and retrainings, run by a worker, whose jobs are killed below them."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import psutil
from helpers import HANG_S, last_json, wait_until
from kill_machine import processes_with
from kill_service import OF_A_SITE, ByService
from kill_ways import OF_A_JOB, ByCommand, Faults, Training
from promises import Left, Problem, broken, left_over

from simyard.core.run_records import Event, IterationRecord, LineageRecord, RunResult, TrainerOutcome
from simyard.store.keys import JobKeys, RunKeys
from simyard.tasks.managed import record
from simyard.tasks.managed.trainer import past_outcomes
from simyard.tasks.promotion import promotions
from simyard.tasks.promotion.retrain import candidate_job_id
from simyard.tasks.shared import history

TRAINER = """
import hashlib, json, pathlib, sys, time
manifest_path, output, parent = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
manifest = json.loads(manifest_path.read_text())
for row in manifest["rollouts"]:
    assert hashlib.sha256((manifest_path.parent / row["path"]).read_bytes()).hexdigest() == row["sha256"]
time.sleep(0.5)
before = pathlib.Path(parent.removeprefix("file://")).read_text() if parent else ""
(output / "checkpoint.pt").write_text(hashlib.sha256((before + manifest_path.read_text()).encode()).hexdigest())
(output / "metrics.json").write_text(json.dumps({"loss": 1.0 / manifest["iteration"]}))
"""


class ManagedRun(ByCommand):
    """`simyard managed start`; its owner resumes it when its driver was killed."""

    kind, total = "run", 3
    weight: ClassVar[float] = 3.0
    faults: ClassVar[Faults] = {
        ({"control process": "driver"}.get(victim, victim), action): weight
        for (victim, action), weight in OF_A_JOB.items()
    } | {("trainer", "SIGKILL"): 3, ("trainer", "SIGTERM"): 1, ("trainer", "SIGSTOP"): 1}

    def config(self) -> dict[str, Any]:
        """Return the request, and write its trainer."""
        (self.folder / "trainer.py").write_text(TRAINER)
        return {
            "name": self.name,
            "rollout_template": {
                "rollout_parallelism": 2, "runtime_profile": "isaac_lab_rollout", "num_envs": 2, "steps": 6,
                "compute_config": {"gpus_per_node": 0}, "isaac_lab": {"task_class_or_name": "Lean"},
            },
            "trainer_spec": {
                "image_uri": "local", "entrypoint": "python trainer.py",
                "args_template": ["{dataset_manifest_path}", "{output_dir}", "{checkpoint_in_uri}"],
                "resources": {"gpu": 0, "cpu": 1, "memory_gb": 1},
            },
            "loop_policy": {"max_iterations": self.total, "trainer_retry_limit": 5, "rollout_retry_limit": 5},
        }  # fmt: skip

    def take_to_its_end(self) -> str:
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config()))
        return self.insist(
            ("managed", "start", path, "--wait"),
            lambda run_id: ("managed", "resume", run_id, "--wait"),
            lambda: self.store.list_dirs("training-runs"),
            lambda run_id: self.store.exists(RunKeys(run_id).result),
        )

    def victims(self, victim: str) -> list[psutil.Process]:
        if victim == "trainer":
            found = processes_with("LEAN_JOURNAL", self.journal)
            with suppress(psutil.Error):
                return [p for p in found if "trainer.py" in " ".join(p.cmdline()) and "-S" not in p.cmdline()]
            return []
        return super().victims({"driver": "control process"}.get(victim, victim))

    def verdict(self, job_id: str) -> tuple[str | None, int]:
        result = self.store.get_record_or_none(RunKeys(job_id).result, RunResult)
        drivers = [event for event in self._events(job_id) if event.event_type in ("run.started", "run.taken_up")]
        return (result.status if result else None, len(drivers))

    def _events(self, run_id: str) -> list[Event]:
        keys = [entry.key for entry in self.store.list(f"{RunKeys(run_id).prefix}/events")]
        return [self.store.get_record(key, Event) for key in keys]

    def result_key(self, job_id: str) -> str:
        return RunKeys(job_id).result

    def states_of(self, job_id: str) -> list[tuple[str, str]]:
        runs = self.machine.prefect.ask(
            "/flow_runs/filter", {"flow_runs": {"tags": {"all_": [job_id]}}, "sort": "START_TIME_ASC"}
        )
        return [(run["name"], run["state_type"]) for run in runs]

    def broken(self, left: Left) -> list[Problem]:
        """Return the broken promises: the chain, and that no step that was finished was done twice."""
        run_id, keys = left.job_id, RunKeys(left.job_id)
        result = self.store.get_record_or_none(keys.result, RunResult)
        if result is None:
            return [("verdict", f"{run_id} has no result")]
        problems: list[Problem] = []
        if result.status != "succeeded":
            problems.append(("verdict", f"it ended as {result.status} by {result.ended_by}: {result.error}"))
        verified = self.simyard()("managed", "verify", run_id, "--store", self.store_url, "--json", timeout_s=HANG_S)
        problems += [("one chain", problem) for problem in last_json(verified)["problems"]]
        iterations = record.iterations(self.store, run_id)
        if [ended.iteration for ended in iterations] != list(range(1, self.total + 1)):
            problems.append(("lost", f"iterations {[ended.iteration for ended in iterations]}"))
        for ended in iterations:
            problems += self._of_an_iteration(run_id, ended)
        names = [event.event_type for event in self._events(run_id)]
        if names.count("run.ended") != 1 or names[-1:] != ["run.ended"]:
            problems.append(("one chain", f"the events end with {names[-3:]}"))
        checkpoints = [entry.key for entry in self.store.list(f"{keys.prefix}/checkpoints")]
        chain = [self.store.get_record(key, LineageRecord) for key in checkpoints]
        if [one.parent for one in chain] != [None, *(one.checkpoint_id for one in chain[:-1])]:
            problems.append(("one chain", f"checkpoints: {[(one.checkpoint_id, one.parent) for one in chain]}"))
        return problems + left_over(left, result.status)

    def _of_an_iteration(self, run_id: str, ended: IterationRecord) -> list[Problem]:
        problems = []
        calls: list[TrainerOutcome] = past_outcomes(self.store, run_id, ended.iteration)
        if Counter(call.status for call in calls)["succeeded"] != 1:
            problems.append(("doubled", f"calls of iteration {ended.iteration}: {[call.status for call in calls]}"))
        for job_id in ended.rollouts:
            past = history.attempts(self.store, job_id)
            good = [attempt for attempt in past if attempt.outcome and attempt.outcome.status == "succeeded"]
            if len(good) != 1:
                problems.append(("doubled", f"{job_id} has {len(good)} attempts that succeeded"))
            if not self.store.exists(JobKeys(job_id).manifest):
                problems.append(("verdict", f"{job_id} has no manifest"))
        return problems


class Retraining(ByService, Training):
    """The flow `retrain` of a worker; a flow run that crashed is retried, as by the button of Prefect's UI."""

    weight: ClassVar[float] = 1.0
    total = 10
    faults: ClassVar[Faults] = {one: weight for one, weight in OF_A_SITE.items() if one[0] != "service"}

    def config(self) -> dict[str, Any]:
        training = super().config() | {"name": self.name, "retries": 5}
        evaluation = {"numEpisodes": 10, "numEnvs": 1}
        return {"promotion": f"p{time.time_ns()}", "training": training, "evaluation": evaluation}

    def take_to_its_end(self) -> str:
        request = self.config()
        self.promotion = request["promotion"]
        deployment = wait_until(lambda: self._asks("/deployments/name/retrain/retrain"), HANG_S, "the deployment")
        given = {"request": request, "store": self.store_url}
        body = {"parameters": given, "idempotency_key": self.name, "name": self.promotion}
        path = f"/deployments/{deployment['id']}/create_flow_run"
        self.run_id = wait_until(lambda: self._asks(path, body), HANG_S, "the flow run")["id"]

        def is_over() -> bool:
            run = self._asks(f"/flow_runs/{self.run_id}")
            if run is None:
                return False
            if run["state_type"] in ("CRASHED", "FAILED"):
                scheduled = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
                self._asks(f"/flow_runs/{self.run_id}/set_state", scheduled)
            return run["state_type"] in ("COMPLETED", "CANCELLED")

        with suppress(AssertionError):  # what is wrong then is said by the promises
            wait_until(is_over, HANG_S, f"the end of {self.promotion}")
        made = promotions.read(self.store, self.promotion).history
        return made[-1].job_id if made and made[-1].job_id else "none"

    def _asks(self, path: str, body: Any = None) -> Any:
        with suppress(OSError, ValueError):
            return self.machine.prefect.ask(path, body)
        return None

    def _states(self, job_id: str) -> list[tuple[str, str]]:
        run = self.machine.prefect.ask(f"/flow_runs/{self.run_id}")
        return [(run["name"], run["state_type"])]

    def broken(self, left: Left) -> list[Problem]:
        """Return the broken promises of both jobs, and of the decision on them."""
        made = promotions.read(self.store, self.promotion).history
        if len(made) != 1:
            return [("verdict", f"decisions: {[(one.decision, one.job_id) for one in made]}")]
        problems: list[Problem] = []
        if made[0].decision != "promoted":
            problems.append(("verdict", f"the first policy is {made[0].decision}: {made[0].why}"))
            return problems + left_over(left, "succeeded")
        measured = replace(left, job_id=candidate_job_id(left.job_id), kind="evaluate", journal=[])
        problems += broken(left)
        problems += [one for one in broken(measured) if one[0] not in ("left over", "Prefect agrees")]
        return problems


WAYS_OF_RUNS = {"managed/command": ManagedRun, "retrain/worker": Retraining}
