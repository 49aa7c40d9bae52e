"""Nothing is lost: an attempt that dies is gone on with, from its last whole checkpoint."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import records
from scenario.play import ITERATIONS, NOTHING, alive, started

from simyard.core.artifacts import kind_of_file, promised
from simyard.core.errors import Category, Failure
from simyard.core.files import superfluous_states
from simyard.core.records import Outcome
from simyard.core.specs import InputFile, ResumePoint
from simyard.runner.rl import get_library
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.kinds.train import TrainingKind
from simyard.tasks.launch import next_attempt
from simyard.tasks.shared.documents import ArtifactWriter
from simyard.tasks.shared.history import Artifact


def test_a_killed_simulator_is_gone_on_with_from_its_last_checkpoint(player):
    spec = player.stage("family; kill at 8 once")
    error = player.attempt(spec)
    assert (error.failure.code, error.failure.category) == ("killed", "infra")
    folder = player.folder(spec.job_id) / "attempts/001"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert player.attempt(spec) is None
    left = player.end(spec)

    left.assert_nothing_missing()
    assert left.result["attempts"] == 2
    assert left.outcome(1)["signal"] == "SIGKILL"
    assert left.outcome(2)["start_iteration"] == 7
    assert left.indices(1) == list(range(8))
    assert left.indices(2) == list(range(7, ITERATIONS)), "model_6.pt was the last: index 7 is made again"
    assert alive(started(left.stdout())) == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    names = [entry["name"] for entry in left.result["artifacts"]]
    assert "attempts/001/command.stdout.log" in names
    assert "command.stdout.log" in names


def spoil(opened, key):
    """Change an object."""
    opened.put_bytes(key, b"state 5")


def test_the_state_beside_a_checkpoint_comes_with_it(player):
    spec = player.stage("keep-states; kill at 8 once")
    assert player.attempt(spec).failure.code == "killed"
    assert player.attempt(spec) is None
    left = player.end(spec)
    assert "it had 'state 6'" in left.result["notes"], "the workload's notes stand in the report"
    records = json.loads((left.folder / "attempts/001/checkpoints.json").read_text())
    states = {record["name"]: (left.store.get_bytes(record["state"]["key"]), record["state"]) for record in records}
    assert {name: text.decode() for name, (text, _) in states.items()} == {
        f"model_{index}.pt": f"state {index}" for index in (0, 2, 4, 6)
    }
    for text, state in states.values():
        assert (state["sha256"], state["size_bytes"]) == (hashlib.sha256(text).hexdigest(), len(text))
    again = json.loads((left.folder / "attempts/002/checkpoints.json").read_text())
    assert all("state" not in record for record in again), "the second attempt kept none"
    assert not [entry for entry in left.result["artifacts"] if entry["name"].endswith(".state")]


@pytest.mark.parametrize(("damage", "said"), [(Store.delete, "There is no"), (spoil, "has the SHA-256 digest")])
def test_a_checkpoint_that_has_lost_its_state_is_gone_on_with(player, damage, said):
    spec = player.stage("keep-states; kill at 8 once")
    assert player.attempt(spec).failure.code == "killed"
    opened = Store.open(str(player.folder(spec.job_id).parents[1]))
    damage(opened, JobKeys(spec.job_id).attempt(1).state("model_6.pt.state"))
    assert player.attempt(spec) is None
    left = player.end(spec)
    assert left.outcome(2)["start_iteration"] == 7
    assert not [note for note in left.result["notes"] if "it had" in note]
    assert "the state beside the checkpoint is lost" in left.runner_log(2)
    assert said in left.runner_log(2)


@pytest.mark.parametrize(
    ("megabytes", "kept"),
    [([1, 1, 1], 3), ([30, 30, 30], 2), ([1, 100], 1), ([100, 1], 1), ([100], 1), ([], 0)],
    ids=["small", "the newest that fit", "a large newest one", "a large oldest one", "one alone", "none"],
)
def test_states_are_kept_while_they_are_few_megabytes(megabytes, kept):
    sizes = [count << 20 for count in megabytes]
    assert len(sizes) - superfluous_states(sizes) == kept


def test_a_job_that_dies_again_and_again_ends_as_one_chain(player):
    left = player.play("kill at 3 once; hang at 9", retries=1, timeouts={"iterationSeconds": 1.5, "graceSeconds": 0})
    assert left.result["status"] == "failed"
    chain = left.checkpoints
    assert [entry["iteration"] for entry in chain] == [1, 3, 5, 7, 9]
    assert [entry["parent"] for entry in chain] == [None, *(entry["sha256"] for entry in chain[:-1])]
    assert [int(row["step"]) for row in left.metrics()] == list(range(9))


def test_of_an_attempt_only_what_its_successor_took_up_is_kept(store):
    """Some libraries name a checkpoint by its reward too, so the one made again is not in the place of the lost one."""
    opened = Store.open(str(store))
    for number, (start, iterations) in enumerate([(0, (1, 2)), (1, (2, 3))], 1):
        keys = JobKeys(NOTHING.job_id).attempt(number)
        opened.put_json(keys.status, records.status(start_iteration=start))
        names = {iteration: f"last_ep_{iteration}_rew_{number}.pth" for iteration in iterations}
        for name in names.values():
            opened.put_bytes(keys.file(f"checkpoints/{name}"), b"weights")
        made = [
            {"name": name, "key": keys.file(f"checkpoints/{name}"), "sha256": name, "size_bytes": 7, "parent": None}
            | {"iteration": iteration}
            for iteration, name in names.items()
        ]
        opened.put_json(keys.checkpoints, made)
    lost = Failure(code="killed", category=Category.INFRA, message="It was killed.", advice="")
    kept = [found.name for found in collect(NOTHING, opened, lost).artifacts if found.kind == "checkpoint"]
    assert kept == [f"checkpoints/last_ep_{made}.pth" for made in ("1_rew_1", "2_rew_2", "3_rew_2")]


def test_the_seconds_of_all_attempts_are_one_clock(store, tmp_path):
    """Tags that count seconds count from each process's start, and say nothing of iterations."""
    from torch.utils.tensorboard import SummaryWriter

    opened = Store.open(str(store))
    for number, (start, indices) in enumerate([(0, range(5)), (3, range(3, 6))], 1):
        keys = JobKeys(NOTHING.job_id).attempt(number)
        opened.put_json(keys.status, records.status(start_iteration=start))
        opened.put_json(keys.outcome, records.outcome(number=number, start_iteration=start, facts=records.facts()))
        folder = tmp_path / str(number) / "rsl_rl/toy/2026-01-01_10-00-00"
        with SummaryWriter(str(folder)) as writer:
            for index in indices:
                writer.add_scalar("Train/mean_reward", index, index)
                writer.add_scalar("Train/mean_reward/time", index, 10 * (index - start + 1))
        (file,) = folder.iterdir()
        opened.put_file(keys.file(f"events/rsl_rl/toy/2026-01-01_10-00-00/{file.name}"), file)
    writer = ArtifactWriter(opened, JobKeys(NOTHING.job_id), tmp_path)
    TrainingKind().keep(NOTHING, collect(NOTHING, opened), writer)
    with (tmp_path / "metrics_time.csv").open() as table:
        rows = [(int(row["step"]), float(row["Train/mean_reward/time"])) for row in csv.DictReader(table)]
    assert rows == [(10, 0), (20, 1), (30, 2), (40, 3), (50, 4), (60, 5)]


def test_a_student_begins_at_0_and_its_next_attempt_knows_it(store):
    """The first attempt finds out that the checkpoint it starts from is a teacher's."""
    opened = Store.open(str(store))
    teacher = ResumePoint(
        checkpoint=InputFile(name="model_9.pt", key="teacher", sha256="t" * 64, size_bytes=1), iteration=10
    )
    spec = replace(NOTHING, max_iterations=6, resume=teacher)
    assert next_attempt(spec, opened).start_iteration == 10
    keys = JobKeys(spec.job_id).attempt(1)
    facts = records.facts() | {"first_iteration": 0}
    opened.put_json(keys.status, records.status(start_iteration=0))
    opened.put_json(keys.outcome, records.outcome(records.LOST, start_iteration=0, facts=facts))
    again = next_attempt(spec, opened)
    assert (again.start_iteration, again.job.last_iteration, again.resume.checkpoint.name) == (0, 6, "model_9.pt")
    opened.put_bytes(keys.file("checkpoints/model_3.pt"), b"weights")
    made = {"name": "model_3.pt", "key": keys.file("checkpoints/model_3.pt"), "sha256": "s" * 64, "size_bytes": 7}
    opened.put_json(keys.checkpoints, [made | {"parent": "t" * 64, "iteration": 4}])
    again = next_attempt(spec, opened)
    assert (again.start_iteration, again.job.first_iteration, again.resume.checkpoint.name) == (4, 0, "model_3.pt")


@pytest.mark.parametrize(
    ("early", "done", "missing"),
    [
        (None, 5, ["no checkpoint of iteration 6"]),
        ("it has won", 5, []),
        ("it has won", 4, ["no checkpoint of iteration 4"]),
    ],
    ids=["not finished", "ended early", "ended early, not saved"],
)
def test_a_library_may_end_early_by_its_own_rule(early, done, missing):
    """Then the last checkpoint is that of the iteration at which it said so."""
    made = records.outcome(
        done=done,
        total=6,
        ended_early=early,
        opened=[{"name": "checkpoints/last.pth", "sha256": "s", "tensors": 3, "finite": True, "error": None}],
    )
    files = [
        Artifact(name=name, kind=kind_of_file(name), key=name, size_bytes=7, sha256="s")
        for name in (*promised("train"), "events/events.out.tfevents.1")
    ]
    last = Artifact(name="checkpoints/last.pth", kind="checkpoint", key="last", size_bytes=7, sha256="s", iteration=5)
    assert TrainingKind().missing(NOTHING, Outcome.from_json(made), (*files, last)) == missing


def test_a_job_killed_before_its_first_checkpoint_starts_again(player):
    left = player.play("kill once")
    left.assert_nothing_missing()
    assert left.result["attempts"] == 2
    assert left.outcome(2)["start_iteration"] == 0


def test_a_job_whose_checkpoints_need_their_state_goes_on_with_it(player):
    left = player.play("keep-states; not-resumable; kill at 8 once")
    left.assert_nothing_missing()
    assert left.outcome(2)["start_iteration"] == 7


def test_a_job_whose_checkpoints_cannot_be_taken_up_starts_again(player):
    left = player.play("not-resumable; kill at 8 once")
    left.assert_nothing_missing()
    assert left.result["attempts"] == 2
    assert left.outcome(2)["start_iteration"] == 0
    assert left.indices(2) == list(range(ITERATIONS))
    assert [int(row["step"]) for row in left.metrics()] == list(range(ITERATIONS))
    assert (
        "starting from scratch: its checkpoints lack the normaliser"
        in (left.folder / "artifacts/runner.log").read_text()
    )


def test_a_half_written_checkpoint_is_not_used_and_never_in_the_store(player):
    left = player.play("tear at 8 once")
    left.assert_nothing_missing()
    assert left.outcome(2)["start_iteration"] == 7
    stored = [path for path in left.folder.rglob("*.pt")]
    assert len(stored) > 5
    assert [path for path in stored if not get_library("rsl_rl").is_complete(path)] == []
    first = left.folder / "attempts/001/files/checkpoints"
    assert sorted(path.name for path in first.iterdir()) == ["model_0.pt", "model_2.pt", "model_4.pt", "model_6.pt"]


def test_the_very_last_checkpoint_is_not_taken_up(player):
    """Something is left to be trained, so that the library reaches its own end."""
    spec = player.stage("end-unmarked")
    player.attempt(spec)
    assert player.valid_iterations(spec)[-1] == ITERATIONS
    assert next_attempt(spec, player.store).start_iteration == ITERATIONS - 1


def test_another_job_can_go_on_from_a_checkpoint(player):
    earlier = player.play("", iterations=4)
    left = player.play("", iterations=3, resume={"fromJob": earlier.result["job_id"]})
    assert left.result["status"] == "succeeded"
    assert left.indices(1) == [4, 5, 6]
    assert "every weight is [7.0]" in left.stdout()
    assert left.checkpoints[0]["parent"] == earlier.checkpoints[-1]["sha256"]
    assert [int(row["step"]) for row in left.metrics()] == [4, 5, 6]


def test_a_store_that_goes_away_for_a_while_loses_nothing(player):
    store, aside = Path(player.site.store), Path(player.site.store + " away")
    rounds = []

    def follow(progress):
        """Take the store away after a few iterations, and bring it back when an upload must have failed."""
        if progress.done >= 4 and not aside.exists() and not rounds:
            store.rename(aside)
            store.write_text("not a folder")
        if aside.exists() and progress.done >= 60:
            rounds.append(progress.done)
            store.unlink()
            aside.rename(store)

    left = player.play("", Observer(progress=follow), iterations=70)
    assert rounds
    left.assert_nothing_missing(iterations=70)
    assert left.result["attempts"] == 1
