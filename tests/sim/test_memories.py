"""Recurrent policies and critics that see more: trained, resumed, evaluated and exported on the real simulator."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from simulated import EPISODES, SHORT, SIDE_BY_SIDE, Job, Player, Yard, load

from simyard.runner.exporting.contract import CONTRACT_FILE, read_contract

# What a memory's ports, states and resets are is shown in process; these are jobs of a task package, 10 s of CPU each.
pytestmark = [pytest.mark.sim, pytest.mark.long]

PACKAGE = Path(__file__).with_name("hidden_cartpole")
CASES = {
    "lstm": ("rsl_rl", "LSTM"),
    "gru": ("rsl_rl", "GRU"),
    "rl_games": ("rl_games", "LSTM"),
    "mlp": ("rsl_rl", "MLP"),
}
STATES = {"lstm": [("h_in", 2), ("c_in", 2)], "gru": [("h_in", 2)], "rl_games": [("h_in", 1), ("c_in", 1)], "mlp": []}
ITERATIONS, MORE = 2, 1

each_case = pytest.mark.parametrize("case", CASES)
remembering = pytest.mark.parametrize("case", ["lstm", "gru", "rl_games"])


@pytest.fixture(scope="module")
def trained(yard: Yard) -> Callable[[str], Job]:
    """A training of each kind of agent."""
    shutil.make_archive(str(yard.config.parent / "hidden_cartpole"), "zip", PACKAGE.parent, "hidden_cartpole")

    def train(case: str) -> Job:
        library, kind = CASES[case]
        return yard.train(
            f"task=Hidden-Cartpole-{kind}", f"rlLibrary={library}", f"maxIterations={ITERATIONS}", SHORT[0],
            "customEnvironmentPath=hidden_cartpole.zip",
        )  # fmt: skip

    return cache(train)


@pytest.fixture(scope="module")
def evaluated(yard: Yard, trained: Callable[[str], Job]) -> Callable[[str], Job]:
    return cache(lambda case: yard.evaluate(trained(case), overrides=SHORT[:1]))


@pytest.fixture(scope="module")
def exported(yard: Yard, trained: Callable[[str], Job]) -> Callable[[str], Job]:
    return cache(lambda case: yard.export(trained(case), "otherPhysics=isaacsim_physx", overrides=SHORT[:1]))


@each_case
def test_it_is_trained(case: str, trained: Callable[[str], Job]):
    job = trained(case)
    job.assert_whole()
    state = load(job.final)
    actor = state["model" if case == "rl_games" else "actor_state_dict"]
    assert any("rnn" in name for name in actor) == (case != "mlp")
    if case != "rl_games":
        seen = state["critic_state_dict"]["mlp.0.weight" if case == "mlp" else "rnn.rnn.weight_ih_l0"].shape[1]
        assert seen == 5, "the critic has the velocities too"


@remembering
def test_it_is_resumed(case: str, yard: Yard, trained: Callable[[str], Job]):
    earlier = trained(case)
    library, kind = CASES[case]
    job = yard.train(
        f"task=Hidden-Cartpole-{kind}", f"rlLibrary={library}", f"maxIterations={MORE}", SHORT[0],
        "customEnvironmentPath=hidden_cartpole.zip", f"resume.from_job={earlier.id}",
    )  # fmt: skip
    assert (job.exit_code, job.result["status"]) == (0, "succeeded"), job.log
    assert job.checkpoints[-1]["iteration"] == ITERATIONS + MORE
    assert job.checkpoints[0]["parent"] == earlier.checkpoints[-1]["sha256"]


@each_case
def test_it_is_exported_with_its_memory_and_without_what_is_privileged(case: str, exported: Callable[[str], Job]):
    job = exported(case)
    job.assert_whole()
    contract = read_contract(job.artifacts / CONTRACT_FILE)
    groups = [(group.name, group.start, group.size) for group in contract.observation_groups]
    assert groups == [("cart", 0, 1), ("policy", 1, 2), ("privileged", None, 2)], "the agent's order, not the task's"
    assert [term.name for term in contract.input_terms] == ["cart_pos", "pole_pos", "action"]
    assert contract.input is not None
    assert contract.input.shape == (None, 3)
    assert [(state.input, state.shape) for state in contract.states or ()] == [
        (name, (layers, None, 16)) for name, layers in STATES[case]
    ]
    parity = job.json("summary.json")["parity"]
    assert parity["largest"] < 1e-4
    assert all(load["latency_ms"] > 0 for load in parity["loads"])
    if case == "mlp":
        assert parity["resets"] is None
    else:
        assert parity["resets"] >= 8, "every environment's episode ends, and goes on a little"
        assert {part["rows"] for part in parity["differences"]} == {50, 8 * 50}, "30 steps of an episode and 20 more"


@each_case
def test_the_checklist_knows_what_only_the_critic_saw(case: str, exported: Callable[[str], Job]):
    (item,) = (item for item in exported(case).json("checklist.json")["items"] if item["item"] == "observations")
    assert item["evidence"]["exported"] == ["cart_pos", "pole_pos", "action"]
    assert item["evidence"]["privileged"] == ([] if case == "rl_games" else ["velocities"])
    assert item["status"] == "needs-a-human", "the cart's place is in a group of its own"


@each_case
def test_driven_by_the_export_the_episodes_are_those_of_the_evaluation(
    case: str, player: Player, exported: Callable[[str], Job], evaluated: Callable[[str], Job], tmp_path: Path
):
    job = evaluated(case)
    job.assert_whole()
    outcome = json.loads((job.folder / "attempts/001/outcome.json").read_text())
    overrides = outcome["facts"]["overrides"]
    policy = str(exported(case).artifacts)
    driven = player("drive_exported:drive", tmp_path, policy, overrides, EPISODES, SIDE_BY_SIDE, str(PACKAGE))
    rows = job.rows("episodes.csv")
    assert len(rows) == EPISODES == len(driven)
    for row, mine in zip(rows, driven, strict=True):
        assert (int(row["env"]), int(row["length"]), row["ended"]) == (mine["env"], mine["length"], mine["ended"])
        assert mine["total"] == pytest.approx(float(row["return"]), abs=1e-4)


def test_a_memory_needs_whole_environments(yard: Yard, trained: Callable[[str], Job]):
    trained("lstm")  # the package is there
    refused = yard.train(
        "task=Hidden-Cartpole-LSTM", "numEnvs=3", "customEnvironmentPath=hidden_cartpole.zip", SHORT[0]
    )
    assert (refused.exit_code, refused.result["error"]["code"]) == (1, "bad_override"), refused.log
    assert "there are 3, for 4 minibatches" in refused.result["error"]["message"]
    yard.sessions.close()
