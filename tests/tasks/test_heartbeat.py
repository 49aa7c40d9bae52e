"""Heartbeats: a process that died is known at once where it ran, and by its silence elsewhere."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from simyard.tasks.shared.heartbeat import is_gone, is_own, own_beat


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
