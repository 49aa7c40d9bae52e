"""What a training will take: from what trainings of the store took, else from the table, else nothing."""

import os

import pytest
import records

from simyard.core.artifacts import TELEMETRY, VERSIONS
from simyard.core.specs import JobSpec
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared.estimates import estimate, keep_measurement, table

JOB = "job-" + "0" * 26
GPU = "NVIDIA H200"


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path))


def job(num_envs, gpus=1, task="Mine", **fields):
    base = {"kind": "train", "name": "x", "simulator": "isaaclab", "library": "rsl_rl", "max_iterations": 100}
    return JobSpec(job_id=JOB, task=task, num_envs=num_envs, seed=0, gpus=gpus, **{**base, **fields})


def train(store, spec, seconds, memory=(), done=21, device="cuda:0"):
    """Leave a training of 21 iterations in the store, as it is when it has succeeded."""
    keys = JobKeys(JOB).attempt(1)
    facts = records.facts(device)
    store.put_json(keys.outcome, records.outcome(timings={"train_s": seconds}, facts=facts, done=done, total=done))
    store.put_json(keys.file(VERSIONS.name), {"gpu": {"name": GPU, "driver": "1"}})
    rows = ["time_s,gpu_memory_bytes", *(f"1,{used}" for used in memory), "3,"]
    store.put_bytes(keys.file(TELEMETRY.name), "\n".join(rows).encode())
    keep_measurement(spec, store)


def test_a_training_of_the_store_tells_of_the_next(store):
    train(store, job(512), 10.0, memory=(1 << 30, 3 << 30))
    found = estimate(job(512), store)
    assert (found.iteration_s, found.train_s, found.gpu_memory_bytes) == (0.5, 50.0, 3 << 30)
    assert found.how == f"measured with 512 environments on one {GPU} ({JOB})"
    assert found.in_words(100) == f"100 iterations in 50 s, 3.0 GiB of GPU memory: {found.how}"
    train(store, job(512), 20.0)
    assert estimate(job(512), store).iteration_s == 1.0, "the newest counts"


@pytest.mark.parametrize(
    ("num_envs", "iteration_s", "memory", "said"),
    [
        (256, 0.5, 2 << 30, "with 512 environments"),
        (1024, 1.5, None, "with 2,048 environments"),
        (4096, 3.0, None, "with 2,048 environments"),
    ],
)
def test_another_count_has_an_upper_bound(store, num_envs, iteration_s, memory, said):
    train(store, job(512), 10.0, memory=(2 << 30,))
    train(store, job(2048), 30.0)
    found = estimate(job(num_envs), store)
    assert (found.iteration_s, found.gpu_memory_bytes) == (iteration_s, memory)
    assert said in found.how
    assert f"; with {num_envs:,} it is at most that" in found.how
    assert ("in proportion" in found.how) == (num_envs > 2048)


def test_devices_are_kept_apart(store):
    train(store, job(512), 10.0)
    train(store, job(512, gpus=0), 40.0, device="cpu")
    assert estimate(job(512), store).iteration_s == 0.5
    assert estimate(job(512, gpus=0), store).iteration_s == 2.0
    assert "on a CPU" in estimate(job(512, gpus=0), store).how
    for path, seconds in (("gpu", 1.0), ("cpu", 2.0)):
        os.utime(store.path(f"measurements/Mine/rsl_rl/{path}/512.json"), (seconds, seconds))
    assert estimate(job(512, gpus=None), store).iteration_s == 2.0, "where the last one ran"


def test_engines_are_kept_apart(store):
    train(store, job(512), 10.0)
    assert estimate(job(512, physics="physx"), store).iteration_s is None
    train(store, job(512, physics="physx"), 40.0)
    assert estimate(job(512, overrides=("physics=ovphysx",)), store).iteration_s == 2.0
    assert [estimate(job(512, physics=name), store).iteration_s for name in (None, "newton")] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("spec", "seconds", "done"),
    [(job(512), 2.0, 21), (job(512), 10.0, 1), (job(512, gpus=2), 10.0, 21), (job(512, kind="evaluate"), 10.0, 21)],
    ids=["too short to tell", "one iteration", "two GPUs", "no training"],
)
def test_what_tells_nothing_is_not_kept(store, spec, seconds, done):
    train(store, spec, seconds, done=done)
    assert store.list("measurements") == []


def test_nothing_is_guessed(store):
    found = estimate(job(16, task="Never-Seen"), store)
    assert (found.iteration_s, found.train_s, found.gpu_memory_bytes) == (None, None, None)
    assert "'Never-Seen' was never measured with 'rsl_rl'" in found.how
    assert estimate(job(16, kind="export"), store) is None


def test_the_table_holds_where_the_store_has_nothing(store):
    assert table()
    for row in table():
        gpus = 0 if row.device == "cpu" else 1
        found = estimate(job(row.num_envs, task=row.task, library=row.library, gpus=gpus), store)
        assert (found.iteration_s, found.gpu_memory_bytes) == (round(row.iteration_s, 4), row.gpu_memory_bytes)
        assert row.source in found.how
    train(store, job(4096, task="Isaac-Cartpole-Direct"), 10.0)
    assert JOB in estimate(job(4096, task="Isaac-Cartpole-Direct"), store).how
