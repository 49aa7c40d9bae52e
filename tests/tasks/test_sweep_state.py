"""What a sweep does next follows from its decisions: schedulers, samplers, and a process that goes on after another."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from simyard.core.errors import Category, Failure
from simyard.core.sweep_records import Decision, SeedRun
from simyard.requests.config import check_config
from simyard.requests.sweeps import SweepRequest
from simyard.tasks.sweeps.rungs import brackets_of
from simyard.tasks.sweeps.state import State

RATE, OTHER = "agent.algorithm.learning_rate", "agent.algorithm.entropy_coef"
RANGES = {RATE: {"low": 1e-4, "high": 1e-1, "log": True}, OTHER: {"low": 0.0, "high": 0.1}}
ITERATIONS = 27
FAILURE = Failure(code="workload_failed", category=Category.USER, message="it broke")


def request(**sweep):
    return check_config({"trainingConfig": {"maxIterations": ITERATIONS}, "sweep": sweep}, SweepRequest)


def value_of(values, seed, iterations):
    """The objective of a training: best near a rate of 0.003, and growing with its length."""
    return -abs(values.get(RATE, 0.01) - 0.003) * iterations + 0.001 * (seed % 3)


class Driver:
    """A process that drives a sweep, whose trainings end in an order that a seed draws."""

    def __init__(self, asked, order, decisions=(), failing=()):
        self.state = State(asked, ITERATIONS)
        self.decisions = []
        self.trained = []
        self._chance = random.Random(order)
        self._failing = failing
        for decision in decisions:
            self._apply(decision)

    def _apply(self, decision):
        decision = Decision.from_json(decision.to_json())  # as the store gives it back
        self.decisions.append(decision)
        self.state.apply(decision)

    def _decide(self, **fields):
        self._apply(Decision(number=self.state.decisions + 1, at="now", **fields))

    def drive(self):
        """Go on to the end."""
        running = []
        while True:
            while len(running) < self.state.parallel:
                piece = next((piece for piece in self.state.pieces() if piece not in running), None)
                if piece is not None:
                    running.append(piece)
                elif (move := self.state.next_move()) is not None:
                    self._decide(**move)
                else:
                    break
            if not running:
                return self
            self._measure(running.pop(self._chance.randrange(len(running))))

    def _measure(self, piece):
        before = piece.earlier.iterations if piece.earlier else 0
        self.trained.append((piece.setting, piece.rung, piece.seed, piece.iterations - before))
        failed = (piece.setting, piece.seed) in self._failing
        value = value_of(self.state.members[piece.setting].values, piece.seed, piece.iterations)
        jobs = (*(piece.earlier.jobs if piece.earlier else ()), f"{piece.setting}/{piece.rung}/{piece.seed}")
        run = SeedRun(
            seed=piece.seed, jobs=jobs, iterations=piece.iterations, status="failed" if failed else "waiting",
            value=None if failed else value, failure=FAILURE if failed else None, gpu_seconds=1.0,
            others=None if failed or len(self.state.config.objectives) < 2 else (-value,),
        )  # fmt: skip
        self._decide(kind="measured", setting=piece.setting, rung=piece.rung, run=run, why="")

    @property
    def suggested(self):
        return [decision.values for decision in self.decisions if decision.kind == "suggested"]


SWEEPS = st.one_of(
    st.fixed_dictionaries(
        {
            "sampler": st.sampled_from(["random", "tpe", "cmaes"]),
            "trials": st.integers(2, 14),
            "seeds": st.integers(1, 2),
            "parallel": st.integers(1, 4),
            "scheduler": st.sampled_from([{}, {"kind": "asha", "minIterations": 3}, {"kind": "hyperband"}]),
        }
    ),
    st.fixed_dictionaries(
        {
            "sampler": st.just("tpe"),
            "trials": st.integers(11, 14),  # with fewer it draws at random
            "parallel": st.integers(1, 4),
            "objective": st.just([{"metric": "Train/mean_reward"}, {"metric": "Loss/value", "mode": "min"}]),
        }
    ),
    st.fixed_dictionaries(
        {
            "sampler": st.just("random"),
            "trials": st.integers(2, 8),
            "parallel": st.integers(1, 4),
            "scheduler": st.just({"kind": "pbt", "interval": 9}),
        }
    ),
)


@settings(max_examples=8)
@given(sweep=SWEEPS, order=st.integers(0, 99), cut=st.floats(0, 1))
def test_whoever_goes_on_from_any_decision_suggests_the_same_and_trains_nothing_twice(sweep, order, cut):
    asked = request(parameters=RANGES, **sweep)
    whole = Driver(asked, order).drive()
    kept = whole.decisions[: round(cut * len(whole.decisions))]
    again = Driver(asked, order + 1, kept).drive()
    assert again.suggested == whole.suggested, "another process, and another order of endings"
    assert len(again.suggested) == sweep["trials"]
    measured = [(one.setting, one.rung, one.run.seed) for one in again.decisions if one.kind == "measured"]
    assert len(set(measured)) == len(measured)
    ended = [setting.state for setting in again.state.settings]
    assert "complete" in ended
    assert set(ended) <= {"complete", "pruned"}


def test_asha_promotes_the_best_of_each_rung_and_trains_what_is_left():
    asked = request(
        parameters={RATE: {"values": [0.1, 0.03, 0.01, 0.003, 0.001, 0.0003]}}, parallel=1, seeds=2,
        scheduler={"kind": "asha", "minIterations": 3},
    )  # fmt: skip
    driver = Driver(asked, 0).drive()
    assert brackets_of(asked.sweep.scheduler, ITERATIONS) == ((3, 9, 27),)
    lengths = {(setting, rung): length for setting, rung, _, length in driver.trained}
    assert {rung: lengths[3, rung] for rung in range(3)} == {0: 3, 1: 6, 2: 18}, (
        "the winner has done each iteration once"
    )
    assert [one.state for one in driver.state.settings].count("complete") == 1
    assert driver.state.best.number == 3
    whole = 6 * 2 * ITERATIONS
    assert sum(length for *_, length in driver.trained) < whole / 2


def test_the_worst_of_a_population_take_up_the_state_of_the_best():
    asked = request(
        parameters={RATE: {"values": [0.1, 0.03, 0.01, 0.003]}}, parallel=2, scheduler={"kind": "pbt", "interval": 9}
    )
    driver = Driver(asked, 0).drive()
    copy = next(decision for decision in driver.decisions if decision.kind == "copied")
    assert (copy.setting, copy.source, copy.rung) == (0, 3, 1)
    first = driver.state.settings[0]
    assert first.runs[0].jobs[0] == "3/0/42", "it goes on from the other's training"
    assert first.copies[0].values == {RATE: 0.1}
    assert {length for *_, length in driver.trained} == {9}


def test_a_failed_seed_is_not_gone_on_with_and_a_setting_without_any_has_failed():
    asked = request(
        parameters={RATE: {"values": [0.1, 0.003, 0.01]}}, parallel=2, seeds=2,
        scheduler={"kind": "asha", "minIterations": 9},
    )  # fmt: skip
    driver = Driver(asked, 0, failing={(1, 43), (2, 42), (2, 43)}).drive()
    assert [one.state for one in driver.state.settings] == ["pruned", "complete", "failed"]
    assert [run.iterations for run in driver.state.settings[1].runs] == [ITERATIONS, 9]


def test_hyperband_begins_its_brackets_at_different_rungs_with_as_many_settings_as_cost_the_same():
    asked = request(
        parameters=RANGES, sampler="random", trials=22, parallel=1, scheduler={"kind": "hyperband", "minIterations": 3}
    )
    driver = Driver(asked, 0).drive()
    first = {}
    for setting, _, _, length in driver.trained:
        first.setdefault(setting, length)
    assert sorted(set(first.values())) == [3, 9, 27]
    counts = [[*first.values()].count(length) for length in (3, 9, 27)]
    assert counts == [9, 7, 6] or counts[0] > counts[1] > counts[2], counts


def test_a_target_is_reached_once_all_seeds_of_a_setting_were_measured():
    asked = request(seeds=2, objective={"target": -1.0}, parameters={RATE: {"values": [0.003, 0.01]}}, parallel=1)
    decisions = Driver(asked, 0).drive().decisions
    reached = [Driver(asked, 0, decisions[:count]).state.has_reached_target for count in range(4)]
    assert [decision.kind for decision in decisions[:3]] == ["suggested", "measured", "measured"]
    assert reached == [False, False, False, True]
