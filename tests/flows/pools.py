"""What tests of flows look at: the Prefect server's API, and the processes of workers."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from helpers import Server, wait_until

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Pool:
    """A work pool with a process worker of its own home."""

    name: str
    home: Path
    store: Path
    """The worker's own store, for flow runs that name none."""


class Api:
    """The Prefect server's API, as any program would call it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __call__(self, path: str, body: Any = None) -> Any:
        return self.server.ask(path, body)

    def make_pool(self, name: str) -> None:
        """Make a pool whose flow runs import Prefect once: its workers start them by a program that does so first."""
        template = json.loads((ROOT / "deployments" / "pools" / "process.json").read_text())
        template["variables"]["properties"]["command"]["default"] = f"{sys.executable} -m prefect.engine"
        self("/work_pools/", {"name": name, "type": "process", "base_job_template": template})

    def start(self, deployment: str, parameters: dict[str, Any], env: dict[str, str] | None = None) -> str:
        """Start a deployment's flow; return the flow run's id."""
        found = self(f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "job_variables": {"env": env} if env else {}}
        return str(self(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def state(self, run_id: str) -> dict[str, Any]:
        return dict(self(f"/flow_runs/{run_id}")["state"])

    def final_state(self, run_id: str, timeout_s: float) -> dict[str, Any]:
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_until(lambda: self.state(run_id)["type"] in final, timeout_s, f"the end of flow run {run_id}")
        return self.state(run_id)

    def runs_of(self, job_id: str) -> list[dict[str, Any]]:
        """Return the flow runs of a job's attempts, in order."""
        found = self("/flow_runs/filter", {"flow_runs": {"name": {"like_": f"{job_id}-"}}})
        return sorted(found, key=lambda run: str(run["name"]))


def engines(run_id: str) -> list[psutil.Process]:
    """Return the process that executes a flow run, if there is one."""
    return [process for process in _processes() if _environment(process).get("PREFECT__FLOW_RUN_ID") == run_id]


def workloads(pool: Pool, job_id: str = "") -> list[psutil.Process]:
    """Return the processes of all workloads of a pool's worker, or of one job's, children included."""
    return [process for process in _processes() if f"{pool.home}/work/{job_id}" in _folder(process)]


def _processes() -> Iterator[psutil.Process]:
    return (process for process in psutil.process_iter() if process.pid != os.getpid())


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def _folder(process: psutil.Process) -> str:
    try:
        return str(process.cwd())
    except psutil.Error:
        return ""
