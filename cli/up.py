"""`simyard up`: a whole site on one machine: Prefect server, a worker with its deployments, the HTTP API."""

from __future__ import annotations

import base64
import fcntl
import os
import platform
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from simyard.cli import flow_stub
from simyard.cli.flow_stub import ADDRESS
from simyard.cli.live import LiveLine
from simyard.cli.prefect_server import ADVICE, own_server, why_open
from simyard.cli.processes import Child, Children
from simyard.cli.shared import STORE, Command, open_site
from simyard.core.errors import RequestError
from simyard.deployments import POOL

if TYPE_CHECKING:
    from simyard.requests.settings import MachineSettings
    from simyard.store.store import Store

LOOK_S = 1.0
ASK_S = 2.0
"""Seconds for one question about somebody's health."""
_OURS = f"simyard-up-{platform.node()}-"
"""Prefix of our workers' names on this machine; Prefect takes those that died for alive a while longer."""
_PRIVATELY = [sys.executable, "-m", "simyard.core.process"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of the processes to start."""

    host: str
    """Address that the API listens on."""
    port: int
    prefect_port: int
    """Port of a Prefect server of our own."""
    jobs: int
    """Jobs that the worker runs at once."""


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the API listens; 0.0.0.0 for everybody.")
@click.option("--port", type=click.IntRange(1, 65535), default=8400, show_default=True, help="Of the API.")
@click.option("--prefect-port", type=click.IntRange(1, 65535), default=4200, show_default=True,
              help="Of the Prefect server, where PREFECT_API_URL names none.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="How many run at once.")
@STORE
def up(host: str, port: int, prefect_port: int, jobs: int, store: str | None) -> None:
    """Run a whole site on this machine. It has a Prefect server, a worker and the HTTP API; a running server is used.

    It stays until Ctrl-C or SIGTERM, and starts again what dies. Jobs that it interrupts go on at the next start.
    """
    plan = Plan(host=host, port=port, prefect_port=prefect_port, jobs=jobs)
    machine, reference, opened = open_site(store)
    live = LiveLine()
    folder = machine.home / "up"
    with _alone(folder), _stop_on_signals() as stop:
        children = Children(folder, live.say)
        children.end_leftovers()
        try:
            _start(plan, machine, opened, reference, children, live, stop)
            while not stop.wait(LOOK_S):
                children.restart_dead()
        finally:
            children.end()
    live.say("Stopped. Jobs that were under way go on at the next start.")


def _start(
    plan: Plan,
    machine: MachineSettings,
    store: Store,
    reference: str,
    children: Children,
    live: LiveLine,
    stop: threading.Event,
) -> None:
    """Start the missing processes, in order, and print their addresses."""
    _require_free(plan.host, plan.port, "--port")
    key = _own_key(store, machine)
    env = os.environ | {
        "SIMYARD_STORE": reference, "SIMYARD_HOME": str(machine.home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }  # fmt: skip
    env.setdefault("OMP_NUM_THREADS", "1")

    def bring_up(child: Child) -> None:
        children.wait_until_healthy(child, lambda: _show(live, child.name, stop))

    # A Prefect server of our own, unless one is given by the environment or by Prefect's profile.
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    given, auth = (PREFECT_API_URL.value() or "").rstrip("/"), PREFECT_API_AUTH_STRING.value()
    url, asks_for = given or f"http://127.0.0.1:{plan.prefect_port}/api", ""
    env["PREFECT_API_URL"] = url
    if not given:
        _require_free("127.0.0.1", plan.prefect_port, "--prefect-port")
        own = own_server(machine.home, url)
        auth, asks_for = own.auth, f"  (it asks for {own.where})"
        command = [sys.executable, "-m", "simyard.cli.prefect_server", str(plan.prefect_port)]
        server = Child("Prefect server", command, env | own.env, lambda: _answers(f"{url}/health"))
        env["PREFECT_API_AUTH_STRING"] = auth
        children.start(server)
        bring_up(server)
    elif not _answers(f"{url}/health"):
        raise RequestError(
            f"The Prefect server at {url!r} does not answer.",
            code="no_prefect_server",
            advice="Start it, or unset PREFECT_API_URL to have one started here.",
        )
    elif danger := why_open(url):
        live.say(f"warning: {danger}. {ADVICE}")

    # The API and the worker; the deployments are sent while the API imports what it needs. A server of our own has no
    # workers on other machines, so that its flow runs may begin in the flow host of this one.
    variables, flow_host = {}, None
    if not given:
        env[ADDRESS] = str(machine.home / "up" / "flow-host")
        variables = {"command": shlex.join([sys.executable, "-S", flow_stub.__file__])}
        command = [*_PRIVATELY, "simyard.cli.flow_host", env[ADDRESS]]
        # numpy may not have threads that a fork would lose
        flow_host = Child("Flow host", command, env | {"OPENBLAS_NUM_THREADS": "1"}, lambda: True)
    service = Child(
        "API", [sys.executable, "-m", "simyard.service", "--host", plan.host, "--port", str(plan.port)], env,
        lambda: _answers(f"{_address(plan)}/readyz"),
    )  # fmt: skip
    has_worker = partial(_has_worker, url, auth)
    worker = None if given and has_worker(lambda name: not name.startswith(_OURS)) else _worker(plan, env, has_worker)
    children.start(service)
    from prefect.client.orchestration import get_client

    from simyard.deployments.apply import apply_prefect_file

    settings = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        apply_prefect_file(client, lambda name: _show(live, f"deployment {name}", stop), variables)
    if worker is not None:
        if flow_host is not None:
            children.start(flow_host)
        children.start(worker)
    for child in filter(None, (worker, service)):
        bring_up(child)

    # The key is for a person who looks on: a log is kept, and read by others.
    file = machine.home / "api-key"
    rows = {
        "home page": _home_url(_address(plan), key) if sys.stderr.isatty() else f"{_address(plan)}/, by the key",
        "API": f"{_address(plan)}  (its reference: /docs)",
        "API key": f"{key}  (also in {file})" if sys.stderr.isatty() else f"in {file}",
        "Prefect UI": url.removesuffix("/api") + asks_for,
        "store": store.url(),
        "worker": f"pool {POOL}, {plan.jobs} jobs at once" if worker else f"pool {POOL} has one already",
        "logs": str(machine.home / "up"),
    }
    live.say("\n".join(f"{name + ':':12} {text}" for name, text in rows.items()))
    live.say("Ready. Ctrl-C stops everything in good order.")


def _worker(plan: Plan, env: dict[str, str], has_worker: Callable[[Callable[[str], bool]], bool]) -> Child:
    own = f"{_OURS}{os.getpid()}"
    command = [
        *_PRIVATELY, "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", own,
        "--limit", str(plan.jobs),
    ]  # fmt: skip
    healthy = partial(has_worker, lambda name: name == own)
    return Child("Worker", command, env | {"PREFECT_WORKER_QUERY_SECONDS": "1"}, healthy, ends_its_children=False)


def _show(live: LiveLine, name: str, stop: threading.Event) -> None:
    if stop.is_set():
        raise KeyboardInterrupt("Stopped before everything was up.")
    live.stage(f"waiting for {name}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse to run twice in one home."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise RequestError(
                f"`simyard up` runs already here, as process {lock.read().strip() or 'unknown'}.",
                code="already_up",
                advice="Use that one, or set SIMYARD_HOME to another folder.",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Yield the event that SIGINT and SIGTERM set."""
    stop = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _require_free(host: str, port: int, option: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RequestError(
                f"Cannot listen on {host}:{port}: {error.strerror}.",
                code="port_taken",
                advice=f"Choose another with {option}; a Prefect server is used when PREFECT_API_URL names it.",
            ) from error


def _own_key(store: Store, machine: MachineSettings) -> str:
    """Return a key for the person at this machine, made at the first start and kept in a file that is theirs alone."""
    from simyard.tasks.shared import api_keys

    file = machine.home / "api-key"
    if file.exists() and api_keys.find(store, key := file.read_text().strip()):
        return key
    key, _ = api_keys.create(store, "default", ["admin"], "simyard up")
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(key + "\n")
    return key


def _has_worker(url: str, auth: str | None, is_one: Callable[[str], bool]) -> bool:
    """Return whether the pool has a worker with such a name."""
    import httpx

    headers = {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}
    try:
        answer = httpx.post(f"{url}/work_pools/{POOL}/workers/filter", json={}, headers=headers, timeout=ASK_S)
        workers = answer.raise_for_status().json()
        return any(worker["status"] == "ONLINE" and is_one(worker["name"]) for worker in workers)
    except httpx.HTTPError:
        return False


def _home_url(address: str, key: str) -> str:
    """Return the link to the first page, which needs no key."""
    import httpx

    try:
        answer = httpx.get(f"{address}/v1/home", headers={"Authorization": f"Bearer {key}"}, timeout=ASK_S)
        return str(answer.raise_for_status().json()["page_url"])
    except httpx.HTTPError as error:
        return f"{address}/  ({error})"


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=ASK_S).status_code == 200
    except httpx.HTTPError:
        return False


def _address(plan: Plan) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(plan.host, plan.host)
    return f"http://{host}:{plan.port}"
