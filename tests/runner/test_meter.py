"""Which episodes are counted, how long they were, how they ended and whether they succeeded."""

from itertools import cycle
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from simyard.core.errors import RequestError
from simyard.runner.evaluation.episode_statistics import CAPPED, EpisodeMeter, quotas
from simyard.runner.evaluation.summary import summarize

torch = lazy("torch")

FOREVER = 10**9
SEED = 3
RATE = "Metrics/success_rate"


class Task:
    """A task that ends its episodes on command, because no real task does.

    It steps and resets in the order of Isaac Lab's environments: count, ask what has ended, reward, reset those, and
    return flags that outlive the reset. It keeps what each of its environments lived through, for the tests to compare.
    """

    device = "cpu"

    def __init__(
        self, *plays, limit=100, times_out=True, named=None, metric=None, others=(), spreads=False, terms=False
    ):
        """Write the play.

        Args:
            plays: For each environment its episodes, over and over: the length after which it terminates, or
                (length, name of the termination).
            limit: Steps after which an episode times out, if `times_out`.
            named: Terminations by name, and whether each is a time-out; None for a direct task, which names nothing.
            metric: The tag of the mean over those that are reset together, of those that did not terminate.
            others: Further tags that are logged.
            spreads: Whether a reset of all begins their episodes anywhere, as locomotion tasks do.
            terms: Whether the reward is made of named terms.
        """
        self.num_envs, self.max_episode_length = len(plays), limit
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.reset_terminated = self.reset_time_outs = torch.zeros(self.num_envs, dtype=torch.bool)
        self.extras = {}
        self.lived = [[] for _ in plays]
        """The rewards of each environment's ended episodes."""
        self.order = []
        """The environments whose episodes ended, in order."""
        self._plays = [cycle(play) for play in plays]
        self._times_out, self._metric, self._others, self._spreads = times_out, metric, others, spreads
        self._random = torch.Generator().manual_seed(0)
        if named is not None:
            self.termination_manager = SimpleNamespace(
                active_terms=list(named),
                get_term=lambda name: self._fired[name],
                get_term_cfg=lambda name: SimpleNamespace(time_out=named[name]),
            )
        self._names = named or {}
        sums = {name: torch.zeros(self.num_envs) for name in ("alive", "effort")}
        if terms:
            self.reward_manager = SimpleNamespace(_episode_sums=sums)
        self._sums = sums

    @property
    def unwrapped(self):
        return self

    def reset(self):
        self._running = [[] for _ in self.lived]
        self._now = [self._next(play) for play in self._plays]
        self._reset_idx(torch.arange(self.num_envs, dtype=torch.int32))

    def step(self, action):
        self.episode_length_buf += 1
        over = torch.tensor([len(r) + 1 >= length for r, (length, _) in zip(self._running, self._now, strict=True)])
        limit = self.episode_length_buf >= self.max_episode_length if self._times_out else torch.zeros_like(over)
        self._fired = {
            name: limit if times_out else over & torch.tensor([by == name for _, by in self._now])
            for name, times_out in self._names.items()
        }
        self.reset_terminated, self.reset_time_outs = over, limit
        parts = {name: torch.rand(self.num_envs, generator=self._random) for name in self._sums}
        reward = parts["alive"] - parts["effort"]
        for name, sums in self._sums.items():
            sums += parts[name] if name == "alive" else -parts[name]
        for running, value in zip(self._running, reward.tolist(), strict=True):
            running.append(value)
        if len(ended := (over | limit).nonzero().flatten().int()):
            self._reset_idx(ended)
        return None, reward, self.reset_terminated, self.reset_time_outs, self.extras

    def _reset_idx(self, env_ids):
        log = self.extras["log"] = dict.fromkeys(self._others, 1.0)
        if self._metric:
            log[self._metric] = (~self.reset_terminated[env_ids]).float().mean()
        for env in env_ids.tolist():
            if self._running[env]:
                self.lived[env].append(self._running[env])
                self.order.append(env)
                self._running[env], self._now[env] = [], self._next(self._plays[env])
        for sums in self._sums.values():
            sums[env_ids] = 0.0
        self.episode_length_buf[env_ids] = 0
        if self._spreads and len(env_ids) == self.num_envs:
            self.episode_length_buf[:] = torch.randint(self.max_episode_length, (self.num_envs,))

    @staticmethod
    def _next(play):
        episode = next(play)
        return episode if isinstance(episode, tuple) else (episode, "terminated")


def measure(task, episodes, longest=FOREVER, **options):
    """Play until the meter has enough; return what it counted, and the meter."""
    found = []
    meter = EpisodeMeter(task, episodes=episodes, longest=longest, seed=SEED, on_episode=found.append, **options)
    task.reset()
    while not meter.done:
        assert meter.steps < 10_000, "it never ends"
        task.step(None)
    return found, meter


PLAYS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=9)


# Which are counted


@given(PLAYS, st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_each_environment_gives_its_first_episodes_and_no_other(plays, count):
    task = Task(*plays, limit=8)
    episodes, _ = measure(task, count)
    assert [episode.number for episode in episodes] == list(range(1, count + 1))
    by_env = [[episode for episode in episodes if episode.env == env] for env in range(len(plays))]
    shares = [len(own) for own in by_env]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1
    for own, lived in zip(by_env, task.lived, strict=True):
        assert [episode.length for episode in own] == [len(rewards) for rewards in lived[: len(own)]]
        assert [episode.total for episode in own] == [sum(rewards) for rewards in lived[: len(own)]]
    counted = iter(episode.env for episode in episodes)
    left = quotas(count, len(plays), SEED)
    for env in task.order:
        if left[env]:
            left[env] -= 1
            assert next(counted) == env, "in the order in which they ended"


def test_short_episodes_are_not_favoured():
    """Half of all episodes are fifty times as long as the others: those that end first are nearly all short."""
    random = torch.Generator().manual_seed(1)
    envs = 100
    plays = [[(2, 100)[bit] for bit in torch.randint(2, (40,), generator=random).tolist()] for _ in range(envs)]
    task = Task(*plays, limit=FOREVER)
    episodes, _ = measure(task, envs)
    mean = sum(episode.length for episode in episodes) / envs
    assert mean == sum(play[0] for play in plays) / envs
    assert 40 < mean < 60
    times = {env: iter(lived) for env, lived in enumerate(task.lived)}
    first = [len(next(times[env])) for env in task.order[:envs]]
    assert sum(first) / envs < 5, "so counting them as they come would say"


@pytest.mark.parametrize(
    ("episodes", "envs", "shares"), [(7, 3, [2, 2, 3]), (3, 3, [1, 1, 1]), (2, 4, [0, 0, 1, 1]), (50, 1, [50])]
)
def test_shares_are_fixed_beforehand(episodes, envs, shares):
    assert sorted(quotas(episodes, envs, SEED)) == shares
    assert quotas(episodes, envs, SEED) == quotas(episodes, envs, SEED)


@pytest.mark.parametrize(("episodes", "envs"), [(1000, 4096), (6000, 4096)])
def test_no_kind_of_environment_is_favoured_where_they_do_not_divide(episodes, envs):
    """Terrains lie in blocks of neighbours, and robots that differ are dealt out in turn."""
    shares = quotas(episodes, envs, SEED)
    assert sum(shares) == episodes
    block, turn = envs // 8, 4
    for kind in [shares[first : first + block] for first in range(0, envs, block)] + [
        shares[first::turn] for first in range(turn)
    ]:
        assert sum(kind) / len(kind) == pytest.approx(episodes / envs, rel=0.2)
    assert quotas(episodes, envs, SEED + 1) != shares, "another seed draws others"


def test_with_more_environments_than_episodes_the_first_of_those_drawn_count():
    """The short episodes end first and again and again: none counts but of the environments drawn beforehand."""
    plays = [[2] if env % 2 else [100] for env in range(40)]
    drawn = [env for env, share in enumerate(quotas(10, 40, SEED)) if share]
    episodes, meter = measure(Task(*plays, limit=FOREVER), 10)
    assert sorted(episode.env for episode in episodes) == drawn
    assert [episode.length for episode in sorted(episodes, key=lambda e: e.env)] == [plays[env][0] for env in drawn]
    assert meter.steps == 100


def test_an_episode_is_told_before_its_environment_steps_on():
    task = Task([3], [2, 5])
    told = []
    measure(task, 4, before_step=lambda steps: told.append(steps.tolist()))
    assert told == [[0, 0], [1, 1], [2, 0], [0, 1], [1, 2], [2, 3], [0, 4]]


# How they ended


def test_a_direct_task_names_its_time_out_alone():
    episodes, meter = measure(Task([5], [20], limit=10), 2)
    assert [(e.length, e.ended, e.term) for e in episodes] == [(5, "terminated", None), (10, "truncated", "time_out")]
    assert meter.steps == 10


def test_a_manager_names_what_fired_a_termination_before_a_time_out():
    named = {"deadline": True, "fell": False, "flew": False}
    task = Task([(5, "fell")], [(7, "flew")], [(99, "fell")], [(10, "flew")], limit=10, named=named)
    episodes, _ = measure(task, 4)
    assert [(e.env, e.length, e.ended, e.term) for e in episodes] == [
        (0, 5, "terminated", "fell"),
        (1, 7, "terminated", "flew"),
        (2, 10, "truncated", "deadline"),
        (3, 10, "terminated", "flew"),
    ]


@pytest.mark.parametrize("named", [None, {"deadline": True, "terminated": False}])
def test_an_episode_is_cut_off_at_exactly_the_step_that_was_asked_for(named):
    task = Task([3, 50], [6], [7], limit=20, named=named)
    episodes, _ = measure(task, 6, longest=6)
    by_itself = "terminated" if named else None
    assert [(e.env, e.length, e.ended, e.term) for e in episodes] == [
        (0, 3, "terminated", by_itself),
        (1, 6, "terminated", by_itself),
        (2, 6, "truncated", CAPPED),
        (0, 6, "truncated", CAPPED),
        (1, 6, "terminated", by_itself),
        (2, 6, "truncated", CAPPED),
    ]
    assert [len(rewards) for rewards in task.lived[0][:2]] == [3, 6], "the task itself began anew"


@pytest.mark.parametrize("longest", [20, 21, FOREVER])
def test_the_tasks_own_limit_is_not_a_cut_off(longest):
    episodes, _ = measure(Task([50], limit=20), 2, longest=longest)
    assert [(e.length, e.ended, e.term) for e in episodes] == [(20, "truncated", "time_out")] * 2


@pytest.mark.parametrize("longest", [5, 20, 60])
def test_a_task_without_a_time_out_is_refused_instead_of_played_forever(longest):
    task = Task([FOREVER], [3], limit=20, times_out=False)
    with pytest.raises(RequestError, match="no time-out of its own") as refused:
        measure(task, 2, longest=longest)
    assert len(task.lived[1]) == longest // 3, "as soon as that is known, and not before"
    assert refused.value.failure.code == "no_time_out"
    assert refused.value.failure.advice


@pytest.mark.parametrize("limit", [3, 20])
def test_a_task_without_a_time_out_whose_episodes_end_in_time_needs_none(limit):
    episodes, _ = measure(Task([5], [3], limit=limit, times_out=False), 4, longest=5)
    assert [(e.length, e.ended) for e in episodes] == [(n, "terminated") for n in (3, 5, 3, 5)]


@pytest.mark.parametrize("envs", [1, 4])
def test_episodes_begin_at_their_beginning_where_a_task_spreads_them(envs):
    torch.manual_seed(3)
    episodes, _ = measure(Task(*[[FOREVER]] * envs, limit=30, spreads=True), 3 * envs)
    assert [episode.length for episode in episodes] == [30] * 3 * envs


# Whether they succeeded


def said(episodes):
    return {(episode.env, episode.length): episode.success for episode in episodes}


def test_each_episode_has_its_own_success_where_a_task_logs_the_mean_of_those_that_end_together():
    task = Task([10], [FOREVER], [10], [FOREVER], [4], limit=10, metric=RATE)
    episodes, meter = measure(task, 5)
    assert len({episode.length for episode in episodes}) == 2, "four end in one step"
    assert said(episodes) == {(0, 10): False, (1, 10): True, (2, 10): False, (3, 10): True, (4, 4): False}
    assert meter.success_source == f"metric {RATE}"


def test_the_episodes_are_the_same_whether_a_metric_is_read_or_not():
    plays = [[5, 8], [5], [9, 2, 5], [40]]
    plain, _ = measure(Task(*plays, limit=10), 12)
    read, _ = measure(Task(*plays, limit=10, metric=RATE), 12)
    assert [(e.env, e.length, e.total, e.ended) for e in plain] == [(e.env, e.length, e.total, e.ended) for e in read]


@pytest.mark.parametrize(
    ("tags", "source"),
    [
        ([RATE, "Metrics/goals"], RATE),
        ([RATE, "Metrics/walk_success_rate"], RATE),
        (["Metrics/lift_success_rate", "Metrics/drawer_pos"], "Metrics/lift_success_rate"),
        (["Metrics/command/success"], "Metrics/command/success"),
        (["Metrics/lift_success_rate", "Metrics/open_success_rate"], None),
        (["Metrics/goals", "Episode_Termination/success", "success_rate", "Metrics/unsuccess_rate_of"], None),
        ([], None),
    ],
)
def test_which_metric_is_the_tasks_own(tags, source):
    episodes, meter = measure(Task([5], others=tags), 1)
    assert meter.success_source == (source and f"metric {source}")
    assert episodes[0].success is (True if source else None)


def test_a_metric_that_is_no_episodes_own_is_not_read_at_all():
    """Some tasks log goals / (goals + 1), or a mean over the past: its zeros alone would make a rate of 0."""

    class Share(Task):
        def _reset_idx(self, env_ids):
            ended = [len(self._running[env]) for env in env_ids.tolist()]
            super()._reset_idx(env_ids)
            self.extras["log"][RATE] = sum(length / (length + 1) * (length > 3) for length in ended) / len(ended)

    episodes, meter = measure(Share([2], [5], [2]), 6)
    assert meter.success_source is None
    assert summarize(episodes, meter.success_source)["success"]["rate"] is None


def test_being_cut_off_does_not_pass_for_surviving():
    task = Task([3], [50], [6], limit=20, metric=RATE)
    episodes, _ = measure(task, 3, longest=6)
    assert said(episodes) == {(0, 3): False, (1, 6): None, (2, 6): None}


NAMED = {"time_out": True, "success": False, "fell": False, "reached": False}
FELL = {"time_out": True, "fell": False}
ENDS = [[(3, "success")], [(4, "fell")], [(5, "reached")], [(FOREVER, "")]]


@pytest.mark.parametrize(
    ("wanted", "metric", "successful", "source"),
    [
        (None, None, {0}, "termination success"),
        ("success", None, {0}, "termination success"),
        ("reached", None, {2}, "termination reached"),
        ("time_out", None, {3}, "termination time_out"),
        ("reached", RATE, {2}, "termination reached"),
        (None, RATE, {3}, f"metric {RATE}"),
    ],
)
def test_the_named_termination_counts_more_than_the_tasks_metric_and_that_more_than_a_name(
    wanted, metric, successful, source
):
    task = Task(*ENDS, limit=8, named=NAMED, metric=metric)
    episodes, meter = measure(task, 4, success_termination=wanted)
    assert [episode.success for episode in episodes] == [env in successful for env in range(4)]
    del task.termination_manager  # as an environment does when it closes
    assert meter.success_source == source


@pytest.mark.parametrize(
    ("named", "longest", "end", "wanted", "said"),
    [
        pytest.param(NAMED, 6, "time_out", "time_out", [False, None], id="cut off before the time-out"),
        pytest.param(NAMED, 6, "reached", "reached", [True, False], id="cut off before it is reached"),
        pytest.param(None, FOREVER, "", "terminated", [True, False], id="a direct task's termination"),
        pytest.param(None, FOREVER, "", "time_out", [False, True], id="a direct task's time-out"),
        pytest.param(None, FOREVER, "", None, [None, None], id="a direct task says nothing"),
        pytest.param(FELL, FOREVER, "fell", None, [None, None], id="no name says so"),
    ],
)
def test_success_is_what_the_wanted_termination_says_and_else_unknown(named, longest, end, wanted, said):
    task = Task([(3, end)], [50], limit=20, named=named)
    episodes, meter = measure(task, 2, longest=longest, success_termination=wanted)
    assert [episode.success for episode in episodes] == said
    assert meter.success_source == (wanted and f"termination {wanted}")


# What they were paid for


@pytest.mark.parametrize("metric", [None, RATE])
def test_reward_terms_add_up_to_the_return(metric):
    episodes, _ = measure(Task([5, 60], [5], [31], limit=50, terms=True, metric=metric), 9)
    for episode in episodes:
        assert list(episode.rewards) == ["alive", "effort"]
        assert episode.rewards["alive"] > 0 > episode.rewards["effort"]
        assert sum(episode.rewards.values()) == pytest.approx(episode.total, abs=1e-5)


def test_a_task_that_names_no_terms_has_none():
    episodes, _ = measure(Task([5]), 1)
    assert episodes[0].rewards == {}


def test_what_happened_before_the_reset_is_not_counted():
    task = Task([9])
    found = []
    meter = EpisodeMeter(task, episodes=2, longest=FOREVER, seed=SEED, on_episode=found.append)
    task.reset()
    for _ in range(4):
        task.step(None)
    task.reset()
    while not meter.done:
        task.step(None)
    assert [(episode.length, episode.total) for episode in found] == [
        (len(rewards), sum(rewards)) for rewards in task.lived[0]
    ]
    assert found[0].length == 9
