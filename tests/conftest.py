"""Shared by all tests: their tiers and groups, a real Prefect server, and the real command line."""

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import containers
import pytest
from helpers import CONFIG, CommandLine, FlowHost, Server, changed, hosting_flows, serving_prefect

TESTS = Path(__file__).parent
SERVED = {
    "prefect_server": "prefect", "deployments": "service", "fleet": "podman", "podman": "podman", "flow_host": "prefect"
}  # fmt: skip
"""Fixtures that start servers or engines, each with the group of the tests that use it."""
GROUPS = ("sim", "flows", "prefect", "player", "service", "podman")
"""The groups that take longest, which begin first. Any other test is grouped with its file."""


def pytest_configure(config: pytest.Config) -> None:
    """Have no property's verdict depend on how fast the machine is, and no Ctrl-C on how the tests were started."""
    from hypothesis import HealthCheck, settings

    # A shell has what it starts in the background ignore SIGINT, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test's tier, and group the tests that share what is dear.

    A group is run by one worker (`--dist loadgroup`), so that a simulator or a server that its tests share is
    started once.
    """
    order = {}
    for item in items:
        path = item.path.relative_to(TESTS)
        fixtures = getattr(item, "fixturenames", ())
        group = next((SERVED[name] for name in SERVED if name in fixtures), None)
        if group == "prefect" and path.parts[0] in ("flows", "service"):
            group = "flows"  # half of it, with a server of its own: the group that takes longest decides
        if path.parts[0] == "sim":
            item.add_marker("sim")
        elif group or "waiting" in fixtures:  # simulators that are played
            item.add_marker("system")
        if item.get_closest_marker("sim"):
            group = "sim" if "yard" in fixtures else "player"  # two simulators, side by side: they are the longest way
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group or str(path)))
        in_process = not (item.get_closest_marker("sim") or item.get_closest_marker("system"))
        order[item] = (GROUPS.index(group) if group else len(GROUPS), in_process)
    items.sort(key=lambda item: order[item])  # stable: within a group as they stand in the files


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make sure that xdist knows the groups: without them each worker starts all that is dear."""
    if getattr(session.config.option, "loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "this pytest and this xdist group nothing"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server of its own home and port, ready."""
    with serving_prefect(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder for a store, whose name is awkward on purpose."""
    folder = tmp_path / "a store, ünïcode"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def flow_host() -> Iterator[FlowHost]:
    """Becomes the commands that tests run, without the seconds that a start takes."""
    with hosting_flows() as host:
        yield host


@pytest.fixture
def simyard(prefect_server: Server, flow_host: FlowHost, tmp_path: Path) -> CommandLine:
    """The command line against the test server, with a home of its own."""
    return CommandLine({**os.environ, **prefect_server.env, "SIMYARD_HOME": str(tmp_path / "home")}, flow_host)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a config: the small cartpole with changes, given as dotted keys."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(changed(CONFIG, changes)))
        return path

    return write


@pytest.fixture(scope="session")
def s3_server():
    """The address of a real S3 server, with its data in memory.

    Its port is ephemeral: the system gives one that is free. With a fixed port two test runs on one machine would
    meet in the same server, and the second to start would fail, or read what the first had written.
    """
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # S3 looks for an object and writes it in one step; moto's threads may come between the two.
    writing, put_object = threading.Lock(), S3Response.put_object

    def put_in_one_step(response: S3Response) -> object:
        with writing if "If-None-Match" in response.headers else nullcontext():
            return put_object(response)

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request buries what a failed test says
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_in_one_step)
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "100")  # short pages, so that a listing of a few hundred has several
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture(scope="session")
def podman() -> Iterator[containers.Podman]:
    """A container engine of its own, and its images; skipped where podman is not installed."""
    with containers.serving() as engine:
        yield engine
