"""What the HTTP service costs: from a submission to the job's first word, and jobs in a minute.

Both beside the bare tool in the same run on the same machine: `run_deployment` on the same deployment, Prefect server
and worker, with a job that is in the store already. The simulator is the tests' played one, so that what is measured
is the way to it.

    .venv/bin/python benchmarks/service.py [--jobs 12] [--at-once 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "service"), str(ROOT / "tests" / "flows")]

from helpers import SCENARIO, wait_until  # noqa: E402
from sites import Site  # noqa: E402

from simyard.requests.config import check_config  # noqa: E402
from simyard.requests.jobs import TrainRequest  # noqa: E402
from simyard.store import keys  # noqa: E402
from simyard.store.store import Store  # noqa: E402
from simyard.tasks.resolve import resolve  # noqa: E402
from simyard.tasks.stage import stage  # noqa: E402

BODY = {
    "name": "benchmark",
    "trainingConfig": {"task": "Scenario", "numEnvs": 4, "maxIterations": 1, "seed": 1},
    "computeConfig": {"gpusPerNode": 0},
}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12, help="how many in each measurement")
    parser.add_argument("--at-once", type=int, default=2, help="how many the worker runs side by side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        site = Site(Path(folder) / "home", **SCENARIO)
        began = time.monotonic()
        site.up()
        print(f"simyard up: {time.monotonic() - began:.1f} s")
        try:
            _measure(site, options.jobs, options.at_once)
        finally:
            site.down()


def _measure(site: Site, jobs: int, at_once: int) -> None:
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{site.prefect_port}/api"
    store = Store.open(str(site.home / "store"))
    ways: dict[str, Callable[[], str]] = {"the API": lambda: _by_api(site), "run_deployment": lambda: _bare(store)}
    print(f"{'':16} {'answered':>10} {'first word':>11} {'jobs/min':>9}")
    first: dict[str, float] = {}
    for name, submit in ways.items():
        _await_end(store, submit())  # warm: imports, connections
        answered, heard = zip(*(_one(store, submit) for _ in range(3)), strict=True)
        began = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda job_id: _await_end(store, job_id), [submit() for _ in range(jobs)]))
        rate = 60 * jobs / (time.monotonic() - began)
        first[name] = statistics.median(heard)
        print(f"{name:16} {statistics.median(answered):8.2f} s {first[name]:9.2f} s {rate:9.1f}")
    print(f"ratio of the first word: {first['the API'] / first['run_deployment']:.2f}")


def _one(store: Store, submit: Callable[[], str]) -> tuple[float, float]:
    """Return the seconds until the submission was answered, and until the attempt wrote its first status."""
    began = time.monotonic()
    job_id = submit()
    answered = time.monotonic() - began
    status = keys.JobKeys(job_id).attempt(1).status
    wait_until(lambda: store.exists(status), 120, f"{job_id} to begin")
    heard = time.monotonic() - began
    _await_end(store, job_id)
    return answered, heard


def _by_api(site: Site) -> str:
    return str(site.call("POST", "/v0/jobs", BODY)["job_id"])


def _bare(store: Store) -> str:
    from prefect.deployments import run_deployment

    resolved = resolve(check_config(BODY, TrainRequest), store, keys.new_job_id())
    stage(resolved, store)
    job_id = resolved.spec.job_id
    parameters: dict[str, Any] = {"request": BODY, "store": store.url(), "job_id": job_id}
    run_deployment("train/train", parameters=parameters, timeout=0)
    return job_id


def _await_end(store: Store, job_id: str) -> None:
    wait_until(lambda: store.exists(keys.JobKeys(job_id).result), 300, f"the end of {job_id}")


if __name__ == "__main__":
    main()
