"""The one formula of cost: GPU seconds of every rank of every attempt."""

import pytest
import records

from simyard.core.errors import Category, Failure
from simyard.core.specs import JobSpec
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared import usage

JOB = "job-" + "0" * 26
MINUTE = {"began_at": "2026-01-01T00:00:00+00:00", "updated_at": "2026-01-01T00:01:00+00:00"}


def job(**fields):
    base = {"kind": "train", "name": "x", "simulator": "isaaclab", "task": "T", "library": "rsl_rl"}
    return JobSpec(job_id=JOB, num_envs=1, seed=0, **base, **fields)


def ended(seconds, device="cuda:0"):
    failure = Failure(code="gpu_out_of_memory", category=Category.RESOURCE, message="It ran out of memory.")
    facts = records.facts(device) if device else None
    return records.outcome(failure, timings={"total_s": seconds}, facts=facts)


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path))


def test_a_job_that_never_began_has_used_nothing(store):
    assert usage.gpu_seconds(job(), store) == 0.0


def test_every_attempt_counts_failed_and_lost_ones_too(store):
    store.put_json(JobKeys(JOB).attempt(1).outcome, ended(30.0))
    store.put_json(JobKeys(JOB).attempt(2).status, records.status(facts=records.facts("cuda:0"), **MINUTE))
    assert usage.gpu_seconds(job(), store) == 90.0


@pytest.mark.parametrize(
    ("fields", "ranks"),
    [({}, 1), ({"gpus": 1}, 1), ({"gpus": 2}, 2), ({"gpus": 2, "nodes": 2}, 4), ({"nodes": 3}, 3), ({"gpus": 0}, 0)],
)
def test_every_rank_counts(store, fields, ranks):
    store.put_json(JobKeys(JOB).attempt(1).outcome, ended(30.0))
    assert usage.gpu_seconds(job(**fields), store) == 30.0 * ranks


def test_an_attempt_on_the_cpu_costs_nothing(store):
    store.put_json(JobKeys(JOB).attempt(1).outcome, ended(30.0, "cpu"))
    store.put_json(JobKeys(JOB).attempt(2).outcome, ended(20.0, "cuda:0"))
    assert usage.gpu_seconds(job(gpus=2), store) == 40.0


def test_an_unknown_device_counts_as_the_gpus_that_were_asked_for(store):
    store.put_json(JobKeys(JOB).attempt(1).outcome, ended(30.0, None))
    store.put_json(JobKeys(JOB).attempt(2).status, records.status(**MINUTE))
    assert usage.gpu_seconds(job(gpus=2), store) == 180.0
    assert usage.gpu_seconds(job(), store) == 90.0
    assert usage.gpu_seconds(job(gpus=0), store) == 0.0


def test_an_hour_costs_what_the_site_says():
    assert usage.in_usd(3600.0, 2.99) == 2.99
