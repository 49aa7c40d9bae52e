"""Jobs that the service runs through a worker: nobody does anything for them once they are sent."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil
from faults import Fault as NetworkFault
from helpers import HANG_S, wait_until
from kill_machine import Site, in_words, processes_with
from kill_ways import OF_A_WORKLOAD, OF_SERVERS, Case, Evaluation, Export, Faults, Rollout, Training, Way

from simyard.core.records import JobResult
from simyard.tasks.shared import history

OF_A_SITE: Faults = {
    **OF_A_WORKLOAD,
    ("flow process", "SIGKILL"): 4,
    ("flow process", "SIGTERM"): 2,
    ("flow process", "SIGSTOP"): 1,
    ("worker", "SIGKILL"): 2,
    ("worker", "SIGTERM"): 1,
    ("worker", "SIGSTOP"): 1,
    ("service", "SIGKILL"): 2,
    ("service", "SIGTERM"): 1,
    ("service", "SIGSTOP"): 1,
    **OF_SERVERS,
}


class ByService(Way):
    """A client sends the job, again until that is answered, and waits."""

    faults = OF_A_SITE

    def __init__(self, machine: Any, case: Case, folder: Path) -> None:
        super().__init__(machine, case, folder)
        self.site: Site = machine.site
        self.home, self.tmp, self.journal = self.site.home, self.site.tmp, self.site.journal
        self.store, self.store_url = self.site.stores[case.store], self.site.addresses[case.store]

    def _prepare(self) -> None:
        self._before = set(super()._files())
        proxy = self.site.proxy
        proxy.plan = self._plan
        self._stack.callback(setattr, proxy, "plan", lambda request: None)

    def _plan(self, request: object) -> NetworkFault | None:
        return self._network

    def _files(self) -> list[Path]:
        ours = ("up", "secret")
        return [
            path
            for path in super()._files()
            if path not in self._before
            and not (path.is_relative_to(self.home) and path.relative_to(self.home).parts[0] in ours)
            # Prefect's worker makes such folders, and forgets them when it is killed.
            and not any(part.endswith("prefect") or part == "runner_storage" for part in path.parts)
        ]

    def _processes(self) -> list[str]:
        servers = {child.process.pid for child in self.machine.children.started if child.process}
        return in_words([p for p in processes_with("LEAN_JOURNAL", self.journal) if p.pid not in servers])

    def _states(self, job_id: str) -> list[tuple[str, str]]:
        return [(run["name"], run["state_type"]) for run in self.machine.prefect.flow_runs(job_id)]

    def ask(self, path: str, body: Any = None) -> dict[str, Any] | None:
        """Ask the service; None where it cannot be asked now."""
        headers = {"Authorization": f"Bearer {self.site.keys[self.case.store]}", "Content-Type": "application/json"}
        headers |= {"Idempotency-Key": self.name} if body is not None else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.site.urls[self.case.store] + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            self.said.append(f"{path}: {error.code} {said}")
            if error.code < 500:
                raise AssertionError(f"{path}: {error.code} {said}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.said.append(f"{path}: {error!r}")
        return None

    def take_to_its_end(self) -> str:
        body = self.config() | {"name": self.name, "retries": 5}
        sent = wait_until(lambda: self.ask("/v0/jobs", body), HANG_S, "an answer to the submission")
        job_id = str(sent["job_id"])
        with suppress(AssertionError):  # what is wrong then is said by the promises
            wait_until(lambda: self._is_over(job_id), HANG_S, f"the end of {job_id}")
        return job_id

    def _is_over(self, job_id: str) -> bool:
        time.sleep(0.2)
        state = history.job_status(self.store, job_id)
        if not isinstance(state, JobResult):
            return False
        final = ("COMPLETED", "FAILED", "CANCELLED")
        with suppress(OSError):
            return all(state in final for _, state in self._states(job_id))
        return False

    def victims(self, victim: str) -> list[psutil.Process]:
        if victim == "service":
            victim = f"service of {self.case.store}"
        if victim != "flow process":
            return super().victims(victim)
        with suppress(OSError):
            for run in self.machine.prefect.ask("/flow_runs/filter", {"limit": 5, "sort": "START_TIME_DESC"}) or []:
                if process := self.site.flow_process(run["id"]):
                    return [process]
        return []


class TrainingByService(ByService, Training):
    """A training of the service."""

    weight: ClassVar[float] = 4.0


class EvaluationByService(ByService, Evaluation):
    """An evaluation of the service."""


class ExportByService(ByService, Export):
    """An export of the service."""


class RolloutByService(ByService, Rollout):
    """A rollout of the service."""


WAYS_OF_THE_SERVICE: dict[str, type[Way]] = {
    "train/service": TrainingByService,
    "evaluate/service": EvaluationByService,
    "export/service": ExportByService,
    "rollout/service": RolloutByService,
}
