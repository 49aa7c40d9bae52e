"""A worker for each of two pools: `simyard` has the real simulator, `scenario` one that fails on command."""

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from helpers import PREFECT, SCENARIO, Server, end, send_deployments
from pools import Api, Pool


@pytest.fixture(scope="session")
def api(prefect_server: Server) -> Api:
    return Api(prefect_server)


@pytest.fixture(scope="session")
def start_worker(prefect_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pool]]:
    """Start workers; they end with the tests."""
    processes = []

    def start(name: str, env: dict[str, str]) -> Pool:
        home = tmp_path_factory.mktemp(f"worker-{name}")
        pool = Pool(name, home / "home", home / "store")
        env = {
            **os.environ, **prefect_server.env, **env, "PREFECT_WORKER_QUERY_SECONDS": "1",
            "SIMYARD_HOME": str(pool.home), "SIMYARD_STORE": str(pool.store),
        }  # fmt: skip
        command = [PREFECT, "worker", "start", "--pool", name, "--type", "process"]
        with (home / "worker.log").open("wb") as log:
            processes.append(
                subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=log, start_new_session=True)
            )
        return pool

    yield start
    for process in processes:
        end(process)


@pytest.fixture(scope="session")
def deployed(prefect_server: Server) -> Server:
    """The deployments of prefect.yaml."""
    send_deployments(prefect_server)
    return prefect_server


@pytest.fixture(scope="session")
def real_pool(deployed: Server, start_worker: Callable[..., Pool]) -> Pool:
    """The pool of prefect.yaml."""
    return start_worker("simyard", {})


@pytest.fixture(scope="session")
def scenario_pool(api: Api, start_worker: Callable[..., Pool]) -> Pool:
    """A pool whose simulator plays what the job's description says."""
    api.make_pool("scenario")
    return start_worker("scenario", SCENARIO)
