"""Jobs in containers that a Prefect worker starts, with everything they leave in a bucket; what dies is replaced."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleets import BUCKET, HOME, Fleet
from helpers import CONFIG, SCENARIO, end, wait_until

from simyard.store.keys import JobKeys
from simyard.store.store import Store

POOL = "gpu"
PATIENCE_S = 300.0
"""Waits end when what they wait for has happened; a machine that has other work may take this long."""


def deploy(fleet: Fleet, home: Path, env: dict[str, str]) -> None:
    """Have the pool start containers that are like this machine."""
    home.mkdir(exist_ok=True)
    kernels = Path(os.environ.get("WARP_CACHE_PATH") or Path.home() / ".cache" / "warp")
    kernels.mkdir(parents=True, exist_ok=True)
    variables = {
        "volumes": [*fleet.podman.mounts, f"{home}:{HOME}", f"{kernels}:{HOME}/warp"],
        "env": {
            "SIMYARD_HOME": HOME,
            "WARP_CACHE_PATH": f"{HOME}/warp",
            "USER": "root",
            "HOME": "/tmp",
            "PREFECT_HOME": "/tmp/prefect",
            **env,
        },
        # This engine may not raise limits, and has no GPUs to give.
        "ulimits": [{"Name": "nofile", "Soft": 20000, "Hard": 20000}, {"Name": "nproc", "Soft": 32768, "Hard": 32768}],
        "device_requests": [],
        "shm_size": "1g",
        "network_mode": "host",
    }
    settings = [part for name, value in variables.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    done = fleet.command(
        "deploy", "--pool", POOL, "--type", "docker", "--image", fleet.podman.machine, *settings,
        "--store", BUCKET, "--block", "fleet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def bucket(fleet: Fleet) -> Store:
    return Store.open(
        BUCKET,
        options={
            "endpoint_url": fleet.endpoint, "access_key_id": "robot", "secret_access_key": "secret-key",
            "region": "us-east-1",
        },
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(description: str, **training: Any) -> Path:
        path = tmp_path / "config.json"
        content = {**CONFIG, "description": description, "overrides": ["agent.save_interval=4"]}
        path.write_text(json.dumps({**content, "trainingConfig": {**CONFIG["trainingConfig"], **training}}))
        return path

    return write


def new_job(bucket: Store, before: list[str]) -> str:
    """Return the id of the only job that was not there before."""
    wait_until(lambda: set(bucket.list_dirs("jobs")) - set(before), PATIENCE_S, "a job in the bucket")
    (job_id,) = set(bucket.list_dirs("jobs")) - set(before)
    return job_id


def await_checkpoints(bucket: Store, job_id: str, count: int, process: Any) -> None:
    """Wait until the first attempt has so many checkpoints in the bucket, or its command has ended."""
    enough = lambda: len(saved(bucket, job_id, 1)) >= count  # noqa: E731
    wait_until(lambda: enough() or process.poll() is not None, PATIENCE_S, f"{count} checkpoints")
    assert enough(), process.stderr.read()[-3000:]


def saved(bucket: Store, job_id: str, attempt: int) -> list[int]:
    records = bucket.get_json_or_none(JobKeys(job_id).attempt(attempt).checkpoints) or []
    return [record["iteration"] for record in records]


def result_of(process: Any) -> dict[str, Any]:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def is_whole(bucket: Store, result: dict[str, Any], folder: Path) -> None:
    """Check that every artifact is in the bucket, with the digest that the result names."""
    import hashlib

    for entry in result["artifacts"]:
        bucket.get_file(JobKeys(result["job_id"]).artifact(entry["name"]), folder / "artifact")
        assert hashlib.sha256((folder / "artifact").read_bytes()).hexdigest() == entry["sha256"], entry["name"]
    assert bucket.exists(JobKeys(result["job_id"]).manifest)


@pytest.mark.parametrize(
    ("env", "description", "iterations"),
    [
        pytest.param(
            SCENARIO, "; ".join(f"slow at {index}" for index in range(20)), 20, id="played", marks=pytest.mark.long
        ),
        pytest.param({}, "", 40, id="on the real simulator", marks=[pytest.mark.sim, pytest.mark.long]),
    ],
)
def test_a_killed_container_is_replaced_and_the_training_ends_once(
    fleet: Fleet, bucket: Store, config: Any, tmp_path: Path, env: dict[str, str], description: str, iterations: int
) -> None:
    deploy(fleet, fleet.folder / "machine", env)
    fleet.start_worker(POOL)
    before = bucket.list_dirs("jobs")
    path = config(description, maxIterations=iterations)
    process = fleet.command.start("train", path, "--pool", POOL, "--store", "job-store/fleet", "--json")
    try:
        job_id = new_job(bucket, before)
        await_checkpoints(bucket, job_id, 2, process)
        (container,) = fleet.containers()
        container.kill()

        result = result_of(process)
    finally:
        end(process)
        fleet.stop_worker()
    assert (result["status"], result["attempts"], result["error"]) == ("succeeded", 2, None)
    first = saved(bucket, job_id, 1)
    status = bucket.get_json(JobKeys(job_id).attempt(2).status)
    assert status["start_iteration"] == first[-1], "it goes on from the last valid checkpoint"
    assert saved(bucket, job_id, 2)[-1] == iterations
    is_whole(bucket, result, tmp_path)
    rows = bucket.get_bytes(JobKeys(job_id).artifact("metrics.csv")).decode().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(iterations)], "each iteration once"
    wait_until(lambda: not fleet.containers(), PATIENCE_S, "the end of all containers")


@pytest.fixture
def scenario(fleet: Fleet) -> Iterator[Fleet]:
    """The same site; in its containers a simulator plays what the job's description says."""
    deploy(fleet, fleet.folder / "machine", SCENARIO)
    fleet.start_worker(POOL)
    yield fleet
    fleet.stop_worker()


@pytest.mark.long
def test_a_container_outlives_its_worker_and_the_server(
    scenario: Fleet, bucket: Store, config: Any, tmp_path: Path
) -> None:
    before = bucket.list_dirs("jobs")
    always_slow = "; ".join(f"slow at {index}" for index in range(60))
    path = config(always_slow, maxIterations=60)
    process = scenario.command.start("train", path, "--pool", POOL, "--store", "job-store/fleet", "--json")
    try:
        job_id = new_job(bucket, before)
        await_checkpoints(bucket, job_id, 1, process)
        assert scenario.worker is not None
        os.killpg(scenario.worker.pid, signal.SIGKILL)
        scenario.worker.wait()
        scenario.stop_server()
        scenario.start_server()
        scenario.start_worker(POOL)

        result = result_of(process)
    finally:
        end(process)
    assert (result["status"], result["attempts"], result["error"]) == ("succeeded", 1, None)
    is_whole(bucket, result, tmp_path)
    wait_until(lambda: not scenario.containers(), 30, "the end of all containers")


@pytest.mark.long
def test_a_canceled_job_leaves_its_container_within_its_grace(scenario: Fleet, bucket: Store, config: Any) -> None:
    before = bucket.list_dirs("jobs")
    path = config("slow", maxIterations=400)
    process = scenario.command.start("train", path, "--pool", POOL, "--store", "job-store/fleet", "--json")
    try:
        job_id = new_job(bucket, before)
        await_checkpoints(bucket, job_id, 1, process)
        canceled = scenario.command("jobs", "cancel", job_id, "--store", BUCKET)
        assert canceled.returncode == 0, canceled.stderr
        wait_until(lambda: not scenario.containers(), 30, "the end of the container, within the grace of 30 s")
        out, _ = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode == 130
    result = json.loads(out.strip().splitlines()[-1])
    assert result["status"] == "canceled"
    assert any(entry["kind"] == "checkpoint" for entry in result["artifacts"]), "what was saved is kept"
