"""The scenario simulator, driven without Prefect."""

import pytest
from scenario import play

from simyard.requests.settings import MachineSettings


@pytest.fixture(scope="session")
def waiting(tmp_path_factory):
    """Workloads that wait for a job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENARIO_PYTHON", play.ENVIRONMENT["SCENARIO_PYTHON"])
        pool = play.Waiting(tmp_path_factory.mktemp("waiting"))
        yield pool
        pool.close()


@pytest.fixture
def player(tmp_path, store, waiting):
    """Plays jobs into a store of their own; nothing that ran for it is left at the end."""
    site = MachineSettings(home=tmp_path / "home", store=str(store), python=str(play.PYTHON))
    yield play.Player(site, waiting)
    assert play.running_below(tmp_path) == []
