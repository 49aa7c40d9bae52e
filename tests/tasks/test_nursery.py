"""A played simulator that the nursery has is what one that was started is."""

import os
import signal

import psutil
import pytest
from helpers import HANG_S, wait_until
from scenario.play import running_below

from simyard.core.errors import WorkloadError
from simyard.runner.workload import describe_exit, has_token

pytestmark = pytest.mark.system


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_our_child_and_ends_as_one(waiting, number):
    workload = waiting.take()
    process = psutil.Process(workload.pid)
    assert process.ppid() == os.getpid()
    assert os.getpgid(workload.pid) == os.getsid(workload.pid) == workload.pid
    assert has_token(workload.pid, workload.token)
    assert workload.is_waiting
    os.kill(workload.pid, number)
    with pytest.raises(WorkloadError, match=describe_exit(-number)):
        workload.ready(30)
    assert not psutil.pid_exists(workload.pid)
    workload.let_go()


def test_it_ends_with_its_supervisor(waiting):
    workload = waiting.take()
    workload._lines.close()
    wait_until(lambda: not workload.is_waiting, HANG_S, "the end of a workload whose supervisor is gone")
    assert workload._process.wait() == -signal.SIGKILL
    workload.let_go()


def test_what_a_job_sees_is_what_it_sees_in_one_that_was_started(player):
    before = os.umask(0o027)  # of neither a process that imported the flows nor one that did not
    try:
        first, second, started = (player.play("look", iterations=2, fresh=fresh) for fresh in (False, False, True))
    finally:
        os.umask(before)
    sees = [left.said("sees") for left in (first, second, started)]
    for entry in sees:
        entry["argv"][entry["argv"].index("--control") + 1] = "its socket"
        del entry["environ"]["ISAACSIM_ASSET_ROOT"]  # in the home of who waits, and of who plays
    assert sees[0] == sees[1] == sees[2]
    assert sees[0]["umask"] == 0o027
    assert first.said("draws") != second.said("draws")
    assert len({first.pid, second.pid, started.pid}) == 3


def test_none_of_them_knows_of_another(waiting, tmp_path):
    """One that is there when another begins leaves it no descriptor, or its end would not be seen."""
    first, second = waiting.take(), waiting.take()
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{second.pid}/fd")]
    theirs = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{first.pid}/fd")]
    assert not {link for link in links if link.startswith("socket")} & set(theirs)
    assert sum(link.startswith("socket") for link in links) == 1
    for workload in (first, second):
        workload.let_go()
    assert running_below(tmp_path) == []
