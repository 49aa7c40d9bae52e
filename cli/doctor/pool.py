"""A work pool for `simyard doctor`: its deployments, queues, workers and image, and the report of its machine."""

from __future__ import annotations

import json
import math
import secrets
import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from simyard.blocks.reference import absolute
from simyard.cli.doctor.server import ASK_S, Server, one_line
from simyard.cli.prefect_server import is_loopback
from simyard.core.errors import SimyardError
from simyard.deployments import POOL_TYPES, pool_template
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.cluster.flow_run_watch import FlowRunWatch, withdraw
from simyard.tasks.shared.heartbeat import Patience
from simyard.tasks.shared.machine_checks import Check

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, WorkPool

HEARD_S = 60.0
"""Seconds in which a worker must have sent a heartbeat."""
_TYPES_ADVICE = f"Use a pool of one of these types: {', '.join(POOL_TYPES)}."
MACHINE_S = 120.0
"""Seconds for a machine of the pool to report."""
POLL_S = 0.5
BUSY_RETRIES = 5
"""Prefect's own default."""
_MACHINE = "machine"
_FLOW = "check-machine"


@dataclass(frozen=True)
class Pool:
    """A work pool that exists."""

    server: Server
    """The server that has it."""
    work_pool: WorkPool
    """The pool, as the server describes it."""

    def default(self, variable: str) -> Any:
        """Return a variable's default in its base job template; None if it has none."""
        return _defaults(self.work_pool.base_job_template).get(variable)


@dataclass(frozen=True)
class Queues:
    """The work queues of a pool."""

    pool: Pool
    """The pool that has them."""
    present: frozenset[str]
    """The names of all."""
    running: frozenset[str]
    """The names of those that are not paused."""


def find_pool(server: Server, name: str) -> Pool | Check:
    """Return the pool of a name, or the check that says that there is none."""
    from prefect.exceptions import ObjectNotFound

    try:
        return Pool(server, server.client.read_work_pool(name))
    except ObjectNotFound:
        known = ", ".join(repr(pool.name) for pool in server.client.read_work_pools()) or "none"
        quoted = shlex.quote(name)
        fix = f"simyard deploy --pool {quoted} --type process; or docker, kubernetes, ecs, with --image IMAGE."
        return Check("pool", "failed", f"there is no pool {name!r}; there are: {known}", fix)


def check_pool(pool: Pool) -> Check:
    """Say whether the pool starts anything."""
    name, found = "pool", pool.work_pool
    if found.is_paused:
        fix = f"prefect work-pool resume {shlex.quote(found.name)}"
        return Check(name, "failed", f"{found.name!r} is paused: nothing starts", fix)
    if found.type not in POOL_TYPES:
        text = f"{found.name!r} is of type {found.type!r}, which simyard does not know"
        return Check(name, "warning", text, _TYPES_ADVICE)
    if found.type != "process" and not pool.default("image"):
        return Check(name, "failed", f"{found.name!r} names no image for its containers", deploy_line(pool))
    return Check(name, "ok", f"{found.name!r}, of type {found.type}")


def warn_of_loopback(pool: Pool) -> Check | None:
    """Return a warning where containers of the pool cannot reach the server under its address."""
    from prefect.settings import PREFECT_API_URL

    url, kind = PREFECT_API_URL.value() or "", pool.work_pool.type
    if kind == "process" or not is_loopback(url):
        return None
    if pool.default("network_mode") == "host" or "PREFECT_API_URL" in (pool.default("env") or {}):
        return None
    return Check(
        "server address", "warning",
        f"{urlsplit(url).hostname} is this machine: containers of a {kind} pool that are given it do not come back",
        "Have the server listen where they reach it (`prefect server start --host 0.0.0.0`, with a password), and "
        "give the worker that address in PREFECT_API_URL.",
    )  # fmt: skip


def check_deployments(pool: Pool) -> Check:
    """Say whether the pool has the deployments of the flows that run where the simulator is."""
    from prefect.exceptions import ObjectNotFound

    from simyard.deployments import GPU_SIDE

    name, own = "deployments", pool.work_pool.name
    wrong = []
    for flow, (module, _) in GPU_SIDE.items():
        try:
            known = pool.server.client.read_deployment_by_name(f"{flow}/{own}")
        except ObjectNotFound:
            wrong.append(f"{flow} is missing")
            continue
        if known.work_pool_name != own:
            wrong.append(f"{flow} is of pool {known.work_pool_name!r}")
        elif known.entrypoint != f"simyard.flows.{module}.{module}":
            wrong.append(f"{flow} runs {known.entrypoint!r}")
        elif known.paused:
            wrong.append(f"{flow} is paused")
    if wrong:
        return Check(name, "failed", ", ".join(wrong), deploy_line(pool))
    return Check(name, "ok", ", ".join(GPU_SIDE))


def read_queues(pool: Pool) -> Queues:
    """Return the pool's work queues."""
    found = pool.server.client.read_work_queues(work_pool_name=pool.work_pool.name)
    running = frozenset(queue.name for queue in found if not queue.is_paused)
    return Queues(pool, frozenset(queue.name for queue in found), running)


def check_queues(queues: Queues) -> Check:
    """Say whether there is a queue for each priority of jobs, and none of them is paused."""
    from simyard.deployments import QUEUES

    name = "queues"
    if missing := [queue for queue in QUEUES.values() if queue not in queues.present]:
        return Check(name, "failed", f"missing: {', '.join(missing)}", deploy_line(queues.pool))
    if paused := [queue for queue in QUEUES.values() if queue not in queues.running]:
        fix = f"prefect work-queue resume {paused[0]} --pool {shlex.quote(queues.pool.work_pool.name)}"
        return Check(name, "failed", f"paused: {', '.join(paused)}", fix)
    return Check(name, "ok", ", ".join(QUEUES.values()))


def check_worker(pool: Pool) -> Check:
    """Return the check of the pool's workers; `ok` if any has sent a heartbeat lately."""
    name, own, kind = "worker", pool.work_pool.name, pool.work_pool.type
    # Heartbeats are stamped by the server.
    now = datetime.now(UTC).timestamp() + (pool.server.ahead_s or 0.0)
    online: list[tuple[float, str]] = []
    gone: list[tuple[float, str]] = []
    for worker in pool.server.client.read_workers_for_work_pool(own):
        if worker.last_heartbeat_time is None:
            continue
        age_s = max(0.0, now - worker.last_heartbeat_time.timestamp())
        patience_s = max(HEARD_S, 3.0 * (worker.heartbeat_interval_seconds or 0))
        is_online = worker.status.value == "ONLINE" and age_s <= patience_s
        (online if is_online else gone).append((age_s, worker.name))
    if online:
        heard = ", ".join(f"{worker!r} heartbeat {age_s:.0f} s ago" for age_s, worker in sorted(online)[:5])
        return Check(name, "ok", f"{len(online)} of type {kind}: {heard}")
    last = f"; the last is of {min(gone)[1]!r}, {min(gone)[0] / 60:.0f} minutes ago" if gone else ""
    extra = f", after pip install 'simyard[{kind}]'" if kind in ("docker", "kubernetes") else ""
    return Check(
        name, "failed", f"pool {own!r} has no worker with a heartbeat in the last {HEARD_S:.0f} s{last}",
        f"Where the GPU is: prefect worker start --pool {shlex.quote(own)} --type {kind}{extra}",
    )  # fmt: skip


def deploy_line(pool: Pool) -> str:
    """Return the command that makes the pool whole, and leaves what its template has been told as it is."""
    found = pool.work_pool
    if found.type not in POOL_TYPES:
        return _TYPES_ADVICE
    words = ["simyard", "deploy", "--pool", found.name, "--type", found.type]
    ours, theirs = _defaults(pool_template(found.type)), _defaults(found.base_job_template)
    for variable in ours:
        value: Any = theirs.get(variable)
        if value in (None, ours[variable]) and variable != "image":
            continue
        if variable == "image":
            words += ["--image", str(value or "IMAGE")]
        elif variable == "env":
            given = dict(value)
            if given.pop("SIMYARD_ACCEPT_NVIDIA_EULA", None) == "on":
                words += ["--accept-nvidia-eula"]
            # Values may be secrets: what stands here is no JSON, so it is refused until they are given.
            names = ", ".join(f"{json.dumps(key)}: …" for key in given)
            words += ["--set", f"env={{{names}}}"] if given else []
        else:
            words += ["--set", f"{variable}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _defaults(template: dict[str, Any]) -> dict[str, Any]:
    properties = template.get("variables", {}).get("properties", {})
    return {name: schema.get("default") for name, schema in properties.items()}


def check_projects(pool: Pool, store: Store) -> Check:
    """Say what the attempts of several projects share in the pool, whatever code they run."""
    from simyard.deployments.apply import shares_home

    name, projects = "projects", store.list_dirs(keys.PROJECTS)
    if not projects:
        return Check(name, "ok", "the store has one: nobody to be kept apart")
    shared = ["the auth string of the Prefect server", "the credentials of the whole store"]
    if pool.work_pool.type == "process":
        shared.insert(0, "the worker's user and its files")
    elif shares_home(pool.work_pool):
        shared.insert(0, "the caches of compiled code")
    return Check(
        name, "warning", f"{len(projects) + 1} projects, whose attempts share {', '.join(shared)}",
        "Give projects that do not trust each other a site each, with keys of a bucket's prefix: docs/security.md.",
    )  # fmt: skip


def check_image(pool: Pool) -> Check:
    """Say whether the image of the pool's containers is there, or how to see whether it is."""
    name, kind, image = "image", pool.work_pool.type, pool.default("image")
    if kind == "process" or not image:
        return Check(name, "skipped", f"pool {pool.work_pool.name!r} has none")
    quoted = shlex.quote(str(image))
    if kind != "docker":
        command = f"docker manifest inspect {quoted}"
        if kind == "kubernetes":
            space = shlex.quote(str(pool.default("namespace") or "default"))
            run = f"kubectl --namespace {space} run image-check --rm --stdin --restart=Never --image {quoted}"
            command = f"{run} -- simyard --version"
        return Check(name, "skipped", f"{image}: only {kind} can check that", f"See with: {command}")

    import docker

    from simyard.tasks.managed.engines.container import connect, words

    how = f"On the worker's machine: docker image inspect {quoted}"
    try:
        client = connect(timeout_s=ASK_S)
    except (docker.errors.DockerException, OSError):
        return Check(name, "skipped", f"{image}: no container engine answers here", how)
    try:
        size = client.images.get(str(image)).attrs["Size"]
    except docker.errors.ImageNotFound:
        fix = f"docker pull {quoted}, or build it (docs/images.md), on the worker's machine."
        return Check(name, "warning", f"{image} is not on this machine: the first job pulls it", fix)
    except (docker.errors.DockerException, OSError) as error:
        return Check(name, "skipped", f"{image}: the container engine failed: {one_line(words(error))}", how)
    finally:
        client.close()
    return Check(name, "ok", f"{image} is on this machine, {size / 1e9:.1f} GB")


def ask_machine(
    pool: Pool, queue: str | None, reference: str, store: Store | None, *, has_worker: bool
) -> Iterator[Check]:
    """Have a machine of the pool make its own checks; their report comes through the store.

    Args:
        pool: Whose machine.
        queue: The work queue to ask in; None for the pool's own.
        reference: The store, as this machine names it.
        store: The same, opened; None where it does not keep what is written.
        has_worker: Whether a worker of the pool has sent a heartbeat lately.
    """
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if pool.work_pool.is_paused or not has_worker or store is None:
        why = "a pool that is not paused" if pool.work_pool.is_paused else "the store" if has_worker else "a worker"
        yield Check(_MACHINE, "skipped", f"needs {why}")
        return
    client, name = pool.server.client, f"{_FLOW}/{pool.work_pool.name}"
    try:
        check_id = secrets.token_hex(8)
        # It answered a moment ago: a 503 now is a server whose database is busy, which Prefect's client waits for.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: BUSY_RETRIES}):
            run = client.create_flow_run_from_deployment(
                client.read_deployment_by_name(name).id,
                parameters={"check_id": check_id, "store": absolute(reference)},
                idempotency_key=check_id,
                name=f"{_FLOW}-{check_id}",
                work_queue_name=queue,
            )
        began, log = time.monotonic(), f"prefect flow-run logs {run.id}"

        # The report is read when the flow run is over. A server that does not answer is looked for: no patience.
        watch: FlowRunWatch[None] = FlowRunWatch(
            client=client, run=run, record=lambda: None, patience=Patience(0.0, starting_s=math.inf),
            timeout_s=MACHINE_S, poll_s=lambda waited_s: POLL_S,
        )  # fmt: skip
        try:
            ending = watch.wait()
            if ending.reason == "timeout":
                yield _late(pool, run, log)
                return
        finally:
            with suppress(httpx.HTTPError):  # nobody waits for it any more
                withdraw(client, run)
        state, took_s = ending.state, time.monotonic() - began
        assert state is not None
        if not state.is_completed():
            said = one_line(f"{state.name}: {state.message}")
            yield Check(_MACHINE, "failed", f"flow run {run.name!r} ended as {said}", f"See its log: {log}")
            return

        key = keys.doctor(check_id)
        report = store.get_json(key)
        store.delete(key)
        host = report["host"]
        yield Check(_MACHINE, "ok", f"{host} took a flow run and reported through the store, in {took_s:.0f} s")
        for found in report["checks"]:
            check = Check(**found)
            yield Check(check.name, check.state, f"{host}: {check.text}", check.fix)
    except ObjectNotFound:
        yield Check(_MACHINE, "skipped", f"needs the deployment {name}", deploy_line(pool))
    except KeyNotFound:
        fix = "Its worker sees another folder of that name: mount the same one, or take a bucket (docs/stores.md)."
        yield Check(_MACHINE, "failed", f"its report is not in {store.url()}, where this machine looks", fix)
    except (httpx.HTTPError, SimyardError) as error:
        fix = "Mend server or store; try again."
        yield Check(_MACHINE, "failed", f"the report was not read: {one_line(error)}", fix)


def _late(pool: Pool, run: FlowRun, log: str) -> Check:
    """Return the check for a report that is overdue: a machine at work is not to blame."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    state = pool.server.client.read_flow_run(run.id).state
    stands = f"flow run {run.name!r} is {state.name if state else 'unknown'!r} after {MACHINE_S:.0f} s"
    if state is not None and state.is_scheduled():
        running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        busy = pool.server.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=running),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool.work_pool.name])),
        )
        if busy:
            return Check(_MACHINE, "skipped", f"{stands}: the workers are busy with {len(busy)} others")
    fix = f"An image may still be pulled: try again. Otherwise see the worker's log, and {log}"
    return Check(_MACHINE, "failed", stands, fix)
