"""A fifth reinforcement-learning library is one file: `tests/scenario/libraries/toy.py`, put beside the others."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers import LIBRARIES, train_request
from lazy import lazy
from scenario import play

from simyard.core.errors import RequestError
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest
from simyard.runner import rl
from simyard.runner.isaaclab.lookup import find_task
from simyard.runner.isaaclab.overrides import refuse_known
from simyard.runner.rl.checkpoints import discover, expected_of, inspect
from simyard.runner.rl.inference import load_policy
from simyard.store import keys
from simyard.tasks.resolve import resolve

torch = lazy("torch")

FOLDER = Path(play.__file__).parent / "libraries"
TRAINING = {"task": "Scenario", "rlLibrary": "toy", "numEnvs": 4, "maxIterations": play.ITERATIONS, "seed": 1}


@pytest.fixture(scope="module", autouse=True)
def toy():
    """The file among those of the product, here and in simulators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENARIO_LIBRARIES", str(FOLDER))
        rl.__path__.append(str(FOLDER))
        yield
        rl.__path__.remove(str(FOLDER))
        sys.modules.pop("simyard.runner.rl.toy", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, waiting):
    """A training that was killed once, and who played it."""
    folder = tmp_path_factory.mktemp("toy")
    site = play.MachineSettings(home=folder / "home", store=str(folder / "store"), python=str(play.PYTHON))
    player = play.Player(site, waiting)
    return player, player.play("kill at 7 once", fresh=True, trainingConfig=TRAINING)


def test_it_is_one_of_them():
    assert tuple(rl.LIBRARIES) == tuple(sorted({*LIBRARIES, "toy"}, key=lambda name: (name != "rsl_rl", name)))
    with pytest.raises(RequestError, match="Did you mean 'toy'"):
        train_request(play.config("", trainingConfig=TRAINING | {"rlLibrary": "toi"}))
    with pytest.raises(RequestError, match="rlLibrary 'toy' trains on one"):
        resolve(
            train_request(play.config("", trainingConfig=TRAINING, computeConfig={"gpusPerNode": 2})),
            None,
            keys.new_job_id(),
        )


def test_a_training_of_its_is_read_resumed_and_judged(trained):
    _, left = trained
    assert left.result["status"] == "succeeded", left.error
    assert (left.result["attempts"], left.result["done"], left.result["reward"]) == (2, 12, 110.0)
    assert [entry["iteration"] for entry in left.checkpoints] == [1, 3, 5, 7, 9, 11, 12]
    assert all(entry["name"] == f"checkpoints/policy-{entry['iteration']}.npz" for entry in left.checkpoints)
    play.assert_digests(left)
    assert "every weight is [12.0]" in left.stdout(2)
    assert re.findall(r"^update (\d+) of", left.stdout(2), re.MULTILINE) == ["1", "2", "3", "4", "5"]
    assert [(int(row["step"]), float(row["toy/return"])) for row in left.metrics()] == [
        (step, 10.0 * (step - 1)) for step in range(1, 13)
    ]
    assert left.outcome(2)["start_iteration"] == 7
    assert left.outcome(2)["opened"][-1] | {"sha256": None} == {
        "name": "policy-5.npz", "sha256": None, "tensors": 1, "finite": True, "error": None
    }  # fmt: skip


def test_another_job_goes_on_from_its_checkpoint(trained):
    player, left = trained
    job_id = left.folder.name
    again = player.play(
        "", fresh=True, trainingConfig=TRAINING | {"maxIterations": 2}, resume={"fromJob": job_id, "iteration": 11}
    )
    assert again.result["status"] == "succeeded", again.error
    assert [entry["name"] for entry in again.checkpoints] == ["checkpoints/policy-13.npz"]
    assert again.checkpoints[0]["parent"] == left.checkpoints[-2]["sha256"], "iteration 11"
    request = check_config({"trainingConfig": {"fromJob": {"jobId": job_id, "which": "best"}}}, EvaluateRequest)
    (policy,) = resolve(request, player.store, keys.new_job_id()).spec.policies
    assert (policy.iteration, policy.checkpoint.name) == (12, "policy-12.npz")


def test_its_checkpoints_are_found_opened_and_compared(trained, tmp_path):
    _, left = trained
    (tmp_path / "saved").mkdir()
    for number in (7, 12):
        shutil.copy(left.folder / f"artifacts/checkpoints/policy-{number}.npz", tmp_path / "saved")
    found = discover(tmp_path, "toy")
    assert [path.name for path in found] == ["policy-7.npz", "policy-12.npz"]
    fits = expected_of("toy", {"observation_space": 3, "action_space": 2}, {"layers": []})
    facts = inspect(found[-1], library="toy", expected=fits)
    assert (facts.inputs, facts.outputs) == (3, 2)
    for given, code, says in (
        ({"library": "rsl_rl"}, "checkpoint_of_other_library", "written by toy"),
        ({"expected": expected_of("toy", {}, {"layers": [8]})}, "checkpoint_wrong_shape", "configuration says 8"),
    ):
        with pytest.raises(RequestError, match=says) as caught:
            inspect(found[-1], **{"library": "toy", **given})
        assert caught.value.failure.code == code
    (tmp_path / "other.txt").write_text("no")
    with pytest.raises(RequestError, match="no checkpoint") as caught:
        inspect(tmp_path / "other.txt", library="toy")
    assert "policy-12.npz" in caught.value.failure.advice


def test_isaac_lab_is_asked_for_its_configuration():
    known = rl.get_library("toy")
    find_task("Task", known, {"Task": ["env_cfg_entry_point", "toy_cfg_entry_point"]})
    with pytest.raises(RequestError, match="has no configuration for rlLibrary 'rsl_rl'") as caught:
        find_task("Task", rl.get_library("rsl_rl"), {"Task": ["env_cfg_entry_point", "toy_cfg_entry_point"]})
    assert caught.value.failure.advice.endswith("'toy'.")
    with pytest.raises(RequestError, match=r"'agent\.updates' would do nothing") as caught:
        refuse_known("Task", known, ["agent.updates=3"], {})
    assert caught.value.failure.advice == "Set trainingConfig.maxIterations instead."


class Pushed:
    """Two environments whose observations are the sums of their actions, and how many steps there were."""

    device = "cpu"
    unwrapped = property(lambda self: self)

    def __init__(self):
        self.actions = []

    def reset(self):
        self.seen = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        return {"policy": self.seen}, {}

    def step(self, actions):
        self.actions.append(actions)
        self.seen = torch.cat([self.seen[:, :2] + actions, self.seen[:, 2:] + 1], dim=1)
        return {"policy": self.seen}, 0.0, False, False, {}


def test_its_policy_plays_and_is_a_network(trained):
    _, left = trained
    env = Pushed()
    policy = load_policy("toy", env, {}, left.folder / "artifacts/checkpoints/policy-12.npz")
    policy.begin()
    first = env.seen
    policy.step()
    policy.step()
    assert env.actions[0].tolist() == [[12.0, 12.0], [24.0, 24.0]]
    assert policy.network().module(first).tolist() == env.actions[0].tolist()
    assert env.actions[1].tolist() == [[12.0 * 26] * 2, [12.0 * 51] * 2]
