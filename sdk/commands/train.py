"""`simyard train`: check the request, let the simulator import while Prefect starts, then run the flow."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from simyard.blocks.reference import absolute, open_store
from simyard.commands.live import LiveLine
from simyard.requests import TrainRequest, read_config, train_request
from simyard.runner.errors import RequestError
from simyard.runner.spec import JobSpec
from simyard.runner.supervise import Workload
from simyard.site import Site
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks import history
from simyard.tasks.launch import refuse_succeeded
from simyard.tasks.resolve import Resolved, load_spec, resolve
from simyard.tasks.stage import stage
from simyard.tasks.workloads import check, start_workload


def run(
    config: Path | None, reference: str | None, pool: str | None, settings: tuple[str, ...], from_job: str | None,
    *, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Run a training job to its end.

    Raises:
        RequestError: If the request is bad; nothing was created then.
    """
    site = Site.from_env()
    reference = absolute(reference or site.store)
    store = open_store(reference)
    job_id = keys.new_job_id()
    if from_job is not None:
        if config is not None or settings:
            raise RequestError(
                "--from-job takes no CONFIG and no --set.", code="bad_command", advice="It runs the frozen job again."
            )
        again = replace(load_spec(store, from_job), job_id=job_id, from_job=from_job)
        return _execute(again, None, None, store, reference, pool, site, quiet=quiet)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file, or --from-job ID.")
    request = train_request(read_config(config, settings))
    base = config.resolve().parent
    resolved = resolve(request, store, job_id, base)
    return _execute(resolved.spec, request, base, store, reference, pool, site, quiet=quiet)


def rerun(job_id: str, reference: str | None, pool: str | None, *, quiet: bool) -> dict[str, Any]:
    """Make another attempt at a job that is in the store.

    Raises:
        RequestError: If there is no such job, or it has succeeded.
    """
    site = Site.from_env()
    reference = absolute(reference or site.store)
    store = open_store(reference)
    spec = load_spec(store, job_id)
    refuse_succeeded(store, job_id)
    if pool is None and history.job_status(store, job_id)["status"] == "running":
        raise RequestError(
            f"{job_id} is still running.",
            code="still_running",
            advice=f"Cancel it first, or wait: an attempt that died is known as such after {history.SILENCE_S:.0f} s.",
        )
    return _execute(spec, None, None, store, reference, pool, site, quiet=quiet)


def _execute(
    spec: JobSpec, request: TrainRequest | None, base: Path | None, store: Store, reference: str, pool: str | None,
    site: Site, *, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Check the job on the simulator where that is here, then run the flow."""
    live = LiveLine()
    # The simulator takes ten seconds to import: it starts before Prefect is so much as imported.
    # A job with packages of its own cannot use a process that imported without them.
    workload = None if pool or spec.packages else start_workload(site, spec.simulator, spec.library)
    try:
        with _prefect(pool, live, quiet=quiet):
            if workload:
                if not quiet:
                    live({"stage": "importing the simulator", "iteration": 0, "last_iteration": 0})
                workload, _ = check(workload, site, spec, None)
        return _run_flow(spec, request, base, store, reference, pool, workload, live, quiet=quiet)
    finally:
        if workload:
            workload.end(0.0)


@contextmanager
def _prefect(pool: str | None, live: LiveLine, *, quiet: bool) -> Iterator[None]:
    """Import Prefect, and start its server where none is configured, while the body runs."""
    # The live line is the console's; the flow's log goes to the server all the same.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    with ThreadPoolExecutor(1, "prefect") as executor:
        ready = executor.submit(_reach_server)
        yield
        if not quiet and not ready.done():
            live({"stage": "waiting for Prefect", "iteration": 0, "last_iteration": 0})
        ready.result()
    if pool:
        from simyard.tasks.pool import require_pool

        require_pool(pool)


def _reach_server() -> None:
    """Import the flows and make sure that a Prefect server answers: the configured one, or else one of our own.

    Raises:
        RequestError: If a server is configured and does not answer.
    """
    import_module("simyard.flows.train")
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    with get_client(sync_client=True) as client:  # starts a server where none is configured
        error = client.api_healthcheck()
    if error is not None:
        raise RequestError(
            f"The Prefect server at {PREFECT_API_URL.value()!r} does not answer: {error or type(error).__name__}.",
            code="no_prefect_server",
            advice="Start it (prefect server start), or unset PREFECT_API_URL to run without one.",
        ) from error


def _run_flow(
    spec: JobSpec, request: TrainRequest | None, base: Path | None, store: Store, reference: str, pool: str | None,
    workload: Workload | None, live: LiveLine, *, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from simyard.flows import stages
    from simyard.flows.train import rerun as rerun_flow
    from simyard.flows.train import train as train_flow

    stop = threading.Event()
    watcher = (lambda status: None) if quiet else live
    # Without a heartbeat: its thread holds a flow's end up by a second, and nobody would act on it here.
    with (
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        stages.inline(watcher, stop.is_set, workload),
        _interrupt(stop, live),
    ):
        if request is None:
            stage(Resolved(spec), store)
            rerun_flow(spec.job_id, reference, pool, return_state=True)
        else:
            train_flow(request, reference, pool, spec.job_id, base, return_state=True)
    result: dict[str, Any] = store.get_json(keys.JobKeys(spec.job_id).result)
    if not quiet:
        _say_ending(result, store, live)
    return result


@contextmanager
def _interrupt(stop: threading.Event, live: LiveLine) -> Iterator[None]:
    """Let the first Ctrl-C cancel the job in good order; a second one stops this process."""

    def handler(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        live.say("canceling: what was saved is kept (Ctrl-C again to leave at once)")

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _say_ending(result: dict[str, Any], store: Store, live: LiveLine) -> None:
    job = keys.JobKeys(result["job_id"])
    names = [entry["name"] for entry in result["artifacts"]]
    checkpoints = [name for name in names if name.startswith("checkpoints/")]
    reward = "" if result["reward"] is None else f", final reward {result['reward']:.2f}"
    live.say(f"{result['status']}: {result['iteration']} of {result['last_iteration']} iterations{reward}")
    if error := result["error"]:
        live.say(f"error:       {error['message']}\nadvice:      {error['advice']}")
    live.say(f"job:         {result['job_id']}")
    for note in result["notes"]:
        live.say(f"note:        {note}")
    if "curves.png" in names:
        live.say(f"curves:      {store.url(job.artifact('curves.png'))}")
    if checkpoints:
        live.say(f"checkpoints: {store.url(job.artifact('checkpoints'))} ({len(checkpoints)} files)")
    if "report.md" in names:
        live.say(f"report:      {store.url(job.artifact('report.md'))}")
