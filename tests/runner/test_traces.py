"""Where the motions of pairs of episodes come apart."""

import numpy as np
import pytest

from simyard.runner.evaluation.traces import APART, Trace, apart

NAMES = ("cart position", "cart velocity", "root qw")


def trace(states, lengths, names=NAMES):
    return Trace(names, np.asarray(states, np.float32), np.asarray(lengths), [], 0.02)


def swinging(steps=50, pairs=4):
    """Return states with a standard deviation of about 1 in every quantity."""
    phase = np.arange(steps)[:, None, None] / 3 + np.arange(pairs)[None, :, None]
    return 1.41 * np.sin(phase + np.arange(len(NAMES)))


def test_equal_motions_never_come_apart():
    found, curves = apart(trace(swinging(), [50] * 4), trace(swinging(), [50] * 4))
    assert (found["pairs"], found["same_start"], found["apart"]) == (4, 4, 0)
    assert [found[key] for key in ("earliest_step", "median_step", "median_s", "quantity")] == [None] * 4
    assert [(row["step"], row["pairs"]) for row in curves] == [(step, 4) for step in range(50)]


def test_the_first_step_and_the_quantity_that_is_furthest_are_found():
    other = swinging()
    other[10:, 0, 1] += 3 * APART
    other[10:, 0, 0] += 2 * APART
    other[30:, 2, 0] -= 2 * APART
    other[:, 1, 0] += APART / 2
    found, curves = apart(trace(swinging(), [50] * 4), trace(other, [50] * 4))
    assert (found["apart"], found["earliest_step"], found["median_step"], found["median_s"]) == (2, 10, 20, 0.4)
    assert found["same_start"] == 3, "half of a tenth is no equal start"
    assert found["quantity"] in ("cart velocity", "cart position")
    assert curves[20]["cart position"] == pytest.approx(APART / 4, rel=0.1), "the median of 0, 0, a half and two tenths"


def test_what_follows_the_end_of_one_of_two_episodes_does_not_count():
    other = swinging()
    other[20:, 3] = np.nan  # another episode
    found, curves = apart(trace(swinging(), [50, 50, 50, 15]), trace(other[:40], [40, 40, 40, 20]))
    assert found["apart"] == 0
    assert [row["pairs"] for row in curves] == [4] * 15 + [3] * 25


def test_a_motion_that_is_not_finite_is_apart():
    other = swinging()
    other[5, 2, 0] = np.nan
    found, _ = apart(trace(swinging(), [50] * 4), trace(other, [50] * 4))
    assert (found["apart"], found["earliest_step"], found["quantity"]) == (1, 5, "cart position")


def test_engines_may_order_joints_differently_and_a_rotation_has_two_quaternions():
    order = [2, 1, 0]
    other = swinging()[..., order]
    other[..., 0] *= -1
    found, _ = apart(trace(swinging(), [50] * 4), trace(other, [50] * 4, tuple(NAMES[index] for index in order)))
    assert found["apart"] == 0
