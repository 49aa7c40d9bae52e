"""Ids and keys: ordered by time, and safe to build paths from."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simyard.core.errors import RequestError
from simyard.store import keys
from simyard.store.keys import check_key

MILLISECOND = st.integers(0, 2**48 - 1)
TIME = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(MILLISECOND, MILLISECOND)
def test_ids_sort_by_the_time_they_were_made(one, other):
    first, second = (keys.new_job_id(now_ms=time) for time in (one, other))
    assert one == other or (first < second) == (one < other)


@given(MILLISECOND)
def test_an_id_is_one_of_ours_and_a_key(now_ms):
    job_id = keys.new_job_id(now_ms=now_ms)
    assert keys.check_job_id(job_id) == job_id
    job = keys.JobKeys(job_id)
    attempt = job.attempt(3)
    for key in (job.job, job.cancel, job.result, job.manifest, job.artifact("a/b.pt"), attempt.status, attempt.outcome):
        assert check_key(key) == key
        assert key.startswith(f"jobs/{job_id}/")


@given(st.uuids(), TIME, st.integers(1, 10**9))
def test_a_flow_run_has_one_id_and_a_later_one_sorts_after_it(run_id, due, later_ms):
    job_id = keys.job_id_of_run(run_id, due)
    assert keys.check_job_id(job_id) == job_id == keys.job_id_of_run(run_id, due)
    assert job_id < keys.job_id_of_run(uuid.UUID(int=0), due + timedelta(milliseconds=later_ms))


def test_two_ids_of_one_millisecond_differ():
    assert len({keys.new_job_id(now_ms=5) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "job_id",
    ["", "job-", "../x", "job-../../../../../../../../x", "JOB-01K00000000000000000000000", "job-" + "0" * 25,
     "job-" + "0" * 27, "job-" + "u" * 26, "job-" + "0" * 26 + "\n", " job-" + "0" * 26, "job-*"],
)  # fmt: skip
def test_what_is_no_id_is_refused(job_id):
    with pytest.raises(RequestError, match="is not a job id") as caught:
        keys.check_job_id(job_id)
    assert repr(job_id) in str(caught.value)


def test_attempts_sort_as_numbers():
    job = keys.JobKeys("job-x")
    assert job.attempt(2).prefix < job.attempt(10).prefix < job.attempt(100).prefix


def test_an_asset_has_one_id_and_its_keys_lie_together():
    digest = "0123456789abcdef" * 4
    assert keys.asset_id_of(digest) == f"asset-{digest}"
    assert keys.sha256_of_asset(f"asset-{digest}") == digest
    own = keys.AssetKeys(digest)
    assert own.prefix == f"assets/{digest}"
    assert check_key(own.record) == f"assets/{digest}/asset.json"
    assert check_key(own.file("a.zip")) == keys.asset(digest, "a.zip") == f"assets/{digest}/a.zip"


@pytest.mark.parametrize(
    "asset_id",
    ["", "asset-", "a" * 64, "asset-" + "a" * 63, "asset-" + "a" * 65, "asset-" + "A" * 64, "asset-" + "g" * 64,
     "asset-" + "a" * 64 + "\n", " asset-" + "a" * 64, "job-" + "a" * 64, "asset-../" + "a" * 61],
)  # fmt: skip
def test_what_is_no_asset_id_is_refused(asset_id):
    with pytest.raises(RequestError, match="is not an asset id") as caught:
        keys.sha256_of_asset(asset_id)
    assert repr(asset_id) in str(caught.value)
    assert caught.value.failure.code == "bad_asset_id"
