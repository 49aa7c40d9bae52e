"""The deployments of `prefect.yaml`, and the names and templates of work pools; `apply.py` sends them to a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")
"""The deployments; `prefect.yaml` at the root of the repository is the same file."""
POOL = "simyard"
"""The work pool that they name."""
HOME = "/var/lib/simyard"
"""Home in the containers of the images; what is mounted there outlives them."""
POOL_TYPES = ("process", "docker", "kubernetes", "ecs")
"""Types of work pools, by the starter of an attempt: a worker on the machine itself, a container engine, a cluster."""
GPU_SIDE = {
    "run-job": ("run_job", "One attempt at a job, on the machine that has the simulator."),
    "run-node": ("run_node", "One more machine of an attempt that needs several."),
    "run-worker": ("run_worker", "A warm simulator for the rollouts of one managed training run, and its trainer."),
    "prewarm": ("prewarm", "Leave a warm simulator on the machine, for jobs to come."),
    "check-machine": ("check_machine", "Look at the machine for `simyard doctor`: simulator, GPU, disk, caches."),
}
"""The flows that run where the simulator is: their modules, and what Prefect's UI says of them."""
QUEUES = {"high": "high", "normal": "default", "low": "low"}
"""The work queues of a pool by the priority of jobs, the most urgent first; `default` is Prefect's own."""


def pool_template(pool_type: str) -> dict[str, Any]:
    """Return the base job template of work pools of a type: what one of `POOL_TYPES` needs for GPUs."""
    text = (Path(__file__).parent / "pools" / f"{pool_type}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def limit_of_pool(pool: str) -> str:
    """Return the name of the limit of a pool's GPUs."""
    return f"gpus-pool-{pool}"


def limit_of_project(project: str) -> str:
    """Return the name of the limit of a project's GPUs."""
    return f"gpus-project-{project}"
