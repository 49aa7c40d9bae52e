"""Credentials of a role, lent to one attempt: against a real STS server, what it is asked for and what comes of it."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers import Server, make_bucket
from lazy import lazy

from simyard.core.errors import RequestError, SimyardError, StoreError
from simyard.core.specs import JobSpec, Limits
from simyard.store import keys
from simyard.store.store import Store

apply = lazy("simyard.deployments.apply")
lent_credentials = lazy("simyard.tasks.cluster.lent_credentials")
orchestration = lazy("prefect.client.orchestration")
pool_launch = lazy("simyard.tasks.cluster.pool_launch")
prefect_settings = lazy("prefect.settings")
sts_backends = lazy("moto.sts.models")

ROLE = "arn:aws:iam::123456789012:role/simyard-attempt"
LAB, SITE = "s3://lent/simyard/projects/lab", "s3://lent/simyard"


def a_job(wall_s: float = 3600.0) -> JobSpec:
    return JobSpec(
        job_id=keys.new_job_id(), kind="train", name="n", simulator="isaaclab", task="T", library="rsl_rl",
        num_envs=1, max_iterations=1, seed=1, gpus=None, limits=Limits(wall_s=wall_s),
    )  # fmt: skip


@pytest.fixture
def role(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that names a role, whose bucket is there."""
    for name, value in (make_bucket(s3_server, "lent") | {"SIMYARD_ATTEMPT_ROLE": ROLE}).items():
        monkeypatch.setenv(name, value)


def asked_for(lent: dict[str, str]) -> Any:
    """Return the server's record of the role that credentials are of."""
    roles = [role for by_part in sts_backends.sts_backends.values() for role in by_part["aws"].assumed_roles]
    (found,) = [role for role in roles if role.session_token == lent["AWS_SESSION_TOKEN"]]
    return found


@pytest.mark.parametrize(
    ("store", "allowed", "denied"),
    [
        (LAB, "lent/simyard/projects/lab/*", []),
        (SITE, "lent/simyard/*", ["lent/simyard/projects/*", "lent/simyard/service/*"]),
        ("s3://lent", "lent/*", ["lent/projects/*", "lent/service/*"]),
    ],
    ids=["project", "default project", "whole bucket"],
)
def test_an_attempt_has_its_projects_store_alone_and_not_for_long(
    role: None, store: str, allowed: str, denied: list[str]
) -> None:
    lent = lent_credentials.lend(a_job(), store)
    record = asked_for(lent)
    objects, listing, kms, *others = json.loads(record.policy)["Statement"]
    assert (objects["Effect"], objects["Resource"]) == ("Allow", f"arn:aws:s3:::{allowed}")
    assert (listing["Effect"], listing["Resource"]) == ("Allow", "arn:aws:s3:::lent")
    assert not [action for action in (*objects["Action"], *listing["Action"], *kms["Action"]) if "*" in action]
    assert [(other["Effect"], other["Resource"]) for other in others] == (
        [("Deny", [f"arn:aws:s3:::{path}" for path in denied])] if denied else []
    )
    left_s = (record.expiration.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
    assert 3600 < left_s <= 7200, "the time that the job may take, and an hour for what is around it"

    opened = Store.open(store, options={name.removeprefix("AWS_").lower(): value for name, value in lent.items()})
    opened.put_bytes("jobs/x", b"what it left")
    assert opened.get_bytes("jobs/x") == b"what it left"


@pytest.mark.parametrize(
    ("env", "store", "wall_s", "kind", "said"),
    [
        ({}, "job-store/lab", 3600, RequestError, "'job-store/lab', whose keys every attempt would read"),
        ({}, LAB, 12 * 3600, RequestError, "Set timeouts.wallSeconds to 39600"),
        ({"SIMYARD_ATTEMPT_ROLE": "simyard-attempt"}, LAB, 3600, RequestError, "'simyard-attempt', no role"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, LAB, 3600, StoreError, "--max-session-duration"),
    ],
    ids=["block", "too long", "no role", "no answer"],
)
def test_it_says_why_none_are_lent(
    role: None, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], store: str, wall_s: float,
    kind: type[SimyardError], said: str,
) -> None:  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind) as refused:
        lent_credentials.lend(a_job(wall_s), store)
    assert said in f"{refused.value.failure.message} {refused.value.failure.advice}"


def test_an_attempt_in_a_pool_is_sent_with_them(role: None, prefect_server: Server) -> None:
    with (
        prefect_settings.temporary_settings({prefect_settings.PREFECT_API_URL: prefect_server.url}),
        orchestration.get_client(sync_client=True) as client,
    ):
        apply.apply_pool(client, apply.PoolPlan(name="lent", type="process"), lambda what, change: None)
        (run,) = pool_launch._launch(client, a_job(), 1, LAB, "lent")
        (other,) = pool_launch._launch(client, a_job(), 1, "file:///data", "lent")
    assert asked_for(run.job_variables["env"]).role_arn == ROLE
    assert other.job_variables is None, "a folder needs none"
