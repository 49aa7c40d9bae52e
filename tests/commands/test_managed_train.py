"""`simyard managed-train` and `simyard runs`, on the real runner and real trainer processes."""

import json
import os
import random
import re
import signal
import time
from dataclasses import replace

import pytest
from helpers import CommandLine, end, last_json, wait_until
from loops import Loop, Run
from scenario.play import running_below


@pytest.fixture(scope="module")
def machine(prefect_server, tmp_path_factory):
    """A machine and a store that all these runs have in common, with warm simulators."""
    folder = tmp_path_factory.mktemp("machine")
    command = CommandLine({**os.environ, **prefect_server.env, "SIMYARD_HOME": str(folder / "home")})
    machine = Loop(command, folder, folder / "a store, ünïcode")
    machine.keep_warm(2)
    yield machine
    assert command("sessions", "stop", "--all").returncode == 0


@pytest.fixture
def loop(machine, tmp_path):
    yield replace(machine, folder=tmp_path)
    wait_until(lambda: running_below(tmp_path) == [], 15, "the end of all that was started")


def test_a_run_leaves_a_chain_of_checkpoints_and_everything_they_came_from(loop):
    run = loop()
    assert (run.result["status"], run.result["ended_by"], run.exit_code) == ("succeeded", "max_iterations", 0)
    run.assert_sound(3)
    assert [row["seed"] for manifest in run.datasets() for row in manifest["rollouts"]] == [42, 43, 44, 45, 46, 47]
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


def test_the_policy_that_ends_the_run_is_named(loop):
    run = loop(iterations=4, parallel=1, success_criteria={"metric": "score", "target": 2})
    assert (run.result["status"], run.result["ended_by"]) == ("succeeded", "target")
    run.assert_sound(2)


def test_a_trainer_that_fails_is_called_again(loop):
    run = loop(iterations=2, parallel=1, how={"1": "fail once"})
    run.assert_sound(2)
    assert [call["status"] for call in run.calls(1)] == ["failed", "succeeded"]
    assert "the trainer gives up" in run.calls(1)[0]["tail"][-1]
    assert run.events.count("trainer.failed") == 1


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
    process = loop.begin(iterations=9, parallel=1, how={"1": "sleep 2"})
    try:
        run = loop.newest()
        run.wait_for("trainer.started")
        assert run.do("pause").returncode == 0
        run.wait_for("run.paused")
        assert json.loads(run.do("show", "--json").stdout)["status"] == "paused"
        standing = run.events
        time.sleep(2)
        assert run.events == standing, "something was begun while it was paused"
        assert run.events.count("iteration.succeeded") == 1, "what was in progress came to its end"
        assert run.do("resume").returncode == 0
        run.wait_for("iteration.succeeded", 2)
        assert run.do("cancel").returncode == 0
        assert process.wait(60) == 130, process.stderr.read()
    finally:
        end(process)
    result = json.loads((run.folder / "result.json").read_text())
    assert (result["status"], result["ended_by"]) == ("canceled", "canceled")
    run.assert_sound()
    refused = run.do("resume")
    assert refused.returncode == 2
    assert "has canceled" in refused.stderr


def test_without_wait_the_run_goes_on_by_itself_and_can_be_watched(loop):
    started = loop.command("managed-train", loop.write(iterations=2, parallel=1), "--store", loop.store)
    assert started.returncode == 0, started.stderr
    run_id = re.search(r"simyard runs watch (run-\w+)", started.stdout)[1]
    run = Run(loop, run_id, {}, 0)
    watched = run.do("watch")
    assert watched.returncode == 0, watched.stderr
    assert "iteration.succeeded" in watched.stderr
    assert watched.stderr.index("run.started") < watched.stderr.index("run.ended")
    run.assert_sound(2)
    listed = json.loads(loop.command("runs", "list", "--store", loop.store, "--json").stdout)
    assert {row["run_id"]: row["status"] for row in listed}[run_id] == "succeeded"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_again_and_again_it_goes_on_where_it_was(loop, seed):
    """SIGKILL to the driving process, or to all of its group, at moments that the seed chooses."""
    chance = random.Random(seed)
    process = loop.begin(iterations=4, seconds=0.3, how=dict.fromkeys("1234", "sleep 0.4"))
    run = loop.newest()
    kills = 0
    while kills < 6:
        run.wait_for("run.taken_up", kills) if kills else run.wait_for("run.started")
        time.sleep(chance.uniform(0.0, 4.0))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
        process = loop.command.start("runs", "resume", run.run_id, "--store", loop.store, "--wait")
    assert process.wait(120) == 0, process.stderr.read()
    assert kills >= 3, "the run was over before it was killed often enough to mean anything"
    run.assert_sound(4)
    assert [ended["metrics"]["score"] for ended in run.iterations] == [1.0, 2.0, 3.0, 4.0]


def test_a_second_process_does_not_drive_the_same_run(loop):
    process = loop.begin(iterations=9, parallel=1, how={"1": "sleep 20"})
    try:
        run = loop.newest()
        run.wait_for("trainer.started")
        status = json.loads((run.folder / "status.json").read_text())
        assert status["pid"] == process.pid
        assert last_json(run.do("resume", "--json"))["status"] == "running"
        assert run.events.count("run.taken_up") == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, process.stderr.read()
    finally:
        end(process)
    assert json.loads((run.folder / "result.json").read_text())["status"] == "canceled"
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
