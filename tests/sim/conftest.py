"""Real simulations are dear: each is run once, in one of two simulators, for all tests that look at it."""

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers import CONFIG, CommandLine, FlowHost, Server
from simulated import ENV, KILLED_ITERATIONS, NO_EGL, Job, Killed, Player, Yard, kill_simulator, run_bare

KILLED_SETTINGS = (f"maxIterations={KILLED_ITERATIONS}", "agent.save_interval=5")


@pytest.fixture(scope="session")
def yard(prefect_server: Server, flow_host: FlowHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A machine that keeps a simulator, and a store whose name is awkward on purpose."""
    folder = tmp_path_factory.mktemp("yard")
    config, home = folder / "config.json", folder / "home"
    config.write_text(json.dumps(CONFIG))
    env = {**os.environ, **prefect_server.env, **ENV, "SIMYARD_HOME": str(home)}
    yard = Yard(config, home, folder / "a store, ünïcode", CommandLine(env, flow_host))
    yard.start_session()
    yield yard
    yard.stop()


@pytest.fixture(scope="session")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    """A simulator in which tests call what no job does."""
    player = Player(tmp_path_factory.mktemp("player"))
    yield player
    player.close()


@pytest.fixture(scope="session")
def trained(yard: Yard) -> Callable[[str], Job]:
    """The small cartpole, trained with a library for four iterations."""
    return cache(lambda library: yard.train(f"rlLibrary={library}"))


@pytest.fixture(scope="session")
def evaluated(yard: Yard, trained: Callable[[str], Job]) -> Callable[[str], Job]:
    """The last checkpoint of that training, measured."""
    return cache(lambda library: yard.evaluate(trained(library)))


@pytest.fixture(scope="session")
def trained_managed(yard: Yard) -> Job:
    """A task that names its terms, trained for two iterations; asked for by its id of Isaac Lab 2.x."""
    return yard.train("task=Isaac-Cartpole-v0", "maxIterations=2")


# On a machine that cannot draw jobs have a simulator of their own, where these come one after another.


@pytest.fixture(scope="session")
def trained_blind(yard: Yard) -> Job:
    """The small cartpole, trained by sb3 as the first job of its simulator."""
    return yard.train("rlLibrary=sb3", **NO_EGL)


@pytest.fixture(scope="session")
def undrawn(yard: Yard, trained: Callable[[str], Job], trained_blind: Job) -> Job:
    """The first checkpoint of the small cartpole's training, measured where no film can be made."""
    return yard.evaluate(trained("rsl_rl"), "recordVideo=true", which="iteration:1", **NO_EGL)


@pytest.fixture(scope="session")
def killed(yard: Yard, undrawn: Job) -> Killed:
    """A training whose simulator was killed after some checkpoints."""
    pattern = "*/001-*/work/logs/rsl_rl/*/*/model_15.pt"
    return kill_simulator(lambda: yard.train(*KILLED_SETTINGS, **NO_EGL), yard.home / "work", pattern)


@pytest.fixture(scope="session")
def unkilled(yard: Yard, killed: Killed) -> Job:
    """The same training, which nobody killed, until five iterations after the other one was taken up again."""
    second = json.loads((killed.job.folder / "attempts/002/outcome.json").read_text())
    return yard.train(*KILLED_SETTINGS, f"maxIterations={second['start_iteration'] + 5}", **NO_EGL)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The last checkpoint of the same training by Isaac Lab's own command."""
    return cache(lambda library: run_bare(library, tmp_path_factory.mktemp("bare") / library))
