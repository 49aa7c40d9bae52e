"""A sweep whose bucket and whose Prefect server are away for minutes, one after the other: it goes on by itself."""

import os
import time
from pathlib import Path

import pytest
from faults import SLOW_DOWN, Proxy
from helpers import HANG_S, SCENARIO, CommandLine, FlowHost, Server, free_port, make_bucket, serving_prefect, wait_until
from sweeps import Sweep, Sweeps

from simyard.store.store import Store
from simyard.tasks.sweeps import record

AWAY_S = 75.0
"""Longer than a call to the store is made again, and than any pause of Prefect's client."""


@pytest.mark.long  # minutes of outages; the rule alone: tests/tasks/test_outages.py
def test_a_sweep_goes_on_when_its_bucket_and_its_prefect_server_are_back(
    flow_host: FlowHost, s3_server: str, tmp_path: Path
) -> None:
    bucket, url, port = make_bucket(s3_server, "outages"), "s3://outages/store", free_port()
    (tmp_path / "prefect").mkdir()
    plain = Store.open(url, options={
        "endpoint_url": s3_server, "access_key_id": bucket["AWS_ACCESS_KEY_ID"],
        "secret_access_key": bucket["AWS_SECRET_ACCESS_KEY"],
    })  # fmt: skip
    with Proxy(s3_server) as proxy:
        with serving_prefect(tmp_path / "prefect", port) as server:
            env = {
                **os.environ, **server.env, **SCENARIO, **bucket, "AWS_ENDPOINT_URL": proxy.url,
                "SIMYARD_HOME": str(tmp_path / "home"),
            }  # fmt: skip
            left = Sweeps(CommandLine(env, flow_host), tmp_path, tmp_path / "left")
            path = left.write("slow", iterations=6, seeds=2, parameters={"agent.x": {"values": [1, 2, 3, 4]}})
            process = left.command.start("sweep", path, "--wait", "--store", url)
            wait_until(lambda: plain.list_dirs("sweeps"), HANG_S, "the sweep in the bucket")
            (sweep_id,) = plain.list_dirs("sweeps")
            _wait_for(plain, sweep_id, "training.measured", 1)

            # Nobody answers for the bucket, and then somebody does.
            proxy.plan = lambda _request: SLOW_DOWN
            wait_until(lambda: "tries again" in _logged(server), HANG_S, "a drive that ended")
            time.sleep(AWAY_S)
            proxy.plan = lambda _request: None
            measured = _wait_for(plain, sweep_id, "training.measured", 3)
            assert measured < 8, "nothing is left for the second outage"
        time.sleep(AWAY_S)
        with serving_prefect(tmp_path / "prefect", port):
            code, said = process.wait(HANG_S), process.stderr.read()
        assert code == 0, said

    # All of it as a folder, where it is looked at as any other's.
    for entry in plain.list():
        target = left.store / entry.key
        target.parent.mkdir(parents=True, exist_ok=True)
        plain.get_file(entry.key, target)
    sweep = Sweep(left, sweep_id, code)
    sweep.assert_sound()
    assert (sweep.result["status"], sweep.result["settings"], sweep.result["jobs"]) == ("succeeded", 4, 8)
    # An attempt whose files nobody takes for a minute ends, and the next goes on: two were in progress side by side.
    attempts = sorted(len([*path.glob("attempts/*")]) for path in (left.store / "jobs").iterdir())
    assert attempts[:6] == [1] * 6, f"{attempts}: a training that the outage did not end was made again"


def _wait_for(store: Store, sweep_id: str, event: str, count: int) -> int:
    """Wait until so many such events are in the store; return how many there are."""

    def found() -> int:
        events = record.read_events(store, sweep_id, record.event_numbers(store, sweep_id))
        return sum(one.event_type == event for one in events)

    wait_until(lambda: found() >= count, HANG_S, f"{count} {event}")
    return found()


def _logged(server: Server) -> str:
    return "\n".join(line["message"] for line in server.ask("/logs/filter", {"limit": 200, "sort": "TIMESTAMP_DESC"}))
