"""A sweep: settings and seeds of one training, each a job, until all are measured and the best is known.

`_drive` is the loop. A training is a Prefect task, whose stages are those of any job: a flow run costs seconds.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from simyard.blocks.reference import absolute, open_store
from simyard.core.errors import Category, StoreError
from simyard.core.records import JobResult
from simyard.core.sweep_records import SeedRun, SweepResult
from simyard.flows import notices, stages
from simyard.flows.driving import observing, through_outages
from simyard.flows.endings import ended
from simyard.flows.stages import ENDING_S, PLAIN, RETRYING, sharing, untagged
from simyard.requests.settings import MachineSettings
from simyard.requests.sweeps import SweepRequest
from simyard.store import keys
from simyard.store.keys import SweepKeys
from simyard.tasks.cluster.cancellation import why_stopped
from simyard.tasks.cluster.flow_run_watch import crash_killed
from simyard.tasks.metrics.table import import_plotting
from simyard.tasks.shared.control import PULSE_S
from simyard.tasks.sweeps import plan, record
from simyard.tasks.sweeps.loop import Loop
from simyard.tasks.sweeps.report import REPORT
from simyard.tasks.sweeps.state import Piece

_SIDE_BY_SIDE: Any = ThreadPoolTaskRunner(max_workers=256)


@flow(name="sweep", flow_run_name="{request.name}", task_runner=_SIDE_BY_SIDE)
def sweep(
    request: SweepRequest,
    store: str | None = None,
    pool: str | None = None,
    sweep_id: str | None = None,
    base: Path | None = None,
) -> State[dict[str, Any]]:
    """Train several settings over several seeds, and say which is better and whether that is more than luck.

    Args:
        request: The training, its parameters, and how to choose.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        sweep_id: Id for the sweep; by default made from the flow run's, so that a retried flow run goes on with it.
        base: Folder that relative paths of the request start from.
    """
    store = absolute(store or MachineSettings.from_env().store)
    sweep_id = sweep_id or keys.sweep_id_of_run(UUID(flow_run.id), flow_run.scheduled_start_time)
    freeze(request, store, sweep_id, base)
    return _ending(_drive_through_outages(sweep_id, store, pool))


@flow(name="resume-sweep", flow_run_name="{sweep_id}", task_runner=_SIDE_BY_SIDE)
def resume_sweep(sweep_id: str, store: str | None = None, pool: str | None = None) -> State[dict[str, Any]]:
    """Go on with a sweep that nobody drives any more, where it stopped.

    Args:
        sweep_id: Which sweep: `sweep-…`, as `simyard sweep list` shows it.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
    """
    return _ending(_drive_through_outages(sweep_id, absolute(store or MachineSettings.from_env().store), pool))


def _drive_through_outages(sweep_id: str, store: str, pool: str | None) -> SweepResult:
    """Take a sweep that is in the store to its end, whatever is away for a while, and return its result."""
    pool = pool or MachineSettings.from_env().pool
    with untagged():
        result = through_outages(lambda: _drive(sweep_id, store, pool), get_run_logger().warning)
        report(sweep_id, store)
    notices.tell_sweep(result)
    return result


def _drive(sweep_id: str, store: str, pool: str | None) -> SweepResult:
    """Train one setting after another, as many side by side as there is room for, and return the sweep's result."""
    running: dict[PrefectFuture[Any], Piece] = {}
    ended: queue.SimpleQueue[PrefectFuture[Any]] = queue.SimpleQueue()
    with _driving(sweep_id, store, pool) as loop:
        try:
            while True:
                # Begin what may be begun. A decision, to suggest or promote say, is written before it is acted on.
                for piece in loop.pieces():
                    running[future := trial.submit(piece, store, pool)] = piece
                    future.add_done_callback(ended.put)
                if loop.is_over:
                    break

                # Take what has ended into account; what was measured is written before anything follows from it.
                with suppress(queue.Empty):
                    future = ended.get(timeout=PULSE_S)
                    loop.take(running.pop(future), future.result(raise_on_failure=False))
        except (StoreError, httpx.HTTPError):
            wait([*running])  # they are taken up again, and must not be in progress then
            raise
        loop.raise_if_broken()
        return loop.conclude()


_DRIVEN: ContextVar[Loop] = ContextVar("driven")
"""Prefect runs a task in a copy of the context of the flow that calls it, in whatever thread."""


@contextmanager
def _driving(sweep_id: str, store: str, pool: str | None) -> Iterator[Loop]:
    """Have this process drive the sweep while the body runs."""
    opened = open_store(store)
    spec = plan.load_sweep(opened, sweep_id)
    import_plotting()
    with sharing() as given, Loop(spec, opened, observing(given), in_pool=pool is not None) as loop:
        crash_killed(sweep_id)  # no other process drives the sweep
        # The jobs end with the sweep, and their progress is the sweep's.
        own = replace(given, on_progress=lambda progress: None, canceled=lambda: loop.control.why_stopped() is not None)
        token = _DRIVEN.set(loop)
        try:
            with stages.inline(own):
                loop.check(None if pool else given.sessions)
                yield loop
        except TerminationSignal as error:
            loop.stop(canceled=why_stopped(error).category is Category.CANCELED, within_s=ENDING_S)
            raise
        finally:
            _DRIVEN.reset(token)


@task(name="freeze", **RETRYING)
def freeze(request: SweepRequest, store: str, sweep_id: str, base: Path | None) -> None:
    """Fix everything about the sweep; one that is in the store already stays as it was frozen."""
    opened = open_store(store)
    if not opened.exists(SweepKeys(sweep_id).sweep):
        machine = MachineSettings.from_env()
        plan.stage_sweep(plan.resolve_sweep(request, opened, sweep_id, base or Path.cwd(), machine), opened)


@task(name="trial", task_run_name="setting {piece.setting} seed {piece.seed} to {piece.iterations}", **PLAIN)
def trial(piece: Piece, store: str, pool: str | None) -> SeedRun | None:
    """Train a setting with one seed and measure it; None where nothing may be begun any more."""
    return _DRIVEN.get().train(piece, partial(_run, store=store, pool=pool))


def _run(job_id: str, store: str, pool: str | None) -> JobResult:
    """Take a staged job to its end by the stages of any job."""
    failure = stages.launch(job_id, store, pool)
    return stages.persist(job_id, stages.collect(job_id, store, failure), store)


@task(name="report", **RETRYING)
def report(sweep_id: str, store: str) -> None:
    """Publish the sweep's report in the Prefect UI."""
    opened, sweep_keys = open_store(store), SweepKeys(sweep_id)
    key = sweep_id.lower()
    text = opened.get_bytes(sweep_keys.artifact(REPORT)).decode()
    create_markdown_artifact(text, key=f"{key}-report")
    create_link_artifact(opened.url(sweep_keys.prefix), key=f"{key}-store", link_text="The sweep's files")


def _ending(result: SweepResult) -> State[dict[str, Any]]:
    return ended(result.status, result.to_json(), record.summary(result), result.error)
