"""`simyard train` and `simyard jobs`: what they print, how they exit, and what happens when somebody stops them."""

import errno
import json
import os
import signal

import click.testing
import httpx
import prefect.exceptions
import pytest
from helpers import last_json, wait_until
from scenario.play import alive, started

from simyard.cli.main import main
from simyard.cli.shared import JSON_KEYS
from simyard.tasks.shared import history

PATIENCE_S = 240.0
KEYS = list(JSON_KEYS)
ERROR_KEYS = {"code", "category", "message", "advice"}


def checkpoints(shell, job_id):
    index = shell.store / "jobs" / job_id / "attempts/001/checkpoints.json"
    return json.loads(index.read_text()) if index.exists() else []


@pytest.mark.long  # a killed simulator: tests/sim/test_killed.py
def test_a_job_from_its_start_over_a_killed_simulator_to_its_download(shell, tmp_path):
    trained = shell.run("train", shell.write("slow; family once; kill at 2 once", iterations=4))
    assert trained.returncode == 0, trained.stderr
    lines = trained.stderr.splitlines()
    assert "\x1b" not in trained.stderr
    assert "\r" not in trained.stderr
    assert any("importing the simulator" in line for line in lines)
    assert any("iteration 1/4" in line and "[" in line for line in lines)
    job_id = shell.job()
    ending = {line.partition(":")[0]: line for line in lines}
    assert ending["succeeded"] == "succeeded: 4 of 4 iterations, final reward 30.00"
    assert job_id in ending["job"]
    assert ending["curves"].endswith("artifacts/curves.png")
    assert "(3 files)" in ending["checkpoints"]
    assert ending["report"].endswith("artifacts/report.md")
    assert "a note" in ending["note"]

    result = shell.result(job_id)
    left = shell.left(result)
    left.assert_nothing_missing(iterations=4)
    assert (result["attempts"], left.indices(1), left.indices(2)) == (2, [0, 1], [1, 2, 3])
    assert alive(started(left.stdout(1)) + started(left.stdout(2))) == []

    listed = shell.run("jobs", "list")
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0].split() == ["JOB", "KIND", "STATUS", "DONE", "RETURN", "NAME"]
    assert listed.stdout.splitlines()[1].split() == [
        job_id,
        "train",
        "succeeded",
        "4/4",
        "30.00",
        "played",
        "(Scenario)",
    ]
    (row,) = json.loads(shell.run("jobs", "list", "--json").stdout)
    assert (row["job_id"], row["status"], row["done"], row["attempts"]) == (job_id, "succeeded", 4, 2)

    shown = shell.run("jobs", "show", job_id)
    assert shown.stdout.splitlines()[0] == f"{job_id}  succeeded"
    assert "metrics.csv" in shown.stdout
    assert last_json(shell.run("jobs", "show", job_id, "--json")) == result

    folder = tmp_path / "download"
    fetched = shell.run("jobs", "download", job_id, folder)
    assert fetched.stdout == f"{len(result['artifacts'])} files in {folder}\n"
    original = shell.store / "jobs" / job_id / "artifacts"
    for entry in result["artifacts"]:
        assert (folder / entry["name"]).read_bytes() == (original / entry["name"]).read_bytes()
    some = shell.run("jobs", "download", job_id, tmp_path / "some", "--only", "checkpoints/*")
    assert some.stdout.startswith("3 files")
    none = shell.run("jobs", "download", job_id, tmp_path / "none", "--only", "*.mp4")
    assert none.returncode == 2
    assert "'*.mp4'" in none.stderr
    (original / "metrics.csv").write_text("forged")
    forged = shell.run("jobs", "download", job_id, tmp_path / "forged", "--only", "metrics.csv")
    assert forged.returncode == 1
    assert "digest" in forged.stderr
    assert not (tmp_path / "forged" / "metrics.csv").exists()

    again = shell.run("jobs", "resume", job_id)
    assert again.returncode == 2
    assert "has succeeded" in again.stderr
    assert shell.run("jobs", "cancel", job_id).stdout == f"{job_id} has succeeded already.\n"


def test_a_failed_job_exits_1_and_says_why_as_json(shell):
    failed = shell.run("train", shell.write("crash at 3", iterations=6), "--json")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stdout
    result = last_json(failed)
    assert list(result) == KEYS
    assert result["status"] == "failed"
    assert set(result["error"]) == ERROR_KEYS
    assert result["error"]["message"] == "ValueError: the reward function is wrong"
    assert result["error"]["category"] == "user"
    assert result["attempts"] == 1
    assert set(result["timings"]) == {"startup_s", "train_s", "total_s"}
    assert (result["cost"], result["estimated_usd"]) == ({"gpu_seconds": 0.0, "usd": 0.0}, 0.0)
    assert result["estimated_seconds"] is None
    assert result["estimate"]["how"].startswith("Nothing is known: no training of 'Scenario' was measured")
    assert result["store"] == (shell.store / "jobs" / result["job_id"]).as_uri()
    for entry in result["artifacts"]:
        assert {"name", "kind", "size_bytes", "sha256"} <= set(entry)
    assert "diagnostics.json" in [entry["name"] for entry in result["artifacts"]]


def test_a_job_reads_nothing_of_its_ancestors_and_nobody_else_reads_what_is_written(shell):
    done = shell.run("train", shell.write("spy at 1", iterations=2), "--json", AWS_SECRET_ACCESS_KEY="hunter2")
    assert done.returncode == 0, done.stderr
    left = shell.left(last_json(done))
    seen = list(left.said("spied").values())
    assert "hunter2" not in seen
    assert seen[0] in ("Permission denied", "Operation not permitted"), "the command itself, which has it"
    written = [shell.home, *shell.home.rglob("*"), *shell.store.rglob("*")]
    assert len(written) > 20
    assert [path for path in written if path.exists() and path.stat().st_mode & 0o077] == []


def test_a_killed_control_process_takes_the_simulator_with_it_and_a_retry_finishes_the_job(shell, prefect_server):
    control = shell.start("train", shell.write("family; slow once", iterations=30), "--json")
    pids = started(shell.reach(2))
    job_id = shell.job()
    wait_until(lambda: checkpoints(shell, job_id), PATIENCE_S, "a checkpoint in the store")
    os.kill(control.pid, signal.SIGKILL)
    control.communicate()
    assert len(pids) == 4
    wait_until(lambda: alive(pids) == [], PATIENCE_S, "the end of the simulator and its children")
    saved = [record["iteration"] for record in checkpoints(shell, job_id)]
    assert last_json(shell.run("jobs", "show", job_id, "--json"))["status"] == "interrupted"

    retried = shell.run("jobs", "resume", job_id, "--json")
    assert retried.returncode == 0, retried.stderr
    result = last_json(retried)
    assert list(result) == KEYS
    assert (result["job_id"], result["status"], result["attempts"]) == (job_id, "succeeded", 2)
    runs = prefect_server.ask(
        "/flow_runs/filter", {"flow_runs": {"tags": {"all_": [job_id]}}, "sort": "START_TIME_ASC"}
    )
    assert [run["state_type"] for run in runs] == ["CRASHED", "COMPLETED"], "the one that was killed is told as such"
    left = shell.left(result)
    left.assert_nothing_missing(iterations=30)
    assert left.outcome(2)["start_iteration"] == saved[-1]
    assert left.indices(2) == list(range(saved[-1], 30))

    # Killed between the last attempt and the commit marker: nothing is simulated again for that.
    job = shell.store / "jobs" / job_id
    for lacks in (["artifact_manifest.json", "result.json"], ["artifact_manifest.json"]):
        for name in lacks:
            (job / name).unlink()
        judged = last_json(shell.run("jobs", "resume", job_id, "--json"))
        assert (judged["status"], judged["attempts"]) == ("succeeded", 2), lacks
        assert (job / "artifact_manifest.json").exists()
    assert list(shell.home.rglob("workload.log")) == [], "folders of the killed process"


def test_cancel_from_another_process_keeps_what_was_saved(shell):
    control = shell.start("train", shell.write("family; slow", iterations=200), "--json")
    pids = started(shell.reach(1))
    job_id = shell.job()
    canceled = shell.run("jobs", "cancel", job_id)
    assert canceled.returncode == 0
    assert job_id in canceled.stdout
    out, err = control.communicate(timeout=PATIENCE_S)
    assert control.returncode == 130, err
    assert_canceled(shell, json.loads(out.splitlines()[-1]), pids)
    assert last_json(shell.run("jobs", "show", job_id, "--json"))["status"] == "canceled"


def test_ctrl_c_cancels_and_the_job_can_be_gone_on_with(shell):
    control = shell.start("train", shell.write("family; deaf", iterations=30), "--json")
    pids = started(shell.reach(5))
    os.killpg(control.pid, signal.SIGINT)  # as a terminal sends it: to the whole group
    out, err = control.communicate(timeout=PATIENCE_S)
    assert control.returncode == 130, err
    assert "Traceback" not in err
    result = json.loads(out.splitlines()[-1])
    assert_canceled(shell, result, pids)

    retried = shell.run("jobs", "resume", result["job_id"], "--json")
    assert retried.returncode == 0, retried.stderr
    left = shell.left(last_json(retried))
    left.assert_nothing_missing(iterations=30)
    artifacts = left.folder / "artifacts"
    names = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert names == {entry["name"] for entry in left.result["artifacts"]}


def assert_canceled(shell, result, pids):
    assert result["status"] == "canceled"
    assert result["error"]["category"] == "canceled"
    assert result["attempts"] == 1
    kept = [entry for entry in result["artifacts"] if entry["kind"] == "checkpoint"]
    assert kept
    for entry in kept:
        assert (shell.store / "jobs" / result["job_id"] / "artifacts" / entry["name"]).stat().st_size
    assert not (shell.store / "jobs" / result["job_id"] / "artifact_manifest.json").exists()
    assert len(pids) == 4
    assert alive(pids) == []


@pytest.mark.parametrize("iteration", [pytest.param(0, id="while it starts"), pytest.param(3, id="while it trains")])
def test_sigterm_leaves_nothing_running(shell, iteration):
    control = shell.start("train", shell.write("family", iterations=500))
    pids = started(shell.reach(iteration)) if iteration else []
    if not iteration:
        wait_until(lambda: list(shell.home.glob("work/workload-*")), PATIENCE_S, "the workload's folder")
    os.kill(control.pid, signal.SIGTERM)
    _, err = control.communicate(timeout=PATIENCE_S)
    assert control.returncode != 0
    assert "Traceback" not in err
    if iteration:
        assert control.returncode == 143
        assert "resume the job" in err
    wait_until(lambda: alive(pids) == [], PATIENCE_S, "the end of the simulator and its children")
    if iteration:
        job = shell.store / "jobs" / shell.job()
        assert list(job.glob("attempts/001/files/checkpoints/*.pt")), err


def test_a_job_the_simulator_refuses_exits_2_and_leaves_no_job(shell):
    refused = shell.run("train", shell.write("refuse"), "--json")
    assert refused.returncode == 2
    result = last_json(refused)
    assert list(result) == KEYS
    assert result["error"]["message"] == "Unknown task 'Nowhere'."
    assert "Unknown task 'Nowhere'. Allowed: 'Somewhere'." in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(shell.store.iterdir()) == []


def test_jobs_of_an_empty_store(shell):
    assert shell.run("jobs", "list").stdout == "No jobs in this store yet.\n"
    assert json.loads(shell.run("jobs", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/home/x"), "'/home/x'). Make room", 1),
        (httpx.ConnectError("[Errno 111] Connection refused"), "Prefect server went away: [Errno 111]", 1),
        (prefect.exceptions.TerminationSignal(signal.SIGTERM), "Ended by SIGTERM", 143),
    ],
    ids=["a full disk", "no server", "SIGTERM"],
)
def test_an_end_that_is_nobodys_bug_is_said_in_words(monkeypatch, error, said, code):
    """Prefect's engine raises others because of it; what it says first is what counts."""

    def end_so(*_arguments):
        try:
            raise error
        except BaseException:
            raise ValueError("Task run is not set")  # noqa: B904

    monkeypatch.setattr(history, "load_spec", end_so)
    done = click.testing.CliRunner().invoke(main, ["jobs", "show", "job-x", "--store", "/nowhere"])
    assert (done.exit_code, "Traceback" in done.output) == (code, False), done.output
    assert said in done.stderr
