"""The clock of a simulation's steps, against the time itself."""

import time

from simyard.runner.step_clock import StepClock

ENVS = 8
UNKNOWN = {"first_steps_seconds": None, "environment_steps_per_second": None}


def test_the_first_steps_are_timed_apart():
    before = time.monotonic()
    clock = StepClock(ENVS, total=12)
    made = time.monotonic()
    assert clock.figures() == UNKNOWN
    clock.note(1)
    assert clock.figures() == UNKNOWN
    while time.monotonic() - made < 0.05:  # the first two take so long, and no more is wanted of the machine
        clock.note(1)
    begins = time.monotonic()
    clock.note(2)
    began = time.monotonic()
    first = clock.figures()["first_steps_seconds"]
    assert begins - made - 0.001 <= first <= began - before + 0.001
    assert clock.figures() == {**UNKNOWN, "first_steps_seconds": first}, "no step after those was timed"
    while time.monotonic() - began < 0.05:
        pass
    ends = time.monotonic()
    clock.note(12)
    ended = time.monotonic()
    rate = clock.figures()["environment_steps_per_second"]
    assert 10 * ENVS / (ended - begins) - 0.1 <= rate <= 10 * ENVS / (ends - began) + 0.1
    assert clock.figures()["first_steps_seconds"] == first


def test_a_count_of_old_changes_nothing():
    clock = StepClock(ENVS)
    for steps in (1, 2, 9):
        clock.note(steps)
    known = clock.figures()
    clock.note(9)
    clock.note(3)
    assert clock.figures() == known


def test_steps_that_are_told_in_lots_count_from_the_first_lot():
    clock = StepClock(ENVS)
    clock.note(100)
    first = clock.figures()
    assert first["environment_steps_per_second"] is None
    clock.note(200)
    assert clock.figures()["first_steps_seconds"] == first["first_steps_seconds"]
    assert clock.figures()["environment_steps_per_second"] > 0
