"""One policy in two physics engines, on the real simulators in one process."""

import csv
import ctypes.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from simulated import EPISODES, Job, Player, Yard, assert_same_weights

from simyard.runner.video.encoding import verify

pytestmark = [pytest.mark.sim, pytest.mark.long]  # an engine or a simulator more: the tier has eighteen minutes in CI

ACROSS = ('across=["newton","physx"]', f"numEnvs={EPISODES}")


@pytest.fixture(scope="module")
def compared(yard: Yard, trained: Callable[[str], Job]) -> Job:
    return yard.evaluate(trained("rsl_rl"), *ACROSS)


def test_the_same_starts_are_played_in_both_engines_and_compared_in_pairs(
    yard: Yard, trained: Callable[[str], Job], compared: Job
) -> None:
    compared.assert_whole()
    assert compared.result["done"] == compared.result["total"] == 2 * EPISODES
    kinds = {name: entry["kind"] for name, entry in compared.manifest.items()}
    assert [kinds[f"{name}"] for name in ("across.json", "across.csv", "divergence.csv", "across.png")] == [
        "across", "episodes", "divergence", "plot"
    ]  # fmt: skip
    document, summary = compared.json("across.json"), compared.json("summary.json")
    assert (document["reference"], [policy["checkpoint"] for policy in document["policies"]]) == (
        "newton", [summary["checkpoint"]]
    )  # fmt: skip
    (policy,) = document["policies"]
    assert summary["across"] == policy

    # The first engine's episodes are those of an evaluation in it alone.
    alone = yard.evaluate(trained("rsl_rl"), ACROSS[1], "physics=newton")
    assert compared.rows("episodes.csv") == alone.rows("episodes.csv")
    assert policy["engines"]["newton"] == {key: alone.json("summary.json")[key] for key in policy["engines"]["newton"]}

    # A pair has one start, and the gap is the mean of its differences.
    (gap,) = policy["gaps"]
    pairs = compared.rows("across.csv")
    differences = [float(row["physx.return"]) - float(row["newton.return"]) for row in pairs]
    assert len(differences) == EPISODES
    assert gap["returns"]["mean"] == pytest.approx(sum(differences) / EPISODES)
    low, high = gap["returns"]["interval_95"]
    assert low < gap["returns"]["mean"] < high
    assert gap["closed_loop"]["same_start"] == gap["open_loop"]["same_start"] == EPISODES

    # Another engine has played, and half a second of the same actions does not part the two: where an actuator does
    # nothing in one of them, as without joint drives under PhysX, every pair is apart in some steps.
    assert differences != [0.0] * EPISODES
    assert (gap["open_loop"]["pairs"], gap["open_loop"]["apart"]) == (EPISODES, 0)
    rows = [row for row in csv.DictReader((compared.artifacts / "divergence.csv").open()) if row["loop"] == "open"]
    speeds = [float(row["slider_to_cart velocity"]) for row in rows]
    assert speeds[0] == 0.0 < max(speeds)
    report = (compared.artifacts / "report.md").read_text()
    assert "| physics |" in report
    assert "| physx |" in report


@pytest.mark.long  # another task, and an engine more
def test_a_robot_of_many_joints_keeps_its_order_in_the_other_engine(yard: Yard) -> None:
    trained = yard.train("task=Isaac-Ant-Direct", "maxIterations=1")
    pairs = yard.evaluate(trained, *ACROSS, overrides=("env.episode_length_s=1.0",))
    (gap,) = pairs.json("across.json")["policies"][0]["gaps"]
    # PhysX counts joints level by level, Newton limb by limb: in its own order every start would be another one.
    assert gap["open_loop"]["same_start"] == gap["closed_loop"]["same_start"] == EPISODES
    # And a policy goes on in the order of its training where it is measured in the other engine alone.
    alone = yard.evaluate(trained, ACROSS[1], "physics=physx", overrides=("env.episode_length_s=1.0",))
    assert alone.json("job.json")["order"] == "newton"
    rows = zip(alone.rows("episodes.csv"), pairs.rows("across.csv"), strict=True)
    assert all(float(one["return"]) == float(pair["physx.return"]) for one, pair in rows)


@pytest.mark.long  # another task, and an engine more
def test_a_checkpoint_from_outside_goes_on_in_the_order_of_the_engine_that_is_said(yard: Yard, tmp_path: Path) -> None:
    ant = ("task=Isaac-Ant-Direct", "maxIterations=1")
    trained = yard.train(*ant)
    file = shutil.copy(trained.final, tmp_path)

    def learnt(setting: str, engine: str) -> Path:
        source = json.dumps({"checkpoint": str(file), "trainedUnder": engine})
        stage = f'[{{"name": "a", "start": {source}, "maxIterations": 1}}]'
        given = f"stages={stage}" if setting == "stages" else f"resume={source}"
        job = yard.train(*ant, "physics=physx", given)
        job.assert_whole()
        if setting == "stages":
            assert job.json("stages.json")["runs"][0]["order"] == engine
        return job.final

    kept, staged, turned = learnt("resume", "newton"), learnt("stages", "newton"), learnt("stages", "physx")
    assert_same_weights(kept, staged)
    with pytest.raises(AssertionError):
        assert_same_weights(staged, turned)

    # Measured it is the same policy as that of its job, and the report tells what was assumed of one that says nothing.
    short = ("env.episode_length_s=1.0",)
    of_job = yard.evaluate(trained, "physics=physx", overrides=short)
    own = (f"checkpointPath={file}", ant[0], "physics=physx")
    said = yard.evaluate(None, *own, "trainedUnder=newton", overrides=short)
    assert of_job.rows("episodes.csv") == said.rows("episodes.csv")
    silent = yard.evaluate(None, *own, overrides=short)
    assert silent.rows("episodes.csv") != said.rows("episodes.csv")
    assert "trainedUnder was not given" in (silent.artifacts / "report.md").read_text()


@pytest.mark.long  # the same once more, drawn
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL")
def test_pairs_are_filmed_side_by_side(yard: Yard, trained: Callable[[str], Job], compared: Job) -> None:
    filmed = yard.evaluate(trained("rsl_rl"), *ACROSS, "recordVideo=true", 'videoEpisodes=["worst", 2]')
    videos = {why: video for video in filmed.json("summary.json")["videos"] for why in video["why"]}
    pairs = filmed.rows("across.csv")
    losses = [float(row["newton.return"]) - float(row["physx.return"]) for row in pairs]
    assert (videos["worst"]["episode"], videos["2"]["episode"]) == (losses.index(max(losses)) + 1, 2)
    for video in videos.values():
        found = verify(filmed.artifacts / video["file"])
        assert (found["width"], found["height"]) == (960, 360)
    assert filmed.rows("across.csv") == compared.rows("across.csv"), "drawing changes no figure"


@pytest.mark.long  # an engine of its own in the process of the player
def test_an_actuator_of_a_robot_without_joint_drives_works_under_physx(player: Player, tmp_path: Path) -> None:
    found = player("drive_player:coast", tmp_path)
    assert 0.2 < found["newton"] < 0.35, "the cart is damped: without that it keeps its speed"
    assert found["ovphysx"] == pytest.approx(found["newton"], rel=0.1)


def test_an_engine_that_the_task_does_not_have_is_refused_before_anything_is_played(
    yard: Yard, trained: Callable[[str], Job]
) -> None:
    refused = yard.evaluate(trained("rsl_rl"), 'across=["newton","kamino"]', f"numEnvs={EPISODES}")
    assert refused.result["status"] == "failed"
    assert refused.result["error"]["code"] == "engine_too_slow"
    assert json.dumps(refused.result["error"]).count("kamino")
