"""Run jobs: check the request, let the simulator import while Prefect starts, then run the flow of its kind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_camel

from simyard.cli.live import LiveLine
from simyard.cli.prefect_server import prefect_auth, require_access
from simyard.cli.shared import GO_ON, Terminated, open_site, open_site_store
from simyard.core.artifacts import ARTIFACTS
from simyard.core.errors import RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.files import scratch
from simyard.core.records import Estimate, JobResult
from simyard.core.run_records import Event
from simyard.core.specs import ONE_JOB, Bounds, JobSpec
from simyard.requests.config import check_config, model_of, read_config
from simyard.requests.jobs import (
    LATEST,
    EvaluateRequest,
    ExportRequest,
    FromJob,
    JobRequest,
    PolicyConfig,
    TrainRequest,
)
from simyard.requests.rollout import RolloutRequest
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.room import require_room
from simyard.tasks.attempt.view import refuse_without_viewer, require_viewer
from simyard.tasks.collect import collect
from simyard.tasks.kinds import KINDS, kind_of
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.kinds.policy_sources import training_of
from simyard.tasks.launch import HeadStart, refuse_succeeded, refuse_without_pool
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.fingerprint import Findings
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import history, usage
from simyard.tasks.shared.estimates import as_placed, as_told, estimate
from simyard.tasks.shared.heartbeat import PATIENCE
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.inputs import gather
from simyard.tasks.stage import stage

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def run(
    request: JobRequest, base: Path, reference: str | None, pool: str | None, *, quiet: bool, view: bool = False
) -> list[JobResult]:
    """Run a job to its end.

    Args:
        request: The checked request.
        base: Folder that its relative paths start from.
        reference: The store, as the user named it.
        pool: The work pool; None runs it in this process.
        quiet: Whether to print nothing.
        view: Whether to show its simulation while it runs, and say where.

    Returns:
        The job's result, and that of the job that followed it, if one did.

    Raises:
        RequestError: If the request is bad; nothing was created then.
    """
    machine, reference, store = open_site(reference)
    resolved = resolve(request, store, keys.new_job_id(), base)
    return execute(resolved, request, store, reference, pool, machine, quiet=quiet, view=view)


def repeat(
    from_job: str, reference: str | None, pool: str | None, *, quiet: bool, view: bool = False
) -> list[JobResult]:
    """Run a job again from its frozen spec, as a new job; the options are those of `run`.

    Raises:
        RequestError: If there is no such job.
    """
    machine, reference, store = open_site(reference)
    again = replace(load_spec(store, from_job), job_id=keys.new_job_id(), from_job=from_job)
    return execute(Resolved(again), None, store, reference, pool, machine, quiet=quiet, view=view)


def resume(job_id: str, reference: str | None, pool: str | None, *, quiet: bool) -> list[JobResult]:
    """Make another attempt at a job that is in the store.

    Raises:
        RequestError: If there is no such job, or it has succeeded.
    """
    machine, reference, store = open_site(reference)
    spec = load_spec(store, job_id)
    refuse_succeeded(store, job_id)
    is_running = history.job_status(store, job_id).status == "running" and not history.is_abandoned(store, job_id)
    if (pool or machine.pool) is None and is_running:
        known_s = PATIENCE.supervisor.silence_s
        raise RequestError(
            f"{job_id} is still running.",
            code="still_running",
            advice=f"Cancel it first, or wait: an attempt that died is known as such after {known_s:.0f} s.",
        )
    return execute(Resolved(spec), None, store, reference, pool, machine, quiet=quiet)


def run_all(configs: Sequence[Path], reference: str | None, pool: str | None, *, quiet: bool) -> list[JobResult]:
    """Run the job of each config; the first that does not succeed is the last.

    Args:
        configs: JSON files of any kinds.
        reference: The store, as the user named it.
        pool: The work pool; None runs them in this process.
        quiet: Whether to print nothing.

    Returns:
        The results of the jobs that ran.

    Raises:
        RequestError: If one of them is bad; when its config tells that, nothing was created.
    """
    machine, reference, store = open_site(reference)

    # All configs are checked before the first job runs. One without a policy takes that of the training before it.
    steps: list[tuple[Path, JobRequest, str]] = []
    trained: str | None = None
    for path in configs:
        config = read_config(path, TrainRequest)
        model = model_of(config)
        if trained is not None and model is not TrainRequest:
            config = _with_policy(config, model, trained)
        steps.append((path, check_config(config, model), keys.new_job_id()))
        if model is TrainRequest:
            trained = steps[-1][2]

    results: list[JobResult] = []
    live = LiveLine(quiet=quiet)
    with Sessions(machine, Bounds()) as sessions:
        for number, (path, request, job_id) in enumerate(steps, start=1):
            resolved = resolve(request, store, job_id, path.resolve().parent)
            if len(steps) > 1:
                live.say(f"{number} of {len(steps)}: {request.name}")
            results += execute_in(sessions, resolved, request, store, reference, pool, quiet=quiet)
            if results[-1].status != "succeeded":
                if left := [str(other) for other, *_ in steps[number:]]:
                    live.insist(f"not run:     {', '.join(left)}")
                break
    return results


def _with_policy(config: dict[str, Any], model: type[JobRequest], trained: str) -> dict[str, Any]:
    """Name the training as the source of the policy, where a policy is needed and none is named."""
    if model is RolloutRequest:
        control = config.get("control")
        if not isinstance(control, dict) or control.get("task_mode") != "policy" or "policy" in config:
            return config
        return config | {"policy": {"from_job": {"job_id": trained}}}
    assert model.SECTION is not None
    key = next(name for name in (model.SECTION, to_camel(model.SECTION)) if name in config)
    section = config[key]
    if not isinstance(section, dict) or any(name in section for s in PolicyConfig.SOURCES for name in (s, to_camel(s))):
        return config
    return config | {key: section | {"fromJob": {"jobId": trained}}}


def run_detached(name: str, arguments: list[str], reference: str, pool: str | None, machine: MachineSettings) -> None:
    """Start `simyard ARGUMENTS` in a process of its own, which outlives this one and its terminal.

    Args:
        name: Of what it does; what it prints goes to a log of that name below the site's home.
        arguments: Of the command.
        reference: The store.
        pool: The work pool, if one is to be used.
        machine: Settings of this machine.
    """
    log = machine.home / "work" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "simyard", *arguments, "--store", reference]
    with log.open("ab") as output:
        subprocess.Popen(
            [*command, *(["--pool", pool] if pool else [])],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def newest_training(reference: str | None) -> str:
    """Return the id of the newest training that has succeeded.

    Raises:
        RequestError: If the store has none.
    """
    training = training_of(FromJob(job_id=LATEST), open_site_store(reference))
    assert training is not None
    return training.job_id


def execute(
    resolved: Resolved,
    request: JobRequest | None,
    store: Store,
    reference: str,
    pool: str | None,
    machine: MachineSettings,
    *,
    quiet: bool,
    view: bool = False,
) -> list[JobResult]:
    """Run a job, and the one that follows it if one does, in a simulator of this command's own or a warm one.

    A simulation that is to be shown has one of its own: a warm one may be in a container, with another loopback.
    """
    if view:
        require_viewer(resolved.spec, pool or machine.pool, machine)
        machine = replace(machine, sessions=False)
    several = isinstance(request, TrainRequest) and request.training_config.export_policy
    with Sessions(machine, Bounds() if several else ONE_JOB) as sessions:
        return execute_in(sessions, resolved, request, store, reference, pool, quiet=quiet, view=view)


def execute_in(
    sessions: Sessions, resolved: Resolved, request: JobRequest | None, store: Store, reference: str, pool: str | None,
    *, quiet: bool, view: bool = False,
) -> list[JobResult]:  # fmt: skip
    """Check a new job on the simulator where that is here, stage it, then run the flow that takes it to its end.

    A job that is in the store already is checked in its attempt: there a refusal is written down as the job's end.

    Args:
        sessions: Where its simulator comes from.
        resolved: The job.
        request: What the flow run shows, and its kind of flow; None has the flow go on with a job that is there.
        store: Where the job is to be, or is.
        reference: The same, as the flow names it.
        pool: The work pool; by default the site's.
        quiet: Whether to print nothing.
        view: Whether to show its simulation, in a simulator that serves no other job.

    Returns:
        The results, that of a job that followed it last.

    Raises:
        RequestError: If the job is refused; nothing was created then.
    """
    job_id = resolved.spec.job_id
    pool = pool or sessions.machine.pool
    refuse_without_pool(resolved.spec, pool)
    is_new = not store.exists(keys.JobKeys(job_id).job)
    live, stop = LiveLine(quiet=quiet), threading.Event()
    head_start: HeadStart | None = None
    with ExitStack() as stack:
        # A warm simulator answers in a moment, and works on the first attempt while Prefect is imported.
        is_warm = pool is None and start_ahead(resolved, store, sessions)
        told = None
        if is_new:
            told = told_of(resolved.spec, store, pool, sessions.machine)
            live.say(f"estimate:    {as_told(told, resolved.spec)}")
        if is_warm:
            check_ahead(resolved, store, sessions, live)
            if is_new and (_starts_server() or _server_answers()):
                stack.enter_context(_interrupt(stop, live))
                stage(resolved, store, told)
                head_start = HeadStart(resolved.spec, store, sessions, live, stop.is_set)

        # A cold one imports side by side with Prefect.
        try:
            with prefect_ready(pool, live, head_start):
                if pool is None and not is_warm:
                    check_ahead(resolved, store, sessions, live, view=view)
        except BaseException as error:
            if head_start is not None:
                head_start.interrupt(error)
                if isinstance(error, SimyardError):  # no flow will judge the job
                    persist(resolved.spec, collect(resolved.spec, store, error.failure), store)
                    raise _said_to_go_on(error, job_id) from error
            raise

        # Nothing can refuse the job any more. From here on it is in the store, and Ctrl-C cancels it in good order.
        stack.enter_context(in_this_process(sessions, live, stop=stop, head_start=head_start, view=view))
        if is_new and head_start is None:
            stage(resolved, store, told)
        state = _run_flow(job_id, request, reference, pool)

    # The store judges, not the state of the flow run.
    result = store.get_record_or_none(keys.JobKeys(job_id).result, JobResult)
    if result is None:
        try:
            state.result()  # raises what kept the flow from writing one
        except RequestError:
            raise
        except SimyardError as error:
            raise _said_to_go_on(error, job_id) from error
        raise StoreError(f"{job_id} ended without a result.", code="no_result", advice="Run it again.")
    follower = store.get_record_or_none(keys.JobKeys(keys.follow_up_job_id(job_id, "export")).result, JobResult)
    results = [result, *([follower] if follower else [])]
    for ended in results:
        say_ending(ended, store, live)
    return results


def _said_to_go_on(error: SimyardError, job_id: str) -> WorkloadError:
    """Return the error of a job that is in the store: its advice names the command that goes on with it."""
    again = f"{error.failure.advice} The job is in the store: `simyard jobs resume {job_id}` goes on with it."
    return WorkloadError(replace(error.failure, advice=again))


def told_of(spec: JobSpec, store: Store, pool: str | None, machine: MachineSettings) -> Estimate:
    """Return the estimate of a new job."""
    return estimate(as_placed(spec, pool), store, machine.usd_per_gpu_hour)


def start_ahead(resolved: Resolved, store: Store, sessions: Sessions, count: int = 1) -> bool:
    """Start simulators for a new job, unless an earlier check tells that it is refused; return whether all are warm.

    A simulator takes ten seconds to import: it starts before Prefect is so much as imported.

    Raises:
        RequestError: If it is; nothing was started then.
    """
    if not store.exists(keys.JobKeys(resolved.spec.job_id).job):
        Findings(sessions.machine, resolved.spec).refuse()
    return sessions.start_ahead(resolved.spec, store.url(), count)


def check_ahead(resolved: Resolved, store: Store, sessions: Sessions, live: LiveLine, *, view: bool = False) -> None:
    """Check a new job on the simulator, before anything of it is in the store, and whether it can be shown.

    A job with packages of its own is checked in its attempt: installing them may run code for minutes.

    Raises:
        RequestError: If the simulator's environment refuses it.
        WorkloadError: If there is too little room for what it will write.
    """
    spec = resolved.spec
    if spec.packages or store.exists(keys.JobKeys(spec.job_id).job):
        return
    with scratch("check") as folder:
        files = gather(kind_of(spec).inputs(spec, spec.resume), resolved.inputs, store, folder)
        lease = sessions.take(spec, store.url())
        what = "checking" if lease.workload.is_warm else "importing the simulator"
        try:
            with live.waiting(what):
                facts = lease.check(spec, None, files)
            if view:
                refuse_without_viewer(facts)
        except RequestError:
            Findings(sessions.machine, spec).learn(lease.workload)
            raise
        else:
            Findings(sessions.machine, spec).learn(lease.workload)
            require_room(facts.room, sessions.machine.home, store)
        finally:
            lease.keep()


@contextmanager
def prefect_ready(pool: str | None, live: LiveLine, head_start: HeadStart | None = None) -> Iterator[None]:
    """Import Prefect, and start its server where none is configured, while the body runs.

    The wait for it is shown when the head start, which has the line until then, has ended.
    """
    # The live line is the console's; the flow's log goes to the server all the same.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # A server that is away costs Prefect some events, and a person nothing: no traceback for each.
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    # Prefect gives its own server 20 s, which a machine that has read none of its files yet needs for the import.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    with ThreadPoolExecutor(1, "prefect") as executor:
        refused = threading.Event()
        ready = executor.submit(_reach_server, refused)
        try:
            yield
        except BaseException:
            refused.set()
            raise
        if head_start is not None:
            wait([ready, head_start.ending], return_when=FIRST_COMPLETED)
        with nullcontext() if ready.done() else live.waiting("waiting for Prefect"):
            ready.result()
    if pool:
        from simyard.tasks.cluster.pool_launch import require_pool

        require_pool(pool)


def _reach_server(refused: threading.Event) -> None:
    """Import the flows and make sure that a Prefect server answers: the configured one, or else one of our own.

    Args:
        refused: Set when nothing will be run: no server is started then.

    Raises:
        RequestError: If a server is configured and does not answer, or our own does not come up.
    """
    gc.disable()  # an import makes many objects and no garbage
    try:
        import_module("simyard.flows.train")  # it brings in the others that may be needed
    finally:
        gc.enable()
    if refused.is_set():
        return
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    try:
        with get_client(sync_client=True) as client:  # starts a server where none is configured
            if (error := client.api_healthcheck()) is None:
                require_access(client)
    except RuntimeError as failed:
        raise RequestError(
            f"Prefect could not start a server of its own: {failed}",
            code="no_prefect_server",
            advice="Run again; or start one (prefect server start) and name it in PREFECT_API_URL.",
        ) from failed
    if error is not None:
        raise RequestError(
            f"The Prefect server at {PREFECT_API_URL.value()!r} does not answer: {error or type(error).__name__}.",
            code="no_prefect_server",
            advice="Start it (prefect server start), or unset PREFECT_API_URL to run without one.",
        ) from error


def _starts_server() -> bool:
    """Return whether nothing names a Prefect server, so that Prefect starts one of its own: told without Prefect."""
    if {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"} & os.environ.keys():
        return False
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    if any(path.exists() for path in (home / "profiles.toml", Path("prefect.toml"), Path(".env"))):
        return False  # Prefect's own rules say which of them counts
    project = Path("pyproject.toml")
    return not project.is_file() or b"[tool.prefect" not in project.read_bytes()


def _server_answers() -> bool:
    """Return whether the Prefect server that the environment names is there: asked without Prefect."""
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        return False
    headers = {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"} if (auth := prefect_auth()) else {}
    try:
        # An address that only those may read who may start something, too.
        asked = urllib.request.Request(f"{url}/admin/version", headers=headers)
        with urllib.request.urlopen(asked, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False  # Prefect's own client may know better, and says what is wrong


def _run_flow(job_id: str, request: JobRequest | None, reference: str, pool: str | None) -> State[Any]:
    """Have the flow of its kind, or that which goes on with any, take the staged job to its end."""
    from prefect import tags

    from simyard.flows.evaluate import evaluate
    from simyard.flows.export_policy import export_policy
    from simyard.flows.rollout import rollout
    from simyard.flows.train import resume_job, train

    if request is None:
        with tags(job_id):
            return resume_job(job_id, reference, pool, return_state=True)
    flows: dict[type[JobRequest], Any] = {
        TrainRequest: train, EvaluateRequest: evaluate, ExportRequest: export_policy, RolloutRequest: rollout,
    }  # fmt: skip
    with tags(job_id):  # by which it is found, should this process be killed
        state: State[Any] = flows[type(request)](request, reference, pool, job_id, return_state=True)
    return state


@contextmanager
def in_this_process(
    sessions: Sessions, live: LiveLine, *, on_event: Callable[[Event], None] = lambda event: None,
    stop: threading.Event | None = None, head_start: HeadStart | None = None, view: bool = False,
) -> Iterator[None]:  # fmt: skip
    """Have flows that the body runs use these simulators, show their progress, and end in good order at Ctrl-C."""
    from simyard.flows import stages

    stop = stop or threading.Event()
    given = stages.Inline(
        on_progress=live, on_event=on_event, canceled=stop.is_set, sessions=sessions, head_start=head_start,
        on_viewer=(lambda url: live.insist(f"viewer:      {url}")) if view else None,
    )  # fmt: skip
    with stages.inline(given), _interrupt(stop, live):
        yield


@contextmanager
def _interrupt(stop: threading.Event, live: LiveLine) -> Iterator[None]:
    """Let the first Ctrl-C cancel the job in good order; a second one, or SIGTERM, stops this process."""

    def handler(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(f"Left before the end was written. What was saved is kept: {GO_ON}")
        stop.set()
        live.insist("canceling: what was saved is kept (Ctrl-C again to leave at once)")

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    # Prefect puts its own handler of SIGTERM over this one while a flow runs, and sends the signal again at its end.
    handlers = {signal.SIGINT: handler, signal.SIGTERM: terminate}
    previous = {number: signal.signal(number, one) for number, one in handlers.items()}
    try:
        yield
    finally:
        for number, one in previous.items():
            signal.signal(number, one)


def say_ending(result: JobResult, store: Store, live: LiveLine) -> None:
    """Print the result of a job, and the URLs of its main artifacts."""
    job = keys.JobKeys(result.job_id)
    live.say(f"{result.status}: {KINDS[result.kind].headline(result)}")
    if result.error:
        live.say(f"error:       {result.error.message}\nadvice:      {result.error.advice}")
    live.say(f"job:         {result.job_id}")
    if result.cost and result.cost.gpu_seconds:
        live.say(f"cost:        {usage.cost_in_words(result.cost)}")
    for note in result.notes:
        live.say(f"note:        {note}")
    for row in ARTIFACTS:
        count = sum(row.covers(entry.name) for entry in result.artifacts)
        if row.label and count:
            many = f" ({count} files)" if row.is_folder else ""
            live.say(f"{row.label + ':':12} {store.url(job.artifact(row.name.removesuffix('/')))}{many}")
