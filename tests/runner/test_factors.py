"""Designs of robustness evaluations, and what follows from their arms."""

import pytest

from simyard.core.specs import Arm
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.evaluation.factors import FACTORS, arms, canonical
from simyard.runner.evaluation.robustness import ArmPlayed, compare
from simyard.runner.isaaclab.conditions import _MADE

CHECKPOINT = {"name": "model_1.pt", "sha256": "0" * 64, "iteration": 1}
VARIED = {"mass": [0.5, 1, 2], "action_delay": [0, 3]}


def test_every_factor_of_the_table_can_be_put_to_work() -> None:
    assert set(_MADE) == {*FACTORS, "event"}
    assert all(row.lowest <= row.neutral <= row.highest for row in FACTORS.values())
    assert canonical("centerOfMass.y") == canonical("center_of_mass.y") == "center_of_mass.y"


@pytest.mark.parametrize(
    ("design", "names"),
    [
        ("one_at_a_time", ["mass=0.5", "mass=2", "action_delay=3"]),
        (
            "grid",
            ["mass=0.5", "mass=0.5, action_delay=3", "action_delay=3", "mass=2", "mass=2, action_delay=3"],
        ),
    ],
)
def test_what_changes_nothing_is_no_arm(design: str, names: list[str]) -> None:
    assert [arm.name for arm in arms(VARIED, design, 8, seed=1)] == names


def test_a_latin_hypercube_spreads_each_factor_evenly_and_repeats() -> None:
    drawn = arms({"mass": [0.5, 2.5], "gravity": [0.2, 1.0]}, "latin_hypercube", 8, seed=1)
    assert drawn == arms({"mass": [0.5, 2.5], "gravity": [0.2, 1.0]}, "latin_hypercube", 8, seed=1)
    for name, low, high in (("mass", 0.5, 2.5), ("gravity", 0.2, 1.0)):
        levels = sorted(float(arm.levels[name]) for arm in drawn)  # type: ignore[arg-type]
        places = [int((level - low) / (high - low) * 8 - 1e-9) for level in levels]
        assert places == list(range(8))


def test_events_cut_off_to_the_same_name_are_told_apart() -> None:
    levels = [{"velocity_range": {"x": [-1, 1], "y": [-1, 1], "z": [0, 0], "yaw": [0, high]}} for high in (1, 2)]
    first, second = arms({"event.push": levels}, "one_at_a_time", 8, seed=1)
    assert first.name != second.name


def played(outcomes: str) -> list[Episode]:
    """Episodes whose returns and successes are the digits: 0 has failed."""
    return [
        Episode(number=1, env=0, total=float(digit), length=1, ended="truncated", term=None, success=digit != "0")
        for digit in outcomes
    ]


def test_margins_end_before_the_first_level_that_falls_and_the_worst_arm_is_named() -> None:
    control, scores = "9999999999", {0.25: "0000000009", 0.5: "0099999999", 2.0: "9999999999", 4.0: "0000099999"}
    arm = {level: Arm(name=f"mass={level:g}", levels={"mass": level}) for level in scores}
    found = compare(
        CHECKPOINT, played(control), [ArmPlayed(arm=arm[level], episodes=played(scores[level])) for level in scores],
        "a metric", floor=0.8,
    )  # fmt: skip
    (margin,) = found["margins"]
    assert (margin["holds"], margin["falls"]) == ([0.5, 2.0], [0.25, 4.0])
    assert (found["worst"], found["sensitivity"]) == ("mass=0.25", [])
    differences = {arm["name"]: arm["difference"] for arm in found["arms"]}
    assert differences["mass=0.25"]["success"] is not None
    assert (differences["mass=0.25"]["success"]["lost"], differences["mass=0.25"]["success"]["gained"]) == (9, 0)
    assert differences["mass=0.25"]["success_p"] == pytest.approx(2 / 2**9)
    assert differences["mass=0.25"]["success_p_holm"] == pytest.approx(4 * 2 / 2**9), "there are four"
    assert differences["mass=2"]["returns_p_holm"] == 1.0


def test_where_nothing_says_what_success_is_the_return_that_is_kept_counts() -> None:
    arm = Arm(name="mass=2", levels={"mass": 2.0})
    episodes = [ArmPlayed(arm=arm, episodes=played("4444"))]
    found = compare(CHECKPOINT, played("5555"), episodes, None, floor=0.8)
    assert found["arms"][0]["score"] == pytest.approx(0.8)
    assert found["arms"][0]["difference"]["success"] is None
