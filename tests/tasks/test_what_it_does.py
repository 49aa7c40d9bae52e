"""While nothing is counted, an attempt says what it waits for; with the first unit of work it counts."""

from itertools import groupby

from simyard.tasks.attempt.attempt import Observer


def test_what_the_workload_does_is_the_stage_until_it_counts_again(player):
    seen = []
    left = player.play("compile; compile at 3", Observer(progress=seen.append), fresh=True)
    assert left.result["status"] == "succeeded"
    stages = [stage for stage, _ in groupby(progress.stage for progress in seen)]
    start, works = stages[: stages.index("working")], stages[stages.index("working") :]
    said = ["making the environment", "compiling kernels: 1 so far", "compiling kernels: 2 so far"]
    assert start == ["staging", "importing", "launching", "importing environments and physics", *said]
    assert works == ["working", *said, "working"]
    assert {progress.done for progress in seen if progress.stage in said} == {0, 3}
    log = left.runner_log().splitlines()
    notes = [line for line in log if "stage=working" in line]
    assert [line.partition("message=")[2] for line in notes] == [
        '"making the environment"', '"compiling kernels"', '"making the environment"', '"compiling kernels"'
    ]  # fmt: skip
