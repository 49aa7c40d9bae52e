"""A sweep that is frozen: a metric that nothing logs is refused, and a job of two sweeps is run by one of them."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from helpers import HANG_S, changed, wait_until
from swept import CONFIG

from simyard.core.artifacts import METRICS_SUMMARY
from simyard.core.errors import RequestError
from simyard.core.records import Heartbeat, this_process
from simyard.requests.settings import MachineSettings
from simyard.requests.sweeps import SweepRequest
from simyard.store import keys
from simyard.store.keys import JobKeys, SweepKeys
from simyard.store.store import Store
from simyard.tasks.shared.control import Control
from simyard.tasks.shared.estimates import Measurement
from simyard.tasks.sweeps.plan import ResolvedSweep, resolve_sweep
from simyard.tasks.sweeps.trials import Trials


def resolved(store: Store, home: Path, **changes: object) -> ResolvedSweep:
    machine = MachineSettings(home=home, store=store.url(), python=sys.executable)
    request = SweepRequest.model_validate(changed(CONFIG, dict(changes)))
    return resolve_sweep(request, store, keys.new_sweep_id(), home, machine)


def test_a_metric_that_such_a_training_did_not_log_is_refused_before_the_first(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    template = resolved(store, tmp_path).spec.template
    job_id = keys.new_job_id()
    store.put_record(JobKeys(job_id).job, replace(template, job_id=job_id))
    store.put_json(JobKeys(job_id).artifact(METRICS_SUMMARY.name), {"Train/mean_reward": {}, "Episode_Reward/up": {}})
    store.put_record(keys.measurement(template.task, "rsl_rl", "cpu", 64), Measurement(
        task=template.task, library="rsl_rl", device="cpu", num_envs=64, iteration_s=0.1, start_s=1.0, work=None,
        gpu_memory_bytes=None, source=job_id,
    ))  # fmt: skip
    with pytest.raises(RequestError, match="mean 'Episode_Reward/up'"):
        resolved(store, tmp_path, sweep__objective__metric="Episode_Reward/down")
    resolved(store, tmp_path, sweep__objective__metric="Episode_Reward/up")
    others = ["env.rewards.down.weight=1"]  # with them it may be logged
    resolved(store, tmp_path, sweep__objective__metric="Episode_Reward/down", overrides=others)


def test_of_two_sweeps_that_want_a_job_at_once_one_runs_it_and_the_other_waits(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    spec = resolved(store, tmp_path).spec
    job_id = keys.new_job_id()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = psutil.Process(other.pid).create_time()
        beat = Heartbeat(**this_process() | {"pid": other.pid, "process_began": began})  # type: ignore[typeddict-item]
        store.put_record(JobKeys(job_id).driver(1), beat)
        with Control(store, SweepKeys(spec.sweep_id).desired_state, lambda: False, lambda: "run") as control:
            trials, ran = Trials(spec, store, control, in_pool=False), list[str]()

            def want() -> None:
                with trials._alone(job_id):
                    ran.append(job_id)

            waiting = threading.Thread(target=want)
            waiting.start()
            waiting.join(0.3)
            assert not ran, "two processes run one job"
            other.kill()
            other.wait()
            wait_until(lambda: ran, HANG_S, "the successor of a process that died")
            waiting.join(HANG_S)
    assert [entry.key for entry in store.list(f"{JobKeys(job_id).prefix}/drivers")] == [JobKeys(job_id).driver(1)]
