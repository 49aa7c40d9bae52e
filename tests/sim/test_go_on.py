"""A job goes on from the checkpoints of another: what the library does itself, and what simyard adds."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from simulated import ITERATIONS, NUM_ENVS, ROLLOUT, Job, Yard, load, optimizer_steps

pytestmark = pytest.mark.sim

MORE = 2
TOTAL = ITERATIONS + MORE


@dataclass(frozen=True)
class Resumed:
    library: str
    earlier: Job
    job: Job


@pytest.fixture(scope="module", params=["skrl", "rl_games", "sb3"])
def resumed(request: pytest.FixtureRequest, yard: Yard, trained: Callable[[str], Job]) -> Resumed:
    earlier = trained(request.param)
    job = yard.train(f"rlLibrary={request.param}", f"maxIterations={MORE}", f"resume.from_job={earlier.id}")
    return Resumed(request.param, earlier, job)


def test_the_iterations_are_counted_on(resumed: Resumed):
    job = resumed.job
    assert (job.exit_code, job.result["status"]) == (0, "succeeded"), job.log
    assert job.checkpoints[-1]["iteration"] == TOTAL
    assert all(entry["iteration"] > ITERATIONS for entry in job.checkpoints)
    assert job.checkpoints[0]["parent"] == resumed.earlier.checkpoints[-1]["sha256"]
    assert f"| {TOTAL} of {TOTAL} |" in (job.artifacts / "report.md").read_text()


def test_the_policy_was_taken_up_with_its_optimiser(resumed: Resumed):
    each, rest = divmod(optimizer_steps(resumed.earlier.final), ITERATIONS)
    assert rest == 0
    assert optimizer_steps(resumed.job.final) == TOTAL * each


def test_checkpoints_of_both_jobs_have_names_of_their_own(resumed: Resumed):
    earlier, later = ({entry["name"] for entry in job.checkpoints} for job in (resumed.earlier, resumed.job))
    assert earlier & later <= {"checkpoints/model.zip"}  # sb3's last one has no number
    if resumed.library == "skrl":
        assert f"checkpoints/agent_{TOTAL * ROLLOUT['skrl']}.pt" in later


def test_the_metrics_steps_are_counted_on(resumed: Resumed):
    rollout = ROLLOUT[resumed.library]
    transitions = NUM_ENVS * rollout
    expected = {
        "skrl": {"Policy / Standard deviation": [5 * rollout, 6 * rollout]},
        "sb3": {"time/fps": [5 * transitions, 6 * transitions]},
        "rl_games": {
            "losses/c_loss": [4 * transitions, 5 * transitions],
            "Episode/Metrics/success_rate": [5, 6],
        },
    }[resumed.library]
    for tag, steps in expected.items():
        assert resumed.job.steps(tag) == steps
    assert min(int(row["step"]) for row in resumed.job.rows()) == min(min(steps) for steps in expected.values())


def test_the_event_files_lie_as_deep_as_those_of_a_first_attempt(resumed: Resumed):
    """Their folders name the metrics' columns where one job has several, and its attempts must not differ in that."""
    (earlier,), (later,) = (
        [name.split("/") for name in job.manifest if name.startswith("events/")]
        for job in (resumed.earlier, resumed.job)
    )
    assert (len(later), later[1], later[4:-1]) == (len(earlier), earlier[1], earlier[4:-1])


def test_the_checkpoint_itself_says_how_far_it_is(resumed: Resumed):
    final = resumed.job.final
    if resumed.library == "rl_games":
        state = load(final)
        assert (state["epoch"], state["frame"]) == (TOTAL, TOTAL * NUM_ENVS * ROLLOUT["rl_games"])
    elif resumed.library == "sb3":
        with zipfile.ZipFile(final) as archive:
            # The library counts its steps anew in every run, its updates over all.
            state = json.loads(archive.read("data"))
        assert state["num_timesteps"] == MORE * NUM_ENVS * ROLLOUT["sb3"]
        assert state["_n_updates"] == TOTAL * state["n_epochs"]
