"""When a flow run of the service counts as lost, by what Prefect and the store say; real records, no processes."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import records
from lazy import lazy

from simyard.core.specs import JobSpec
from simyard.store.keys import JobKeys, new_job_id
from simyard.store.store import Store
from simyard.tasks.shared.heartbeat import PATIENCE

objects = lazy("prefect.client.schemas.objects")
recovery = lazy("simyard.service.recovery")

NOBODY = 2**22 + 1
"""No process has this number."""


class Job:
    """One job in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.id = new_job_id()
        spec = JobSpec(
            job_id=self.id, kind="train", name="n", simulator="isaaclab", task="T", library="rsl_rl", num_envs=1,
            max_iterations=1, seed=1,
        )  # fmt: skip
        store.put_json(JobKeys(self.id).job, spec.to_json())

    def attempt(self, number: int, *, pid: int, heard_s: float) -> None:
        """Write an attempt's heartbeat, of so many seconds ago."""
        heard = (datetime.now(UTC) - timedelta(seconds=heard_s)).isoformat(timespec="seconds")
        beat = records.status(pid=pid, updated_at=heard)
        self.store.put_json(JobKeys(self.id).attempt(number).status, beat)

    def outcome(self, number: int) -> None:
        self.store.put_json(JobKeys(self.id).attempt(number).outcome, records.outcome(status="failed"))

    def why(self, state: objects.StateType, since_s: float) -> str | None:
        """Return why it counts as lost, where its flow run has had this state for so long."""
        at = datetime.now(UTC) - timedelta(seconds=since_s)
        return recovery.why_lost(
            objects.FlowRun(flow_id=uuid4(), state=objects.State(type=state, timestamp=at)), self.store, self.id
        )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(Store.open(str(tmp_path)))


def test_a_flow_run_that_crashed_is_lost_unless_an_attempt_goes_on_elsewhere(job: Job) -> None:
    assert job.why(objects.StateType.CRASHED, 1)
    job.attempt(1, pid=os.getpid(), heard_s=1)
    assert job.why(objects.StateType.CRASHED, 1) is None
    job.outcome(1)
    assert job.why(objects.StateType.CRASHED, 1), "nobody is there to judge it"


def test_a_flow_run_that_starts_has_time(job: Job) -> None:
    assert job.why(objects.StateType.RUNNING, PATIENCE.flow_run.silence_s - 10) is None
    assert job.why(objects.StateType.RUNNING, PATIENCE.flow_run.silence_s + 10)
    assert job.why(objects.StateType.PENDING, PATIENCE.flow_run.silence_s + 10) is None, "its image is pulled, perhaps"
    assert job.why(objects.StateType.PENDING, PATIENCE.flow_run.starting_s + 10)


def test_an_attempt_whose_process_is_gone_is_lost_at_once(job: Job) -> None:
    job.attempt(1, pid=NOBODY, heard_s=5)
    assert job.why(objects.StateType.RUNNING, 60)


def test_a_flow_run_that_was_set_going_again_has_time_too(job: Job) -> None:
    job.attempt(1, pid=NOBODY, heard_s=60)
    assert job.why(objects.StateType.RUNNING, 10) is None, "its new process has not begun an attempt yet"
    assert job.why(objects.StateType.PENDING, 10) is None
    job.attempt(2, pid=os.getpid(), heard_s=1)
    assert job.why(objects.StateType.RUNNING, 10_000) is None


def test_between_two_attempts_there_is_time(job: Job) -> None:
    job.attempt(1, pid=os.getpid(), heard_s=1)
    job.outcome(1)
    assert job.why(objects.StateType.RUNNING, 10_000) is None, "the outcome was written just now"


def test_of_what_has_ended_a_flow_run_that_crashed_is_to_be_told_so(job: Job) -> None:
    job.store.put_json(JobKeys(job.id).result, records.result(job.id, status="failed", attempts=0))
    assert recovery.ended_as(job.store, job.id) == "failed"
    assert job.why(objects.StateType.CRASHED, 1)
    assert job.why(objects.StateType.RUNNING, 10_000) is None, "an export may follow it"
