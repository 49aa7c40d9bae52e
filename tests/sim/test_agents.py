"""Agents that a task registers beside the library's own, files that change one, and classes of the user's own.

What is refused before a simulator starts is in test_refusals.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from simulated import CARTPOLE, Job, Yard

from simyard.core.files import sha256_of

pytestmark = [pytest.mark.sim, pytest.mark.long]  # a dozen trainings of their own

SYMMETRY = "rsl_rl_with_symmetry_cfg_entry_point"
PENDULUM = "Isaac-Pendulum-MARL-Direct"
PACKAGE = Path(__file__).parents[1] / "fixtures" / "own_agents"
OWN = "customEnvironmentPath=own_agents.zip"
CLASSES = {
    "agent.class_name": "own_agents.learning:OwnRunner",
    "agent.algorithm.class_name": "own_agents.learning:OwnPPO",
    "agent.actor.class_name": "own_agents.learning:OwnActor",
}


def agent_of(job: Job) -> str | None:
    """The key that a job's versions name."""
    found: str | None = job.json("versions.json")["simulator"].get("agent")
    return found


def assert_refused(job: Job, code: str, says: str) -> None:
    """A job ended with this code, before anything was simulated."""
    error = job.result["error"]
    assert error["code"] == code, error
    assert says in error["message"]


@pytest.fixture(scope="module")
def mirrored(yard: Yard) -> Job:
    """A task that names its terms, trained with the agent that mirrors what it sees."""
    return yard.train("task=Isaac-Cartpole", "agent=with_symmetry", "maxIterations=2")


def test_an_agent_by_its_short_form_is_trained_and_recorded(mirrored: Job, trained_managed: Job):
    mirrored.assert_whole()
    assert agent_of(mirrored) == SYMMETRY
    assert agent_of(trained_managed) == "rsl_rl_cfg_entry_point"
    assert yaml.unsafe_load((mirrored.artifacts / "params/agent.yaml").read_text())["algorithm"]["symmetry_cfg"]
    assert mirrored.checkpoints[-1]["sha256"] != trained_managed.checkpoints[-1]["sha256"]


def test_what_goes_on_with_a_policy_takes_its_agent_over(mirrored: Job, yard: Yard):
    for job in (
        yard.train("task=Isaac-Cartpole", "maxIterations=1", f"resume.fromJob={mirrored.id}"),
        yard.evaluate(mirrored, overrides=()),
        yard.again(mirrored),
    ):
        job.assert_whole()
        assert agent_of(job) == SYMMETRY
    own = yard.train("task=Isaac-Cartpole", "maxIterations=1", "agent=default", f"resume.fromJob={mirrored.id}")
    assert agent_of(own) == "rsl_rl_cfg_entry_point"


@pytest.mark.parametrize("algorithm", ["PPO", "IPPO", "MAPPO"])
def test_a_task_of_several_agents_is_trained_resumed_and_evaluated(yard: Yard, algorithm: str):
    training = (f"task={PENDULUM}", "rlLibrary=skrl", f"agent={algorithm}")
    trained = yard.train(*training, "maxIterations=2")
    trained.assert_whole()
    assert yaml.safe_load((trained.artifacts / "params/agent.yaml").read_text())["agent"]["class"] == algorithm
    more = yard.train(*training, "maxIterations=1", f"resume.fromJob={trained.id}")
    more.assert_whole()
    assert more.checkpoints[-1]["iteration"] == 3

    # The rewards of both agents are the same: so are their parts of the return.
    measured = yard.evaluate(more, "numEpisodes=6", overrides=())
    measured.assert_whole()
    summary = measured.json("summary.json")
    assert (summary["episodes"], summary["agents"]) == (6, ["cart", "pendulum"])
    parts = summary["reward_terms"]
    assert parts["cart"] == pytest.approx(parts["pendulum"]) == pytest.approx(summary["return"]["mean"] / 2)
    assert "The return is the sum of those of cart, pendulum" in (measured.artifacts / "report.md").read_text()
    again = yard.evaluate(more, "numEpisodes=6", overrides=())
    assert again.rows("episodes.csv") == measured.rows("episodes.csv")
    if algorithm == "PPO":
        return
    assert_refused(yard.export(trained, overrides=()), "multi_agent", "has several agents")


@pytest.fixture(scope="module")
def package(yard: Yard) -> None:
    """The package of agents beside the config."""
    shutil.make_archive(str(yard.config.parent / "own_agents"), "zip", PACKAGE.parent, "own_agents")


@pytest.mark.usefixtures("package")
def test_adversarial_motion_priors_are_trained_evaluated_and_exported(yard: Yard):
    trained = yard.train("task=Imitating-Cartpole-Direct", OWN, "rlLibrary=skrl", "agent=amp", "maxIterations=2")
    trained.assert_whole()
    yard.evaluate(trained).assert_whole()
    yard.export(trained).assert_whole()
    other = yard.train("task=Imitating-Cartpole-Direct", OWN, "rlLibrary=skrl", "agent=PPO")
    assert_refused(other, "unknown_agent", "The agent is PPO, and the task's is AMP.")


@pytest.mark.usefixtures("package")
def test_classes_of_the_users_own_train_are_recorded_and_found_again(yard: Yard):
    overrides = [f"{key}={name}" for key, name in CLASSES.items()]
    trained = yard.train(f"task={CARTPOLE}", OWN, "maxIterations=2", *overrides)
    trained.assert_whole()
    assert "own runner: OwnPPO trains OwnActor" in (trained.artifacts / "command.stdout.log").read_text()
    digest = sha256_of(PACKAGE / "own_agents" / "learning.py")
    kept = [{"key": key, "name": name, "sha256": digest} for key, name in sorted(CLASSES.items())]
    measured = yard.evaluate(trained)
    for job in (trained, measured):
        job.assert_whole()
        assert job.json("versions.json")["simulator"]["classes"] == kept
    broken = yard.train(f"task={CARTPOLE}", OWN, "agent.class_name=own_agents.broken:Runner")
    assert_refused(
        broken, "custom_class_import", "agent.class_name is 'own_agents.broken:Runner', which does not import"
    )
    assert "no_such_module" in broken.result["error"]["message"]


def test_a_file_replaces_an_agents_configuration(yard: Yard, trained_managed: Job):
    # What a training has left is such a file.
    config = yaml.unsafe_load((trained_managed.artifacts / "params/agent.yaml").read_text())
    config["actor"]["hidden_dims"] = [8]
    file = yard.config.parent / "agent.yaml"
    file.write_text(yaml.safe_dump(config))
    named = ("agentConfig=agent.yaml", "agentConfigMode=replace")
    trained = yard.train("task=Isaac-Cartpole", "maxIterations=2", *named, "agent.actor.hidden_dims=[8,4]")
    trained.assert_whole()
    used = yaml.unsafe_load((trained.artifacts / "params/agent.yaml").read_text())
    assert (used["actor"]["hidden_dims"], used["experiment_name"]) == ([8, 4], config["experiment_name"])
    file.unlink()  # the store has it
    yard.evaluate(trained, overrides=()).assert_whole()
    again = yard.again(trained)
    assert again.checkpoints[-1]["sha256"] == trained.checkpoints[-1]["sha256"]
