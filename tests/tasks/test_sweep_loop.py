"""The loop of a sweep on the real runner, without Prefect: killed anywhere, it goes on behind its last decision."""

import json
import random
import re
from pathlib import Path

import pytest
from scenario import play

from simyard.core.errors import RequestError
from simyard.core.specs import Bounds
from simyard.requests.config import check_config
from simyard.requests.sweeps import SweepRequest
from simyard.store import keys
from simyard.tasks.collect import collect
from simyard.tasks.launch import is_done
from simyard.tasks.persist import persist
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared.control import LoopObserver
from simyard.tasks.shared.history import load_spec
from simyard.tasks.sweeps import record
from simyard.tasks.sweeps.loop import Loop
from simyard.tasks.sweeps.plan import load_sweep, resolve_sweep, stage_sweep


class Killed(BaseException):
    """Stands for SIGKILL: what was written is there, and nothing else."""


class Machine:
    """Drives sweeps in this process, one training at a time, in one warm simulator."""

    def __init__(self, player, sessions):
        self.player, self.store, self.sessions = player, player.store, sessions
        self.ran = []

    def freeze(self, scenario="", iterations=6, **sweep):
        """Put a sweep into the store; return its id."""
        request = check_config(
            play.config(scenario, iterations=iterations, sweep={"parallel": 1} | sweep), SweepRequest
        )
        resolved = resolve_sweep(request, self.store, keys.new_sweep_id(), Path.cwd(), self.player.site)
        stage_sweep(resolved, self.store)
        return resolved.spec.sweep_id

    def drive(self, sweep_id, die=lambda: None):
        """Do what the flow does; `die` is called wherever the process may be killed."""
        with Loop(load_sweep(self.store, sweep_id), self.store, LoopObserver()) as loop:
            while True:
                found = loop.pieces()
                if loop.is_over:
                    return loop.conclude()
                for piece in found:
                    die()
                    measured = loop.train(piece, lambda job_id: self.run(job_id, die))
                    die()
                    loop.take(piece, measured)

    def run(self, job_id, die):
        spec = load_spec(self.store, job_id)
        error = None
        if not is_done(spec, self.store):  # as the stages do
            error = self.player.attempt(spec, sessions=self.sessions)
            self.ran.append(job_id)
            die()
        return persist(spec, collect(spec, self.store, error and error.failure), self.store)

    def job(self, job_id):
        result = json.loads((self.player.folder(job_id) / "result.json").read_text())
        return play.Left(self.store, self.player.folder(job_id), result)


@pytest.fixture
def machine(player):
    with Sessions(player.site, Bounds()) as sessions:
        machine = Machine(player, sessions)
        player.reserve(player.stage(""), sessions)
        yield machine


ASHA = {"parameters": {"agent.x": {"values": [1, 2, 3]}}, "scheduler": {"kind": "asha", "minIterations": 2}}


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_killed_wherever_a_seed_draws_it_runs_each_training_once(machine, seed):
    sweep_id = machine.freeze(**ASHA)
    chance, kills = random.Random(seed), 0

    def die():
        nonlocal kills
        if kills < 4 and chance.random() < 0.4:
            kills += 1
            raise Killed

    while True:
        try:
            result = machine.drive(sweep_id, die)
        except Killed:
            continue
        break
    assert kills == 4
    assert (result.status, result.ended_by, result.best) == ("succeeded", "done", 0)
    assert len(set(machine.ran)) == len(machine.ran) == result.jobs == 4, "three at the first rung, one at the second"
    settings = record.settings(machine.store, sweep_id)
    assert [(one.state, one.rung) for one in settings] == [("complete", 1), ("pruned", 0), ("pruned", 0)]
    (run,) = settings[0].runs
    first, second = map(machine.job, run.jobs)
    assert (first.result["done"], second.result["total"], run.iterations, run.value) == (2, 6, 6, 50.0)
    assert json.loads((second.folder / "job.json").read_text())["max_iterations"] == 4
    assert re.findall(r"every weight is \[(\d+)\.0\]", second.stdout()) == ["6"], "it goes on from the first"
    numbers = [decision.number for decision in record.decisions(machine.store, sweep_id)]
    assert numbers == [*range(1, len(numbers) + 1)]

    # The same trainings in another sweep are there already.
    again = machine.drive(machine.freeze(**ASHA))
    assert (again.jobs, len(machine.ran), again.best) == (0, 4, 0)


def test_of_two_that_drive_a_sweep_one_decides(player):
    """A process that was taken for lost, and comes back, ends at its next decision."""
    sweep_id = Machine(player, None).freeze(**ASHA)
    lost, other = (Loop(load_sweep(player.store, sweep_id), player.store, LoopObserver()) for _ in "12")
    assert other.pieces()
    with pytest.raises(RequestError, match="driven by another process"):
        lost.pieces()


def test_an_unknown_metric_ends_a_sweep_at_its_first_training_with_the_nearest(machine):
    sweep_id = machine.freeze(iterations=2, parameters=ASHA["parameters"], objective={"metric": "Loss/values"})
    result = machine.drive(sweep_id)
    assert (result.status, result.ended_by, result.settings) == ("failed", "refused", 1)
    assert "Did you mean 'Loss/value'?" in result.error.message


@pytest.mark.long  # five jobs for what tests/tasks/test_sweep_state.py and the ones above show in part
def test_a_target_or_a_budget_ends_it_and_a_failed_training_is_counted(machine):
    parameters = {"agent.x": {"values": [1, 2, 3]}}
    result = machine.drive(machine.freeze(iterations=2, parameters=parameters, objective={"target": 10.0}))
    assert (result.ended_by, result.settings, result.best) == ("target", 1, 0)
    budget = {"maxWallclockHours": 1e-6}
    assert machine.drive(machine.freeze(parameters=parameters, budget=budget)).ended_by == "max_wallclock_hours"
    result = machine.drive(machine.freeze("crash at 1", iterations=4, parameters=parameters))
    assert (result.status, result.ended_by) == ("failed", "failed")
    assert [one.failed for one in result.verdict.table] == [1, 1, 1]
