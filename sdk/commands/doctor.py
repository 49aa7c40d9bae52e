"""`simyard doctor`: looks at a site, from the settings to a machine of a pool, and says how to mend what is wrong."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import secrets
import shlex
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import httpx

from simyard.blocks.reference import BLOCK_PREFIX, absolute, open_store
from simyard.deployments import POOL_TYPES, pool_template
from simyard.runner.errors import SimyardError, StoreError
from simyard.store import keys
from simyard.store.backend import Access
from simyard.store.names import parse_url
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.machine_checks import Check, State, machine_checks, read_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, WorkPool

ASK_S = 10.0
"""Seconds for one question to a server."""
STORE_S = 8.0
"""Seconds after which a bucket that does not answer is given up."""
CHECK_S = 60.0
"""Seconds for one check; a folder on a dead file server never answers."""
MACHINE_S = 120.0
"""Seconds for a machine of the pool to report."""
POLL_S = 0.5
HEARD_S = 60.0
"""Seconds in which a worker must have been heard of."""
CLOCK_S = 60.0
"""Seconds that two clocks may be apart: S3 refuses signatures at 15 minutes, and heartbeats are judged by time."""
_WORDS: dict[State, str] = {"ok": "ok", "warning": "warning", "skipped": "skipped", "failed": "FAILED"}
_NEEDS_POOL = "needs --pool"


def doctor(pool: str | None, reference: str | None, *, quiet: bool) -> list[Check]:
    """Look at the site, and print each check when it ends.

    Args:
        pool: The work pool to look at; its machine makes the checks of the simulator. None for this machine.
        reference: The store, as the user named it; None for the site's own.
        quiet: Print nothing.

    Raises:
        RequestError: The store's address is malformed.
    """
    if reference is not None and not reference.startswith(BLOCK_PREFIX):
        parse_url(reference)
    # Importing Prefect takes seconds, and a bad address needs none.
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    found = []
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: ASK_S}):
        for check in _Visit(pool, reference).checks():
            found.append(check)
            if not quiet:
                click.echo(line(check))
    return found


def line(check: Check) -> str:
    """Return a check as it is printed, with its fix on a second line."""
    fix = f"\n{'':8}Fix: {check.fix}" if check.fix else ""
    return f"{_WORDS[check.state]:8}{check.name:17}{check.text}{fix}"


class _Visit:
    """One look at the site; a check leaves here what those after it need."""

    def __init__(self, pool: str | None, reference: str | None) -> None:
        self._name = pool
        self._settings, self._site = read_settings()
        self._reference = reference or self._site.store
        self._client: SyncPrefectClient | None = None  # of a server that answers
        self._pool: WorkPool | None = None
        self._server_ahead_s: float | None = None  # the server's clock before this machine's
        self._queues: set[str] = set()
        self._has_worker = False
        self._store: Store | None = None
        self._writes = False  # whether what was written to the store was read again

    def checks(self) -> Iterator[Check]:
        """Make the checks, in an order in which none waits for one that comes later."""
        yield self._settings
        with ExitStack() as stack:
            yield _bounded("Prefect server", lambda: self._look_at_server(stack))
            yield _bounded("pool", self._look_at_pool)
            if warning := self._loopback():
                yield warning
            yield _bounded("deployments", self._look_at_deployments)
            yield _bounded("queues", self._look_at_queues)
            yield _bounded("worker", self._look_at_worker)
            if self._client is None:
                yield Check("clock", "skipped", "needs the Prefect server")
            else:
                yield _clock("clock", self._server_ahead_s, "the Prefect server")
            yield _bounded("store", self._try_store)
            yield _bounded("clock of store", self._clock_of_store)
            yield _bounded("image", self._look_at_image)
            yield from machine_checks(self._site) if self._name is None else self._ask_machine()

    # The Prefect server

    def _look_at_server(self, stack: ExitStack) -> Check:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL

        name = "Prefect server"
        advice = "Start one (`prefect server start`) and set PREFECT_API_URL, such as http://127.0.0.1:4200/api."
        url = PREFECT_API_URL.value()
        if not url:
            if self._name is None:
                return Check(name, "skipped", "PREFECT_API_URL is not set, and jobs without a pool need none")
            return Check(name, "failed", "PREFECT_API_URL is not set", advice)
        client = stack.enter_context(get_client(sync_client=True))
        try:
            before, began = datetime.now(UTC), time.monotonic()
            answer = client.hello()
            took_s = time.monotonic() - began
            version = client.api_version()
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            if code in (401, 403):
                advice = "Set PREFECT_API_AUTH_STRING to the server's user:password."
            return Check(name, "failed", f"{_address(url)} answers {code}", advice)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Check(name, "failed", f"{_address(url)} does not answer: {_line(error)}", advice)
        except ValueError:
            return Check(name, "failed", f"{_address(url)} is no Prefect API", "Its address ends in /api, as a rule.")
        self._client = client
        self._server_ahead_s = _ahead_s(answer, before, took_s)
        text = f"{version} at {_address(url)}{_database(client)}, answers in {took_s * 1000:.0f} ms"
        own = importlib.metadata.version("prefect")
        if version != own:
            return Check(name, "warning", f"{text}; here is {own}", "Have both run the same version.")
        return Check(name, "ok", text)

    def _loopback(self) -> Check | None:
        """Return a warning where containers of the pool cannot reach the server under its address."""
        from prefect.settings import PREFECT_API_URL

        host = urlsplit(PREFECT_API_URL.value() or "").hostname or ""
        if self._pool is None or self._pool.type == "process" or not _is_loopback(host):
            return None
        if self._default("network_mode") == "host" or "PREFECT_API_URL" in (self._default("env") or {}):
            return None
        return Check(
            "server address", "warning",
            f"{host} is this machine alone: containers of a {self._pool.type} pool that are given it do not come back",
            "Have the server listen where they reach it (`prefect server start --host 0.0.0.0`, with a password), and "
            "give the worker that address in PREFECT_API_URL.",
        )  # fmt: skip

    # The pool

    def _look_at_pool(self) -> Check:
        from prefect.exceptions import ObjectNotFound

        name = "pool"
        if not (client := self._client) or self._name is None:
            return self._skipped(name)
        try:
            pool = client.read_work_pool(self._name)
        except ObjectNotFound:
            known = ", ".join(repr(pool.name) for pool in client.read_work_pools()) or "none"
            quoted = shlex.quote(self._name)
            fix = f"simyard deploy --pool {quoted} --type process; or docker, kubernetes, ecs, with --image IMAGE."
            return Check(name, "failed", f"there is no pool {self._name!r}; there are: {known}", fix)
        self._pool = pool
        if pool.is_paused:
            fix = f"prefect work-pool resume {shlex.quote(pool.name)}"
            return Check(name, "failed", f"{pool.name!r} is paused: nothing starts", fix)
        if pool.type not in POOL_TYPES:
            fix = f"Use a pool of one of these types: {', '.join(POOL_TYPES)}."
            return Check(name, "warning", f"{pool.name!r} is of type {pool.type!r}, which simyard does not know", fix)
        if pool.type != "process" and not self._default("image"):
            return Check(name, "failed", f"{pool.name!r} names no image for its containers", self._deploy_line())
        return Check(name, "ok", f"{pool.name!r}, of type {pool.type}")

    def _look_at_deployments(self) -> Check:
        from prefect.exceptions import ObjectNotFound

        from simyard.tasks.pool import GPU_SIDE

        name = "deployments"
        if not (client := self._client) or not (pool := self._pool):
            return self._skipped(name)
        wrong = []
        for flow, (module, _) in GPU_SIDE.items():
            try:
                known = client.read_deployment_by_name(f"{flow}/{pool.name}")
            except ObjectNotFound:
                wrong.append(f"{flow} is missing")
                continue
            if known.work_pool_name != pool.name:
                wrong.append(f"{flow} is of pool {known.work_pool_name!r}")
            elif known.entrypoint != f"simyard.flows.{module}.{module}":
                wrong.append(f"{flow} runs {known.entrypoint!r}")
            elif known.paused:
                wrong.append(f"{flow} is paused")
        if wrong:
            return Check(name, "failed", ", ".join(wrong), self._deploy_line())
        return Check(name, "ok", ", ".join(GPU_SIDE))

    def _look_at_queues(self) -> Check:
        from simyard.tasks.pool import QUEUES

        name = "queues"
        if not (client := self._client) or not (pool := self._pool):
            return self._skipped(name)
        queues = {queue.name: queue for queue in client.read_work_queues(work_pool_name=pool.name)}
        self._queues = {queue.name for queue in queues.values() if not queue.is_paused}
        if missing := [queue for queue in QUEUES.values() if queue not in queues]:
            return Check(name, "failed", f"missing: {', '.join(missing)}", self._deploy_line())
        if paused := [queue for queue in QUEUES.values() if queue not in self._queues]:
            fix = f"prefect work-queue resume {paused[0]} --pool {shlex.quote(pool.name)}"
            return Check(name, "failed", f"paused: {', '.join(paused)}", fix)
        return Check(name, "ok", ", ".join(QUEUES.values()))

    def _look_at_worker(self) -> Check:
        name = "worker"
        if not (client := self._client) or not (pool := self._pool):
            return self._skipped(name)
        # Heartbeats are stamped by the server.
        now = datetime.now(UTC).timestamp() + (self._server_ahead_s or 0.0)
        online: list[tuple[float, str]] = []
        gone: list[tuple[float, str]] = []
        for worker in client.read_workers_for_work_pool(pool.name):
            if worker.last_heartbeat_time is None:
                continue
            age_s = max(0.0, now - worker.last_heartbeat_time.timestamp())
            patience_s = max(HEARD_S, 3.0 * (worker.heartbeat_interval_seconds or 0))
            is_online = worker.status.value == "ONLINE" and age_s <= patience_s
            (online if is_online else gone).append((age_s, worker.name))
        if online:
            self._has_worker = True
            heard = ", ".join(f"{worker!r} heard of {age_s:.0f} s ago" for age_s, worker in sorted(online)[:5])
            return Check(name, "ok", f"{len(online)} of type {pool.type}: {heard}")
        last = f"; {min(gone)[1]!r} was, {min(gone)[0] / 60:.0f} minutes ago" if gone else ""
        extra = f", after pip install 'simyard[{pool.type}]'" if pool.type in ("docker", "kubernetes") else ""
        return Check(
            name, "failed", f"pool {pool.name!r} has no worker that was heard of in the last {HEARD_S:.0f} s{last}",
            f"Where the GPU is: prefect worker start --pool {shlex.quote(pool.name)} --type {pool.type}{extra}",
        )  # fmt: skip

    def _default(self, variable: str) -> Any:
        """Return what the pool's base job template has for a variable."""
        assert self._pool is not None
        return _defaults(self._pool.base_job_template).get(variable)

    def _deploy_line(self) -> str:
        """Return the command that makes the pool whole, and leaves what its template has been told as it is."""
        pool = self._pool
        assert pool is not None
        if pool.type not in POOL_TYPES:
            return f"Use a pool of one of these types: {', '.join(POOL_TYPES)}."
        words = ["simyard", "deploy", "--pool", pool.name, "--type", pool.type]
        ours, theirs = _defaults(pool_template(pool.type)), _defaults(pool.base_job_template)
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

    def _skipped(self, name: str) -> Check:
        if self._name is None:
            return Check(name, "skipped", _NEEDS_POOL)
        return Check(name, "skipped", "needs the Prefect server" if self._client is None else "needs the pool")

    # Clocks

    def _clock_of_store(self) -> Check:
        name = "clock of store"
        store = self._store
        if store is None:
            return Check(name, "skipped", "needs the store's address")
        location, options, credentials = store.opened_with
        if location.folder:
            return Check(name, "skipped", "a folder has none")
        access = Access.decide(options, credentials)
        endpoint = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
        before, began = datetime.now(UTC), time.monotonic()
        try:
            answer = httpx.head(endpoint, timeout=ASK_S, verify=ssl.create_default_context(cafile=access.ca_bundle))
        except httpx.HTTPError as error:
            return Check(name, "skipped", f"the server does not answer a plain question: {_line(error)}")
        return _clock(name, _ahead_s(answer, before, time.monotonic() - began), "the store's server")

    # The store

    def _try_store(self) -> Check:
        name = "store"
        try:
            # Kept even if it refuses what is written: its clock may say why.
            self._store = store = _impatient(open_store(self._reference))
            text = f"{store.url()}: {_write_and_read(store)}"
        except SimyardError as error:
            return Check(name, "failed", _line(error.failure.message), error.failure.advice)
        except httpx.HTTPError as error:  # a block is on the Prefect server
            return Check(
                name, "failed", f"{self._reference!r} cannot be loaded: {_line(error)}", "Mend the server first."
            )
        self._writes = True
        if self._pool is not None and self._pool.type != "process" and store.url().startswith("file:"):
            return Check(
                name, "warning", f"{text}; a folder, and workers of a pool must see the same one",
                "Mount it in every container at the same path, or take a bucket: --store s3://BUCKET/PREFIX.",
            )  # fmt: skip
        return Check(name, "ok", text)

    # The image

    def _look_at_image(self) -> Check:
        name = "image"
        if self._pool is None:
            return self._skipped(name)
        image = self._default("image")
        if self._pool.type == "process" or not image:
            return Check(name, "skipped", f"pool {self._pool.name!r} has none")
        quoted = shlex.quote(str(image))
        if self._pool.type == "docker":
            return _image_of_engine(name, str(image), f"On the worker's machine: docker image inspect {quoted}")
        if self._pool.type == "kubernetes":
            space = shlex.quote(str(self._default("namespace") or "default"))
            run = f"kubectl --namespace {space} run image-check --rm --stdin --restart=Never --image {quoted}"
            command = f"{run} -- simyard --version"
        else:
            command = f"docker manifest inspect {quoted}"
        return Check(name, "skipped", f"{image}: only {self._pool.type} can tell", f"See with: {command}")

    # The machine

    def _ask_machine(self) -> Iterator[Check]:
        """Have a machine of the pool make its own checks; their report comes through the store."""
        from prefect.exceptions import ObjectNotFound

        name, flow = "machine", "check-machine"
        if not (client := self._client) or not (pool := self._pool):
            yield self._skipped(name)
            return
        if pool.is_paused or not self._has_worker or self._store is None or not self._writes:
            why = "a pool that is not paused" if pool.is_paused else "the store" if self._has_worker else "a worker"
            yield Check(name, "skipped", f"needs {why}")
            return
        try:
            deployment = client.read_deployment_by_name(f"{flow}/{pool.name}")
            check_id = secrets.token_hex(8)
            run = client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"check_id": check_id, "store": absolute(self._reference)},
                name=f"{flow}-{check_id}",
                work_queue_name="high" if "high" in self._queues else None,
            )
            yield from self._await_report(client, run, self._store, keys.doctor(check_id))
        except ObjectNotFound:
            yield Check(name, "skipped", f"needs the deployment {flow}/{pool.name}", self._deploy_line())
        except (httpx.HTTPError, SimyardError) as error:
            yield Check(name, "failed", f"the report was not read: {_line(error)}", "Mend server or store; try again.")

    def _await_report(self, client: SyncPrefectClient, run: FlowRun, store: Store, key: str) -> Iterator[Check]:
        name, began = "machine", time.monotonic()
        log = f"prefect flow-run logs {run.id}"
        try:
            while (state := client.read_flow_run(run.id).state) is None or not state.is_final():
                if time.monotonic() - began > MACHINE_S:
                    yield self._late(client, run, log)
                    return
                time.sleep(POLL_S)
        finally:
            _withdraw(client, run)
        took_s = time.monotonic() - began
        if not state.is_completed():
            said = _line(f"{state.name}: {state.message}")
            yield Check(name, "failed", f"flow run {run.name!r} ended as {said}", f"Its log says more: {log}")
            return
        try:
            report = store.get_json(key)
        except KeyNotFound:
            fix = "Its worker sees another folder of that name: mount the same one, or take a bucket (docs/stores.md)."
            yield Check(name, "failed", f"its report is not in {store.url()}, where this machine looks", fix)
            return
        store.delete(key)
        host = report["host"]
        yield Check(name, "ok", f"{host} took a flow run and reported through the store, in {took_s:.0f} s")
        for found in report["checks"]:
            check = Check(**found)
            yield Check(check.name, check.state, f"{host}: {check.text}", check.fix)

    def _late(self, client: SyncPrefectClient, run: FlowRun, log: str) -> Check:
        """Say why there may be no report: a machine at work is not to blame."""
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterState,
            FlowRunFilterStateType,
            WorkPoolFilter,
            WorkPoolFilterName,
        )
        from prefect.client.schemas.objects import StateType

        assert self._pool is not None
        state = client.read_flow_run(run.id).state
        stands = f"flow run {run.name!r} is {state.name if state else 'unknown'!r} after {MACHINE_S:.0f} s"
        if state is not None and state.is_scheduled():
            running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
            busy = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=running),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool.name])),
            )
            if busy:
                return Check("machine", "skipped", f"{stands}: the workers are busy with {len(busy)} others")
        fix = f"An image may still be pulled: try again. Otherwise see the worker's log, and {log}"
        return Check("machine", "failed", stands, fix)


def _bounded(name: str, make: Callable[[], Check]) -> Check:
    """Make a check, and go on without it when it takes too long or breaks."""
    made: list[Check] = []

    def run() -> None:
        try:
            made.append(make())
        except Exception as error:  # one check that breaks must not keep the others from being made
            made.append(Check(name, "failed", f"{type(error).__name__}: {_line(error)}", "Mend that, then try again."))

    # A daemon: it may hang in the file system for good, and must not keep this process.
    thread = threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    thread.start()
    thread.join(CHECK_S)
    return made[0] if made else Check(name, "failed", f"no end within {CHECK_S:.0f} s", "See what it waits for.")


def _clock(name: str, ahead_s: float | None, whose: str) -> Check:
    if ahead_s is None:
        return Check(name, "skipped", f"{whose} tells no time")
    if abs(ahead_s) <= CLOCK_S:
        return Check(name, "ok", f"{platform.node()} and {whose} are less than {abs(ahead_s) + 1:.0f} s apart")
    return Check(
        name, "failed", f"{whose} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine",
        "Have both follow a time server: `timedatectl` shows whether this machine does.",
    )  # fmt: skip


def _impatient(store: Store) -> Store:
    """Return the same store, which gives a dead server up soon."""
    location, options, credentials = store.opened_with
    if location.folder:
        return store
    return Store.open(location.url, options={**options, "timeout_s": str(STORE_S)}, credentials=credentials)


def _write_and_read(store: Store) -> str:
    """Do with one object what jobs do with theirs.

    Raises:
        StoreError: The store does not do it.
    """
    key, data = keys.doctor(secrets.token_hex(8)), secrets.token_bytes(1024)
    acts: dict[str, Callable[[], object]] = {
        "written": lambda: store.put_bytes(key, data),
        "read": lambda: store.get_bytes(key) == data,
        "listed": lambda: key in [entry.key for entry in store.list(keys.DOCTOR)],
        "deleted": lambda: store.delete(key),
    }
    times = {}
    try:
        for what, act in acts.items():
            began = time.monotonic()
            if act() is False:
                raise StoreError(
                    f"{store.url(key)!r} was written, and cannot be {what}.",
                    advice="The store loses or changes what it is given: look at it with its own tools.",
                )
            times[what] = (time.monotonic() - began) * 1000
    except SimyardError:
        if "written" in times:  # else it would be waited for once more
            with suppress(SimyardError):
                store.delete(key)
        raise
    return ", ".join(f"{what} in {took_ms:.0f} ms" for what, took_ms in times.items())


def _image_of_engine(name: str, image: str, how: str) -> Check:
    import docker

    from simyard.tasks.training_runs.docker_api import connect, words

    try:
        client = connect(timeout_s=ASK_S)
    except (docker.errors.DockerException, OSError):
        return Check(name, "skipped", f"{image}: no container engine answers here", how)
    try:
        size = client.images.get(image).attrs["Size"]
    except docker.errors.ImageNotFound:
        fix = f"docker pull {shlex.quote(image)}, or build it (docs/images.md), on the worker's machine."
        return Check(name, "warning", f"{image} is not on this machine: the first job pulls it", fix)
    except (docker.errors.DockerException, OSError) as error:
        return Check(name, "skipped", f"{image}: the container engine failed: {_line(words(error))}", how)
    finally:
        client.close()
    return Check(name, "ok", f"{image} is on this machine, {size / 1e9:.1f} GB")


def _withdraw(client: SyncPrefectClient, run: FlowRun) -> None:
    """Take a flow run back that nobody has begun; nobody waits for it any more."""
    from prefect.states import Cancelled

    with suppress(httpx.HTTPError):
        state = client.read_flow_run(run.id).state
        if state is not None and (state.is_scheduled() or state.is_pending()):
            client.set_flow_run_state(run.id, Cancelled(), force=True)


def _ahead_s(answer: httpx.Response, before: datetime, took_s: float) -> float | None:
    """Return how far the server's clock is ahead, to a second; None where it does not say."""
    try:
        said = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return None
    if said.tzinfo is None:
        said = said.replace(tzinfo=UTC)
    return (said - before).total_seconds() - took_s / 2


def _database(client: SyncPrefectClient) -> str:
    """Return what the server says of its database; nothing where it does not."""
    try:
        driver = client.request("GET", "/admin/settings").json()["server"]["database"]["driver"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ""
    return f" on {re.split(r'[^a-z]', driver)[0]}" if isinstance(driver, str) and driver else ""


def _defaults(template: dict[str, Any]) -> dict[str, Any]:
    properties = template.get("variables", {}).get("properties", {})
    return {name: schema.get("default") for name, schema in properties.items()}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


def _address(url: str) -> str:
    """Return a URL without the user and the password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _line(error: object) -> str:
    """Return what an error says in one line, without the passwords of the URLs that it quotes."""
    return re.sub(r"//\S*@", "//", " ".join(str(error).split()))[:300]
