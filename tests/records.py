"""Whole documents of the store, as JSON, for tests that care about a few of their fields."""

from typing import Any

from simyard.core.errors import Category, Failure
from simyard.core.records import AttemptStatus, JobResult, Outcome, ended, this_process
from simyard.core.run_records import PolicyCheckpoint, PolicyEvaluation, PolicyRecord
from simyard.core.specs import Facts
from simyard.core.task_facts import TaskAgent, TaskEngine, TaskFacts, TaskGroup, TaskTerm

LOST = Failure(code="killed", category=Category.INFRA, message="It was killed.", advice="")
"""Failure of an attempt that another one makes good."""


def facts(device: str = "cpu") -> dict[str, Any]:
    """What a simulator says of a job."""
    return Facts(simulator="newton", version="1", flavor="api", device=device, rollout=1, overrides=()).to_json()


def status(**changes: Any) -> dict[str, Any]:
    """The heartbeat of a running attempt, written by this process now."""
    beat = AttemptStatus(
        status="running", stage="working", start_iteration=0, done=0, total=1, unit="iteration", reward=None,
        **this_process(), began_at="2026-01-01T10:00:00+00:00",
    )  # fmt: skip
    return beat.to_json() | changes


def outcome(failure: Failure | None = None, **changes: Any) -> dict[str, Any]:
    """The end of an attempt."""
    return Outcome(
        number=1, status=ended(failure), failure=failure, refused=False, start_iteration=0, done=1, total=1,
        unit="iteration", reward=None, exit_code=0, signal=None, end_marker=True, stopped_because=None, opened=(),
        facts=None, timings={"startup_s": 1.0, "train_s": 1.0, "total_s": 2.0},
    ).to_json() | changes  # fmt: skip


def result(job_id: str, failure: Failure | None = None, **changes: Any) -> dict[str, Any]:
    """The end of a job."""
    return JobResult(
        job_id=job_id, kind="train", status=ended(failure), store="file:///store", artifacts=(), attempts=1,
        error=failure, timings={}, done=1, total=1, unit="iteration", reward=None, summary=None, refused=False,
        notes=(), updated_at="2026-01-01T10:00:00+00:00",
    ).to_json() | changes  # fmt: skip


def policy(job_id: str, **changes: Any) -> PolicyRecord:
    """A policy that was promoted, or compared with the promoted one."""
    checkpoint = PolicyCheckpoint(name="model_3.pt", key=f"jobs/{job_id}/model_3.pt", sha256="0" * 64, iteration=4)
    evaluation = PolicyEvaluation(
        job_id="job-e", metric="return", mean=1.0, interval_95=(0.5, 1.5), episodes=20, seed=42
    )
    fields = {"checkpoint": checkpoint, "task": "T", "library": "rsl_rl", "evaluation": evaluation, **changes}
    return PolicyRecord(job_id=job_id, **fields)


def task(name: str, **changes: Any) -> dict[str, Any]:
    """What a simulator says of a registered task."""
    agent = TaskAgent(library="rsl_rl", name="default", key="rsl_rl_cfg_entry_point", installed=True)
    engine = TaskEngine(name="newton", presets=("newton_mjwarp",), missing=())
    return TaskFacts(
        task=name, title=f"Configuration of {name}.", kind="direct", agents=(agent,), engines=(engine,),
        engine="newton", control_period_s=0.02, episode_s=5.0, num_envs=64,
        observations=(TaskGroup(name="policy", size=4, terms=(TaskTerm(name=None, size=4),)),),
        actions=(TaskTerm(name=None, size=1),),
    ).to_json() | changes  # fmt: skip
