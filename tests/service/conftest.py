"""A running service, against a Prefect server that has the deployments and no worker."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Server, send_deployments, serving_prefect
from serving import ROOT, SECRET, Receiver, ReceiverServer, Service, site

HOOKS: dict[str, dict[str, Any]] = {
    "typed": {"deployment": "resume-job/resume_job", "parameters": {"job_id": "{payload.id}"}, "project": "lab"},
    "train": {"deployment": "train/train", "parameters": {"request": {
        "name": "by {payload.who}, {payload.deep.0.x}",
        "trainingConfig": {"task": "Isaac-Cartpole-Direct", "maxIterations": "{payload.iterations}"},
    }}},
    "main-only": {
        "deployment": "resume-job/resume_job",
        "when": {"ref": "refs/heads/main", "forced": False},
        "parameters": {"job_id": "{payload.id}"},
    },
    "file": {"deployment": "evaluate/evaluate", "parameters": {"request": {
        "trainingConfig": {"mode": "evaluate", "task": "Isaac-Cartpole-Direct", "checkpointPath": "{payload.file}"},
    }}},
    "free": {"deployment": "rollout/rollout", "parameters": {"request": {
        "runtime_profile": "isaac_lab_rollout",
        "execution": {"steps": 1},
        "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct", "task_args": "{payload.arguments}"},
    }}},
    "nowhere": {"deployment": "no-such/deployment"},
    "config": {"config": "{payload.config}"},
    "wrong": {"deployment": "resume-job/resume_job", "parameters": {"no_such_parameter": 1}},
}  # fmt: skip


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server that has the deployments of prefect.yaml. It is no other test's: nobody runs what is started."""
    with serving_prefect(tmp_path_factory.mktemp("service-prefect")) as server:
        send_deployments(server)
        yield server


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Who hears of the ends of jobs."""
    server = ReceiverServer()
    yield server.receiver
    server.close()


@pytest.fixture(scope="session")
def dead_port() -> Iterator[int]:
    """A port that the service may send to, and where nobody listens."""
    with socket.socket() as holder:  # bound, so that nobody else takes it
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(scope="session")
def make_site(
    deployments: Server, receiver: Receiver, dead_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """Return sites of their own home and store; their services end with the tests."""
    sites = []

    def make(**env: str) -> Service:
        home = tmp_path_factory.mktemp("service")
        hooks = json.loads((ROOT / "examples" / "hooks.json").read_text())
        secrets = {hook["secret_env"]: SECRET for hook in hooks.values()}
        hooks |= {name: {"secret_env": "SIMYARD_HOOK_TEST", **hook} for name, hook in HOOKS.items()}
        (home / "hooks.json").write_text(json.dumps(hooks))
        own = {
            **secrets,
            "SIMYARD_HOOK_TEST": SECRET,
            "SIMYARD_HOOKS": str(home / "hooks.json"),
            "SIMYARD_INPUT_STORES": "s3://robots",
            "SIMYARD_PRIVATE_HOSTS": f"127.0.0.1:{receiver.port},127.0.0.1:{dead_port}",
        }
        sites.append(site(home, deployments, **own | env))
        return sites[-1]

    yield make
    for made in sites:
        made.stop()


@pytest.fixture(scope="session")
def service(make_site: Callable[..., Service]) -> Service:
    """A site whose service runs."""
    made = make_site()
    made.start()
    return made
