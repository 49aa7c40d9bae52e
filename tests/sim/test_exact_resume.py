"""A training that goes on from a checkpoint and its state computes what it would have computed; what cannot is said."""

import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from simulated import NO_EGL, Job, Killed, Yard, assert_same_weights, kill_simulator

pytestmark = [
    pytest.mark.sim,
    pytest.mark.long,  # a dozen trainings; test_killed.py shows it of one task, to the bit, in the default tier
]

TASKS = ("Isaac-Cartpole-Direct", "Isaac-Cartpole", "Isaac-Ant-Direct")
ITERATIONS, STOP = 6, 3
ANEW = "the simulation begins anew, with all robots as after a reset"


def settings(task: str, iterations: int = ITERATIONS) -> tuple[str, ...]:
    return (f"task={task}", "numEnvs=32", f"maxIterations={iterations}", "agent.save_interval=2")


@pytest.fixture(scope="module")
def whole(yard: Yard) -> Callable[[str], Job]:
    """A training without a stop, with checkpoints after 1, 3, 5 and 6 iterations."""
    return cache(lambda task: yard.train(*settings(task)))


@pytest.fixture(scope="module")
def gone_on(yard: Yard, whole: Callable[[str], Job]) -> Callable[..., Job]:
    """A job that goes on from the third iteration of the small cartpole's, with other settings."""

    def train(*changes: str) -> Job:
        earlier = whole(TASKS[0])
        more = ("resume.iteration=3", "maxIterations=2", f"resume.from_job={earlier.id}")
        return yard.train(*settings(TASKS[0])[:2], *more, *changes)

    return train


def anew(job: Job) -> list[str]:
    """The notes on what begins anew."""
    return [note.removeprefix(f"{ANEW}: ") for note in job.result["notes"] if note.startswith(ANEW)]


@pytest.mark.parametrize("task", TASKS)
def test_a_job_that_goes_on_from_another_computes_the_same(task: str, yard: Yard, whole: Callable[[str], Job]):
    first = whole(task)
    first.assert_whole()
    more = (f"resume.iteration={STOP}", f"resume.from_job={first.id}")
    second = yard.train(*settings(task, ITERATIONS - STOP), *more)
    second.assert_whole()
    assert anew(second) == []
    assert_same_weights(second.final, first.final)
    assert second.measured() == [row for row in first.measured() if int(row["step"]) >= STOP]


@pytest.mark.parametrize("task", TASKS[1:])
def test_a_killed_training_computes_the_same(task: str, yard: Yard):
    more = (*settings(task, 20), "agent.save_interval=4")
    pattern = "*/001-*/work/logs/rsl_rl/*/*/model_8.pt"
    killed: Killed = kill_simulator(lambda: yard.train(*more, **NO_EGL), yard.home / "work", pattern)
    killed.job.assert_whole()
    assert killed.job.result["attempts"] == 2
    other = yard.train(*more, **NO_EGL)
    assert_same_weights(killed.job.final, other.final)
    assert killed.job.measured() == other.measured()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("numEnvs=24",), "numEnvs was 32; not carried over either: 'library.logger.cur_"),
        (("seed=7",), "seed was 1"),
        (("env.episode_length_s=3",), "overrides was ["),
        (("resume.exact=false",), "it was not kept, since resume.exact is false"),
    ],
    ids=["numEnvs", "seed", "environment", "not exact"],
)
def test_what_does_not_go_on_is_said(changes: tuple[str, ...], said: str, gone_on: Callable[..., Job]):
    job = gone_on(*changes)
    job.assert_whole()
    (note,) = anew(job)
    assert note.startswith(said), note
    assert note in (job.artifacts / "report.md").read_text()
    assert job.checkpoints[-1]["iteration"] == STOP + 2


def test_another_learning_rate_changes_nothing_else(gone_on: Callable[..., Job]):
    job = gone_on("agent.algorithm.learning_rate=1e-5", "agent.algorithm.schedule=fixed")
    job.assert_whole()
    assert anew(job) == []
    assert [float(row["Loss/learning_rate"]) for row in job.rows()] == pytest.approx([1e-5, 1e-5])


def states(job: Job) -> list[dict]:
    """The states that the index names, in order."""
    records = json.loads((job.folder / "attempts/001/checkpoints.json").read_text())
    return [record["state"] for record in records if "state" in record]


def test_without_the_simulation_less_is_kept(yard: Yard, whole: Callable[[str], Job]):
    job = yard.train(*settings(TASKS[0]), "resume.exact=false")
    job.assert_whole()
    assert len(states(job)) == 4
    assert states(job)[-1]["size_bytes"] < states(whole(TASKS[0]))[-1]["size_bytes"] / 2
    assert not [note for note in job.result["notes"] if "kept" in note], "it was asked for"


def test_a_file_from_elsewhere_has_no_state(yard: Yard, whole: Callable[[str], Job], tmp_path: Path):
    file = tmp_path / "model_2.pt"
    file.write_bytes((whole(TASKS[0]).artifacts / "checkpoints/model_2.pt").read_bytes())
    job = yard.train(*settings(TASKS[0], 2), f"resume.checkpoint={file}")
    job.assert_whole()
    (note,) = anew(job)
    assert note.startswith("no state of the training came with 'model_2.pt'; so do episodes")


def test_a_hostile_state_is_refused_and_the_training_goes_on_without(yard: Yard, tmp_path: Path):
    """Whoever can write into the store gives it the digest that fits."""
    earlier = yard.train(*settings(TASKS[0], STOP))
    index = earlier.folder / "attempts/001/checkpoints.json"
    records = json.loads(index.read_text())
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("state.json", '{"version": 1, "identity": {}, "numbers": {"env.__class__": [0, 1]}}')
        archive.writestr("arrays.bin", b"")
    yard.opened.put_file(records[-1]["state"]["key"], hostile)
    from simyard.core.files import sha256_of

    records[-1]["state"] |= {"sha256": sha256_of(hostile), "size_bytes": hostile.stat().st_size}
    index.write_text(json.dumps(records))
    job = yard.train(*settings(TASKS[0], 2), f"resume.from_job={earlier.id}")
    job.assert_whole()
    (note,) = anew(job)
    assert note.startswith("the state beside the checkpoint has no 'generators' in its header")


def test_physx_keeps_its_state_to_itself(yard: Yard):
    more = ("physics=physx", *settings(TASKS[0], 2))
    first = yard.train(*more)
    first.assert_whole()
    kept = "the simulation is not kept beside checkpoints: the engine keeps it to itself (only Newton's can be read)"
    assert kept in first.result["notes"]
    second = yard.train(*more, f"resume.from_job={first.id}")
    second.assert_whole()
    assert anew(second) == ["it was not kept, since the engine keeps it to itself (only Newton's can be read)"]
