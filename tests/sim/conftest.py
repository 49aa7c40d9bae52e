"""Real simulations are dear: each is run once for all tests that look at it, by whichever worker needs it first."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers import CONFIG, CommandLine, Server
from simulated import ENV, Job, Yard, run_bare


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test run have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sim"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def yard(prefect_server: Server, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Yard]:
    """The command line with a home of this worker's own, and the common store, whose name is awkward on purpose.

    Its machine keeps a session, which most jobs run in; those with packages or other variables start cold.
    """
    folder = tmp_path_factory.mktemp("yard")
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG))
    command = CommandLine({**os.environ, **prefect_server.env, **ENV, "SIMYARD_HOME": str(folder / "home")})
    yard = Yard(command, config, folder / "home", shared / "a store, ünïcode")
    started = command("sessions", "start", config, "--store", yard.store, "--idle-minutes", 90, timeout_s=300)
    assert started.returncode == 0, started.stderr
    yield yard
    command("sessions", "stop", "--all")


@pytest.fixture(scope="session")
def once(shared: Path) -> Callable[[str, Callable[[], Job]], Job]:
    """Run a job under a name that all workers know, and return what it left."""

    def run(name: str, make: Callable[[], Job]) -> Job:
        record = shared / f"{name}.json"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not record.exists():
                record.write_text(make().to_json())
        return Job.from_json(record.read_text())

    return run


@pytest.fixture(scope="session")
def trained(yard: Yard, once: Callable[[str, Callable[[], Job]], Job]) -> Callable[[str], Job]:
    """The small cartpole, trained with a library for four iterations."""
    return cache(lambda library: once(library, lambda: yard.train(f"rlLibrary={library}")))


@pytest.fixture(scope="session")
def evaluated(
    yard: Yard, once: Callable[[str, Callable[[], Job]], Job], trained: Callable[[str], Job]
) -> Callable[[str], Job]:
    """The last checkpoint of that training, measured."""
    return cache(lambda library: once(f"evaluated {library}", lambda: yard.evaluate(trained(library))))


@pytest.fixture(scope="session")
def trained_managed(yard: Yard, once: Callable[[str, Callable[[], Job]], Job]) -> Job:
    """A task that names its terms, trained for two iterations."""
    return once("managed", lambda: yard.train("task=Isaac-Cartpole", "maxIterations=2"))


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The last checkpoint of the same training by Isaac Lab's own command."""
    return cache(lambda library: run_bare(library, tmp_path_factory.mktemp("bare") / library))
