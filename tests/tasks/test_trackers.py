"""Jobs in trackers: a real MLflow server, W&B's offline mode, and dead trackers, which are no job's trouble."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import HANG_S, end, free_port, wait_until
from scenario import play

from simyard.core.errors import RequestError
from simyard.core.records import JobResult, TrackerRecord
from simyard.core.sweep_records import SeedRun, Setting
from simyard.requests.settings import trackers_from_env
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared.inputs import find_input
from simyard.tasks.trackers.mirror import read_rows
from simyard.tasks.trackers.start import mirrored

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "store" / "store-0.1.0.tar.xz"
TRACKERS = ROOT / "build" / "trackers"
"""An environment with the trackers, on top of this one: they want other versions of what is here."""
WANTED = ("mlflow>=3.1", "wandb>=0.21", "fastapi<0.151", "sqlalchemy<2.1", "pydantic>=2.14")
"""With the bounds of simyard's own that matter to it."""
RUN = "from simyard.cli.main import main; main()"


@pytest.fixture
def job(tmp_path):
    """Return a store with a training that has succeeded, and its id."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    store = Store.open(str(tmp_path / "store"))
    manifests = [(job_id, store.get_json_or_none(JobKeys(job_id).manifest)) for job_id in store.list_dirs(keys.JOBS)]
    return store, next(job_id for job_id, found in manifests if found and found["kind"] == "train")


# Without any tracker


@pytest.mark.parametrize(("names", "found"), [("", ()), ("wandb, mlflow,wandb", ("wandb", "mlflow"))])
def test_the_site_names_its_trackers(names, found, monkeypatch):
    monkeypatch.setenv("SIMYARD_TRACKERS", names)
    assert trackers_from_env() == found


def test_another_name_is_refused(monkeypatch):
    monkeypatch.setenv("SIMYARD_TRACKERS", "mlfow")
    with pytest.raises(RequestError, match=r"'mlfow'.*Allowed: mlflow, wandb"):
        trackers_from_env()


def test_what_is_no_number_is_not_told():
    table = b"step,wall_time,a,b,stage\n0,1.5,1,,walk\n1,2.5,nan,x,walk\n2,3.5,3,4,run\nx,1,1,1,1\n"
    assert [(row.step, row.wall_time, row.values) for row in read_rows(table)] == [
        (0, 1.5, {"a": 1.0}), (2, 3.5, {"a": 3.0, "b": 4.0}),
    ]  # fmt: skip


def test_a_tracker_that_is_not_installed_is_warned_of(job, monkeypatch, tmp_path):
    store, job_id = job
    monkeypatch.setenv("SIMYARD_TRACKERS", "mlflow")
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    warned = []
    with mirrored(job_id, store.url(), warned.append):
        pass
    (said,) = warned
    assert "mlflow is not installed here: pip install 'simyard[mlflow]'" in said
    assert f"simyard mirror {job_id}" in said
    record = store.get_record(JobKeys(job_id).tracker("mlflow"), TrackerRecord)
    assert (record.ended, record.run_id) == (False, None)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("mlflow:abc/model.pt", "bad_reference"),
        ("mlflow:" + "0" * 32 + "/../model.pt", "bad_reference"),
        ("wandb:team/project/model.pt", "bad_reference"),
        ("mlflow:" + "0" * 32 + "/model.pt", "not_installed"),
        ("wandb:team/project/arm:v3/model.pt", "not_installed"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(reference, code, tmp_path):
    with pytest.raises(RequestError) as refused:
        find_input(reference, tmp_path, "checkpointPath")
    assert refused.value.failure.code == code
    assert repr(reference) in str(refused.value)


# With real ones: they are installed into an environment of their own, and their servers take long to start


@pytest.fixture(scope="module")
def python():
    """The Python that has the trackers too."""
    if not (TRACKERS / "bin" / "mlflow").exists():
        shutil.rmtree(TRACKERS, ignore_errors=True)
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, TRACKERS], check=True)
        env = {**os.environ, "VIRTUAL_ENV": str(TRACKERS)}
        subprocess.run([uv, "pip", "install", "-q", *WANTED], env=env, check=True)
    (packages,) = TRACKERS.glob("lib/python*/site-packages")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "simyard.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return str(TRACKERS / "bin" / "python")


@contextmanager
def mlflow_server(folder, port):
    folder.mkdir(exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    command = [
        TRACKERS / "bin" / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        wait_until(lambda: answers(f"{url}/health"), HANG_S, "MLflow's server")
        yield url
    finally:
        end(process)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def runs(url):
    found = ask(url, "experiments/search", {"max_results": 10})["experiments"]
    ids = [one["experiment_id"] for one in found if one["name"] == "simyard"]
    return ask(url, "runs/search", {"experiment_ids": ids, "max_results": 10}).get("runs", []) if ids else []


def points(url, run, name):
    path = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={name}&max_results=10000"
    return {point["step"]: point["value"] for point in ask(url, path).get("metrics", [])}


def environment(tmp_path, **more):
    return {
        **os.environ, **play.ENVIRONMENT, "SIMYARD_HOME": str(tmp_path / "home"),
        "GIT_PYTHON_REFRESH": "quiet", **more,
    }  # fmt: skip


def table(store, job):
    lines = store.get_bytes(job.artifact("metrics.csv")).decode().splitlines()
    return {int(row["step"]): float(row["Train/mean_reward"]) for row in csv.DictReader(lines)}


@pytest.mark.long  # a server that takes most of a minute to start, and an environment of 700 MB
@pytest.mark.system
def test_a_training_is_told_while_it_runs_and_whole(python, prefect_server, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(play.config("", iterations=20_000, name="Played")))
    store = Store.open(str(tmp_path / "store"))
    with mlflow_server(tmp_path / "server", free_port()) as url:
        env = environment(
            tmp_path, SIMYARD_TRACKERS="mlflow,wandb", MLFLOW_TRACKING_URI=url, WANDB_MODE="offline",
            WANDB_DIR=str(tmp_path),
        )  # fmt: skip
        command = [python, "-c", RUN, "train", str(config), "--store", str(tmp_path / "store")]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:

            def told_early():
                return [
                    points(url, run, "Train/mean_reward") for run in runs(url) if run["info"]["status"] == "RUNNING"
                ]

            wait_until(lambda: training.poll() is not None or any(told_early()), HANG_S, "its first metrics in MLflow")
            training.send_signal(signal.SIGINT)
            out, err = training.communicate(timeout=HANG_S)
        assert training.returncode == 130, out + err
        assert "was not told" not in err
        (job_id,) = store.list_dirs(keys.JOBS)
        job = JobKeys(job_id)

        (run,) = runs(url)
        assert run["info"]["status"] == "KILLED"
        told = points(url, run, "Train/mean_reward")
        assert told == pytest.approx(table(store, job))
        params = {one["key"]: one["value"] for one in run["data"]["params"]}
        assert (params["task"], params["num_envs"]) == ("Scenario", "4")
        assert {one["key"]: one["value"] for one in run["data"]["tags"]}["simyard.job_id"] == job_id

        # Told once more it stays one run; its checkpoint is found by its reference, in the store.
        again = subprocess.run(
            [python, "-c", RUN, "mirror", job_id, "--to", "mlflow", "--store", str(tmp_path / "store")],
            env=env, capture_output=True, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
        assert again.returncode == 0, again.stdout + again.stderr
        (run,) = runs(url)
        assert points(url, run, "Train/mean_reward") == told
        checkpoint = next(one for one in store.get_record(job.result, JobResult).artifacts if one.kind == "checkpoint")
        find = "import sys; from pathlib import Path; from simyard.tasks.shared.inputs import find_input; "
        find += "print(find_input(sys.argv[1], Path('.'), 'checkpointPath').file.sha256)"
        reference = f"mlflow:{run['info']['run_id']}/{checkpoint.name}"
        found = subprocess.run([python, "-c", find, reference], env=env, capture_output=True, text=True, check=False)
        assert found.stdout.strip() == checkpoint.sha256, found.stderr
        lost = subprocess.run(
            [python, "-c", find, f"{reference}x"], env=env, capture_output=True, text=True, check=False
        )
        assert "missing_file" in lost.stderr or "there is nothing at" in lost.stderr

    # W&B has the same in its offline file.
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    read = """
import json, sys
from wandb.proto import wandb_internal_pb2 as pb
from wandb.sdk.internal.datastore import DataStore
store = DataStore(); store.open_for_scan(sys.argv[1]); found = {"steps": {}, "refs": []}
while (data := store.scan_data()) is not None:
    record = pb.Record(); record.ParseFromString(data)
    if record.WhichOneof("record_type") == "run":
        found["run"] = [record.run.run_id, record.run.project, record.run.job_type]
    if record.WhichOneof("record_type") == "history":
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "Train/mean_reward" in row:
            found["steps"][int(row.get("_step", record.history.step.num))] = row["Train/mean_reward"]
    if record.WhichOneof("record_type") == "artifact":
        found["refs"] += [entry.ref for entry in record.artifact.manifest.contents]
print(json.dumps(found))
"""
    (file,) = folder.glob("*.wandb")
    scanned = subprocess.run([python, "-c", read, str(file)], capture_output=True, text=True, check=False)
    assert scanned.returncode == 0, scanned.stderr
    found = json.loads(scanned.stdout)
    assert found["run"] == [job_id, "simyard", "train"]
    assert {int(step): value for step, value in found["steps"].items()} == pytest.approx(table(store, job))


@pytest.mark.long  # as above
@pytest.mark.system
def test_a_dead_tracker_neither_fails_nor_holds_a_job_and_is_told_later(python, prefect_server, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(play.config("", name="Played")))
    store = Store.open(str(tmp_path / "store"))
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and never answers
        port = deaf.getsockname()[1]
        deaf_url = f"http://127.0.0.1:{port}"
        env = environment(tmp_path, SIMYARD_TRACKERS="mlflow", MLFLOW_TRACKING_URI=deaf_url, **prefect_server.env)
        command = [python, "-c", RUN, "train", str(config), "--store", str(tmp_path / "store")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (job_id,) = store.list_dirs(keys.JOBS)
    assert store.get_record(JobKeys(job_id).result, JobResult).status == "succeeded"
    record = store.get_record_or_none(JobKeys(job_id).tracker("mlflow"), TrackerRecord)
    assert record is None or not record.ended

    # A sweep that goes on has the job: its runs stand below one of its own.
    run = SeedRun(seed=1, jobs=(job_id,), iterations=1, status="running", value=None, gpu_seconds=0.0)
    setting = Setting(number=0, values={}, runs=(run,), state="running", rung=0)
    sweep_id = f"sweep-{job_id[4:]}"
    store.put_record(f"{keys.SWEEPS}/{sweep_id}/settings/000000.json", setting)
    with mlflow_server(tmp_path / "server", free_port()) as url:
        env["MLFLOW_TRACKING_URI"] = url
        later = subprocess.run(
            [python, "-c", RUN, "mirror", job_id, "--store", str(tmp_path / "store")],
            env=env, capture_output=True, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
        assert later.returncode == 0, later.stdout + later.stderr
        found = {one["info"]["run_name"]: one for one in runs(url)}
        assert set(found) == {"Played", sweep_id}
        tags = {one["key"]: one["value"] for one in found["Played"]["data"]["tags"]}
        assert tags["mlflow.parentRunId"] == found[sweep_id]["info"]["run_id"]
        assert points(url, found["Played"], "Train/mean_reward") == pytest.approx(table(store, JobKeys(job_id)))
