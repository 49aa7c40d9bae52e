"""Real simulations are dear: each is run once for all tests that look at it."""

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from helpers import CONFIG, CommandLine, Server
from simulated import ENV, Job, Yard, run_bare


@pytest.fixture(scope="session")
def yard(prefect_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """The command line, with a store whose name is awkward on purpose."""
    folder = tmp_path_factory.mktemp("yard")
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG))
    command = CommandLine({**os.environ, **prefect_server.env, **ENV, "SIMYARD_HOME": str(folder / "home")})
    return Yard(command, config, folder / "home", folder / "a store, ünïcode")


@pytest.fixture(scope="session")
def trained(yard: Yard) -> Callable[[str], Job]:
    """The small cartpole, trained with a library for four iterations."""
    return cache(lambda library: yard.train(f"rlLibrary={library}"))


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The last checkpoint of the same training by Isaac Lab's own command."""
    return cache(lambda library: run_bare(library, tmp_path_factory.mktemp("bare") / library))
