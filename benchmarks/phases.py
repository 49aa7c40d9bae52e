"""Where the time goes before a training's first step: queue, container, Python, simulator, USD, kernels.

python benchmarks/phases.py --store STORE JOB [JOB…]     one column a job, from what its first attempt left

Queue and container stand in Prefect, so they need PREFECT_API_URL and a job of a pool; what is not known is `-`.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
from datetime import datetime

from simyard.blocks.reference import open_store
from simyard.store.keys import AttemptKeys, JobKeys
from simyard.store.store import KeyNotFound, Store

_TOOK = re.compile(r"Time taken for (scene creation|simulation start) Last: ([\d.]+) s")
_STAGE = re.compile(r"time=(\S+) stage=(\S+) status=start")
PHASES = {
    "queue": "the flow run waits for a worker",
    "container": "the worker starts a container or a process, which imports Prefect",
    "flow": "to the attempt's first line",
    "import": "Isaac Lab is imported; the job is checked",
    "scene": "USD: the scene of every environment",
    "simulation": "physics is built: the solver's kernels",
    "first iteration": "the other kernels, CUDA graphs, and the iteration itself",
    "rest": "what of the start-up stands nowhere else",
    "start-up": "from the attempt's first line to the end of the first iteration",
}


def phases(store: Store, job_id: str) -> dict[str, float | None]:
    """Return seconds of each phase; None for what nothing tells."""
    attempt = JobKeys(job_id).attempt(1)
    outcome = store.get_json_or_none(attempt.outcome)
    stages = {stage: datetime.fromisoformat(at) for at, stage in _STAGE.findall(_text(store, attempt, "runner.log"))}
    printed = {what: float(seconds) for what, seconds in _TOOK.findall(_text(store, attempt, "command.stdout.log"))}
    found: dict[str, float | None] = {
        "import": (stages["launching"] - stages["staging"]).total_seconds(),
        "scene": printed.get("scene creation"),
        "simulation": printed.get("simulation start"),
        "first iteration": _first_iteration(_text(store, attempt, "metrics.csv")),
        "start-up": outcome and outcome["timings"]["startup_s"],
    }
    parts = [found[name] for name in ("import", "scene", "simulation", "first iteration")]
    total = found["start-up"]
    found["rest"] = None if total is None or None in parts else total - sum(filter(None, parts))
    return found | _in_pool(job_id, stages["staging"])


def _in_pool(job_id: str, began: datetime) -> dict[str, float | None]:
    unknown: dict[str, float | None] = dict.fromkeys(("queue", "container", "flow"))
    if "PREFECT_API_URL" not in os.environ:
        return unknown
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey

    with get_client(sync_client=True) as client:
        key = FlowRunFilterIdempotencyKey(any_=[f"{job_id}-1"])
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
        if not runs:
            return unknown
        at = {state.name: state.timestamp for state in client.read_flow_run_states(runs[0].id)}
    return {
        "queue": (at["Pending"] - at["Scheduled"]).total_seconds(),
        "container": (at["Running"] - at["Pending"]).total_seconds(),
        "flow": (began - at["Running"]).total_seconds(),
    }


def _first_iteration(metrics: str) -> float | None:
    row = next(csv.DictReader(io.StringIO(metrics)), {})
    times = [row.get(f"Perf/{name}_time") for name in ("collection", "learning")]
    return sum(map(float, times)) if all(times) else None  # type: ignore[arg-type]


def _text(store: Store, attempt: AttemptKeys, name: str) -> str:
    try:
        return store.get_bytes(attempt.file(name)).decode(errors="replace")
    except KeyNotFound:
        return ""


def main() -> None:
    """Print a row for each phase and a column for each job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="+", metavar="JOB")
    parser.add_argument("--store", required=True)
    options = parser.parse_args()
    store = open_store(options.store)
    columns = [phases(store, job_id) for job_id in options.jobs]
    print("| phase |" + "".join(f" {job_id} |" for job_id in options.jobs) + " |")
    print("|---|" + "---|" * (len(columns) + 1))
    for name, meaning in PHASES.items():
        cells = ("-" if (value := column.get(name)) is None else f"{value:.2f} s" for column in columns)
        print(f"| {name} |" + "".join(f" {cell} |" for cell in cells) + f" {meaning} |")


if __name__ == "__main__":
    main()
