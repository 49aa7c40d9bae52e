"""Which episodes succeeded, read from tasks that log it in different ways, many episodes at a time."""

from types import SimpleNamespace

import pytest
from lazy import lazy

from simyard.runner.isaaclab.environment_recorder import SuccessReader, check_rate
from simyard.runner.recording.recorder import RolloutRecorder

torch = lazy("torch")
zarr = lazy("zarr")

ENVS = 6


class Task:
    """Resets as Isaac Lab's environments do, and logs what the test wants of the outcomes it was given."""

    num_envs, device = ENVS, "cpu"

    def __init__(self, log, *, terminations=()):
        self.extras = {}
        self.outcomes = torch.zeros(ENVS)
        self.resets = []
        """How many environments were reset at a time."""
        self._log = log
        if terminations:
            self.termination_manager = SimpleNamespace(
                active_terms=list(terminations), get_term=lambda name: self.outcomes.bool()
            )

    def _reset_idx(self, env_ids):
        self.resets.append(len(env_ids))
        self.extras["log"] = self._log(self.outcomes[env_ids])
        self.outcomes[env_ids] = 0.0


def logs(**how):
    """Log under a tag what a function makes of the outcomes of those that are reset."""
    return lambda outcomes: {tag.replace("__", "/"): make(outcomes) for tag, make in how.items()}


def in_place(outcomes):
    """As Isaac Lab's commands do: the mean, and then nothing is left of its parts."""
    mean = torch.mean(outcomes)
    outcomes.zero_()
    return mean


def play(task, *steps):
    """Reset all, then let episodes end: each step has the outcome of each environment that ends in it, by number."""
    means = torch.mean, torch.Tensor.mean
    reader = SuccessReader(task)
    reader.begin(torch.arange(ENVS, dtype=torch.int32))
    task.resets.clear()
    found = []
    for step in steps:
        for env, outcome in step.items():
            task.outcomes[env] = float(outcome)
        if step:
            reader.reset(torch.tensor(list(step), dtype=torch.int32))
        taken = reader.take()
        found.append(None if taken is None else {env: int(taken[env]) for env in step})
    reader.close()
    assert (torch.mean, torch.Tensor.mean) == means, "torch is left as it was"
    return reader, found


RATE = {"Metrics__success_rate": lambda outcomes: outcomes.mean()}
STEPS = ({0: 1, 3: 0, 4: 1}, {}, {1: 0}, {0: 1, 1: 1, 2: 0, 3: 0, 4: 1, 5: 0})
FOUND = [step or None for step in STEPS]


@pytest.mark.parametrize(
    "log",
    [
        logs(**RATE),
        logs(Metrics__success_rate=lambda outcomes: torch.mean(outcomes.float())),
        logs(Metrics__success_rate=in_place),
        logs(Metrics__walk_success_rate=lambda outcomes: outcomes.bool().float().mean()),
        logs(Episode_Reward__alive=lambda outcomes: (1 - outcomes).mean(), **RATE),
    ],
    ids=["method", "function", "cleared at once", "another name", "beside other means"],
)
def test_of_a_mean_each_part_is_known_and_all_are_reset_at_once(log):
    task = Task(log)
    reader, found = play(task, *STEPS)
    assert found == FOUND
    assert task.resets == [3, 1, 6]
    assert reader.source.startswith("metric Metrics/")


@pytest.mark.parametrize(
    "make",
    [lambda outcomes: outcomes.mean().item(), lambda outcomes: outcomes.sum() / len(outcomes)],
    ids=["a number", "a sum"],
)
def test_of_another_computation_the_parts_are_had_one_by_one(make):
    task = Task(logs(Metrics__success_rate=make))
    assert play(task, *STEPS)[1] == FOUND
    assert task.resets == [1] * 10


def test_a_termination_says_it_where_no_metric_does():
    reader, found = play(Task(logs(), terminations=["time_out", "success"]), *STEPS)
    assert found == FOUND
    assert reader.source == "termination success"


@pytest.mark.parametrize(
    ("log", "terminations"),
    [
        (logs(), []),
        (logs(Metrics__error=lambda outcomes: outcomes.mean()), ["time_out"]),
        (logs(Metrics__a_success=lambda outcomes: 1.0, Metrics__b_success=lambda outcomes: 1.0), []),
    ],
    ids=["silent", "other metrics", "two metrics"],
)
def test_nothing_is_measured_where_the_task_does_not_say(log, terminations):
    reader, found = play(Task(log, terminations=terminations), *STEPS)
    assert found == [None] * len(STEPS)
    assert reader.source is None


@pytest.mark.parametrize(
    "make", [lambda outcomes: outcomes.mean(), lambda outcomes: outcomes.mean().item()], ids=["a mean", "a number"]
)
def test_what_is_neither_0_nor_1_is_not_measured(make):
    _, found = play(Task(logs(Metrics__success_rate=make)), {0: 0, 1: 1}, {2: 0.5, 3: 1})
    assert found == [{0: 0, 1: 1}, {2: -1, 3: 1}]


@pytest.mark.parametrize("others", [0, 100], ids=["those that go on", "the past"])
def test_a_mean_over_other_episodes_too_says_nothing_of_these(others):
    everything = torch.ones(ENVS + others)
    task = Task(logs(Metrics__success_rate=lambda outcomes: everything.mean()))
    assert play(task, {0: 1, 1: 0})[1] == [None]


@pytest.mark.parametrize(
    ("said", "kept"),
    [([1, 0, 1], True), ([0, -1, 0], False), ([-1, -1, -1], False)],
    ids=["of all", "of some", "of none"],
)
def test_a_metric_counts_if_it_says_it_of_every_episode_that_ended(said, kept, tmp_path):
    store = tmp_path / "rollout.zarr"
    with RolloutRecorder(store, num_envs=3, longest=4, control_period_s=1, scratch=tmp_path) as recorder:
        recorder.record(reward=torch.zeros(3))
        recorder.end(torch.ones(3, dtype=torch.bool), success=torch.tensor(said))
        recorder.record(reward=torch.zeros(3))  # of episodes that are cut off, nothing is said ever
    assert check_rate(store) == kept
    success = zarr.open_group(store, mode="r")["meta/success"]
    assert success[:].tolist() == [*(said if kept else [-1] * 3), -1, -1, -1]
