"""How many GPUs may be held at once, against a real Prefect server: its limits, whose slots stand for GPUs."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from helpers import HANG_S, Server, wait_until
from lazy import lazy

from simyard import deployments
from simyard.core.errors import RequestError, WorkloadError
from simyard.core.specs import JobSpec
from simyard.store import keys
from simyard.tasks.attempt.attempt import Observer

pool_launch = lazy("simyard.tasks.cluster.pool_launch")
orchestration = lazy("prefect.client.orchestration")
apply = lazy("simyard.deployments.apply")
prefect_settings = lazy("prefect.settings")


def a_job(**changes: Any) -> JobSpec:
    return JobSpec(
        job_id=keys.new_job_id(), kind="train", name="n", simulator="isaaclab", task="T", library="rsl_rl",
        num_envs=1, max_iterations=1, seed=1, **{"gpus": 1, "priority": "high", **changes},
    )  # fmt: skip


class Held:
    """A job in a thread of its own."""

    def __init__(self) -> None:
        self.has, self.waits, self.leave = threading.Event(), threading.Event(), threading.Event()


class Jobs:
    """Jobs of one pool, each held by a thread of its own as each has a control flow of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pool = f"gpu-{uuid.uuid4().hex[:8]}"
        self.name = deployments.limit_of_pool(self.pool)
        self.held: list[tuple[Held, threading.Thread]] = []

    def limit(self, slots: int, name: str = "") -> None:
        with self.client() as client:
            apply.apply_limit(client, name or self.name, slots, lambda what, change: None)

    def taken(self, name: str = "") -> int:
        with self.client() as client:
            return int(client.read_global_concurrency_limit_by_name(name or self.name).active_slots)

    @contextmanager
    def client(self) -> Iterator[Any]:
        with (
            prefect_settings.temporary_settings({prefect_settings.PREFECT_API_URL: self.server.url}),
            orchestration.get_client(sync_client=True) as client,
        ):
            yield client

    @contextmanager
    def holds(
        self, spec: JobSpec, observer: Observer | None = None, store: str = "s3://robots/simyard", **how: Any
    ) -> Any:
        with (
            self.client() as client,
            pool_launch.holding(client, spec, store, self.pool, observer or Observer(), **how),
        ):
            yield

    def start(self, spec: JobSpec) -> Held:
        held = Held()

        def hold() -> None:
            with self.holds(spec, Observer(progress=lambda status: held.waits.set())):
                held.has.set()
                held.leave.wait(HANG_S)

        self.held.append((held, threading.Thread(target=hold)))
        self.held[-1][1].start()
        return held


@pytest.fixture
def jobs(prefect_server: Server) -> Iterator[Jobs]:
    found = Jobs(prefect_server)
    yield found
    for held, _ in found.held:
        held.leave.set()
    for _, thread in found.held:
        thread.join(60)
        assert not thread.is_alive()


def _no_waiting(status: dict[str, Any]) -> None:
    raise AssertionError(f"it waits: {status}")


def test_a_third_waits_until_one_of_two_leaves(jobs: Jobs) -> None:
    jobs.limit(2)
    first, second = jobs.start(a_job()), jobs.start(a_job())
    assert first.has.wait(HANG_S)
    assert second.has.wait(HANG_S)
    assert jobs.taken() == 2
    third = jobs.start(a_job())
    assert third.waits.wait(HANG_S)
    assert not third.has.wait(2), "it asks every second, and there is none"
    second.leave.set()
    assert third.has.wait(HANG_S)
    assert jobs.taken() == 2
    first.leave.set()
    third.leave.set()
    wait_until(lambda: jobs.taken() == 0, HANG_S, "that all slots are given back")


def test_a_job_of_two_gpus_holds_two(jobs: Jobs) -> None:
    jobs.limit(2)
    with jobs.holds(a_job(gpus=2)):
        assert jobs.taken() == 2
        waiting = jobs.start(a_job())
        assert waiting.waits.wait(HANG_S)
        assert not waiting.has.is_set()
    assert waiting.has.wait(HANG_S)


@pytest.mark.parametrize(
    ("job", "needs"), [({"gpus": 3}, 3), ({"gpus": 2, "nodes": 2}, 4)], ids=["one machine", "two machines"]
)
def test_more_than_is_allowed_at_all_is_refused_at_once(jobs: Jobs, job: dict[str, int], needs: int) -> None:
    jobs.limit(2)
    with pytest.raises(RequestError) as refused, jobs.holds(a_job(**job), Observer(progress=_no_waiting)):
        raise AssertionError("it got them")
    failure = refused.value.failure
    assert failure.code == "too_many_gpus"
    assert failure.message == f"The job needs {needs} GPUs at once, and {jobs.name!r} allows 2."
    assert "gpusPerNode" in failure.advice
    assert jobs.taken() == 0


def test_where_no_limit_is_nobody_waits(jobs: Jobs) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(jobs.holds(a_job(gpus=16), Observer(progress=_no_waiting)))


def test_a_job_on_the_cpu_holds_nothing(jobs: Jobs) -> None:
    jobs.limit(0)
    with jobs.holds(a_job(gpus=0), Observer(progress=_no_waiting)):
        assert jobs.taken() == 0


def test_a_project_has_a_limit_of_its_own(jobs: Jobs) -> None:
    project = f"lab-{uuid.uuid4().hex[:8]}"
    of_project, store = deployments.limit_of_project(project), f"job-store/fleet/projects/{project}"
    jobs.limit(4)
    jobs.limit(1, of_project)
    with jobs.holds(a_job(), store=store):
        assert jobs.taken(of_project) == 1
        waited: list[Any] = []
        canceled = Observer(progress=waited.append, canceled=lambda: bool(waited))
        with pytest.raises(WorkloadError), jobs.holds(a_job(), canceled, store):
            raise AssertionError("it got one")
        assert len(waited) == 1
        assert jobs.taken() == 1, "who waits for one limit holds none of the other"
        with jobs.holds(a_job(), Observer(progress=_no_waiting)):  # another project's
            assert jobs.taken() == 2
    with pytest.raises(RequestError, match=f"needs 2 GPUs at once, and '{of_project}' allows 1"):
        jobs.holds(a_job(gpus=2), store=store).__enter__()


def test_a_job_that_waits_can_be_canceled(jobs: Jobs) -> None:
    jobs.limit(1)
    with jobs.holds(a_job()):
        shown: list[Any] = []
        observer = Observer(progress=shown.append, canceled=lambda: len(shown) > 1)
        with pytest.raises(WorkloadError) as ended, jobs.holds(a_job(), observer):
            raise AssertionError("it got one")
        assert (ended.value.failure.code, ended.value.failure.category) == ("canceled", "canceled")
        assert [progress.stage for progress in shown] == ["waiting for a GPU"] * 2
        assert jobs.taken() == 1


def test_an_attempt_that_runs_already_does_not_wait(jobs: Jobs) -> None:
    jobs.limit(1)
    with jobs.holds(a_job()), jobs.holds(a_job(), Observer(progress=_no_waiting), wait=False):
        assert jobs.taken() == 1
    with jobs.holds(a_job(), wait=False):
        assert jobs.taken() == 1, "it takes one where there is one"


@pytest.mark.parametrize(
    ("reference", "project"),
    [
        ("s3://robots/simyard", "default"), ("s3://robots/simyard/projects/lab", "lab"),
        ("job-store/fleet/projects/lab/", "lab"), ("file:///data/projects/lab/more", "default"),
        ("file:///data/myprojects/lab", "default"), ("s3://robots/projects/LAB:/etc", "default"),
    ],
)  # fmt: skip
def test_a_stores_reference_tells_the_project(reference: str, project: str) -> None:
    assert keys.project_of(reference) == project


@pytest.mark.parametrize(
    ("job", "gpus"),
    [
        ({"gpus": None}, 1), ({"gpus": 0}, 0), ({"gpus": 2}, 2), ({"gpus": 4, "nodes": 2}, 8),
        ({"gpus": None, "nodes": 3}, 3),
    ],
)  # fmt: skip
def test_a_job_holds_what_it_asks_for(job: dict[str, Any], gpus: int) -> None:
    assert pool_launch.gpus_of(a_job(**job)) == gpus
