"""Heartbeats: a process that died is known at once where it ran, and by its silence elsewhere."""

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from helpers import wait_until

from simyard.core.errors import StoreError
from simyard.store.store import Store
from simyard.tasks.shared.heartbeat import Heartbeat, is_gone, is_own, own_beat


def test_this_process_lives():
    beat = own_beat()
    assert is_own(beat)
    assert not is_gone(beat, 0.0), "what can be seen needs no sign of life"


def test_a_process_that_died_is_gone_at_once():
    code = "import json; from simyard.tasks.shared.heartbeat import own_beat; print(json.dumps(own_beat()))"

    beat = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert is_gone(beat, 1e9)
    assert not is_own(beat)


def test_another_process_with_the_number_of_a_dead_one_is_not_that_one():
    beat = own_beat()
    assert is_gone(beat | {"process_began": beat["process_began"] - 60}, 1e9)


@pytest.mark.parametrize("host", ["this one", "elsewhere"])
@pytest.mark.parametrize("silent_s", [5, 500])
def test_numbers_of_another_container_mean_nothing_here(host, silent_s):
    said = (datetime.now(UTC) - timedelta(seconds=silent_s)).isoformat()
    own = {"host": host} if host == "elsewhere" else {}  # a container on this machine's network has its name
    beat = own_beat() | own | {"pid_space": "another", "pid": 2**22 - 1, "updated_at": said}
    assert is_gone(beat, 120.0) == (silent_s > 120)
    assert not is_own(beat | {"pid": os.getpid()})


def test_one_that_never_wrote_is_not_known_to_be_gone():
    assert not is_gone({}, 0.0)


def test_a_heartbeat_is_written_again_and_again_until_the_block_ends(tmp_path):
    store, said = Store.open(str(tmp_path)), []

    def fields():
        said.append(len(said))
        return {"count": said[-1]}

    with Heartbeat(store, "status.json", fields, interval_s=0.01):
        wait_until(lambda: len(said) > 3, 30, "some heartbeats")
    beat = store.get_json("status.json")
    assert (beat["count"], beat["pid"]) == (said[-1], os.getpid())
    assert all(thread.name != "heartbeat" for thread in threading.enumerate())


def test_a_store_that_is_away_for_a_moment_stops_no_heartbeat(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    store = Store.open(str(folder))
    (folder / "run").write_text("in the way")
    beat = Heartbeat(store, "run/status.json", dict, interval_s=0.01)
    with pytest.raises(StoreError):
        beat.write()
    with beat:
        (folder / "run").unlink()
        wait_until(lambda: store.exists("run/status.json"), 30, "a heartbeat")
