"""The way of a job through its stages, iteration by iteration, and ranges that widen where an environment looks."""

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from simyard.core.errors import WorkloadError
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, ResumePoint, Stage, StageFacts
from simyard.core.stages import Gate, Growth, StageRun, Stages, Widen, stages_beside
from simyard.runner.isaaclab.live import LiveParameter, why_not_live
from simyard.runner.isaaclab.stages import Course

GATE = Gate(metric="score", op=">=", value=4.0, for_iterations=2)
WIDEN = Widen(
    parameters={"env.reach": Growth(start=(-0.1, 0.1), end=(-0.5, 0.9))}, steps=4, floor=2.0,
    gate=Gate(metric="score", op=">=", value=4.0, for_iterations=2),
)  # fmt: skip


@dataclass
class Config:
    """An environment's, with a range that it looks at and one that it does not."""

    reach: list[float] = field(default_factory=lambda: [-1.0, 1.0])
    mass: tuple[float, float] = (1.0, 2.0)


class Env:
    """What a direct environment does with its configuration: it looks at some of it at each reset."""

    def __init__(self) -> None:
        self.cfg = Config()
        self.mass = self.cfg.mass
        self.drawn: list[list[float]] = []

    def reset(self) -> None:
        self.drawn.append(list(self.cfg.reach))


def job_of(*stages: Stage, budget: int = 100) -> JobSpec:
    return JobSpec(
        job_id="job-01k00000000000000000000000", kind="train", name="t", simulator="isaaclab", task="T",
        library="rsl_rl", num_envs=1, seed=1, max_iterations=budget, stages=stages,
    )  # fmt: skip


def course(tmp_path: Any, *stages: Stage, budget: int = 100, engines: str = "") -> Course:
    job = job_of(*stages, budget=budget)
    parts = tuple(StageFacts(rollout=16, overrides=(), physics=engine) for engine in engines.split())
    facts = Facts(
        simulator="isaaclab", version="3", flavor="api", device="cpu", rollout=16, overrides=(),
        stages=parts or (StageFacts(rollout=16, overrides=()),) * len(stages),
    )  # fmt: skip
    paths = AttemptPaths(tmp_path)
    paths.make()
    return Course(AttemptSpec(job=job, number=1), facts, paths)


def begin(way: Course, env: Any) -> None:
    """Begin the next stage, as far as its training would without a simulator."""
    assert way.begin_next()
    way.made(env)
    way.begin(env)
    env.reset()


def test_a_condition_must_hold_in_a_row_and_iterations_without_its_metric_do_not_count(tmp_path: Any):
    way, env = course(tmp_path, Stage(name="a", until=GATE, max_iterations=50)), Env()
    begin(way, env)
    values = [4.0, 3.9, 5.0, None, math.nan, 4.0, None, 4.1]
    over = [way.iterated(n, {} if value is None else {"score": value}, 0.5) for n, value in enumerate(values)]
    assert over == [False] * 7 + [True]
    run = way.stages.runs[0]
    assert (run.ended, run.why, run.value) == (8, "reached", 4.1)
    assert run.in_words() == "score >= 4 for 2 iterations: it was 4.1"
    assert not way.begin_next()


@pytest.mark.parametrize(
    ("index", "why", "on_not_reached", "follows"),
    [
        (0, "reached", "fail", 1),
        (0, "over", "fail", 1),
        (0, "not_reached", "go_on", 1),
        (0, "not_reached", "fail", None),
        (1, "not_reached", "go_back", 0),
        (1, "reached", "go_back", None),
        (1, "not_reached", "go_on", None),
    ],
)
def test_the_stage_that_follows(index: int, why: str, on_not_reached: str, follows: int | None):
    stages = [Stage(name=name, max_iterations=1, on_not_reached=on_not_reached) for name in "ab"]
    job = job_of(*stages)
    run = StageRun(stage=index, of=2, name="ab"[index], kind="train", start=None, began=0, began_at="", why=why)
    assert job.stage_after(run) == follows
    assert job.stage_after(None) == 0


def test_a_policy_keeps_the_order_of_joints_that_it_began_with_in_whatever_engine_a_stage_is(tmp_path: Any):
    file = InputFile(name="start-3-model_9.pt", key="", sha256="", size_bytes=0)
    outside = ResumePoint(checkpoint=file, iteration=0)
    stages = [
        Stage(name="a", max_iterations=1),
        Stage(name="b", max_iterations=1),
        Stage(name="c", max_iterations=1, start="scratch"),
        Stage(name="d", max_iterations=1, start="outside", checkpoint=outside, order="newton"),
        Stage(name="e", max_iterations=1, until=GATE, on_not_reached="go_back"),
        Stage(name="f", max_iterations=1),
    ]
    way = course(tmp_path, *stages, engines="newton physx physx physx physx newton")
    for number in range(6):
        begin(way, Env())
        way.iterated(number, {}, 0.5)
        way.saving(tmp_path / f"model_{number}.pt")
        (tmp_path / f"model_{number}.pt").touch()
    runs = [(run.name, run.order) for run in way.stages.runs]
    assert runs == [("a", "newton"), ("b", "newton"), ("c", "physx"), ("d", "newton"), ("e", "newton"), ("d", "newton")]


def test_stages_are_written_beside_a_checkpoint_before_it_and_are_gone_on_with(tmp_path: Any):
    way, env = course(tmp_path, Stage(name="a", until=GATE, max_iterations=50)), Env()
    begin(way, env)
    way.iterated(0, {"score": 4.0, "Train/mean_reward": 1.5}, 0.5)
    saved = tmp_path / "model_0.pt"
    way.saving(saved)
    stands = Stages.read(stages_beside(saved).read_bytes())
    assert stands is not None
    assert (stands.held, stands.runs[0].ended, stands.seconds) == (1, None, 0.5)
    assert stands.runs[0].best is not None
    assert (stands.runs[0].best.name, stands.runs[0].best.iteration, stands.runs[0].best.reward) == (
        "model_0.pt",
        1,
        1.5,
    )


def test_ranges_grow_while_the_metric_holds_and_shrink_when_it_falls(tmp_path: Any):
    way, env = course(tmp_path, Stage(name="a", until=GATE, widen=WIDEN, max_iterations=50)), Env()
    begin(way, env)
    levels = []
    for n, value in enumerate([5, 5, 5, 5, 3, 1, 3, 1, 1, 1, 1, 1, 1, 5, 5, 5, 5, 5, 5, 5, 5]):
        assert not way.iterated(n, {"score": float(value)}, 0.0), "its condition counts in the whole ranges alone"
        env.reset()
        levels.append(way.stages.runs[0].level)
    assert levels == [0, 1, 1, 2, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert [way.iterated(n, {"score": 5.0}, 0.0) for n in (21, 22)] == [False, True]
    assert env.drawn[0] == [-0.1, 0.1]
    assert env.drawn[4] == pytest.approx([-0.3, 0.5])
    assert env.drawn[-1] == [-0.5, 0.9]
    steps = json.loads((tmp_path / "output/stages.json").read_text())["runs"][0]["widened"]
    assert [(step["iteration"], step["level"]) for step in steps[:5]] == [(0, 0), (2, 1), (4, 2), (9, 1), (11, 0)]
    assert steps[-1]["ranges"] == {"env.reach": [-0.5, 0.9]}


def test_a_range_that_nothing_looks_at_is_refused_by_name(tmp_path: Any):
    widen = Widen(
        parameters={"env.mass": Growth(start=(1.0, 1.0), end=(1.0, 3.0))}, steps=2, gate=GATE, floor=0.0
    )  # fmt: skip
    way, env = course(tmp_path, Stage(name="a", widen=widen, max_iterations=50)), Env()
    begin(way, env)
    way.iterated(0, {"score": 5.0}, 0.0)
    with pytest.raises(WorkloadError, match=r"does not look at 'env\.mass' while it runs") as refused:
        way.iterated(1, {"score": 5.0}, 0.0)
    assert refused.value.failure.code == "not_live"


def test_a_term_is_seen_to_be_called_and_one_of_a_class_must_use_its_parameter():
    class Uses:
        def __call__(self, env: Any, span: Any) -> Any:
            return span

    class Ignores:
        def __init__(self, span: Any) -> None:
            self.span = span

        def __call__(self, env: Any, span: Any) -> Any:
            return self.span

    terms = {
        name: SimpleNamespace(func=function, params={"span": (0.0, 1.0)})
        for name, function in (("plain", lambda env, span: span), ("uses", Uses()), ("ignores", Ignores((0.0, 1.0))))
    }
    env = SimpleNamespace(cfg=SimpleNamespace(), event_manager=SimpleNamespace(get_term_cfg=terms.__getitem__))
    found = {name: LiveParameter(env, f"env.events.{name}.params.span") for name in terms}
    for live in found.values():
        live.set((2.0, 3.0))
    assert {name: live.is_read for name, live in found.items()} == {"plain": False, "uses": True, "ignores": False}
    assert terms["plain"].func(env, **terms["plain"].params) == (2.0, 3.0)
    assert found["plain"].is_read


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("env.events.push.params.speed", None),
        ("env.events.mass.params.span", "at 'startup' alone"),
        ("env.gain", "no lowest and highest number"),
    ],
)
def test_what_cannot_change_is_known_before_the_start(path: str, says: str | None):
    known = {
        "env.gain": 3.0, "env.events.push.mode": "interval", "env.events.push.params.speed": [0, 1],
        "env.events.mass.mode": "startup", "env.events.mass.params.span": (0.5, 2.0),
    }  # fmt: skip
    why = why_not_live(path, known)
    assert why is None if says is None else says in str(why)
