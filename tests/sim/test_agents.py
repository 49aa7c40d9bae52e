"""Agents that a task registers beside the library's own: trained, taken over by what goes on with them, recorded."""

from __future__ import annotations

import pytest
import yaml
from simulated import Job, Yard

pytestmark = [
    pytest.mark.sim,
    pytest.mark.long,
]  # trainings of their own; what is refused is tests/sim/test_refusals.py

SYMMETRY = "rsl_rl_with_symmetry_cfg_entry_point"


def agent_of(job: Job) -> str | None:
    """The key that a job's versions name."""
    found: str | None = job.json("versions.json")["simulator"].get("agent")
    return found


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
