"""Keeping order: what stays, what goes, in which order, and a kill at every step of it.

The store is one that every kind of job, a promotion, managed runs and projects have written: see `test_old_store.py`.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click.testing
import pytest
from helpers import HANG_S

from simyard.cli.main import main
from simyard.core.errors import StoreError
from simyard.core.records import IdempotencyRecord, JobResult, Manifest, SpentRecord
from simyard.core.specs import JobSpec
from simyard.core.sweep_records import SeedRun, Setting
from simyard.store import keys
from simyard.store.keys import AssetKeys, JobKeys
from simyard.store.store import Store
from simyard.tasks import retention
from simyard.tasks.retention import Rule, put_in_order
from simyard.tasks.shared import history

FIXTURE = Path(__file__).parents[1] / "fixtures" / "store" / "store-0.1.0.tar.xz"
LATER = datetime.now(UTC) + timedelta(days=400)
"""All of the store is old by then."""
ALL = Rule(days=30, newest=0)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "store"


@pytest.fixture
def yard(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "yard", copy_function=shutil.os.link)
    return Store.open(str(tmp_path / "yard"))


def called(store, name):
    """Return the id of the job with a name; `again` is the same training once more."""
    specs = [store.get_record(JobKeys(job_id).job, JobSpec) for job_id in store.list_dirs(keys.JOBS)]
    if name == "again":
        return next(spec.job_id for spec in specs if spec.from_job and spec.kind == "train")
    return next(spec.job_id for spec in specs if spec.name == name)


def put_sweep(store, job_id):
    """Have a sweep that has ended rest on a training."""
    run = SeedRun(seed=1, jobs=(job_id,), iterations=1, status="succeeded", value=1.0, gpu_seconds=0.0)
    setting = Setting(number=0, values={}, runs=(run,), state="complete", rung=0)
    folder = f"{keys.SWEEPS}/sweep-{job_id[4:]}"
    store.put_record(f"{folder}/settings/000000.json", setting)
    store.put_json(f"{folder}/result.json", {})


def freed(order, what):
    return [one.id for one in order.freed if one.what == what]


def test_what_anything_rests_on_stays(yard):
    promoted = json.loads(yard.get_bytes("promotions/arm.json"))["current"]
    rollouts = [
        job_id
        for entry in yard.list(keys.RUNS)
        if entry.key.endswith("/iteration.json")
        for job_id in yard.get_json(entry.key)["rollouts"]
    ]
    trained, again = called(yard, "trained"), called(yard, "again")
    put_sweep(yard, again)
    # A younger job that rests on a training, as its frozen spec says.
    young = JobKeys(keys.new_job_id())
    spec = yard.get_json(JobKeys(called(yard, "evaluated")).job)
    yard.put_json(young.job, spec | {"job_id": young.job_id})

    order = put_in_order(yard, ALL, now=LATER)

    assert rollouts
    left = set(yard.list_dirs(keys.JOBS))
    needed = {promoted["job_id"], promoted["evaluation"]["job_id"], *rollouts, trained, again, young.job_id}
    assert needed <= left
    assert {called(yard, name) for name in ("queued", "interrupted")} <= left
    assert order.kept["rested on"] >= len(needed) - 1
    assert "failed" not in [yard.get_record(JobKeys(job_id).job, JobSpec).name for job_id in left]
    for job_id in left:  # all that is left has what it was given
        for key in (file["key"] for file in files_in(yard.get_json(JobKeys(job_id).job))):
            assert yard.exists(key), key
    assert all(yard.exists(AssetKeys(sha256).record) or named(yard, sha256) for sha256 in yard.list_dirs(keys.ASSETS))
    assert put_in_order(yard, ALL, now=LATER).freed == ()


def files_in(document):
    """Yield every file that a document names with its key."""
    if isinstance(document, dict):
        if {"key", "sha256"} <= document.keys():
            yield document
        document = list(document.values())
    for value in document if isinstance(document, list) else ():
        yield from files_in(value)


def named(store, sha256):
    """Return whether some document beside the assets has a digest."""
    entries = [entry for entry in store.list() if entry.key.endswith(".json") and not entry.key.startswith(keys.ASSETS)]
    return any(sha256.encode() in store.get_bytes(entry.key) for entry in entries)


@pytest.mark.parametrize(
    ("rule", "now", "reason"),
    [
        (Rule(days=500, newest=0), LATER, "younger than 500 days"),
        (Rule(days=30, newest=100), LATER, "of the 100 newest"),
    ],
)
def test_age_and_count_keep_jobs(yard, rule, now, reason):
    order = put_in_order(yard, rule, now=now)
    assert freed(order, "job") == []
    assert order.kept[reason] > 10


def test_what_came_since_the_plan_keeps_what_it_rests_on(yard, monkeypatch):
    trained = called(yard, "trained")
    late = JobKeys(keys.new_job_id())
    plan = retention._users_first

    def meanwhile(doomed):
        yard.put_json(late.job, {"from_job": trained})  # a submission, at the worst moment
        return plan(doomed)

    monkeypatch.setattr(retention, "_users_first", meanwhile)
    order = put_in_order(yard, ALL, now=LATER)
    assert trained not in freed(order, "job")
    assert yard.exists(JobKeys(trained).manifest)


def test_the_best_checkpoints_of_an_old_training_stay(yard):
    job = JobKeys(called(yard, "trained"))
    before = yard.get_record(job.manifest, Manifest).artifacts
    checkpoints = {one.name: one for one in before if one.kind == "checkpoint"}
    assert sorted(checkpoints) == [f"checkpoints/model_{number}.pt" for number in (0, 5, 9)]
    # Its curve rises and falls: the second one is best.
    table = yard.get_bytes(job.artifact("metrics.csv")).decode().splitlines()
    column, rows = table[0].split(",").index("Train/mean_reward"), [line.split(",") for line in table[1:]]
    for number, row in enumerate(rows):
        row[column] = str(10.0 - abs(number - 5))
    yard.put_bytes(job.artifact("metrics.csv"), "\n".join([table[0], *map(",".join, rows)]).encode())

    order = put_in_order(yard, Rule(days=30, newest=100, checkpoints=1), now=LATER)

    assert job.job_id in freed(order, "checkpoints")
    left = ("checkpoints/model_5.pt", "checkpoints/model_9.pt")
    for document in (yard.get_record(job.manifest, Manifest), yard.get_record(job.result, JobResult)):
        assert tuple(one.name for one in document.artifacts if one.kind == "checkpoint") == left
    assert [entry.key for entry in yard.list(job.artifact("checkpoints"))] == [job.artifact(name) for name in left]
    indexed = [record.key for attempt in history.attempts(yard, job.job_id) for record in attempt.checkpoints]
    assert indexed == [entry.key for entry in yard.list(f"{job.attempt(1).files}/checkpoints")]
    promoted = json.loads(yard.get_bytes("promotions/arm.json"))["current"]["checkpoint"]
    assert yard.exists(promoted["key"])


def test_a_budget_counts_what_was_deleted(yard):
    job = JobKeys(called(yard, "trained"))
    outcome = yard.get_json(job.attempt(1).outcome)
    outcome["facts"]["device"], outcome["timings"]["total_s"] = "cuda:0", 100.0
    yard.put_json(job.attempt(1).outcome, outcome)
    yard.put_json(job.job, yard.get_json(job.job) | {"gpus": 2})
    put_in_order(yard, ALL, now=LATER)
    assert not yard.exists(job.job)
    assert retention.spent_by_deleted(yard, job.job_id) == 200.0
    assert yard.get_record(keys.spent(job.job_id), SpentRecord).gpu_seconds == 200.0


def test_nothing_is_deleted_where_a_document_cannot_be_read(yard):
    (entry,) = [entry for entry in yard.list(keys.RUNS) if entry.key.endswith("/run.json")][:1]
    path = yard.path(entry.key)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(StoreError):
        put_in_order(yard, ALL, now=LATER)
    assert yard.exists(JobKeys(called(yard, "failed")).job)


def test_the_command_says_what_would_go_and_what_went(yard):
    store = str(yard.folder)
    run = click.testing.CliRunner().invoke
    assert run(main, ["gc", "--store", store, "--days", "-1"]).exit_code == 2
    assert run(main, ["gc", "--store", store, "--days", "nan"]).exit_code == 2
    before = [entry.key for entry in yard.list()]
    dry = run(main, ["gc", "--store", store, "--days", "0", "--newest", "3", "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    would = json.loads(dry.stdout)
    assert before == [entry.key for entry in yard.list()]
    done = run(main, ["gc", "--store", store, "--days", "0", "--newest", "3"])
    assert done.exit_code == 0, done.output
    assert would["size_bytes"] > 0
    for one in would["stores"][0]["freed"]:
        assert one["id"] in done.stdout
    assert "freed 0 B of" in run(main, ["gc", "--store", store, "--days", "0", "--newest", "3"]).stdout
    assert [one["store"].rpartition("/")[2] for one in would["stores"]] == ["yard", *yard.list_dirs(keys.PROJECTS)]


# A kill at every step

KILLED = """
import json, os, signal, sys
from datetime import datetime
from simyard.store.store import Store
from simyard.tasks.retention import Rule, put_in_order

folder, last, rule, now = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), datetime.fromisoformat(sys.argv[4])
steps = 0
of_one = 0

def step(event, arguments):
    global steps, of_one
    if event == "simyard.step":
        of_one = 0
    # Within a folder that is deleted: its first file, and the next ones.
    if event == "simyard.step" or (event in ("os.remove", "os.rmdir") and of_one < 3):
        of_one += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

for name in ("put_bytes", "delete", "delete_prefix"):
    def audited(*arguments, call=getattr(Store, name)):
        sys.audit("simyard.step")
        done = call(*arguments)
        sys.audit("simyard.step")
        return done
    setattr(Store, name, audited)

while True:
    # The store must not be used before a fork.
    child = os.fork()
    if child == 0:
        sys.addaudithook(step)
        put_in_order(Store.open(f"{folder}/{last}"), Rule(**rule), now=now)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        sys.exit(code or print(last))
    last += 1
    if not os.path.isdir(f"{folder}/{last}"):
        sys.exit(99)
"""


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("trained", "evaluated"), id="two jobs"),
        # Every kind of job: a few hundred kills.
        pytest.param(None, id="all", marks=pytest.mark.long),
    ],
)
def test_a_kill_at_any_step_leaves_nothing_dangling(names, packed, tmp_path):
    begin = tmp_path / "begin"
    shutil.copytree(packed, begin, copy_function=shutil.os.link)
    store = Store.open(str(begin))
    if names:
        for folder in (keys.RUNS, keys.PROMOTIONS, keys.PROJECTS):
            shutil.rmtree(begin / folder, ignore_errors=True)
        for job_id in set(store.list_dirs(keys.JOBS)) - {called(store, name) for name in names}:
            shutil.rmtree(begin / "jobs" / job_id)
    trained, evaluated = called(store, "trained"), called(store, "evaluated")
    claim = keys.idempotency("the key of a job")
    store.put_record(claim, IdempotencyRecord(id=evaluated, sha256="0" * 64, created_at="2026-01-01T00:00:00+00:00"))
    put_sweep(store, trained)
    states = {job_id: history.job_status(store, job_id).status for job_id in store.list_dirs(keys.JOBS)}
    rule = Rule(days=30, newest=0, checkpoints=0)

    # The kills, each in a copy of its own; the last copy is put in order to the end.
    most = 40 if names else 700
    for number in range(most):
        shutil.copytree(begin, tmp_path / "copies" / str(number), copy_function=shutil.os.link)
    command = [sys.executable, "-c", KILLED, tmp_path / "copies", "0", json.dumps(rule.to_json()), LATER.isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    last = int(done.stdout)
    assert last > 15
    whole = Store.open(str(tmp_path / "copies" / str(last)))
    final = [entry.key for entry in whole.list()]
    assert not {JobKeys(evaluated).job, claim} & set(final)
    assert JobKeys(trained).artifact("checkpoints/model_9.pt") in final
    assert JobKeys(trained).artifact("checkpoints/model_5.pt") not in final

    for number in range(last):
        killed = Store.open(str(tmp_path / "copies" / str(number)))
        require_whole(killed, states)
        put_in_order(killed, rule, now=LATER)
        assert [entry.key for entry in killed.list()] == final, number


def require_whole(store, states):
    """Assert that all that readers of a store find is whole, and stands as it stood."""
    there = {entry.key: entry.size_bytes for entry in store.list()}
    jobs = [job_id for job_id in states if JobKeys(job_id).job in there]
    for job_id in jobs:
        job = JobKeys(job_id)
        state = history.job_status(store, job_id)
        assert state.status == states[job_id]
        documents = [store.get_json(job.job)]
        if isinstance(state, JobResult):
            entries = list(state.artifacts)
            if state.status == "succeeded":
                entries += store.get_record(job.manifest, Manifest).artifacts
            assert [one.name for one in entries if there.get(job.artifact(one.name)) != one.size_bytes] == []
        documents += [store.get_json_or_none(a.keys.checkpoints) for a in history.attempts(store, job_id)]
        missing = [file["key"] for document in documents for file in files_in(document) if file["key"] not in there]
        assert missing == []
        if from_job := documents[0]["from_job"]:
            assert from_job in jobs
    for key in there:
        if key.startswith(f"{keys.IDEMPOTENCY}/"):
            named = store.get_json(key)["id"]
            assert not named.startswith("job-") or named not in states or named in jobs
