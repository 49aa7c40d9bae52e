"""`simyard managed`, on the real runner and real trainer processes."""

import json
import os
import random
import re
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from helpers import HANG_S, CommandLine, last_json, wait_until
from loops import PATIENCE_S, Loop, Run
from scenario.play import running_below

from simyard.runner.workload import TOKEN

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def machine(prefect_server, flow_host, tmp_path_factory):
    """A machine and a store that all these runs have in common, with warm simulators."""
    folder = tmp_path_factory.mktemp("machine")
    command = CommandLine({**os.environ, **prefect_server.env, "SIMYARD_HOME": str(folder / "home")}, flow_host)
    machine = Loop(command, folder, folder / "a store, ünïcode")
    machine.keep_warm(2)
    yield machine
    assert command("sessions", "stop", "--all").returncode == 0


@pytest.fixture
def loop(machine, tmp_path):
    yield replace(machine, folder=tmp_path)
    wait_until(lambda: running_below(tmp_path) == [], HANG_S, "the end of all that was started")


def test_a_run_leaves_a_chain_of_checkpoints_and_everything_they_came_from(loop):
    run = loop()
    assert (run.result["status"], run.result["ended_by"], run.exit_code) == ("succeeded", "max_iterations", 0)
    run.assert_sound(3)
    assert [row["seed"] for manifest in run.datasets() for row in manifest["rollouts"]] == [42, 43, 44, 45, 46, 47]
    assert run.result["cost"] == {"gpu_seconds": 0.0, "usd": 0.0}
    assert "3 iterations, all that it may make" in run.result["estimate"]["how"]
    first = run.datasets()[0]
    assert (first["episodes"], first["recorded_steps"]) == (4, 20)
    assert first["arrays"]["data/row"] == {"shape": [2], "dtype": "float32"}
    assert first["rollouts"][1]["mean_return"] == pytest.approx(3.0)
    assert [ended["mean_return"] for ended in run.iterations] == pytest.approx([2.5, 4.5, 6.5])
    assert [ended["metrics"]["score"] for ended in run.iterations] == [1.0, 2.0, 3.0]
    assert run.result["best"]["checkpoint_id"] == run.lineage[-1]["checkpoint_id"]
    logs = [path.read_text() for path in sorted(run.folder.glob("iterations/*/trainer/001/stdout.log"))]
    assert f"iteration 1 of {run.run_id}, parent none" in logs[0]
    assert "parent file:///" in logs[1]
    assert run.events[0] == "run.started"
    assert run.events[-1] == "run.ended"
    assert run.events.count("rollout.succeeded") == 6
    report = (run.folder / "report.md").read_text()
    assert report.startswith("# loop: succeeded\n")
    assert all(entry["checkpoint_id"] in report for entry in run.lineage)
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long  # test_killed_again… kills a trainer
def test_a_trainer_that_fails_is_called_again_and_the_policy_that_ends_the_run_is_named(loop):
    run = loop(iterations=4, parallel=1, how={"1": "fail once"}, success_criteria={"metric": "score", "target": 2})
    assert (run.result["status"], run.result["ended_by"]) == ("succeeded", "target")
    run.assert_sound(2)
    assert [call["status"] for call in run.calls(1)] == ["failed", "succeeded"]
    assert "the trainer gives up" in run.calls(1)[0]["tail"][-1]
    assert run.events.count("trainer.failed") == 1


@pytest.mark.long  # the decision alone: test_run_policies.py
def test_a_failed_iteration_ends_the_run_or_it_goes_on_from_the_last_good_checkpoint(loop):
    how = {"how": {"2": "fail"}, "parallel": 1, "loop_policy__trainer_retry_limit": 0}
    ended = loop(**how)
    assert (ended.result["status"], ended.result["ended_by"], ended.exit_code) == ("failed", "iteration_failure", 1)
    assert "exit code 1" in ended.result["error"]["message"]
    ended.assert_sound(1)
    run = loop(**how, loop_policy__stop_on_iteration_failure=False)
    assert (run.result["status"], run.result["iterations"]) == ("succeeded", {"succeeded": 2, "failed": 1})
    run.assert_sound(2)
    assert [entry["iteration"] for entry in run.lineage] == [1, 3]
    assert run.lineage[1]["parent"] == run.lineage[0]["checkpoint_id"]


def test_pause_resume_and_cancel_from_another_terminal(loop):
    slow = {str(number): "sleep 1" for number in range(1, 61)}
    with loop.running(iterations=60, parallel=1, how=slow) as (run, process):
        run.wait_for("trainer.started")
        assert run.do("pause").returncode == 0
        run.wait_for("run.paused")
        assert json.loads(run.do("show", "--json").stdout)["status"] == "paused"
        standing = run.events
        time.sleep(2)
        assert run.events == standing, "something was begun while it was paused"
        assert run.do("resume").returncode == 0
        run.wait_for("iteration.succeeded", standing.count("iteration.succeeded") + 1)
        assert run.do("cancel").returncode == 0
        assert process.wait(PATIENCE_S) == 130, process.stderr.read()
    assert run.end == ("canceled", "canceled")
    run.assert_sound()
    refused = run.do("resume")
    assert refused.returncode == 2
    assert "has canceled" in refused.stderr


@pytest.mark.long  # test_pause_resume_and_cancel… cancels one that is driven
def test_a_run_that_nobody_drives_is_canceled_at_once(loop):
    with loop.running(iterations=9, parallel=1, how={"1": "sleep 20"}) as (run, process):
        run.wait_for("trainer.started")
        process.kill()
        process.wait()
    assert "is canceled" in run.do("cancel").stdout
    assert run.end == ("canceled", "canceled")
    assert trainers(run) == []


@pytest.mark.long  # the same run, not waited for
def test_without_wait_the_run_goes_on_by_itself_and_can_be_watched(loop):
    started = loop.command("managed", "start", loop.write(iterations=2, parallel=1), "--store", loop.store)
    assert started.returncode == 0, started.stderr
    run_id = re.search(r"simyard managed watch (run-\w+)", started.stdout)[1]
    run = Run(loop, run_id, {}, 0)
    watched = run.do("watch")
    assert watched.returncode == 0, watched.stderr
    assert "iteration.succeeded" in watched.stderr
    assert watched.stderr.index("run.started") < watched.stderr.index("run.ended")
    run.assert_sound(2)
    listed = json.loads(loop.command("managed", "list", "--store", loop.store, "--json").stdout)
    assert {row["run_id"]: row["status"] for row in listed}[run_id] == "succeeded"


@pytest.mark.parametrize(
    ("seed", "times"),
    [
        pytest.param(10, 4, id="the driver, a simulator, the driver, a trainer"),
        pytest.param(1, 8, marks=pytest.mark.long),
        pytest.param(2, 8, marks=pytest.mark.long),
    ],
)
def test_killed_again_and_again_it_goes_on_where_it_was(loop, machine, seed, times):
    """SIGKILL to the driving process, a trainer or a simulator, some events further on each time, as the seed says."""
    chance = random.Random(seed)
    often = {"loop_policy__trainer_retry_limit": 9, "loop_policy__rollout_retry_limit": 9}
    process = loop.begin(iterations=4, seconds=0.3, how=dict.fromkeys("1234", "sleep 0.4"), **often)
    run = loop.newest()
    kills = {"driver": 0, "trainer": 0, "simulator": 0}
    while sum(kills.values()) < times:
        target = len(run.events) + chance.randint(1, 4)
        wait_until(lambda: len(run.events) >= target or process.poll() is not None, PATIENCE_S, "more events")  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.5))
        if process.poll() is not None:
            break
        what = chance.choice(["driver", "driver", "trainer", "simulator"])
        for victim in {"trainer": trainers(run), "simulator": simulators(machine)}.get(what, [])[:1]:
            with suppress(psutil.Error):
                victim.kill()
            kills[what] += 1
        if what == "driver":
            process.kill()
            process.wait()
            kills[what] += 1
            process = loop.resume(run.run_id)
    # Killed between the result and its own end, the last process finds nothing left to do.
    code, said = process.wait(PATIENCE_S), process.stderr.read()
    assert code == 0 or "has succeeded" in said, said
    assert run.end[0] == "succeeded"
    assert run.events[-1] == "run.ended"
    assert kills["driver"] >= 2, f"the run was over before it was killed often enough to mean anything: {kills}"
    run.assert_sound(4)
    assert [ended["metrics"]["score"] for ended in run.iterations] == [1.0, 2.0, 3.0, 4.0]


def trainers(run):
    """The processes of the run's trainer."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"simyard-{run.run_id}" in process.environ().get(TOKEN, ""):
                found.append(process)
    return found


def simulators(machine):
    """The processes that simulate on this machine, those that only wait included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "--control" in process.cmdline() and process.cwd().startswith(str(machine.folder / "home")):
                found.append(process)
    return found


def test_a_second_process_does_not_drive_the_same_run(loop):
    with loop.running(iterations=9, parallel=1, how={"1": "sleep 20"}) as (run, process):
        run.wait_for("trainer.started")
        assert json.loads((run.folder / "status.json").read_text())["pid"] == process.pid
        assert last_json(run.do("resume", "--json"))["status"] == "running"
        assert run.events.count("run.taken_up") == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130, process.stderr.read()
    assert run.end[0] == "canceled"
    assert [call["status"] for call in run.calls(1)] == ["canceled"]


def test_verify_sees_what_was_changed(loop):
    run = loop(iterations=2, parallel=1)
    rollout = loop.store / "jobs" / run.iterations[0]["rollouts"][0] / "artifacts" / "rollout.zarr"
    rollout.write_bytes(rollout.read_bytes() + b"more")
    record = next(run.folder.glob("checkpoints/ckpt-0002-*"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"parent": None}))
    (run.folder / "events" / "00000003.json").unlink()
    verified = run.do("verify", "--json")
    assert verified.returncode == 1
    problems = "\n".join(last_json(verified)["problems"])
    assert "the rollout of job-" in problems
    assert "the parent is None, not ckpt-0001" in problems
    assert "not numbered through" in problems


@pytest.mark.long  # tests/tasks/test_container_engine.py calls trainers in containers
def test_a_trainer_in_a_container_keeps_the_same_contract(loop, podman):
    """A real engine and a real container, whose image has nothing but Python in it."""
    smoke = (ROOT / "examples/managed_training/smoke_trainer/train_smoke.py").read_text()
    command = replace(loop.command, env={**loop.command.env, "DOCKER_HOST": podman.address})
    inside = replace(loop, command=command)
    run = inside(
        iterations=2,
        parallel=1,
        trainer_spec__image_uri=podman.python,
        trainer_spec__entrypoint="python3 -c",
        trainer_spec__args_template=[
            smoke.replace("{", "{{").replace("}", "}}"),
            "--dataset-manifest-path", "{dataset_manifest_path}", "--output-dir", "{output_dir}",
            "--checkpoint-in-uri", "{checkpoint_in_uri}",
        ],
    )  # fmt: skip
    assert run.result["status"] == "succeeded", run.result
    run.assert_sound(2)
    checkpoints = [json.loads((loop.store / entry["file"]["key"]).read_text()) for entry in run.lineage]
    assert [made["parent_sha256"] for made in checkpoints] == [None, run.lineage[0]["sha256"]]
    assert checkpoints[1]["dataset_sha256"] == run.iterations[1]["dataset_sha256"]
    assert podman.client.containers.list(all=True) == []
