"""A sweep through a work pool: its trainings are attempts there, and go on when its driver is killed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import SCENARIO, CommandLine
from pools import Api, Pool
from sweeps import Sweeps


@pytest.fixture(scope="module")
def pool(api: Api, start_worker: Callable[..., Pool]) -> Pool:
    """A pool whose simulator plays scenarios."""
    api.make_pool("sweeps")
    return start_worker("sweeps", SCENARIO)


@pytest.fixture
def sweeps(pool: Pool, simyard: CommandLine, tmp_path: Path, store: Path) -> Iterator[Sweeps]:
    yield Sweeps(CommandLine({**simyard.env, **SCENARIO, "SIMYARD_POOL": pool.name}, simyard.host), tmp_path, store)


@pytest.mark.long  # without a pool: tests/cli/test_sweeps.py
def test_a_sweep_whose_driver_is_killed_finds_its_attempts_in_the_pool_again(sweeps: Sweeps) -> None:
    process = sweeps.begin("slow", iterations=6)
    sweep = sweeps.newest()
    sweep.wait_for("training.started", 2)
    process.kill()
    process.wait()
    again = sweep.do("resume", "--wait", "--json")
    assert again.returncode == 0, again.stderr
    sweep.assert_sound()
    assert (sweep.result["status"], sweep.result["jobs"]) == ("succeeded", 2)
    attempts = [len([*path.glob("attempts/*")]) for path in (sweeps.store / "jobs").iterdir()]
    assert attempts == [1, 1], "an attempt that went on was made again"
