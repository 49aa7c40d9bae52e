"""Each library trains, and leaves everything that a job promises."""

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pytest
from helpers import CONFIG, LIBRARIES
from simulated import ITERATIONS, NUM_ENVS, ROLLOUT, Job, optimizer_steps

from simyard.core.specs import JobSpec

pytestmark = [pytest.mark.sim, pytest.mark.parametrize("library", LIBRARIES)]

TAGS = {
    "rsl_rl": {"Train/mean_reward", "Train/mean_episode_length", "Loss/value", "Loss/surrogate", "Perf/total_fps"},
    "skrl": {"Reward / Total reward (mean)", "Loss / Policy loss", "Loss / Value loss"},
    "rl_games": {"rewards/iter", "rewards/step", "losses/a_loss", "losses/c_loss", "info/kl", "performance/step_fps"},
    "sb3": {"train/loss", "train/value_loss", "time/fps"},
}
PROMISED = {
    "metrics.csv", "metrics.json", "curves.png", "params/env.yaml", "params/agent.yaml", "versions.json",
    "telemetry.csv", "report.md", "job.json", "training-config.json", "runner.log",
    "command.stdout.log", "command.stderr.log",
}  # fmt: skip


@pytest.fixture
def job(library: str, trained: Callable[[str], Job]) -> Job:
    return trained(library)


def test_it_succeeds_and_says_so(job: Job, library: str):
    assert (job.exit_code, job.result["status"]) == (0, "succeeded"), job.log
    assert job.result["error"] is None
    assert job.result["attempts"] == 1
    timings = job.result["timings"]
    assert 0 < timings["startup_s"] < timings["total_s"]
    assert 0 < timings["train_s"] < timings["total_s"]


def test_every_promised_artifact_is_whole(job: Job, library: str):
    manifest = job.manifest
    assert set(manifest) >= PROMISED
    assert {entry["name"] for entry in job.result["artifacts"]} == set(manifest)
    for entry in manifest.values():
        data = (job.artifacts / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size_bytes"], entry["sha256"]), entry["name"]


def test_the_checkpoints_are_one_chain_up_to_the_last_iteration(job: Job, library: str):
    chain = job.checkpoints
    numbered = [entry for entry in job.manifest.values() if entry.get("iteration") is not None]
    assert len(chain) == len(numbered)
    assert chain[0]["parent"] is None
    assert [entry["iteration"] for entry in chain] == sorted(entry["iteration"] for entry in numbered)
    assert chain[-1]["iteration"] == ITERATIONS
    assert optimizer_steps(job.final) % ITERATIONS == 0


def test_metrics_have_the_librarys_own_tags_and_tensorboards_numbers(job: Job, library: str):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = [name for name in job.manifest if "events.out.tfevents" in name]
    assert len(events) == 1
    reader = EventAccumulator(str(job.artifacts / events[0]), size_guidance={"scalars": 0})
    reader.Reload()
    tags = {tag for tag in reader.Tags()["scalars"] if not tag.endswith("/time")}
    assert tags >= TAGS[library]
    rows = job.rows()
    assert set(rows[0]) == tags | {"step", "wall_time"}
    for tag in tags:
        mine = {int(row["step"]): np.float32(row[tag]) for row in rows if row[tag]}
        theirs = {event.step: np.float32(event.value) for event in reader.Scalars(tag)}
        assert mine == theirs, tag


def test_metrics_have_every_iteration(job: Job, library: str):
    every = list(range(ITERATIONS))
    transitions = NUM_ENVS * ROLLOUT[library]
    tag, expected = {
        "rsl_rl": ("Loss/value", every),
        "skrl": ("Policy / Standard deviation", [(i + 1) * ROLLOUT[library] for i in every]),
        "rl_games": ("losses/c_loss", [i * transitions for i in every]),
        "sb3": ("time/fps", [(i + 1) * transitions for i in every]),
    }[library]
    assert job.steps(tag) == expected
    facts = job.json("metrics.json")[tag]
    assert facts["count"] == ITERATIONS
    assert facts["final"]["step"] == expected[-1]
    assert facts["final"]["value"] == float(next(row[tag] for row in reversed(job.rows()) if row[tag]))


def test_room_was_estimated(job: Job, library: str):
    room = json.loads((job.folder / "attempts/001/outcome.json").read_text())["facts"]["room"]
    saved = sum(path.stat().st_size for path in (job.artifacts / "checkpoints").iterdir())
    assert saved / 4 < room["size_bytes"] < saved * 10
    assert "checkpoints of a network of" in room["what"]


def test_the_curves_are_a_picture(job: Job, library: str):
    from matplotlib.image import imread

    height, width, _ = imread(job.artifacts / "curves.png").shape
    assert height > 200
    assert width > 400


def test_the_evidence_can_be_read(job: Job, library: str):
    env, agent = ((job.artifacts / f"params/{name}.yaml").read_text() for name in ("env", "agent"))
    assert f"num_envs: {NUM_ENVS}\n" in env
    assert "seed: 1\n" in env
    assert "seed: 1\n" in agent
    versions = job.json("versions.json")
    own = {"isaaclab": "3.0.0", "flavor": "api", "device": "cpu", "physics": "newton"}
    assert versions["simulator"] == {**own, "agent": f"{library}_cfg_entry_point"}
    assert {"torch", "newton", "python"} <= set(versions["packages"])
    telemetry = job.rows("telemetry.csv")
    assert telemetry
    assert all(int(row["memory_bytes"]) > 100e6 for row in telemetry)
    report = (job.artifacts / "report.md").read_text()
    assert report.startswith("# test: succeeded")
    assert f"{ITERATIONS} of {ITERATIONS}" in report
    assert job.json("training-config.json") == {
        **CONFIG, "trainingConfig": {**CONFIG["trainingConfig"], "rlLibrary": library}
    }  # fmt: skip
    assert JobSpec.from_json(job.json("job.json")) == JobSpec.from_json(
        json.loads((job.folder / "job.json").read_text())
    )
