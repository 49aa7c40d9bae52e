"""A job that goes well, and everything that it promised."""

import json
import os

from scenario.play import ITERATIONS, alive, assert_digests, running_below, started
from simyard.store.store import Store
from simyard.tasks.attempt import Observer
from simyard.tasks.history import job_status

PROMISED = {
    "command.stderr.log": "log",
    "command.stdout.log": "log",
    "curves.png": "plot",
    "job.json": "provenance",
    "lab_git_diff.txt": "provenance",
    "metrics.csv": "metrics",
    "metrics.json": "metrics",
    "metrics_time.csv": "metrics",
    "params/agent.yaml": "provenance",
    "params/env.yaml": "provenance",
    "report.md": "report",
    "runner.log": "log",
    "telemetry.csv": "telemetry",
    "training-config.json": "provenance",
    "versions.json": "provenance",
}


def test_a_success_leaves_every_promised_artifact_and_the_manifest_last(player):
    seen = []
    left = player.play("family", Observer(progress=lambda status: seen.append(dict(status))))
    left.assert_nothing_missing()
    artifacts = left.folder / "artifacts"

    kinds = {entry["name"]: entry["kind"] for entry in left.result["artifacts"]}
    assert {name: kinds.get(name) for name in PROMISED} == PROMISED
    assert "diagnostics.json" not in kinds
    assert [name for name, kind in kinds.items() if kind == "events"]
    on_disk = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert on_disk == set(kinds)

    manifest = json.loads((left.folder / "artifact_manifest.json").read_text())
    assert manifest["artifacts"] == left.result["artifacts"]
    written = {path: path.stat().st_mtime_ns for path in left.folder.rglob("*") if path.is_file()}
    assert max(written, key=written.get) == left.folder / "artifact_manifest.json"

    assert (artifacts / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (artifacts / "report.md").read_text().startswith("# played: succeeded\n")
    assert json.loads((artifacts / "training-config.json").read_text())["trainingConfig"]["task"] == "Scenario"
    assert json.loads((artifacts / "versions.json").read_text())["packages"]
    assert (artifacts / "telemetry.csv").read_text().startswith("time_s,cpu_percent,memory_bytes")
    metrics = json.loads((artifacts / "metrics.json").read_text())
    assert metrics["Train/mean_reward"]["final"] == {"step": 11, "value": 110.0}
    assert metrics["Loss/value"]["best"]["mode"] == "min"
    assert set(left.metrics()[0]) == {"step", "wall_time", "Train/mean_reward", "Loss/value"}

    assert left.result["attempts"] == 1
    assert left.result["reward"] == 110.0
    assert left.result["notes"] == ["a note"]
    assert left.result["timings"]["total_s"] >= left.result["timings"]["train_s"] > 0.1
    assert [status["iteration"] for status in seen] == sorted(status["iteration"] for status in seen)
    assert seen[-1]["iteration"] == ITERATIONS

    family = started(left.stdout())
    assert len(family) == 4
    assert alive(family) == []


def test_a_failure_leaves_a_result_and_no_manifest(player):
    left = player.play("crash at 5")
    assert left.result["status"] == "failed"
    assert not (left.folder / "artifact_manifest.json").exists()
    assert json.loads((left.folder / "result.json").read_text()) == left.result
    assert_digests(left)


def test_an_interrupted_persist_is_no_success_and_can_be_repeated(player):
    left = player.play("", iterations=3)
    (left.folder / "artifact_manifest.json").unlink()
    (left.folder / "artifacts" / "metrics.csv").unlink()
    job_id = left.result["job_id"]
    assert job_status(left.store, job_id)["status"] == "running"
    again = player.end(player.stage_again(job_id))
    again.assert_nothing_missing(iterations=3)
    assert [e["sha256"] for e in again.checkpoints] == [e["sha256"] for e in left.checkpoints]


def test_a_checkpoint_that_was_lost_from_the_store_is_no_success(player):
    spec = player.stage("", iterations=3)
    assert player.attempt(spec) is None
    (player.folder(spec.job_id) / "attempts/001/files/checkpoints/model_2.pt").unlink()
    left = player.end(spec)
    assert left.result["status"] == "failed"
    assert left.error["code"] == "artifact_missing"
    assert "model_2.pt" in left.error["message"]
    assert not (left.folder / "artifact_manifest.json").exists()


def test_the_store_follows_while_the_job_runs(player):
    wanted = ("checkpoints/", "metrics.csv", "command.stdout.log", "runner.log", "events/", "params/env.yaml")
    spec = player.stage("slow", iterations=60)
    reader = Store.open(str(player.folder(spec.job_id)))
    early = []

    def all_there():
        keys = [entry.key for entry in reader.list("attempts/001/files")]
        if all(any(key.startswith(f"attempts/001/files/{name}") for key in keys) for name in wanted):
            early.append(reader.get_bytes("attempts/001/files/metrics.csv").decode())
            early.append(reader.get_json("attempts/001/status.json"))
        return bool(early)

    error = player.attempt(spec, Observer(canceled=all_there))
    assert error.failure.code == "canceled"
    metrics, status = early[:2]
    assert metrics.startswith("step,wall_time,")
    assert status["status"] == "running"
    assert status["updated_at"]
    assert player.end(spec).outcome(1)["iteration"] < 30  # 0.5 s each: so it took less than 15 s


def test_our_credentials_do_not_reach_the_workload(player, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY", "SIMYARD_STORE"):
        monkeypatch.setenv(name, "a-very-secret-value")
    monkeypatch.setenv("HARMLESS", "a-harmless-value")
    left = player.play("show-environment", iterations=2, fresh=True)
    assert left.result["status"] == "succeeded"
    assert "HARMLESS=a-harmless-value" in left.stdout()
    assert "OMP_NUM_THREADS=1" in left.stdout()
    for path in left.folder.rglob("*"):
        assert path.is_dir() or b"a-very-secret-value" not in path.read_bytes(), path


def test_the_scratch_folder_is_empty_afterwards(player):
    player.play("crash at 1")
    files = [path for path in player.site.home.rglob("*") if path.is_file() and "assets" not in path.parts]
    assert files == []
    assert running_below(player.site.home) == []
    assert os.listdir(player.site.home / "work") is not None
