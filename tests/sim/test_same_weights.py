"""The same seed and arguments give the same weights, bit for bit: as Isaac Lab's own command, and again later."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIBRARIES
from simulated import Job, Yard, assert_same_weights

pytestmark = pytest.mark.sim


@pytest.mark.parametrize(
    "library", ["rsl_rl", *(pytest.param(library, marks=pytest.mark.long) for library in LIBRARIES[1:])]
)
def test_weights_are_those_of_isaaclabs_own_command(
    library: str, trained: Callable[[str], Job], bare: Callable[[str], Path]
):
    assert_same_weights(trained(library).final, bare(library))


def test_a_job_run_again_from_its_frozen_spec_gives_the_same_checkpoints(yard: Yard, trained: Callable[[str], Job]):
    first = trained("rsl_rl")
    second = yard.again(first)
    assert second.exit_code == 0, second.log
    assert second.id != first.id
    assert second.json("job.json")["from_job"] == first.id
    assert [e["name"] for e in second.checkpoints] == [e["name"] for e in first.checkpoints]
    for entry in first.checkpoints:
        assert_same_weights(second.artifacts / entry["name"], first.artifacts / entry["name"])
    assert [e["sha256"] for e in second.checkpoints] == [e["sha256"] for e in first.checkpoints]
