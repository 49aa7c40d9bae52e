"""A work pool for `simyard doctor`: its deployments, queues and workers, and the command that makes it whole."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from simyard.cli.doctor.server import Server
from simyard.deployments import POOL_TYPES, pool_template
from simyard.tasks.shared.machine_checks import Check

if TYPE_CHECKING:
    from prefect.client.schemas.objects import WorkPool

HEARD_S = 60.0
"""Seconds in which a worker must have sent a heartbeat."""
_TYPES_ADVICE = f"Use a pool of one of these types: {', '.join(POOL_TYPES)}."


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

    host, kind = urlsplit(PREFECT_API_URL.value() or "").hostname or "", pool.work_pool.type
    if kind == "process" or not _is_loopback(host):
        return None
    if pool.default("network_mode") == "host" or "PREFECT_API_URL" in (pool.default("env") or {}):
        return None
    return Check(
        "server address", "warning",
        f"{host} is this machine alone: containers of a {kind} pool that are given it do not come back",
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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False
