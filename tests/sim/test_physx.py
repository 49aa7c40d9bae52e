"""PhysX without Kit: everything that a job does on Newton; test_warm_simulator.py has both in one process."""

import ctypes.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES
from simulated import CARTPOLE, EPISODES, ITERATIONS, SHORT, Job, Player, Yard, assert_same_weights

from simyard.requests.rollout import RolloutRequest
from simyard.runner.video.encoding import verify

pytestmark = [
    pytest.mark.sim,
    pytest.mark.long,  # the engine alone differs from what the default tier shows: there it trains, twice to the bit
]

CAN_DRAW = ctypes.util.find_library("EGL") is not None
each_library = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture(scope="module")
def on_physx(yard: Yard) -> Callable[[str], Job]:
    """The small cartpole, trained under PhysX."""
    return cache(lambda library: yard.train(f"rlLibrary={library}", "physics=physx"))


def engine(job: Job) -> tuple[str, str]:
    """Return the engine that a job was frozen with, and the one that it ran on."""
    return job.json("job.json").get("physics"), job.json("versions.json")["simulator"]["physics"]


@each_library
def test_a_policy_is_trained_resumed_measured_and_exported(
    library: str, yard: Yard, on_physx: Callable[[str], Job]
) -> None:
    job = on_physx(library)
    job.assert_whole()
    assert engine(job) == ("physx", "physx")
    assert_same_weights(yard.again(job).final, job.final)

    further = yard.train(f"rlLibrary={library}", "physics=physx", f"resume.fromJob={job.id}", "maxIterations=1")
    further.assert_whole()
    assert further.checkpoints[-1]["iteration"] == ITERATIONS + 1

    measured = yard.evaluate(job)
    measured.assert_whole()
    assert (engine(measured), measured.json("summary.json")["episodes"]) == (("physx", "physx"), EPISODES)
    elsewhere = yard.evaluate(job, "physics=newton")
    assert engine(elsewhere) == ("newton", "newton")
    assert elsewhere.json("summary.json")["return"] != measured.json("summary.json")["return"]

    exported = yard.export(job, "otherPhysics=newton_mjwarp")
    exported.assert_whole()
    assert engine(exported) == ("physx", "physx")
    assert exported.json("summary.json")["second_simulator"]["physics"] == "newton_mjwarp"


def test_a_cold_process_computes_the_same(yard: Yard, on_physx: Callable[[str], Job]) -> None:
    cold = yard.train("physics=physx", "computeConfig.session=off")
    assert "jobs_before=0" in (cold.folder / "attempts/001/files/runner.log").read_text()
    assert_same_weights(cold.final, on_physx("rsl_rl").final)


@pytest.mark.skipif(not CAN_DRAW, reason="this machine has no libEGL")
def test_films_show_what_happened_and_change_no_figure(yard: Yard, on_physx: Callable[[str], Job]) -> None:
    unseen, seen = (yard.evaluate(on_physx("rsl_rl"), f"recordVideo={wanted}") for wanted in ("false", "true"))
    seen.assert_whole()
    found, without = seen.json("summary.json"), unseen.json("summary.json")
    roles = sorted(role for video in found["videos"] for role in video["why"])
    assert (found["video_problem"], roles) == (None, ["best", "first", "worst"]), "one film may show two of them"
    assert (found["return"], found["length"]) == (without["return"], without["length"])
    assert [row["return"] for row in seen.rows("episodes.csv")] == [
        row["return"] for row in unseen.rows("episodes.csv")
    ]


@pytest.mark.skipif(not CAN_DRAW, reason="this machine has no libEGL")
def test_a_rollout_is_recorded_filmed_and_photographed(yard: Yard, on_physx: Callable[[str], Job]) -> None:
    pose = '{"position": [0, -4, 1], "look_at": [0, 0, 1]}'
    settings = (
        "runtime_profile=isaac_lab_rollout", f"isaac_lab.task_class_or_name={CARTPOLE}", "control.task_mode=policy",
        f"policy.from_job.job_id={on_physx('rsl_rl').id}", "execution.num_envs=2", "execution.steps=40",
        "outputs.video=true", f'outputs.cameras=[{{"name": "side", "width": 64, "height": 48, "pose": {pose}}}]',
        "compute_config.gpus_per_node=0", *SHORT,
    )  # fmt: skip
    job = yard.run(RolloutRequest, settings)
    job.assert_whole()
    assert engine(job) == ("physx", "physx")
    assert verify(job.artifacts / "render.mp4", 20)["frames"] == 20
    import zarr

    with zarr.storage.ZipStore(job.artifacts / "rollout.zarr", mode="r") as packed:
        data = zarr.open_group(packed, mode="r")["data"]
        pictures = np.asarray(data["images/side"][:])
        poles = np.asarray(data["joint_position"][:])
    assert pictures.std() > 10, "something is to be seen"
    assert len(np.unique(poles, axis=0)) > 40, "and it moves"


@pytest.mark.skipif(not CAN_DRAW, reason="this machine has no libEGL")
def test_recording_and_drawing_leave_the_simulation_alone(player: Player, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    found: dict[str, Any] = dict(player("film_player:film_physx", folder))
    assert found["episodes"] >= 3
    assert found["same figures"], "the second environment was not filmed"
    assert found["moved"] > 0.1, "metres that the pole's end travels in the longest episode"
    assert found["longest"]["frames"] == found["steps"]
