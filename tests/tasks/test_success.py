"""A job that goes well, and everything that it promised."""

import json

from scenario.play import ITERATIONS, alive, started

from simyard.core.specs import JobSpec
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.shared.history import job_status

PROMISED = {
    "command.stderr.log": "log",
    "command.stderr.txt": "log",
    "command.stdout.log": "log",
    "command.stdout.txt": "log",
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
    "runner.txt": "log",
    "telemetry.csv": "telemetry",
    "training-config.json": "provenance",
    "versions.json": "provenance",
}


def test_a_success_leaves_every_promised_artifact_and_the_manifest_last(player):
    seen = []
    left = player.play("family", Observer(progress=seen.append))
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
    attempt = left.folder / "attempts/001"
    assert written[attempt / "outcome.json"] == max(written[path] for path in written if attempt in path.parents)

    stored = json.loads((artifacts / "job.json").read_text())
    assert JobSpec.from_json(stored) == JobSpec.from_json(json.loads((left.folder / "job.json").read_text()))
    assert (stored["task"], stored["seed"]) == ("Scenario", 1)
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
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == ITERATIONS

    family = started(left.stdout())
    assert len(family) == 4
    assert alive(family) == []


def test_a_success_needs_its_manifest_and_every_checkpoint(player):
    spec = player.stage("", iterations=3)
    assert player.attempt(spec) is None
    left = player.end(spec)
    manifest = left.folder / "artifact_manifest.json"

    manifest.unlink()
    assert job_status(left.store, spec.job_id).status == "running", "it died before its commit"
    again = player.end(spec)
    again.assert_nothing_missing(iterations=3)
    assert [entry["sha256"] for entry in again.checkpoints] == [entry["sha256"] for entry in left.checkpoints]

    manifest.unlink()
    (left.folder / "attempts/001/files/checkpoints/model_2.pt").unlink()
    (left.folder / "attempts/001/files/params/env.yaml").unlink()
    without = player.end(spec)
    assert without.result["status"] == "failed"
    assert without.error["code"] == "artifact_missing"
    assert "model_2.pt is gone from the store" in without.error["message"]
    assert "no params/env.yaml" in without.error["message"]
    assert [entry["iteration"] for entry in without.checkpoints] == [1]
    assert not manifest.exists()
    assert not (left.folder / "artifacts/checkpoints/model_2.pt").exists()


def test_the_store_follows_while_the_job_runs(player):
    wanted = ("checkpoints/", "metrics.csv", "command.stdout.log", "runner.log", "events/", "params/env.yaml")
    spec = player.stage("slow", iterations=60)
    reader = Store.open(str(player.folder(spec.job_id)))
    early = []

    def all_there():
        keys = [entry.key for entry in reader.list("attempts/001/files")]
        if all(any(key.startswith(f"attempts/001/files/{name}") for key in keys) for name in wanted):
            status = reader.get_json("attempts/001/status.json")
            if status["updated_at"] > status["began_at"]:  # both are in whole seconds
                early.extend((reader.get_bytes("attempts/001/files/metrics.csv").decode(), status))
        return bool(early)

    error = player.attempt(spec, Observer(canceled=all_there))
    assert error.failure.code == "canceled"
    metrics, status = early[:2]
    assert metrics.startswith("step,wall_time,")
    assert status["status"] == "running"
    assert player.end(spec).outcome(1)["done"] < 30  # 0.5 s each: so it took less than 15 s


def test_a_cache_that_others_may_write_is_run_by_no_job(player, monkeypatch, tmp_path):
    (tmp_path / "warp").mkdir()
    (tmp_path / "warp").chmod(0o777)
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "warp"))
    left = player.play("", iterations=2, fresh=True)
    assert (left.result["status"], left.error["code"]) == ("failed", "unsafe_cache")
    assert repr(str(tmp_path / "warp")) in left.error["message"]


def test_our_credentials_do_not_reach_the_workload(player, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_AUTH_STRING", "SIMYARD_STORE"):
        monkeypatch.setenv(name, "a-very-secret-value")
    monkeypatch.setenv("HARMLESS", "a-harmless-value")
    left = player.play("show-environment", iterations=2, fresh=True)
    assert left.result["status"] == "succeeded"
    assert "HARMLESS=a-harmless-value" in left.stdout()
    assert "OMP_NUM_THREADS=1" in left.stdout()
    for path in left.folder.rglob("*"):
        assert path.is_dir() or b"a-very-secret-value" not in path.read_bytes(), path
