"""Every way a workload can end, the verdict on it, and nothing left running."""

import json
import time

import pytest
from gpus import install_driver
from scenario.play import alive, assert_digests, started

from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.launch import ask_to_cancel


def test_an_exception_is_the_users_and_comes_first_in_the_diagnostics(player):
    left = player.play("family; crash at 5", retries=2)
    assert left.result["status"] == "failed"
    assert left.error["category"] == "user"
    assert left.error["message"] == "ValueError: the reward function is wrong"
    assert left.error["advice"]
    assert len(left.attempts) == 1
    outcome = left.outcome(1)
    assert (outcome["exit_code"], outcome["signal"]) == (1, None)
    told = left.diagnostics
    assert next(iter(told)) == "error"
    assert told["error"] == "ValueError: the reward function is wrong"
    assert told["stage"] == "working"
    assert told["retryable"] is False
    assert "ValueError: the reward function is wrong" in told["tails"]["command.stderr.log"]
    assert any("Learning iteration 4/" in line for line in told["tails"]["command.stdout.log"])
    assert told["tails"]["runner.log"]
    assert [entry["iteration"] for entry in left.checkpoints] == [1, 3, 5]
    assert len(started(left.stdout())) == 4
    assert alive(started(left.stdout())) == []
    assert not (left.folder / "artifact_manifest.json").exists()
    assert json.loads((left.folder / "result.json").read_text()) == left.result
    assert_digests(left)
    scratch = [path for path in player.site.home.rglob("*") if path.is_file() and "assets" not in path.parts]
    assert scratch == []


def test_a_parsers_exit_is_a_failure_too(player):
    left = player.play("bad-argument", retries=2)
    assert left.error["category"] == "user"
    assert left.error["message"] == "The process was left by sys.exit(2) before the work was done."
    assert left.diagnostics["stage"] == "starting"
    assert left.checkpoints == []
    assert len(left.attempts) == 1


def test_an_exception_that_ended_with_code_zero_is_the_users_too(player):
    left = player.play("end-as-kit at 7", retries=2)
    assert (left.outcome(1)["exit_code"], left.error["code"], left.error["category"]) == (0, "exception", "user")
    assert left.error["message"] == "ValueError: the reward function is wrong"
    assert len(left.attempts) == 1


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        pytest.param("fail-to-start", "kit_not_started", id="nothing else known"),
        pytest.param("no-vulkan; fail-to-start", "no_vulkan", id="with its cause"),
    ],
)
def test_an_app_that_does_not_start_is_the_machines_whatever_it_exits_with(player, scenario, code):
    left = player.play(scenario, retries=0)
    assert (left.error["code"], left.error["category"]) == (code, "infra")


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param("save-nothing", id="without a checkpoint"),
        pytest.param("end-unmarked", id="without the end marker"),
        pytest.param("leave at 7", id="in the middle"),
    ],
)
def test_exit_code_zero_alone_is_no_success(player, scenario):
    left = player.play(scenario, retries=0)
    assert left.outcome(1)["exit_code"] == 0
    assert left.result["status"] == "failed"
    assert left.error["code"] == "ended_without_result"
    assert not (left.folder / "artifact_manifest.json").exists()


def test_a_death_is_noticed_although_its_children_live(player):
    """They have inherited all that it had: what they hold open must not keep up the appearance of a workload."""
    left = player.play("fork; kill at 5", retries=0)
    assert (left.error["code"], left.outcome(1)["signal"]) == ("killed", "SIGKILL")
    assert len(started(left.stdout())) == 3
    assert alive(started(left.stdout())) == []


def test_a_cancel_in_the_store_ends_a_running_attempt(player):
    """It reaches a machine that no Prefect can: the attempt looks for it while it runs."""
    spec = player.stage("hang at 5", retries=0)

    def cancel_at_3(progress):
        if progress.done >= 3:
            ask_to_cancel(player.store, spec.job_id)

    error = player.attempt(spec, Observer(progress=cancel_at_3))
    left = player.end(spec, error)
    assert (left.result["status"], left.error["code"]) == ("canceled", "canceled")
    assert [entry["iteration"] for entry in left.checkpoints] == [1, 3, 5]
    assert alive(started(left.stdout())) == []


def test_out_of_memory_is_the_machines_size_and_is_not_retried(player):
    left = player.play("out-of-memory at 3", retries=2)
    assert left.error["code"] == "gpu_out_of_memory"
    assert left.error["category"] == "resource"
    assert "CUDA out of memory. Tried to allocate" in left.error["message"]
    assert "numEnvs" in left.error["advice"]
    assert len(left.attempts) == 1


@pytest.mark.parametrize(
    "scenario",
    [
        "no-gpu-memory at 3",
        pytest.param("die-without-gpu-memory at 3", marks=pytest.mark.long),  # the verdict is in test_gpu_memory.py
    ],
)
def test_gpu_memory_that_others_hold_is_the_machines_and_is_tried_again(player, tmp_path, monkeypatch, scenario):
    install_driver(tmp_path, monkeypatch, ["0, GPU-11aa, NVIDIA H200, 143771, 1171"], ["GPU-11aa, 4321, 142000"])
    left = player.play(scenario, retries=1)
    assert (left.error["code"], left.error["category"]) == ("gpu_out_of_memory", "infra")
    assert "others hold 148,898 MB: process 4321 (148,898 MB)" in left.error["message"]
    assert "End what holds the GPU" in left.error["advice"]
    assert len(left.attempts) == 2


def test_weights_that_are_not_finite_are_no_policy(player):
    left = player.play("nan at 10", retries=2)
    assert left.error["code"] == "policy_not_finite"
    assert left.error["category"] == "user"
    assert "model_11.pt" in left.error["message"]
    assert left.outcome(1)["end_marker"] is True
    assert len(left.attempts) == 1


def test_the_original_cause_comes_before_the_exception_it_led_to(player):
    left = player.play("warn at 2; out-of-memory at 5", retries=2)
    assert left.error["code"] == "contact_buffer_too_small"
    assert left.error["message"] == "nefc overflow - please increase njmax to 120"
    assert left.diagnostics["error"].startswith("nefc overflow")
    said = "\n".join(left.diagnostics["tails"]["command.stderr.log"])
    assert "CUDA out of memory" in said, "a cause that is known as well, and came later"


@pytest.mark.parametrize(
    ("scenario", "seconds", "iteration"),
    [
        pytest.param("family; hang", {"firstIterationSeconds": 2}, 0, id="before the first iteration"),
        pytest.param("family; hang at 3", {"iterationSeconds": 1.5}, 3, id="in the middle"),
    ],
)
def test_a_hang_is_ended_and_retried(player, scenario, seconds, iteration):
    left = player.play(f"{scenario} once", retries=1, timeouts=seconds)
    left.assert_nothing_missing()
    assert len(left.attempts) == 2
    outcome = left.outcome(1)
    assert outcome["failure"]["code"] == "no_progress"
    assert outcome["failure"]["category"] == "infra"
    assert outcome["done"] == iteration
    assert outcome["signal"] == "SIGTERM"
    assert len(started(left.stdout())) == 4
    assert alive(started(left.stdout())) == []


def test_who_ignores_sigterm_is_killed_after_the_grace(player):
    began = time.monotonic()
    left = player.play("deaf; family; hang at 3", retries=0, timeouts={"iterationSeconds": 1, "graceSeconds": 0.5})
    assert left.error["code"] == "no_progress"
    assert left.outcome(1)["signal"] == "SIGKILL"
    assert time.monotonic() - began < 40  # on a busy machine
    assert alive(started(left.stdout())) == []


def test_retries_end_at_some_time(player):
    left = player.play("hang at 3 once; hang at 5", retries=1, timeouts={"iterationSeconds": 1.5})
    assert left.result["status"] == "failed"
    assert left.error["code"] == "no_progress"
    assert left.result["attempts"] == 2
    assert left.outcome(2)["start_iteration"] == 3
    assert [entry["iteration"] for entry in left.checkpoints] == [1, 3, 5]
    assert "| 2 | 3 | 5 |" in (left.folder / "artifacts/report.md").read_text()


@pytest.mark.parametrize(
    ("scenario", "because"),
    [
        pytest.param("family; hang at end", "hang_in_close", id="a hang, after the grace"),
        pytest.param(
            "warn at 2; note at 3; kill at end", None, id="a crash, after known warnings", marks=pytest.mark.long
        ),
        pytest.param("crash at end", None, id="an exception", marks=pytest.mark.long),
    ],
)
def test_what_happens_after_the_end_marker_spoils_no_success(player, scenario, because):
    left = player.play(scenario, retries=0)
    left.assert_nothing_missing()
    assert len(left.attempts) == 1
    assert (left.outcome(1)["stopped_because"] or {"code": None})["code"] == because
    assert alive(started(left.stdout())) == []


def test_the_wall_clock_limit_ends_a_job_that_makes_progress(player):
    left = player.play("", iterations=1000, retries=2, timeouts={"wallSeconds": 2})
    assert left.error["code"] == "wall_clock_limit"
    assert left.error["category"] == "user"
    assert "wallSeconds" in left.error["advice"]
    assert len(left.attempts) == 1
    assert left.checkpoints
    assert 2 < left.result["done"] < 40


def test_a_job_that_the_simulator_refuses_is_never_begun_twice(player):
    spec = player.stage("refuse", retries=2)
    error = player.attempt(spec)
    assert error.failure.code == "unknown_task"
    assert error.failure.category == "user"
    left = player.end(spec, error)
    assert left.error["message"] == "Unknown task 'Nowhere'."
    assert left.error["advice"] == "Allowed: 'Somewhere'."
    assert json.loads((left.folder / "result.json").read_text())["status"] == "failed"


def test_a_workload_that_cannot_start_says_what_it_printed(player, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'libcuda.so.1: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    player.site = player.site.__class__(home=player.site.home, store=player.site.store, python=str(broken))
    left = player.play("", fresh=True, retries=0)
    assert left.result["status"] == "failed"
    assert "libcuda.so.1" in left.error["message"]


def test_a_warning_that_runs_live_with_does_not_outrank_the_exception(player):
    left = player.play("no-vulkan at 1; crash at 3", retries=2)
    assert left.error["message"] == "ValueError: the reward function is wrong"
    assert left.error["category"] == "user"
    assert len(left.attempts) == 1


def test_such_a_warning_explains_an_end_that_nothing_else_does(player):
    left = player.play("no-vulkan at 1; leave at 3", retries=0)
    assert left.error["code"] == "no_vulkan"


def test_a_link_a_pipe_and_a_second_name_are_nothing_that_a_job_left(player):
    player.site.home.mkdir(exist_ok=True)
    secret = player.site.home / "secret"
    secret.write_text("everybody's password")
    left = player.play("plant at 3")
    secret.unlink()
    assert left.result["status"] == "succeeded", left.error
    kept = [path for path in left.folder.rglob("*") if path.is_file() and b"password" in path.read_bytes()]
    assert kept == []
    log = left.runner_log()
    for name, what in (
        ("params/link.yaml", "a symbolic link"), ("model_1.pt", "a symbolic link"), ("output/hard.txt", "a hard link"),
        ("output/folder", "a symbolic link"), ("output/pipe.txt", "a FIFO"), ("tfevents.pipe", "a FIFO"),
        ("command.stderr.log", "a symbolic link"),
    ):  # fmt: skip
        said = [line for line in log.splitlines() if name in line and "status=refused" in line]
        assert len(said) == 1, (name, log)
        assert f"it is {what}, no regular file" in said[0]
