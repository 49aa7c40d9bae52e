"""What `managed start` refuses before anything is begun: what is said, and nothing is left."""

from pathlib import Path

import pytest
from helpers import CommandLine
from loops import Loop
from quickstart import BODY, TEXT

from simyard.requests.config import check_config
from simyard.requests.managed import TrainingRunRequest, fill_in

EXAMPLES = Path(__file__).parents[2] / "examples" / "managed_training"
UNKNOWN = "asset-" + "0" * 64


def trainer(**changes):
    return {"trainer_spec": {"image_uri": "local", "entrypoint": "python trainer.py"} | changes}


CASES = [
    ("no template", {"rollout_template": None}, ["rollout_template"]),
    ("no trainer", {"trainer_spec": None}, ["trainer_spec"]),
    ("no end", {"loop_policy": {}}, ["loop_policy.max_iterations is missing"]),
    ("no iterations", {"loop_policy": {"max_iterations": 0}}, ["max_iterations", "not 0"]),
    ("iterations in text", {"loop_policy": {"max_iterations": "3"}}, ["max_iterations", "not '3'"]),
    ("endless hours", {"loop_policy": {"max_iterations": 1, "max_wallclock_hours": 1e999}}, ["hours", "inf"]),
    ("a slip", {"loop_policy": {"max_iteration": 3}}, ["'max_iteration'", "Did you mean 'max_iterations'?"]),
    ("another mode", {"success_criteria": {"mode": "most"}}, ["mode", "'max'", "'min'", "'most'"]),
    ("target is NaN", {"success_criteria": {"target": float("inf")}}, ["target", "inf"]),
    ("no patience", {"success_criteria": {"patience_iterations": 0}}, ["patience_iterations", "not 0"]),
    ("no credits", {"budget_policy": {"max_credits": 0}}, ["max_credits", "not 0"]),
    ("a placeholder that there is not", trainer(args_template=["--in", "{checkpoint}"]),
     ["args_template[1]", "'{checkpoint}'", "{checkpoint_in_uri}", "write {{ for a brace"]),
    ("a placeholder in the environment", trainer(env={"RUN": "{run}"}), ["env.RUN", "'{run}'", "{run_id}"]),
    ("half a brace", trainer(args_template=["{run_id"]), ["args_template[0]", "'{'"]),
    ("an attribute in braces", trainer(args_template=["{run_id.__class__}"]), ["no placeholder"]),
    ("no program", trainer(entrypoint="  "), ["entrypoint", "names no program"]),
    ("no program here", trainer(entrypoint=None), ["entrypoint None names no program"]),
    ("an open quote", trainer(entrypoint="python 'train.py"), ["entrypoint", "No closing quotation"]),
    ("a bad variable", trainer(env={"A B": "1"}), ["trainer_spec.env", "'A B'"]),
    ("memory is negative", trainer(resources={"memory_gb": -1}), ["memory_gb", "not -1"]),
    ("more GPUs than there are", trainer(resources={"gpu": 64}), ["resources.gpu is 64", "this machine has"]),
    ("a program that is not there", trainer(entrypoint="no-such-program"), ["no program 'no-such-program'"]),
    ("a script that is not there", trainer(entrypoint="python gone.py"), ["no file 'gone.py'"]),
    ("two beginnings", {"checkpoint_init_uri": "a.pt", "checkpoint_init_asset_id": UNKNOWN}, ["not both"]),
    ("no such checkpoint", {"checkpoint_init_uri": "gone.pt"}, ["checkpoint_init_uri", "'gone.pt'"]),
    ("no such asset", {"checkpoint_init_asset_id": UNKNOWN}, ["There is no asset", UNKNOWN]),
    ("a scene that there is not", {"rollout_template": {
        "scene_id": "franka_cabinet_oige_v2", "steps": 1, "robot": {"urdf_uri": "robot.urdf"}}},
     ["'franka_cabinet_oige_v2'", "Did you mean 'franka_cabinet_oige_v1'?"]),
    ("no robot", {"rollout_template": {"scene_id": "ground", "steps": 1}}, ["robot is missing"]),
    ("too many slots", {"rollout_template": {"rollout_parallelism": 1000, "steps": 1}}, ["256", "1000"]),
    ("an unknown library", {"rollout_template": {"steps": 1, "rl_library": "rsl"}}, ["'rsl'", "'rsl_rl'"]),
    ("no GPU where the site requires one", {}, ["gpu is 0", "SIMYARD_ALLOW_CPU_TRAINERS=on"],
     {"SIMYARD_ALLOW_CPU_TRAINERS": "off"}),
    ("an image that cannot be had", trainer(image_uri="ghcr.io/acme/trainer:1"),
     ["No container engine", "DOCKER_HOST", '"local"'], {"DOCKER_HOST": "unix:///nowhere/docker.sock"}),
]  # fmt: skip
"""By name: what the request has instead, what is said, and the environment where it counts."""


@pytest.fixture
def loop(tmp_path, store):
    return Loop(CommandLine({}), tmp_path, store)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_bad_request_is_refused(refuse, write, loop, store, monkeypatch, case):
    _, changes, said, *env = case
    for name, value in env[0].items() if env else ():
        monkeypatch.setenv(name, value)
    request = {k: v for k, v in (loop.request() | changes).items() if v is not None}
    refuse("managed", "start", write(request), "--wait", "--store", store, said=said)


@pytest.mark.parametrize("what", ["show", "watch", "pause", "resume", "cancel", "verify"])
def test_a_run_that_there_is_not(refuse, store, what):
    unknown = "run-" + "0" * 26
    refuse("managed", what, unknown, "--store", store, said=["There is no managed training run", unknown])
    refuse("managed", what, "../../etc", "--store", store, said=["'../../etc' is not the id"])


def test_the_quickstarts_body_is_a_request_as_it_stands():
    request = check_config(BODY, TrainingRunRequest)
    assert request.rollout_template.jobs == 2
    assert request.trainer_spec.program == ["python", "/app/train_smoke.py"]
    assert request.model_dump(mode="json", exclude_unset=True) == BODY
    assert (EXAMPLES / "quickstart.json").read_text() == TEXT


@pytest.mark.parametrize(
    ("parallel", "envs", "episodes", "jobs"),
    [(1, 1, 1, 1), (2, 8, 2, 2), (2, 8, 17, 4), (3, 2, 12, 6), (4, 64, 256, 4)],
)
def test_whole_waves_give_enough_episodes(loop, parallel, envs, episodes, jobs):
    template = {"rollout_parallelism": parallel, "num_envs": envs, "episodes_per_iteration": episodes}
    request = loop.request()
    request["rollout_template"] |= template
    assert check_config(request, TrainingRunRequest).rollout_template.jobs == jobs


def test_templates_are_filled_in_once():
    assert fill_in("--run={run_id} {{literally}}", {"run_id": "{seed}"}) == "--run={seed} {literally}"
