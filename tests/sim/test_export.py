"""Policies exported on the real simulator, and driven on it as a robot would be."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES
from simulated import EPISODES, ITERATIONS, SHORT, SIDE_BY_SIDE, Job, Player, Yard, load

from simyard.policy import PolicyRunner
from simyard.runner.exporting.checks import CHECKS
from simyard.runner.exporting.contract import CONTRACT_FILE, read_contract
from simyard.store import keys

pytestmark = pytest.mark.sim

each_library = pytest.mark.parametrize("library", LIBRARIES)
CAP = 20
"""stepsPerEpisode of one of the evaluations that are driven again."""
PROMISED = {
    "policy.onnx": "policy", "policy.pt": "policy", "policy_contract.json": "contract", "checklist.json": "checklist",
    "summary.json": "summary", "params/env.yaml": "provenance", "params/agent.yaml": "provenance",
    "versions.json": "provenance", "export-config.json": "provenance", "job.json": "provenance", "report.md": "report",
    "telemetry.csv": "telemetry", "runner.log": "log", "command.stdout.log": "log", "command.stderr.log": "log",
    "asset_staging.log": "log", "golden.json": "provenance", "robot.xml": "provenance",
}  # fmt: skip
FOR_A_PERSON = (
    "rewards", "reward-shape", "mechanism-cost", "observations", "observation-noise", "delays", "history",
    "action-scale", "formats", "second-simulator", "curriculum", "randomization", "safety-monitor",
)  # fmt: skip
NO_OTHER = "otherPhysics=isaacsim_physx"
"""An engine that is not installed: the others take long to start."""
ENDLESS = "env.max_cart_pos=1000"
"""Rails so long that nothing terminates, however bad the policy."""


def answers(items: tuple[str, ...] = FOR_A_PERSON, **changes: bool) -> str:
    """The setting in which Ada says of each item that it is fine, or not."""
    said = {item: {"ok": True, "by": "Ada", "note": f"looked at {item}"} for item in items}
    for item, ok in changes.items():
        said[item.replace("_", "-")]["ok"] = ok
    return f"checklistAnswers={json.dumps(said)}"


@pytest.fixture(scope="module")
def followed(yard: Yard) -> Job:
    """A training with a normaliser, which asks for its own export."""
    settings = ("exportPolicy=true", "agent.actor.obs_normalization=true", *SHORT)
    options = [word for setting in settings for word in ("--set", setting)]
    return yard.read(yard.command("train", yard.config, *options, "--store", yard.store, "--json"))


@pytest.fixture(scope="module")
def exported(yard: Yard, trained: Callable[[str], Job], followed: Job) -> Callable[[str], Job]:
    """An export of each library's training."""

    def export(library: str) -> Job:
        match library:
            case "rsl_rl":
                result = followed.result["export"]
                return Job(result, followed.exit_code, yard.store / "jobs" / result["job_id"], followed.log)
            case "skrl":
                return yard.export(trained("skrl"), answers(), overrides=[SHORT[0], ENDLESS])
            case "rl_games":
                refused = answers(safety_monitor=False)
                return yard.export(trained("rl_games"), NO_OTHER, refused, overrides=[SHORT[0], ENDLESS])
        return yard.export(trained(library), NO_OTHER)

    return cache(export)


@pytest.fixture(scope="module")
def managed(yard: Yard, trained_managed: Job) -> Job:
    """An export of a task that names its terms, to a robot whose cart may be pushed with 1 N."""
    limits = {"slider_to_cart": {"maxEffort": 1}}
    asked = (NO_OTHER, answers(tuple(CHECKS)), f"actionLimits={json.dumps(limits)}")
    return yard.export(trained_managed, *asked, overrides=SHORT[:1])


def checklist(job: Job) -> dict[str, dict[str, Any]]:
    """The items by name."""
    return {item["item"]: item for item in job.json("checklist.json")["items"]}


def statuses(job: Job) -> dict[str, str]:
    return {name: item["status"] for name, item in checklist(job).items()}


# Every library


@each_library
def test_everything_that_was_promised_is_there_and_whole(library: str, exported: Callable[[str], Job]):
    job = exported(library)
    job.assert_whole()
    assert job.result["attempts"] == 1
    kinds = {name: entry["kind"] for name, entry in job.manifest.items()}
    assert kinds == PROMISED, "the ONNX file has no other beside it"


@each_library
def test_the_onnx_file_stands_alone_and_takes_any_batch(library: str, exported: Callable[[str], Job], tmp_path: Path):
    import onnx
    import onnxruntime
    import torch

    job = exported(library)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((job.artifacts / "policy.onnx").read_bytes())
    model = onnx.load(alone, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    stored = [tensor.data_location for tensor in model.graph.initializer]
    assert stored
    assert set(stored) == {onnx.TensorProto.DEFAULT}
    session = onnxruntime.InferenceSession(alone, providers=["CPUExecutionProvider"])
    script = torch.jit.load(job.artifacts / "policy.pt")
    rows = np.random.default_rng(0).normal(size=(65, 4)).astype(np.float32)
    together = session.run(None, {"obs": rows})[0]
    assert together.shape == (65, 1)
    assert np.ptp(together) > 1e-3, "it looks at its observations"
    for size in (1, 2, 64):
        np.testing.assert_allclose(session.run(None, {"obs": rows[:size]})[0], together[:size], atol=1e-5)
    with torch.inference_mode():
        np.testing.assert_allclose(script(torch.from_numpy(rows)).numpy(), together, atol=1e-5)


@each_library
def test_parity_was_proved_on_rollouts_in_batches_of_1_and_64(library: str, exported: Callable[[str], Job]):
    job = exported(library)
    parity = job.json("summary.json")["parity"]
    assert job.result["summary"] == job.json("summary.json")
    assert parity["limit"] == 1e-4
    assert [(load["format"], load["loads"]) for load in parity["loads"]] == [("onnx", True), ("torchscript", True)]
    found = {(part["format"], part["batch"]): part for part in parity["differences"]}
    assert set(found) == {(name, batch) for name in ("onnx", "torchscript") for batch in (1, 64)}
    assert all(part["rows"] >= 64 and part["largest"] < 1e-4 for part in found.values())
    assert parity["largest"] == max(part["largest"] for part in found.values())
    assert parity["largest_action"] > 1e-2
    report = (job.artifacts / "report.md").read_text()
    assert report.startswith("# export")
    assert all(f"| {name} | {batch} | {part['rows']} | " in report for (name, batch), part in found.items())


@each_library
def test_the_contract_has_the_digests_of_what_it_is_about(
    library: str, exported: Callable[[str], Job], trained: Callable[[str], Job], followed: Job
):
    job = exported(library)
    contract = read_contract(job.artifacts / CONTRACT_FILE)
    assert {file.name: file.sha256 for file in contract.files} == {
        name: job.manifest[name]["sha256"] for name in ("policy.onnx", "policy.pt")
    }
    source = followed if library == "rsl_rl" else trained(library)
    assert contract.checkpoint.sha256 == source.checkpoints[-1]["sha256"]
    assert contract.checkpoint.iteration == ITERATIONS
    assert job.json("summary.json")["checkpoint"]["sha256"] == contract.checkpoint.sha256
    assert (contract.task, contract.library) == ("Isaac-Cartpole-Direct", library)
    assert contract.control_period_s == pytest.approx(1 / 60)
    assert (contract.input.shape, contract.output.shape) == ((None, 4), (None, 1))
    assert PolicyRunner.load(job.artifacts).act(np.zeros(4)).shape == (1,)


@each_library
def test_the_checklist_has_every_item_with_its_evidence(library: str, exported: Callable[[str], Job]):
    job = exported(library)
    items = checklist(job)
    assert list(items) == list(CHECKS)
    for item in items.values():
        assert item["status"] in ("pass", "fail", "needs-a-human")
        assert item["evidence"]["summary"]
        assert bool(item["advice"]) == (item["status"] != "pass")
    run = items["long-run"]["evidence"]
    assert (run["steps"], run["episode_steps"], run["non_finite"]) == (300, 30, 0)
    report = (job.artifacts / "report.md").read_text()
    assert all(f"| {name} | {item['status']} | " in report for name, item in items.items())
    summary = job.json("summary.json")
    assert summary["failed"] == [name for name, item in items.items() if item["status"] == "fail"]
    assert summary["needs_a_human"] == [name for name, item in items.items() if item["status"] == "needs-a-human"]
    assert (
        summary["deployable"] == job.json("checklist.json")["deployable"] == (set(statuses(job).values()) == {"pass"})
    )


# What training asks for


def test_a_training_that_asks_for_it_leaves_its_export_as_a_second_job(followed: Job, exported: Callable[[str], Job]):
    followed.assert_whole()
    job = exported("rsl_rl")
    assert job.id == keys.follow_up_job_id(followed.id, "export")
    spec = job.json("job.json")
    assert (spec["kind"], spec["from_job"], spec["library"]) == ("export", followed.id, "rsl_rl")
    assert spec["overrides"] == ["agent.actor.obs_normalization=true", *SHORT]
    assert [policy["trusted"] for policy in spec["policies"]] == [True]
    assert not {"policy.onnx", "checklist.json"} & set(followed.manifest)


def test_nobody_has_answered_so_it_is_not_deployable(exported: Callable[[str], Job]):
    for library in ("rsl_rl", "sb3"):
        found = statuses(exported(library))
        assert exported(library).json("checklist.json")["deployable"] is False
        assert [found[item] for item in ("action-scale", "randomization", "safety-monitor")] == ["needs-a-human"] * 3


def test_the_normaliser_is_inside(exported: Callable[[str], Job], followed: Job, trained: Callable[[str], Job]):
    states = {
        "rsl_rl": (load(followed.final)["actor_state_dict"], "obs_normalizer._mean"),
        "skrl": (load(trained("skrl").final)["observation_preprocessor"], "running_mean"),
        "rl_games": (load(trained("rl_games").final)["model"], "running_mean_std.running_mean"),
    }
    for library, (state, name) in states.items():
        normalizer = read_contract(exported(library).artifacts / CONTRACT_FILE).normalizer
        assert normalizer is not None
        np.testing.assert_allclose(normalizer.mean, state[name].flatten(), rtol=1e-6)
        assert np.abs(normalizer.mean).max() > 1e-3
    assert read_contract(exported("sb3").artifacts / CONTRACT_FILE).normalizer is None


# Whether it may run


def test_a_policy_is_deployable_when_nothing_failed_and_a_person_answered_the_rest(exported: Callable[[str], Job]):
    job = exported("skrl")
    assert set(statuses(job).values()) == {"pass"}, statuses(job)
    assert job.json("checklist.json")["deployable"] is True
    assert job.json("summary.json")["headline"].endswith(", deployable")
    for item in FOR_A_PERSON:
        answer = checklist(job)[item]["evidence"]["answer"]
        assert (answer["ok"], answer["by"], answer["note"]) == (True, "Ada", f"looked at {item}")
        assert answer["at"] == job.json("job.json")["created_at"]
    other = job.json("summary.json")["second_simulator"]
    assert (other["reference_physics"], other["physics"], other["episodes"]) == ("newton", "physx", 8)
    low, high = other["drop_interval"]
    assert low <= other["reference_return"] - other["mean_return"] <= high


def test_one_no_is_enough(exported: Callable[[str], Job]):
    job = exported("rl_games")
    found = statuses(job)
    assert found.pop("safety-monitor") == "fail"
    assert set(found.values()) == {"pass"}, found
    assert job.json("checklist.json")["deployable"] is False
    assert "not deployable: 1 failed, 0 for a person" in (job.artifacts / "report.md").read_text()


def test_without_another_simulator_a_person_is_asked(exported: Callable[[str], Job]):
    summary = exported("sb3").json("summary.json")
    assert summary["second_simulator"] is None
    assert summary["mujoco"] is None
    assert "observation 'policy' (of code of its own)" in summary["mujoco_problem"]
    assert "every termination (the task names none), every action (the task names none)" in summary["mujoco_problem"]
    assert summary["second_simulator_problem"].startswith("isaacsim_physx: ")
    assert statuses(exported("sb3"))["second-simulator"] == "needs-a-human"


def test_an_action_beyond_the_robots_limits_fails_whatever_anybody_says(managed: Job):
    assert (managed.exit_code, managed.result["status"]) == (0, "succeeded"), managed.log
    item = checklist(managed)["action-scale"]
    assert item["status"] == "fail"
    assert "'slider_to_cart' is driven with up to " in item["evidence"]["summary"]
    assert "1 is allowed" in item["evidence"]["summary"]
    assert item["evidence"]["answer"]["ok"] is True
    assert managed.json("checklist.json")["deployable"] is False
    assert "action-scale" in managed.json("summary.json")["failed"]


def test_a_manager_based_task_gives_the_checklist_its_terms(managed: Job):
    items = checklist(managed)
    shares = items["rewards"]["evidence"]["contributions"]
    assert list(shares) == ["alive", "terminating", "pole_pos", "cart_vel", "pole_vel", "success_rate"]
    assert items["observations"]["evidence"]["exported"] == ["joint_pos_rel", "joint_vel_rel"]
    assert items["observations"]["evidence"]["sensors"] == dict.fromkeys(
        ("joint_pos_rel", "joint_vel_rel"), "joint_encoders"
    )
    assert items["observations"]["evidence"]["summary"].endswith("It takes joint_encoders.")
    assert items["observations"]["evidence"]["answer"], "the robot's sensors were not named: Ada has looked"
    assert items["delays"]["evidence"]["actuators_s"] == {"robot.cart_actuator": [0, 0], "robot.pole_actuator": [0, 0]}
    plain = managed.json("summary.json")["mujoco"]
    assert (plain["physics"].partition(" ")[0], plain["reference_physics"]) == ("mujoco", "newton")
    assert plain["mean_return"] == pytest.approx(plain["reference_return"], rel=1e-3), "Newton's solver is MuJoCo's"
    assert plain["survived"] == plain["reference_survived"]
    assert "Under mujoco" in items["second-simulator"]["evidence"]["summary"]
    assert list(items["reward-shape"]["evidence"]["rewards"]) == list(shares)
    assert items["history"]["status"] == "pass"
    assert items["curriculum"]["evidence"]["summary"] == "The task has no curriculum."
    assert set(items["randomization"]["evidence"]["events"]) == {"reset_cart_position", "reset_pole_position"}
    contract = read_contract(managed.artifacts / CONTRACT_FILE)
    (action,) = contract.actions
    assert (action.name, action.joints, action.scale) == ("joint_effort", ("slider_to_cart",), (100.0,))


# The loop, closed


@pytest.fixture(scope="module")
def measured(yard: Yard, evaluated: Callable[[str], Job], followed: Job) -> Callable[[str], Job]:
    """The evaluation of what was exported; one of them cuts episodes off."""

    def measure(library: str) -> Job:
        return yard.evaluate(followed, f"stepsPerEpisode={CAP}") if library == "rsl_rl" else evaluated(library)

    return cache(measure)


@pytest.fixture(scope="module")
def driven(
    player: Player,
    exported: Callable[[str], Job],
    measured: Callable[[str], Job],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[dict[str, Any]]]:
    """What the exported policies did in the real environment, with the evaluations' seeds, in another process."""
    plan = {}
    for library in LIBRARIES:
        outcome = json.loads((measured(library).folder / "attempts/001/outcome.json").read_text())
        plan[library] = {
            "policy": str(exported(library).artifacts),
            "overrides": outcome["facts"]["overrides"],
            "longest": measured(library).json("summary.json")["steps_per_episode"],
        }
    return dict(player("test_export:drive_all", tmp_path_factory.mktemp("driven"), plan))


@each_library
def test_driven_by_the_exported_policy_the_episodes_are_those_of_the_evaluation(
    library: str, driven: dict[str, list[dict[str, Any]]], measured: Callable[[str], Job]
):
    rows = measured(library).rows("episodes.csv")
    assert len(rows) == EPISODES == len(driven[library])
    for row, mine in zip(rows, driven[library], strict=True):
        assert (int(row["env"]), int(row["length"]), row["ended"]) == (mine["env"], mine["length"], mine["ended"])
        assert mine["total"] == pytest.approx(float(row["return"]), abs=1e-4)


def test_an_episode_that_was_cut_off_is_truncated_and_its_success_unknown(measured: Callable[[str], Job]):
    rows = measured("rsl_rl").rows("episodes.csv")
    cut_off = [row for row in rows if row["term"] == "stepsPerEpisode"]
    assert cut_off
    assert {(row["length"], row["ended"], row["success"]) for row in cut_off} == {(str(CAP), "truncated", "")}
    assert all(int(row["length"]) <= CAP for row in rows)
    assert measured("rsl_rl").json("summary.json")["success"]["known"] == len(rows) - len(cut_off)


# --- the robot's side, which the player calls -------------------------------------------------------------------------


def drive_all(folder: Path, plan: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    import isaaclab_tasks  # noqa: F401

    return {library: drive(library, **how) for library, how in plan.items()}


def drive(library: str, policy: str, overrides: list[str], longest: int) -> list[dict[str, Any]]:
    """Act on the environment with the exported policy alone."""
    import torch

    from simyard.runner.evaluation.episode_statistics import EpisodeMeter
    from simyard.runner.isaaclab.environment import fresh_environment, settle
    from simyard.runner.rl import get_library

    runner = PolicyRunner.load(policy)
    episodes: list[Any] = []
    with fresh_environment(
        runner.contract.task, get_library(library), overrides, num_envs=SIDE_BY_SIDE, seed=1, device="cpu"
    ) as (env, _):
        meter = EpisodeMeter(env, episodes=EPISODES, longest=longest, seed=1, on_episode=episodes.append)
        settle(env, 1)
        observations, _ = env.reset()
        while not meter.done:
            actions = runner.act(observations["policy"].numpy())
            observations, *_ = env.step(torch.from_numpy(actions))
    return [{"env": e.env, "length": e.length, "ended": e.ended, "total": e.total} for e in episodes]
