"""Policies under varied conditions on the real simulator: the same starts for all, and effects of a known sign."""

import ctypes.util
import json
from collections.abc import Callable

import pytest
import zarr
from helpers import LIBRARIES
from simulated import CARTPOLE, EPISODES, SHORT, Job, Yard
from zarr.storage import ZipStore

from simyard.core.errors import RequestError
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest
from simyard.runner.video.encoding import verify

pytestmark = pytest.mark.sim

LEVELS = {"motorStrength": [0.05, 0.5], "actionDelay": [8], "observationNoise": [0.0, 0.5], "initialState": [0.1]}
ONE_EACH = f"numEnvs={EPISODES}"


def variations(levels: dict[str, object]) -> str:
    return f"variations={json.dumps(levels)}"


@pytest.fixture(scope="module")
def varied(yard: Yard, trained: Callable[[str], Job]) -> Job:
    return yard.evaluate(trained("rsl_rl"), ONE_EACH, variations(LEVELS), "floor=0.5")


def test_the_control_arm_is_the_plain_evaluation_to_the_bit_and_every_arm_meets_its_starts(
    yard: Yard, trained: Callable[[str], Job], varied: Job
) -> None:
    varied.assert_whole()
    plain = yard.evaluate(trained("rsl_rl"), ONE_EACH)
    assert (varied.artifacts / "episodes.csv").read_bytes() == (plain.artifacts / "episodes.csv").read_bytes()
    document, summary = varied.json("robustness.json"), varied.json("summary.json")
    (policy,) = document["policies"]
    assert summary["robustness"] == policy
    assert policy["control"] == {key: plain.json("summary.json")[key] for key in policy["control"]}

    # What changes nothing is no arm of its own; the others are compared pair by pair.
    names = [
        "motor_strength=0.05",
        "motor_strength=0.5",
        "action_delay=8",
        "observation_noise=0.5",
        "initial_state=0.1",
    ]
    assert [arm["name"] for arm in policy["arms"]] == names
    assert varied.result["done"] == varied.result["total"] == EPISODES * (1 + len(names))
    rows = varied.rows("robustness.csv")
    assert [row["arm"] for row in rows] == [name for name in ("control", *names) for _ in range(EPISODES)]
    returns = {name: [float(row["return"]) for row in rows if row["arm"] == name] for name in ("control", *names)}
    for arm in policy["arms"]:
        pairs = zip(returns["control"], returns[arm["name"]], strict=True)
        changes = [other - one for one, other in pairs]
        assert arm["difference"]["returns"]["mean"] == pytest.approx(sum(changes) / EPISODES)
        assert arm["difference"]["returns_p"] <= arm["difference"]["returns_p_holm"] <= 1.0
        assert any(changes), "every condition is at work"

    kinds = {name: entry["kind"] for name, entry in varied.manifest.items()}
    assert [kinds[name] for name in ("robustness.json", "robustness.csv", "robustness.png")] == [
        "robustness", "episodes", "plot"
    ]  # fmt: skip
    report = (varied.artifacts / "report.md").read_text()
    assert "| motor_strength=0.05 |" in report
    assert "The worst arm is " in report


@pytest.mark.long  # a training and two evaluations each; the default tier has rsl_rl
@pytest.mark.parametrize("library", [name for name in LIBRARIES if name != "rsl_rl"])
def test_the_control_arm_is_the_plain_evaluation_with_every_library(
    yard: Yard, trained: Callable[[str], Job], library: str
) -> None:
    levels = {"motorStrength": [0.05], "actionDelay": [8], "observationBias": [0.5]}
    varied = yard.evaluate(trained(library), ONE_EACH, variations(levels))
    plain = yard.evaluate(trained(library), ONE_EACH)
    assert (varied.artifacts / "episodes.csv").read_bytes() == (plain.artifacts / "episodes.csv").read_bytes()
    (policy,) = varied.json("robustness.json")["policies"]
    assert all(arm["difference"]["returns"]["mean"] for arm in policy["arms"])


@pytest.mark.long  # the task that names its terms, which costs another training
def test_terms_and_events_of_a_manager_based_task_are_varied_by_name(yard: Yard, trained_managed: Job) -> None:
    levels = {
        "observationNoise.joint_vel_rel": [0.5], "observationDelay": [3],
        "event.reset_cart_position": [{"position_range": [-0.1, 0.1]}],
    }  # fmt: skip
    varied = yard.evaluate(trained_managed, ONE_EACH, variations(levels), overrides=SHORT[:1])
    plain = yard.evaluate(trained_managed, ONE_EACH, overrides=SHORT[:1])
    assert (varied.artifacts / "episodes.csv").read_bytes() == (plain.artifacts / "episodes.csv").read_bytes()
    (policy,) = varied.json("robustness.json")["policies"]
    assert all(arm["difference"]["returns"]["mean"] for arm in policy["arms"])
    slip = yard.evaluate(trained_managed, ONE_EACH, variations({"event.reset_cart": [{"a": 1}]}), overrides=SHORT[:1])
    assert slip.result["error"]["code"] == "unknown_factor"
    assert "Did you mean 'reset_cart_position'?" in slip.result["error"]["message"]
    other = variations({"event.reset_cart_position": [{"position_rang": [0, 1]}]})
    slip = yard.evaluate(trained_managed, ONE_EACH, other, overrides=SHORT[:1])
    assert "Did you mean 'position_range'?" in slip.result["error"]["message"]


@pytest.mark.long  # another evaluation of a dozen rounds
def test_a_sequential_evaluation_stops_when_its_interval_is_narrow(yard: Yard, trained: Callable[[str], Job]) -> None:
    job = yard.evaluate(trained("rsl_rl"), "numEnvs=20", "numEpisodes=400", 'plan={"halfWidth": 0.2}')
    job.assert_whole()
    summary = job.json("summary.json")
    found = summary["sequential"]
    assert found["stopped"]
    assert summary["episodes"] == len(job.rows("episodes.csv")) < 400
    assert summary["episodes"] % 20 == 0, "whole rounds"
    low, high = found["interval_95"]
    assert (high - low) / 2 <= 0.2
    assert low <= summary["success"]["rate"] <= high


@pytest.mark.long  # the same once more, recorded
def test_failed_episodes_are_kept_as_data_with_their_conditions(
    yard: Yard, trained: Callable[[str], Job], varied: Job
) -> None:
    job = yard.evaluate(trained("rsl_rl"), ONE_EACH, variations(LEVELS), "floor=0.5", "record=true")
    job.assert_whole()
    rows = job.rows("robustness.csv")
    assert rows == varied.rows("robustness.csv"), "recording changes no figure"
    store = zarr.open_group(ZipStore(job.artifacts / "rollout.zarr", mode="r"), mode="r")
    names = [arm["name"] for arm in store.attrs["arms"]]
    kept = {(names[env // EPISODES], env % EPISODES + 1) for env in store["meta/env"][:].tolist()}
    assert kept == {(row["arm"], int(row["pair"])) for row in rows if row["success"] == "0"}
    assert job.json("summary.json")["recorded"]["episodes"] == store["meta/env"].shape[0] > 0
    ends = store["meta/episode_ends"][:].tolist()
    arms = [names[index] for index in store["data/arm"][:].ravel()[[end - 1 for end in ends]].tolist()]
    assert arms == [names[env // EPISODES] for env in store["meta/env"][:].tolist()]
    returns = dict(((row["arm"], row["pair"]), float(row["return"])) for row in rows)
    rewards = store["data/reward"][:].ravel()
    for begin, end, env in zip([0, *ends], ends, store["meta/env"][:].tolist(), strict=False):
        total = returns[names[env // EPISODES], str(env % EPISODES + 1)]
        assert rewards[begin:end].sum() == pytest.approx(total, abs=1e-4)


SLIGHT = ("action_delay=1",)
"""Arms that a good policy may not feel: one step of sixty a second."""


@pytest.mark.long  # a training of a minute, so that there is a policy to spoil
def test_every_factor_has_the_effect_that_it_must_have(yard: Yard) -> None:
    overrides: tuple[str, ...] = ()
    policy = yard.train("numEnvs=256", "maxIterations=60", *overrides)
    levels = {
        "motorStrength": [0.1, 0.3], "actionDelay": [1, 4], "observationDelay": [4], "observationNoise": [0.5],
        "observationBias": [0.3], "mass": [3], "payload": [5], "damping": [5], "jointFriction": [20], "armature": [3],
        "gravity": [3], "initialState": [2], "centerOfMass.y": [0.2],
    }  # fmt: skip
    job = yard.evaluate(policy, "numEpisodes=16", "numEnvs=16", variations(levels), overrides=overrides)
    job.assert_whole()
    (found,) = job.json("robustness.json")["policies"]
    arms = {arm["name"]: arm for arm in found["arms"]}
    for name, arm in arms.items():
        change = arm["difference"]["returns"]
        assert change["interval_95"][0] < 0, f"{name} makes it no easier"
        if name not in SLIGHT:
            assert change["mean"] < 0, f"{name} makes it harder"
    # More of it is worse, and what is far enough is a failure beyond chance in so few episodes.
    assert arms["motor_strength=0.1"]["score"] < arms["motor_strength=0.3"]["score"] + 1e-9
    assert arms["action_delay=4"]["score"] < arms["action_delay=1"]["score"]
    for name in ("motor_strength=0.1", "action_delay=4", "observation_delay=4"):
        assert arms[name]["difference"]["success_p_holm"] < 0.05, name
        assert not arms[name]["holds"]


@pytest.mark.long  # the same once more, drawn
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL")
def test_failures_of_the_worst_arms_are_filmed(yard: Yard, trained: Callable[[str], Job], varied: Job) -> None:
    filmed = yard.evaluate(
        trained("rsl_rl"), ONE_EACH, variations(LEVELS), "floor=0.5", "recordVideo=true", 'videoEpisodes=["worst"]'
    )
    videos = filmed.json("summary.json")["videos"]
    why = [role for video in videos for role in video["why"]]
    assert "worst" in why
    scores = {arm["name"]: arm["score"] for arm in filmed.json("robustness.json")["policies"][0]["arms"]}
    drawn = {scores[role] for role in why if role in scores}
    assert drawn and drawn <= set(sorted(scores.values())[:3]), "the three worst that have a failure"
    for video in videos:
        verify(filmed.artifacts / video["file"])
    assert filmed.rows("robustness.csv") == varied.rows("robustness.csv"), "drawing changes no figure"


@pytest.mark.long  # two more evaluations; the default tier has the one at a time
@pytest.mark.parametrize(("design", "arms"), [("grid", 8), ("latin_hypercube", 4)])
def test_designs_combine_factors_and_rank_them(
    yard: Yard, trained: Callable[[str], Job], design: str, arms: int
) -> None:
    levels = {"motorStrength": [0.05, 0.5, 1.0], "actionDelay": [0, 1, 8]}
    job = yard.evaluate(trained("rsl_rl"), ONE_EACH, variations(levels), f"design={design}", "designSamples=4")
    job.assert_whole()
    (policy,) = job.json("robustness.json")["policies"]
    assert len(policy["arms"]) == arms
    assert {one["factor"] for one in policy["sensitivity"]} == {"motor_strength", "action_delay"}
    assert policy["worst"] in [arm["name"] for arm in policy["arms"]]


def test_what_a_task_cannot_vary_is_refused_by_name_before_it_starts(yard: Yard, trained: Callable[[str], Job]) -> None:
    checkpoint = str(trained("rsl_rl").final)

    def refusal(levels: dict[str, object], **more: object) -> str:
        section = {"task": CARTPOLE, "checkpointPath": checkpoint, "numEpisodes": 1, "variations": levels}
        config = {"trainingConfig": section, "computeConfig": {"gpusPerNode": 0}, **more}
        with pytest.raises(RequestError) as refused:
            yard.check(check_config(config, EvaluateRequest), checkpoint_folder)
        return str(refused.value)

    checkpoint_folder = trained("rsl_rl").final.parent
    assert "'terrain' cannot be varied in this task: it has no terrain generator" in refusal({"terrain": [3]})
    assert "'command_range' cannot be varied in this task: it has no commands" in refusal({"commandRange": [2]})
    assert "'event.push' cannot be varied in this task: it has no event terms" in refusal({"event.push": [{"a": 1}]})
    assert "engine 'newton' has contacts without restitution" in refusal({"restitution": [0.5]})
    assert "'observation_noise.joint_pos' cannot" in refusal({"observationNoise.joint_pos": [0.5]})
