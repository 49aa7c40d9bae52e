"""A training in stages, in one simulator: each ends by its condition, and a killed one goes on in the right stage."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIG, train_request
from simulated import NO_EGL, Job, Killed, Yard, kill_simulator, load, optimizer_steps

from simyard.core.errors import RequestError
from simyard.requests.jobs import TrainRequest
from simyard.service.job_look import JobLook
from simyard.service.job_page import Viewer, job_page, job_part
from simyard.service.tables import Drawings
from simyard.tasks.shared import labels

pytestmark = pytest.mark.sim

ALWAYS = {"metric": "Policy/mean_std", "op": ">", "value": 0.0}
NEVER = {"metric": "Policy/mean_std", "op": "<", "value": 0.0}
EXAMPLE = Path(__file__).parents[2] / "examples" / "stages" / "teacher-student.json"
SHORTER = ["env.episode_length_s=0.5"]
UPDATES = 5 * 4
"""Steps of the optimiser in one iteration: learning epochs times minibatches."""


def stage(name: str, iterations: int, **fields: Any) -> dict[str, Any]:
    return {"name": name, "maxIterations": iterations, **fields}


def train(yard: Yard, *stages: dict[str, Any], budget: int, **env: str) -> Job:
    return yard.train(f"stages={json.dumps(stages)}", f"maxIterations={budget}", **env)


def runs(job: Job) -> list[tuple[str, int, int, str]]:
    return [(run["name"], run["began"], run["ended"], run["why"]) for run in job.json("stages.json")["runs"]]


@pytest.fixture(scope="session")
def staged(yard: Yard) -> Job:
    """Two small stages: the first ends by its condition, the second changes a reward's weight."""
    reach = stage("reach", 4, until={**ALWAYS, "forIterations": 2})
    return train(yard, reach, stage("calm", 2, overrides=["env.rew_scale_alive=0.5"]), budget=6)


def test_a_stage_ends_by_its_condition_and_the_next_goes_on_from_its_policy(staged: Job):
    staged.assert_whole()
    assert runs(staged) == [("reach", 0, 2, "reached"), ("calm", 2, 4, "over")]
    assert staged.json("stages.json")["runs"][1]["start"] == "model_1.pt"
    assert [entry["iteration"] for entry in staged.checkpoints] == [1, 2, 4]
    assert [entry["stage"] for entry in staged.checkpoints] == ["reach", "reach", "calm"]
    assert optimizer_steps(staged.final) == 4 * UPDATES
    params = {name: (staged.artifacts / f"params/{name}env.yaml").read_text() for name in ("001-reach/", "")}
    assert "rew_scale_alive: 0.5" not in params["001-reach/"]
    assert "rew_scale_alive: 0.5" in params[""]
    assert staged.result["notes"][-1] == "ended at iteration 4 of 6: all stages are over"


def test_its_metrics_have_every_iteration_once_with_its_stage(staged: Job):
    assert [(row["step"], row["stage"]) for row in staged.rows()] == [
        ("0", "reach"), ("1", "reach"), ("2", "calm"), ("3", "calm"),
    ]  # fmt: skip
    assert staged.steps("Loss/value") == [0, 1, 2, 3]
    seconds = [int(row["step"]) for row in staged.rows("metrics_time.csv")]
    assert seconds == sorted(seconds)


def test_its_report_and_its_page_say_when_and_why_each_stage_ended(staged: Job, yard: Yard):
    row = "| reach | train | 0 | 2 | scratch | Policy/mean_std > 0 for 2 iterations: it was "
    assert row in (staged.artifacts / "report.md").read_text()
    look = JobLook(yard.opened, staged.id).refresh()
    viewer = Viewer(link=lambda key, name: name, nonce="n", until="soon", token="t")
    prefect: Any = None  # it is not asked of a job that has ended
    page, _ = job_page(look, prefect, Drawings(), labels.read(yard.opened, staged.id), viewer)
    assert "<td>its iterations were done</td>" in job_part(look, "stages", prefect, Drawings(), viewer)
    assert page.count("calm</text>") == page.count("reach</text>") > 0, "a border with a name in each chart"


@pytest.mark.parametrize(
    ("stages", "code", "says"),
    [
        (
            [stage("a", 2), stage("b", 2, until={**ALWAYS, "metric": "Train/mean_rewrd"})], "unknown_metric",
            r"Stage 'b': Unknown metric 'Train/mean_rewrd'\. Did you mean 'Train/mean_reward'",
        ),
        (
            [stage("a", 2), stage("b", 2, overrides=["env.rew_scale_alife=1"])], "bad_override",
            r"Stage 'b': Unknown override key 'env\.rew_scale_alife'\. Did you mean 'env\.rew_scale_alive'",
        ),
    ],
)  # fmt: skip
def test_a_stage_that_the_task_cannot_have_is_refused_by_name(
    yard: Yard, store: Any, stages: list[dict[str, Any]], code: str, says: str
):
    with pytest.raises(RequestError, match=says) as refused:
        yard.check(train_request({**CONFIG, "stages": stages}), store)
    assert refused.value.failure.code == code


def student_sees(groups: str) -> dict[str, Any]:
    stages = json.loads(EXAMPLE.read_text())["stages"]
    stages[1]["overrides"] = [f"agent.obs_groups.student={groups}"]
    return stages


# Long: each trains for itself, and takes the way through the loop that the one above does not.


@pytest.mark.long
def test_a_stage_that_does_not_reach_its_condition_fails_the_job_and_what_it_learnt_is_kept(yard: Yard):
    job = train(yard, stage("a", 1), stage("b", 2, until=NEVER), budget=3)
    assert (job.result["status"], job.result["error"]["code"]) == ("failed", "stage_not_reached")
    assert "Stage 'b' ended at iteration 3: Policy/mean_std < 0 was not reached" in job.result["error"]["message"]
    kept = {entry["iteration"] for entry in job.result["artifacts"] if entry["kind"] == "checkpoint"}
    assert max(kept) == 3


@pytest.mark.long
def test_a_stage_goes_on_or_back_where_it_may_until_the_iterations_are_used_up(yard: Yard):
    on = train(yard, stage("a", 1, until=NEVER, onNotReached="go_on"), stage("b", 1, start="scratch"), budget=2)
    on.assert_whole()
    assert runs(on) == [("a", 0, 1, "not_reached"), ("b", 1, 2, "over")]
    assert optimizer_steps(on.final) == UPDATES

    back = train(yard, stage("a", 1), stage("b", 2, until=NEVER, onNotReached="go_back"), budget=4)
    assert back.result["error"]["code"] == "stages_out_of_iterations"
    found = back.json("stages.json")["runs"]
    assert [(run["name"], run["start"]) for run in found] == [("a", None), ("b", "model_0.pt"), ("a", "model_0.pt")]


@pytest.fixture(scope="session")
def killed_in_stage(yard: Yard) -> Killed:
    """A training whose simulator was killed in its second stage."""
    save = ["agent.save_interval=5"]
    stages = [stage("a", 7, overrides=save), stage("b", 33, overrides=[*save, "env.rew_scale_alive=0.5"])]
    pattern = "*/001-*/work/logs/rsl_rl/*/002-b/model_15.pt"
    return kill_simulator(lambda: train(yard, *stages, budget=40, **NO_EGL), yard.home / "work", pattern)


@pytest.mark.long
def test_a_killed_training_goes_on_in_its_stage_with_its_counters(killed_in_stage: Killed):
    job = killed_in_stage.job
    job.assert_whole()
    assert job.result["attempts"] == 2
    assert runs(job) == [("a", 0, 7, "over"), ("b", 7, 40, "over")]
    assert [int(row["step"]) for row in job.rows()] == list(range(40))
    assert [row["stage"] for row in job.rows()] == ["a"] * 7 + ["b"] * 33
    assert load(job.final)["iter"] == 39
    assert optimizer_steps(job.final) == 40 * UPDATES
    assert job.json("stages.json")["steps"] == 40 * 16


@pytest.mark.long
def test_ranges_widen_in_the_live_environment_of_a_task_with_managers(yard: Yard):
    path = "env.events.reset_pole_position.params.position_range"
    growth = {"parameters": {path: {"start": [0.0, 0.0], "end": [-0.5, 1.0]}}, "steps": 2, "floor": -1.0}
    widen = stage("widen", 9, until=ALWAYS, widen={**ALWAYS, **growth}, overrides=["env.episode_length_s=0.2"])
    job = yard.train("task=Isaac-Cartpole", f"stages={json.dumps([widen])}", "maxIterations=9")
    job.assert_whole()
    assert runs(job) == [("widen", 0, 3, "reached")]
    steps = job.json("stages.json")["runs"][0]["widened"]
    assert [(step["iteration"], step["level"]) for step in steps] == [(0, 0), (1, 1), (2, 2)]
    assert [step["ranges"][path] for step in steps] == [[0.0, 0.0], [-0.25, 0.5], [-0.5, 1.0]]


@pytest.fixture(scope="session")
def taught(yard: Yard) -> Job:
    """The example: a teacher, its student, and what fine-tuning makes of that."""
    return yard.run(TrainRequest, [], EXAMPLE)


@pytest.mark.long
def test_a_student_that_sees_what_the_robot_sees_is_within_a_tenth_of_its_teacher(taught: Job, yard: Yard):
    taught.assert_whole()
    stages = taught.json("stages.json")
    assert [(run["name"], run["kind"]) for run in stages["runs"]] == [
        ("teacher", "train"), ("student", "distill"), ("finetune", "train"),
    ]  # fmt: skip
    figures = {one["role"]: one["mean_return"] for one in stages["compared"]}
    assert {one["episodes"] for one in stages["compared"]} == {64}
    assert figures["student"] > 0.9 * figures["teacher"] > 0
    assert figures["final"] > 0.9 * figures["teacher"]
    assert "Teacher and student over the same 64 episodes" in (taught.artifacts / "report.md").read_text()

    # Whatever goes on with a policy has the agent of its stage.
    for which in ("latest", f"iteration:{stages['runs'][1]['ended']}"):
        measured = yard.evaluate(taught, which=which, overrides=SHORTER)
        assert measured.result["status"] == "succeeded", measured.log
    exported = yard.export(taught, overrides=SHORTER)
    (item,) = [item for item in exported.json("checklist.json")["items"] if item["item"] == "curriculum"]
    assert "number 3 of 3: its iterations were done" in item["evidence"]["summary"]


@pytest.mark.long
def test_a_student_with_privileges_is_refused_before_the_start(yard: Yard):
    stages = student_sees('["policy","privileged"]')
    job = yard.run(TrainRequest, [f"stages={json.dumps(stages)}"], EXAMPLE)
    assert (job.result["status"], job.result["error"]["code"]) == ("failed", "privileged_student")
    assert "Stage 'student': The student sees 'privileged'" in job.result["error"]["message"]
    assert job.result["refused"]
