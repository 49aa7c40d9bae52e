"""An attempt that begins before its flow: nothing that it says is lost, and it ends with what ends the flow."""

import os
import re
import signal
import threading

import pytest
from helpers import HANG_S, wait_until
from scenario.play import alive

from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.specs import Bounds
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.launch import HeadStart
from simyard.tasks.sessions.pool import Sessions


class Stopped(BaseException):
    """Stands for the signal that Prefect turns into an exception in the main thread."""


@pytest.fixture
def begin(player):
    """Begin a job's first attempt; all simulators have ended at the end."""
    with Sessions(player.site, Bounds()) as sessions:

        def begun(scenario, on_progress=lambda progress: None, canceled=lambda: False):
            spec = player.stage(scenario)
            player.reserve(spec, sessions)
            return spec, HeadStart(spec, player.store, sessions, on_progress, canceled)

        yield begun


def test_a_flow_that_joins_late_hears_every_line_and_the_job_is_whole(player, begin):
    seen, lines = [], []
    spec, head_start = begin("", on_progress=seen.append)
    wait_until(lambda: any(progress.done for progress in seen), HANG_S, "an iteration before the flow joins")
    assert head_start.is_first_of(spec.job_id)
    head_start.join(Observer(lines=lines.extend))
    left = player.end(spec)
    left.assert_nothing_missing()
    assert [int(number) for number in re.findall(r"Learning iteration (\d+)/", "\n".join(lines))] == left.indices(1)


def test_it_is_joined_once_and_by_its_own_job_alone(player, begin):
    spec, head_start = begin("raise")
    assert not head_start.is_first_of("job-01m7xfw3znjmsykhm906t4fbav")
    with pytest.raises(WorkloadError) as failed:
        head_start.join(Observer())
    assert failed.value.failure.category is Category.USER
    assert not head_start.is_first_of(spec.job_id), "the next attempt would not be made"


def test_before_it_is_joined_it_can_be_canceled(player, begin):
    stop, seen = threading.Event(), []
    spec, head_start = begin("slow; hang at 3", on_progress=seen.append, canceled=stop.is_set)
    wait_until(lambda: any(progress.done for progress in seen), HANG_S, "an iteration")
    stop.set()
    with pytest.raises(WorkloadError) as failed:
        head_start.join(Observer(canceled=stop.is_set))
    assert failed.value.failure.category is Category.CANCELED
    left = player.end(spec, failed.value)
    assert left.result["status"] == "canceled"
    assert alive([left.pid]) == []


def test_a_signal_that_ends_the_flow_ends_the_attempt_with_its_reason(player, begin):
    reclaimed = Failure(code="reclaimed", category=Category.INFRA, message="The machine goes away.", advice="-")
    spec, head_start = begin("slow; hang at 3")

    def stop(number, frame):
        raise Stopped

    def once_it_works(progress):
        if progress.done == 2:
            os.kill(os.getpid(), signal.SIGUSR1)  # it reaches the main thread, which waits

    previous = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stopped):
            head_start.join(Observer(progress=once_it_works, why_stopped=lambda error: reclaimed))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    outcome = player.store.get_json(f"jobs/{spec.job_id}/attempts/001/outcome.json")
    assert outcome["failure"]["code"] == "reclaimed"
    assert player.valid_iterations(spec) == [1]
