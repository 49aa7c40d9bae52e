"""How a registered task is to be driven: what `control` may say of it."""

import pytest

from simyard.core.errors import RequestError
from simyard.core.specs import InputFile, JobSpec, PolicyFile, Rollout
from simyard.runner.isaaclab.rollouts import mode_of

CHECKPOINT = PolicyFile(checkpoint=InputFile(name="model_1.pt", key="", sha256="0" * 64, size_bytes=1))


def job(control, library="rsl_rl"):
    """A job with a policy where `control` asks for one."""
    wanted = Rollout(profile="isaac_lab_rollout", steps=10, dt=0.005, substeps=2, control=control)
    policies = (CHECKPOINT,) if control.get("task_mode") == "policy" else ()
    return JobSpec(
        job_id="job-1", kind="rollout", name="rollout", simulator="isaaclab", task="Isaac-Cartpole-Direct",
        library=library, num_envs=1, seed=1, gpus=0, rollout=wanted, policies=policies,
    )  # fmt: skip


@pytest.mark.parametrize("sample", [True, False])
def test_a_policy_is_sampled_where_the_job_says_so(sample):
    assert mode_of(job({"task_mode": "policy", "sample": sample})) == "policy"
    assert mode_of(job({"task_mode": "random", "sample": False})) == "random"


@pytest.mark.parametrize(
    ("control", "library", "says"),
    [
        pytest.param({"task_mode": "policy", "sample": 1}, "rsl_rl", "control.sample is 1. Allowed", id="a number"),
        pytest.param({"task_mode": "policy", "sample": None}, "rsl_rl", "control.sample is None", id="null"),
        pytest.param({"task_mode": "random", "sample": True}, "", "task_mode is 'random': only a policy", id="random"),
        pytest.param({"sample": True}, "", "task_mode is 'zero': only a policy", id="nothing drives"),
        pytest.param({"task_mode": "policy", "sample": True}, "skrl", "'skrl' cannot be sampled", id="skrl"),
        pytest.param({"task_mode": "policy", "sample": True}, "sb3", "Allowed: rsl_rl.", id="sb3"),
        pytest.param({"task_mode": "policy", "sampled": True}, "rsl_rl", "Did you mean 'sample'?", id="misspelt"),
    ],
)
def test_what_cannot_be_sampled_is_refused(control, library, says):
    with pytest.raises(RequestError) as refused:
        mode_of(job(control, library))
    assert refused.value.failure.code == "bad_control"
    assert says in str(refused.value)
    assert refused.value.failure.advice
