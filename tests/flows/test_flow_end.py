"""The end of a flow: it waits for nothing that ends by itself."""

import json
import os
from pathlib import Path

from helpers import HANG_S, Command, FlowHost, Server

TWO_FLOWS = Path(__file__).with_name("two_flows.py")


def test_no_flow_waits_for_the_thread_of_its_heartbeat(prefect_server: Server, flow_host: FlowHost) -> None:
    """It sleeps in whole seconds. The heartbeats are there all the same, for who watches Prefect's events."""
    with Command(flow_host, [], {**os.environ, **prefect_server.env}, program=TWO_FLOWS) as process:
        said, error = process.communicate(HANG_S)
    assert process.returncode == 0, error
    assert json.loads(said.splitlines()[-1]) == {"start": 2, "join": 0}
