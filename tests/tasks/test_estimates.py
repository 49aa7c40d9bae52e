"""What work will take and cost: from what jobs of the store took, else from the table, else nothing; then its cost."""

import os

import pytest
import records

from simyard.core.artifacts import TELEMETRY, VERSIONS
from simyard.core.records import Cost, Estimate, JobResult
from simyard.core.specs import Evaluation, JobSpec
from simyard.requests.sweeps import SweepRequest
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared import history, usage
from simyard.tasks.shared.estimates import as_told, evaluation_of, guess, in_sum, keep_measurement, table
from simyard.tasks.shared.estimates import estimate as estimate_at
from simyard.tasks.sweeps.price import estimate_sweep

JOB = "job-" + "0" * 26
GPU = "NVIDIA H200"
RATE = 3.6
"""USD for an hour of a GPU: a thousandth for each second."""


def estimate(spec, store, rate=RATE):
    return estimate_at(spec, store, rate)


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path))


def job(num_envs, gpus=1, task="Mine", **fields):
    base = {"kind": "train", "name": "x", "simulator": "isaaclab", "library": "rsl_rl", "max_iterations": 100}
    return JobSpec(job_id=JOB, task=task, num_envs=num_envs, seed=0, gpus=gpus, **{**base, **fields})


def train(store, spec, seconds, memory=(), done=21, device="cuda:0", start_s=8.0):
    """Leave a job in the store, of 21 iterations if it is a training, as it is when it has succeeded."""
    keys = JobKeys(JOB).attempt(1)
    facts = records.facts(device)
    timings = {"train_s": seconds, "total_s": seconds + start_s}
    store.put_json(keys.outcome, records.outcome(timings=timings, facts=facts, done=done, total=done))
    store.put_json(keys.file(VERSIONS.name), {"gpu": {"name": GPU, "driver": "1"}})
    rows = ["time_s,gpu_memory_bytes", *(f"1,{used}" for used in memory), "3,"]
    store.put_bytes(keys.file(TELEMETRY.name), "\n".join(rows).encode())
    keep_measurement(spec, store)


def test_a_training_of_the_store_tells_of_the_next(store):
    train(store, job(512), 10.0, memory=(1 << 30, 3 << 30))
    found = estimate(job(512), store)
    assert (found.iteration_s, found.train_s, found.gpu_memory_bytes) == (0.5, 50.0, 3 << 30)
    assert (found.seconds, found.gpu_seconds, found.usd) == (58.0, 58.0, 0.058), "its start holds the GPU too"
    assert found.how == f"measured with 512 environments on one {GPU} ({JOB})"
    assert as_told(found, job(512)) == f"100 iterations in 58 s, 0.058 USD, 3.0 GiB of GPU memory: {found.how}"
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
    [(job(512), 2.0, 21), (job(512), 10.0, 1), (job(512, gpus=2), 10.0, 21)],
    ids=["too short to tell", "one iteration", "two GPUs"],
)
def test_what_tells_nothing_is_not_kept(store, spec, seconds, done):
    train(store, spec, seconds, done=done)
    assert store.list("measurements") == []


def test_nothing_is_guessed(store):
    found = estimate(job(16, task="Never-Seen"), store)
    assert (found.seconds, found.usd, found.iteration_s, found.gpu_memory_bytes) == (None, None, None, None)
    assert "no training of 'Never-Seen' was measured with 'rsl_rl'" in found.how
    assert as_told(found) == found.how
    assert "no export of 'Never-Seen' was measured" in estimate(job(16, kind="export", task="Never-Seen"), store).how
    assert estimate(job(16, task="Never-Seen", gpus=0), store).usd == 0.0, "whatever it takes, no GPU is held"


def test_the_table_holds_where_the_store_has_nothing(store):
    assert table()
    for row in table():
        gpus = 0 if row.device == "cpu" else 1
        found = estimate(job(row.num_envs, task=row.task, library=row.library, gpus=gpus), store)
        assert (found.iteration_s, found.gpu_memory_bytes) == (round(row.iteration_s, 4), row.gpu_memory_bytes)
        assert row.source in found.how
    train(store, job(4096, task="Isaac-Cartpole-Direct"), 10.0)
    assert JOB in estimate(job(4096, task="Isaac-Cartpole-Direct"), store).how


def test_jobs_of_other_kinds_are_measured_too(store):
    def evaluation(episodes, num_envs=10):
        asked = Evaluation(num_episodes=episodes, steps_per_episode=300)
        return job(num_envs, kind="evaluate", evaluation=asked)

    train(store, evaluation(20), 10.0)
    assert (estimate(evaluation(20), store).seconds, estimate(evaluation(20), store).usd) == (18.0, 0.018)
    assert estimate(evaluation(40), store).seconds == 36.0, "two rounds of episodes were measured"
    assert "in proportion" in estimate(evaluation(40), store).how
    assert estimate(evaluation(10), store).seconds == 18.0, "a shorter one may be all start"
    assert estimate(job(10), store).seconds is None, "an evaluation tells nothing of a training"
    of_a_policy = evaluation_of(job(512), num_episodes=20, num_envs=10, steps_per_episode=300)
    assert estimate(of_a_policy, store).seconds == 18.0


def test_a_training_tells_of_itself_once_it_has_made_some_iterations(store):
    told = estimate(job(16, task="Never-Seen"), store)

    def at(seen, **more):
        given = {"on_cpu": False, "spent_s": 30.0, "work_s": 9.5, "seen": seen, "left": 80, **more}
        return guess(told, job(16, gpus=2), **given)

    assert at(19) is None
    found = at(20)
    assert (found.iteration_s, found.seconds, found.gpu_seconds, found.usd) == (0.5, 70.0, 140.0, 0.14)
    assert found.how == "guessed from the 20 iterations that this job has made"
    assert at(20, on_cpu=True).usd == 0.0

    # The status carries it as soon as the heartbeat does, and until then what its submission was told.
    keys = JobKeys(JOB)
    store.put_record(keys.estimate, told)
    store.put_json(keys.attempt(1).status, records.status())
    assert history.job_status(store, JOB).estimate == told
    store.put_json(keys.attempt(1).status, records.status(estimate=found.to_json()))
    assert history.job_status(store, JOB).estimate == found


def test_work_that_is_made_of_other_work_takes_the_sum(store):
    train(store, job(512), 10.0)
    part, unknown = estimate(job(512), store), estimate(job(16, task="Never-Seen"), store)
    found = in_sum([(part, 4)], 2, of="4 trainings")
    assert (found.seconds, found.gpu_seconds, found.usd) == (116.0, 232.0, 0.232)
    assert found.how == f"the sum of 4 trainings: {part.how}; 2 at once"
    assert in_sum([(part, 1)], 8, of="1 training").seconds == 58.0, "one alone is no faster for the room beside it"
    assert (in_sum([(part, 1), (unknown, 1)], of="2 trainings").seconds, found.usd_per_gpu_hour) == (None, RATE)


@pytest.mark.parametrize(("gpu_seconds", "rate", "usd"), [(100.0, RATE, 0.1), (100.0, None, None), (0.0, None, 0.0)])
def test_a_cost_has_a_price_where_the_site_names_one(gpu_seconds, rate, usd):
    found = usage.cost_of(gpu_seconds, rate)
    assert found == Cost(gpu_seconds=gpu_seconds, usd=usd)
    assert ("no price" in usage.cost_in_words(found)) == (usd is None)


def test_a_job_costs_what_its_submission_was_told_that_a_gpu_costs(store, monkeypatch):
    monkeypatch.setenv("SIMYARD_USD_PER_GPU_HOUR", "7.2")
    train(store, job(512), 92.0)
    assert usage.cost(job(512), store) == Cost(gpu_seconds=100.0, usd=0.2), "of an older simyard, at the site's price"
    store.put_record(JobKeys(JOB).estimate, estimate(job(512), store))
    assert usage.cost(job(512), store) == Cost(gpu_seconds=100.0, usd=0.1)
    assert usage.cost(job(512, gpus=0), store) == Cost(gpu_seconds=0.0, usd=0.0)


def test_a_sweep_takes_the_sum_of_its_trials(store):
    def sweep(**config):
        parameters = {"agent.algorithm.learning_rate": {"values": [0.1, 0.01, 0.001, 0.0001]}}
        training = {"task": "Mine", "numEnvs": 512, "maxIterations": 90}
        return SweepRequest.model_validate(
            {"trainingConfig": training, "sweep": {"parameters": parameters, "seeds": 2, **config}}
        )

    train(store, job(512), 10.0)
    template = job(512, max_iterations=90)
    found = estimate_sweep(sweep(), template, store, RATE)
    assert (found.seconds, found.usd) == (8 * 53.0, 0.424), "a learning rate makes no training longer"
    assert found.how.startswith("the sum of 8 trainings: measured with 512 environments")
    assert estimate_sweep(sweep(parallel=4), template, store, RATE).seconds == 2 * 53.0
    # 8 trainings of 10 iterations, a third of them goes on for 20, a ninth for 60.
    asha = estimate_sweep(sweep(scheduler={"kind": "asha"}), template, store, RATE)
    assert asha.gpu_seconds == 8 * 13.0 + 3 * 18.0 + 1 * 38.0
    budget = estimate_sweep(sweep(budget={"maxCredits": 0.1}), template, store, RATE)
    assert (budget.usd, budget.seconds) == (0.1, 100.0)
    other = {"trainingConfig.numEnvs": {"values": [512, 1024]}}
    assert estimate_sweep(sweep(parameters=other), template, store, RATE).gpu_seconds == 2 * 53.0 + 2 * 98.0
    measured = sweep(objective={"metric": "mean_return"})
    assert estimate_sweep(measured, template, store, RATE).seconds is None, "no evaluation was measured"


def test_records_of_an_older_simyard_have_no_price():
    older = records.result(JOB)
    assert "cost" not in older
    assert (JobResult.from_json(older).cost, JobResult.from_json(older).estimate) == (None, None)
    assert set(
        Estimate.from_json(
            {"seconds": 1.0, "gpu_seconds": 0.0, "usd": 0.0, "usd_per_gpu_hour": None, "how": "x"}
        ).to_json()
    ) == {"seconds", "gpu_seconds", "usd", "usd_per_gpu_hour", "how"}
