"""Heartbeats: a process that died is known at once where it ran, and by its silence elsewhere."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from helpers import HANG_S, wait_until

from simyard.core.errors import StoreError
from simyard.core.records import Heartbeat, this_process
from simyard.store.store import Store
from simyard.tasks.shared.heartbeat import HeartbeatWriter


def beat(**changed: Any) -> Heartbeat:
    return Heartbeat(**(this_process() | changed))


def test_this_process_lives():
    assert beat().is_own()
    assert not beat().is_gone(0.0), "what can be seen needs no sign of life"


def test_a_process_began_when_psutil_says():
    """Older versions wrote that."""
    assert this_process()["process_began"] == pytest.approx(psutil.Process().create_time(), abs=0.1)


def test_a_process_that_died_is_gone_at_once():
    code = "import json; from simyard.core.records import this_process; print(json.dumps(this_process()))"

    left = beat(**json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert left.is_gone(1e9)
    assert not left.is_own()


def test_a_process_that_nobody_waited_for_is_gone():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert beat(pid=child.pid).is_gone(1e9)
    child.wait()


def test_another_process_with_the_number_of_a_dead_one_is_not_that_one():
    assert beat(process_began=beat().process_began - 60).is_gone(1e9)


@pytest.mark.parametrize("host", ["this one", "elsewhere"])
@pytest.mark.parametrize("silent_s", [5, 500])
def test_numbers_of_another_container_mean_nothing_here(host, silent_s):
    said = (datetime.now(UTC) - timedelta(seconds=silent_s)).isoformat()
    own = {"host": host} if host == "elsewhere" else {}  # a container on this machine's network has its name
    there = beat(**own, pid_space="another", pid=2**22 - 1, updated_at=said)
    assert there.is_gone(120.0) == (silent_s > 120)
    assert not replace(there, pid=os.getpid()).is_own()


def test_a_heartbeat_is_written_again_and_again_until_the_block_ends(tmp_path):
    store, said = Store.open(str(tmp_path)), []

    def fields():
        said.append(len(said))
        return beat(host=f"beat {said[-1]}", pid=1)

    with HeartbeatWriter(store, "status.json", fields, interval_s=0.01):
        wait_until(lambda: len(said) > 3, HANG_S, "some heartbeats")
    assert store.get_record("status.json", Heartbeat).is_own()
    assert all(thread.name != "heartbeat" for thread in threading.enumerate())


def test_a_store_that_is_away_for_a_moment_stops_no_heartbeat(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    store = Store.open(str(folder))
    (folder / "run").write_text("in the way")
    writer = HeartbeatWriter(store, "run/status.json", beat, interval_s=0.01)
    with pytest.raises(StoreError):
        writer.write()
    with writer:
        (folder / "run").unlink()
        wait_until(lambda: store.exists("run/status.json"), HANG_S, "a heartbeat")
