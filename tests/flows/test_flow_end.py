"""The end of a flow, and a server that is away meanwhile: neither is waited for."""

import json
import os
from pathlib import Path

from helpers import HANG_S, Command, FlowHost, Server, free_port

TWO_FLOWS, SERVER_AWAY = (Path(__file__).with_name(name) for name in ("two_flows.py", "server_away.py"))


def test_no_flow_waits_for_the_thread_of_its_heartbeat(prefect_server: Server, flow_host: FlowHost) -> None:
    """It sleeps in whole seconds. The heartbeats are there all the same, for who watches Prefect's events."""
    with Command(flow_host, [], {**os.environ, **prefect_server.env}, program=TWO_FLOWS) as process:
        said, error = process.communicate(HANG_S)
    assert process.returncode == 0, error
    assert json.loads(said.splitlines()[-1]) == {"start": 2, "join": 0}


def test_a_server_that_is_away_costs_an_attempt_only_its_progress_in_the_ui(flow_host: FlowHost) -> None:
    """A thread that cannot update it prints no traceback."""
    away = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    with Command(flow_host, [], {**os.environ, **away}, program=SERVER_AWAY) as process:
        said, error = process.communicate(HANG_S)
    assert process.returncode == 0, error
    assert json.loads(said) == {"passed": [1, 2], "artifact": False}
    assert "Traceback" not in error
