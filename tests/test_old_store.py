"""A store that an earlier version wrote is read: commands, the service, and what goes on from its jobs.

`fixtures/store/make.py` has made it; each test says which of its records it reads.
"""

import asyncio
import hashlib
import json
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click.testing
import httpx
import pytest
from helpers import train_request
from scenario import play

from simyard.cli.main import main
from simyard.core.records import ApiKey
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest, ExportRequest
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.launch import next_attempt
from simyard.tasks.resolve import resolve
from simyard.tasks.shared.history import load_spec

FIXTURES = Path(__file__).parent / "fixtures" / "store"
JOBS = {
    "trained": ("train", "succeeded", 1, 10),
    "trained again": ("train", "succeeded", 1, 10),
    "evaluated": ("evaluate", "succeeded", 1, 12),
    "exported": ("export", "succeeded", 1, None),
    "rolled out": ("rollout", "succeeded", 1, None),
    "succeeded after a kill": ("train", "succeeded", 2, 6),
    "failed": ("train", "failed", 1, 3),
    "resumed from a job": ("train", "succeeded", 1, 9),
    "canceled": ("train", "canceled", 1, None),
    "interrupted": ("train", "interrupted", 1, None),
    "on two machines": ("train", "succeeded", 2, 40),
    "of a key": ("train", "succeeded", 1, 4),
    "queued": ("train", "queued", 0, None),
}
"""By name: kind, status, attempts, and what is done of it where that is always the same."""


class Old:
    """The unpacked store, and the commands that read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.notes = json.loads((folder / "notes.json").read_text())
        self.store = Store.open(str(self.folder))
        self.ids = {self._name(path): path.parent.name for path in sorted(self.folder.glob("jobs/*/job.json"))}

    @staticmethod
    def _name(path: Path) -> str:
        job = json.loads(path.read_text())
        return "trained again" if (job["kind"], job["from_job"] is None) == ("train", False) else str(job["name"])

    def __call__(self, *arguments: object, exit_code: int = 0) -> str:
        """Run a command; return what it prints."""
        given = [*map(str, arguments), "--store", str(self.folder)]
        result = click.testing.CliRunner().invoke(main, given)
        assert result.exit_code == exit_code, f"{given}: {result.output} {result.exception!r}"
        return result.stdout

    def json(self, *arguments: object, exit_code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", exit_code=exit_code).splitlines()[-1])

    def run(self, name: str) -> str:
        """Return the id of the managed run with a name."""
        (found,) = (row["run_id"] for row in self.json("managed", "list") if row["name"] == name)
        return str(found)

    def artifact(self, name: str, path: str) -> Path:
        return self.folder / "jobs" / self.ids[name] / "artifacts" / path


def unpack(folder: Path) -> Old:
    with tarfile.open(FIXTURES / "store-0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return Old(folder)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Old:
    return unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture
def old(unpacked: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Old:
    """The store on a machine of its own, where nothing can be started."""
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMYARD_STORE", str(unpacked.folder))
    monkeypatch.setenv("SIMYARD_PYTHON", "/bin/false")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    return unpacked


class Api:
    """The service's application, called in this process.

    Args:
        app: The application.
        key: The API key of calls that name no other.
    """

    def __init__(self, app: Any, key: str) -> None:
        self.app = app
        self.key = key

    def __call__(self, method: str, path: str, *, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key or self.key}", **more.pop("headers", {})}

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(call())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self("GET", path, **more)


@pytest.fixture
def api(old: Old) -> Iterator[Api]:
    """The service's application on this store, in this process; its Prefect server answers nothing."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from simyard.service.app import create_app
    from simyard.service.limits import Limits
    from simyard.service.prefect_api import Launches
    from simyard.service.settings import Settings

    settings = Settings.from_env()
    app = create_app(settings)
    # An address where nobody listens is tried for seconds; this server says at once that it can do nothing.
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
            app.state.launches = Launches()
            app.state.limits = Limits(settings, app.state.launches)
            yield Api(app, old.notes["api_key"])
            app.state.launches.close()
        server.shutdown()


# Jobs


def test_every_job_stands_as_it_stood(old: Old) -> None:
    rows = {row["job_id"]: row for row in old.json("jobs", "list", "--limit", 100)}
    for name, (kind, status, attempts, done) in JOBS.items():
        row = rows[old.ids[name]]
        assert (row["kind"], row["status"], row["attempts"]) == (kind, status, attempts), name
        assert row["name"] == name.removesuffix(" again")
        if done is not None:
            assert row["done"] == done, name
    others = {old.ids[name] for name in JOBS}
    rest = [row for row in rows.values() if row["job_id"] not in others]
    assert Counter((row["kind"], row["status"]) for row in rest) == {
        ("rollout", "succeeded"): 13, ("train", "succeeded"): 3, ("train", "failed"): 1, ("evaluate", "succeeded"): 5,
    }  # fmt: skip
    assert list(rows) == sorted(rows, reverse=True)


def test_what_a_job_is_shown_with(old: Old) -> None:
    def show(name: str) -> dict[str, Any]:
        return dict(old.json("jobs", "show", old.ids[name]))

    trained = show("trained")
    chain = [entry for entry in trained["artifacts"] if entry["kind"] == "checkpoint"]
    assert [(entry["name"], entry["iteration"]) for entry in chain] == [
        ("checkpoints/model_0.pt", 1), ("checkpoints/model_5.pt", 6), ("checkpoints/model_9.pt", 10),
    ]  # fmt: skip
    assert [entry["parent"] for entry in chain] == [None, *(entry["sha256"] for entry in chain[:-1])]
    assert trained["timings"]["total_s"] > trained["timings"]["train_s"] > 0

    killed = [entry["iteration"] for entry in show("succeeded after a kill")["artifacts"] if "iteration" in entry]
    assert killed == [1, 3, 5, 6], "one chain of two attempts"
    error = show("failed")["error"]
    assert (error["code"], error["category"]) == ("exception", "user")
    assert error["message"] == "ValueError: the reward function is wrong"
    assert show("canceled")["error"]["category"] == "canceled"
    assert show("interrupted")["artifacts"] == []
    assert show("evaluated")["summary"]["return"]["mean"] == pytest.approx(show("evaluated")["reward"], abs=0.01)
    assert show("evaluated")["summary"]["checkpoint"]["sha256"] == chain[-1]["sha256"]
    assert show("exported")["summary"]["checkpoint"]["sha256"] == chain[-1]["sha256"]
    assert show("rolled out")["summary"]["episodes"] == 2
    described = old("jobs", "show", old.ids["failed"])
    assert described.splitlines()[0] == f"{old.ids['failed']}  failed"
    assert "error       ValueError: the reward function is wrong" in described


def test_a_job_that_has_ended_is_watched_and_downloaded(old: Old, tmp_path: Path) -> None:
    watched = click.testing.CliRunner().invoke(main, ["jobs", "watch", old.ids["failed"]])
    assert watched.exit_code == 1
    assert "command.stdout.log: " in watched.stderr + watched.stdout
    assert "ValueError: the reward function is wrong" in watched.stderr
    said = old("jobs", "download", old.ids["trained"], tmp_path / "fetched", "--only", "checkpoints/*")
    assert said.startswith("3 files")
    assert old("jobs", "cancel", old.ids["trained"]) == f"{old.ids['trained']} has succeeded already.\n"


def test_every_manifest_agrees_with_its_files(old: Old) -> None:
    manifests = sorted(old.folder.rglob("artifact_manifest.json"))
    succeeded = sum(row["status"] == "succeeded" for row in old.json("jobs", "list", "--limit", 100))
    assert len(manifests) == succeeded + 1, "and one of the project"
    for path in manifests:
        manifest = json.loads(path.read_text())
        assert manifest["schema_version"] == 1
        named = {entry["name"] for entry in manifest["artifacts"]}
        there = path.parent / "artifacts"
        assert named == {str(file.relative_to(there)) for file in there.rglob("*") if file.is_file()}
        for entry in manifest["artifacts"]:
            data = (there / entry["name"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size_bytes"], entry["sha256"]), entry


def test_another_job_goes_on_from_an_old_training(old: Old) -> None:
    earlier = old.ids["succeeded after a kill"]
    spec = resolve(train_request(play.config("", resume={"fromJob": earlier})), old.store, keys.new_job_id()).spec
    assert spec.resume is not None
    assert (spec.resume.iteration, spec.resume.trusted) == (6, True)
    assert spec.resume.checkpoint.key.startswith(f"jobs/{earlier}/")
    assert (old.folder / spec.resume.checkpoint.key).stat().st_size == spec.resume.checkpoint.size_bytes
    third = play.config("", resume={"fromJob": earlier, "iteration": 3})
    resumed = resolve(train_request(third), old.store, keys.new_job_id()).spec.resume
    assert resumed is not None
    assert "/attempts/001/" in resumed.checkpoint.key, "what the killed attempt had saved"


@pytest.mark.parametrize("which", ["latest", "best"])
def test_the_policy_of_an_old_training_is_evaluated_and_exported(old: Old, which: str) -> None:
    training = {"jobId": old.ids["trained"], "which": which}
    requests = (
        check_config({"trainingConfig": {"mode": "evaluate", "fromJob": training}}, EvaluateRequest),
        check_config({"exportConfig": {"fromJob": training}}, ExportRequest),
    )
    for request in requests:
        spec = resolve(request, old.store, keys.new_job_id()).spec
        assert (spec.from_job, spec.task, spec.library) == (old.ids["trained"], "Isaac-Cartpole-Direct", "rsl_rl")
        (policy,) = spec.policies
        data = (old.folder / policy.checkpoint.key).read_bytes()
        assert hashlib.sha256(data).hexdigest() == policy.checkpoint.sha256


def test_a_retry_begins_where_the_attempts_ended(old: Old) -> None:
    def follows(name: str) -> tuple[int, int, int]:
        """Return an attempt's number, its first iteration, and the newest one that its checkpoints have."""
        job_id = old.ids[name]
        attempt = next_attempt(load_spec(old.store, job_id), old.store)
        indices = (old.folder / "jobs" / job_id).glob("attempts/*/checkpoints.json")
        saved = [record["iteration"] for index in indices for record in json.loads(index.read_text())]
        assert (attempt.resume is None) == (not saved)
        return attempt.number, attempt.start_iteration, max(saved, default=0)

    for name in ("interrupted", "canceled"):
        number, start, saved = follows(name)
        assert (number, start) == (2, saved)
        assert saved > 0
    assert follows("failed") == (2, 3, 3)
    assert follows("queued") == (1, 0, 0)
    assert follows("succeeded after a kill")[:2] == (3, 5), "the last one is passed over"
    said = click.testing.CliRunner().invoke(main, ["jobs", "resume", old.ids["trained"]])
    assert (said.exit_code, "has succeeded" in said.stderr) == (2, True)


def test_attempts_on_two_machines(old: Old) -> None:
    job = old.folder / "jobs" / old.ids["on two machines"]
    first, second = (keys.JobKeys(job.name).attempt(number) for number in (1, 2))
    for attempt in (first, second):
        assert old.store.get_json(attempt.meeting)["world"]["address"]
        assert old.store.exists(attempt.go)
        assert old.store.exists(attempt.node(1).ready)
    assert f"{job.name}-1-node-1" in old.store.get_json(first.machine_lost)["message"]
    assert old.store.get_json(first.outcome)["failure"]["category"] == "infra"
    assert old.store.get_json(second.node(1).outcome)["status"] == "succeeded"
    spec = load_spec(old.store, job.name)
    assert (spec.nodes, spec.gpus) == (2, 1)
    assert old.json("jobs", "show", job.name)["summary"]["scaling"]["gpus"] == 2


def test_the_same_request_with_its_key_is_the_same_job(old: Old, api: Api, tmp_path: Path) -> None:
    rollout = old.notes["rollout"]
    shutil.copy(Path(__file__).parents[1] / "examples" / "rollouts" / "gripper_arm.urdf", tmp_path)
    config = tmp_path / "rollout.json"
    config.write_text(json.dumps(rollout["request"]))
    asked = ("rollout", config, "--idempotency-key", rollout["idempotency_key"])
    assert old.json(*asked)["job_id"] == old.ids["rolled out"]
    assert (
        "was used for another request"
        in click.testing.CliRunner().invoke(main, [*map(str, asked), "--set", "execution.seed=8"]).stderr
    )

    job = old.notes["job"]
    headers = {"Idempotency-Key": job["idempotency_key"]}
    again = api("POST", "/v0/jobs", json=job["request"], headers=headers)
    assert (again.status_code, again.json()["job_id"]) == (200, old.ids["of a key"])
    other = api("POST", "/v0/jobs", json=job["request"] | {"name": "other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


# The service


def test_the_service_shows_every_job(old: Old, api: Api) -> None:
    listed = {row["job_id"]: row for row in api.get("/v0/jobs").json()["jobs"]}
    assert set(listed) == set(old.ids.values()) | {path.name for path in old.folder.glob("jobs/job-*")}
    for job_id, row in listed.items():
        assert api.get(f"/v0/jobs/{job_id}").json()["status"] == row["status"]
        page = api.get(f"/jobs/{job_id}")
        assert page.status_code == 200, page.text
        assert row["name"] in page.text
        assert row["status"] in page.text
        for entry in row["artifacts"]:
            assert entry["name"] in page.text or row["status"] not in ("succeeded", "failed", "canceled")
    assert listed[old.ids["interrupted"]]["status"] == "running", "it is set going again"
    killed = api.get(f"/jobs/{old.ids['succeeded after a kill']}/parts/attempts")
    assert "The simulator was ended by SIGKILL at iteration 4." in killed.text
    log = api.get(f"/v0/jobs/{old.ids['trained']}/logs")
    assert (log.status_code, "Learning iteration 9/10" in log.text) == (200, True)


def test_the_project_of_a_key(old: Old, api: Api) -> None:
    lab = old.notes["lab_api_key"]
    (job,) = api.get("/v0/jobs", key=lab).json()["jobs"]
    assert (job["name"], job["status"], job["project_id"]) == ("of the lab", "succeeded", "lab")
    assert api.get(f"/jobs/{job['job_id']}", key=lab).status_code == 200
    assert api.get(f"/v0/jobs/{job['job_id']}").status_code == 404


def test_api_keys(old: Old) -> None:
    found = {row["name"]: row for row in old.json("keys", "list")}
    assert {name: (row["project"], row["scopes"], row["max_credits"]) for name, row in found.items()} == {
        "kept": ("default", ["admin"], None),
        "lab": ("lab", ["jobs"], 200.0),
        "revoked": ("lab", ["assets"], None),
    }
    assert [name for name, row in found.items() if row["revoked_at"]] == ["revoked"]


def test_webhooks(old: Old) -> None:
    from simyard.service.notifications import Notice

    told = json.loads((old.folder / "jobs" / old.ids["of a key"] / "notification.json").read_text())
    assert (told["delivered"], told["deliveries"], told["problem"]) == (True, 2, None)
    (waiting,) = (old.folder / "service" / "outbox").iterdir()
    notice = Notice.from_json(json.loads(waiting.read_text()))
    assert (notice.id, notice.project, notice.failures) == (old.ids["queued"], "default", 0)
    assert notice.url.endswith("/queued")


# Managed training runs


def test_managed_runs(old: Old) -> None:
    rows = {row["name"]: row for row in old.json("managed", "list")}
    assert {name: (row["status"], row["current_iteration"]) for name, row in rows.items()} == {
        "pooled": ("succeeded", 2), "paused": ("succeeded", 3), "unfinished": ("interrupted", 3),
    }  # fmt: skip
    shown = {name: old.json("managed", "show", row["run_id"]) for name, row in rows.items()}
    for name, count in {"pooled": 2, "paused": 3, "unfinished": 2}.items():
        assert [ended["status"] for ended in shown[name]["history"]] == ["succeeded"] * count
        assert [entry["iteration"] for entry in shown[name]["checkpoints"]] == [*range(count, 0, -1)]
        assert [ended["metrics"]["score"] for ended in shown[name]["history"]] == [1.0, 2.0, 3.0][:count]
    assert shown["pooled"]["ended_by"] == "max_iterations"
    assert shown["paused"]["best"]["checkpoint_id"] == shown["paused"]["checkpoints"][0]["checkpoint_id"]
    assert old("managed", "list").count("run-") == 3


@pytest.mark.parametrize("name", ["pooled", "paused", "unfinished"])
def test_a_managed_run_is_verified(old: Old, name: str) -> None:
    assert old.json("managed", "verify", old.run(name))["problems"] == []


def test_what_happened_in_a_managed_run(old: Old, api: Api) -> None:
    events = api.get(f"/v1/training-runs/{old.run('paused')}/events").json()["events"]
    kinds = [event["event_type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("run.started", "run.ended")
    assert 0 < kinds.index("run.paused") < kinds.index("run.resumed")
    assert Counter(kinds)["rollout.succeeded"] == 6
    unfinished = old.run("unfinished")
    calls = sorted((old.folder / "training-runs" / unfinished).glob("iterations/000002/trainer/*/outcome.json"))
    assert [json.loads(path.read_text())["status"] for path in calls] == ["failed", "succeeded"]
    assert api.get(f"/v1/training-runs/{unfinished}").json()["status"] == "running", "it is taken up again"
    pooled = keys.RunKeys(old.run("pooled"))
    for name in ("status.json", "order-000001.json", "answer-000001.json"):
        assert all(old.store.exists(pooled.slot(number, name)) for number in (0, 1)), name
    assert old.store.exists(keys.RunKeys(old.run("paused")).desired_state)


# Promotions and assets


def test_promotions(old: Old) -> None:
    (listed,) = old.json("promotions", "list")
    shown = old.json("promotions", "show", "arm")
    assert listed["name"] == "arm"
    assert [entry["decision"] for entry in shown["history"]] == [
        "promoted", "promoted", "kept", "not_trained", "rolled_back",
    ]  # fmt: skip
    first, second, third, fourth, back = shown["history"]
    assert shown["current"]["job_id"] == first["job_id"] == back["candidate"]["job_id"]
    assert back["why"] == "it rattles"
    assert second["difference"]["mean"] == pytest.approx(6)
    assert second["start"] == f"iteration 4 of the promoted policy, {first['job_id']}"
    assert third["difference"]["interval_95"][1] < 0
    assert fourth["error"]["code"] == "exception"
    assert "it rattles" in old("promotions", "show", "arm")


def test_assets(old: Old, api: Api) -> None:
    listed = old.json("assets", "list", "--limit", 2)
    assert [(row["filename"], row["kind"]) for row in listed] == [
        ("package.zip", "isaac_lab_task_package"), ("robot.zip", "robot"),
    ]  # fmt: skip
    robot = old.json("assets", "show", listed[1]["asset_id"])
    assert robot == listed[1]
    assert robot["metadata"] == {"gripper": "two fingers"}
    others = api.get("/v0/assets").json()["assets"][2:]
    assert [(row["filename"], row["kind"]) for row in others] == [("checkpoint.pt", "checkpoint")] * 7
    (loose,) = (old.folder / "uploads").glob("*/loose.urdf")
    assert loose.read_bytes() == b"<robot/>"


# What is written next to old records


@pytest.fixture
def copy(old: Old, tmp_path: Path) -> Old:
    """A store of this test alone."""
    return unpack(tmp_path)


@pytest.mark.system
def test_an_interrupted_job_goes_on(copy: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_PYTHON", play.ENVIRONMENT["SCENARIO_PYTHON"])
    spec = load_spec(copy.store, copy.ids["interrupted"])
    job = copy.folder / "jobs" / spec.job_id
    saved = [record["iteration"] for record in json.loads((job / "attempts/001/checkpoints.json").read_text())]
    player = play.Player(MachineSettings(home=tmp_path / "home", store=str(copy.folder), python=str(play.PYTHON)), None)
    assert player.attempt(spec, fresh=True) is None
    left = player.end(spec)
    left.assert_nothing_missing(iterations=30)
    assert left.indices(2) == list(range(saved[-1], 30))
    row = next(row for row in copy.json("jobs", "list", "--limit", 100) if row["job_id"] == spec.job_id)
    assert (row["status"], row["attempts"], row["done"]) == ("succeeded", 2, 30)
    assert play.running_below(tmp_path) == []


def test_old_records_are_changed(copy: Old, tmp_path: Path) -> None:
    run_id = copy.run("unfinished")
    copy("managed", "cancel", run_id)
    shown = copy.json("managed", "show", run_id)
    assert (shown["status"], shown["ended_by"], len(shown["history"])) == ("canceled", "canceled", 2)
    assert copy.json("managed", "verify", run_id)["problems"] == []

    queued = copy.ids["queued"]
    assert copy("jobs", "cancel", queued) == f"{queued} will stop within seconds and keep what it saved.\n"

    (kept,) = (row for row in copy.json("keys", "list") if row["name"] == "kept")
    copy("keys", "revoke", kept["key_id"])
    revoked = {row["name"]: row["revoked_at"] for row in copy.json("keys", "list")}
    assert revoked["kept"] is not None and revoked["lab"] is None

    robot = tmp_path / "robot.zip"
    (packed,) = copy.folder.glob("assets/*/robot.zip")
    shutil.copy(packed, robot)
    again = copy.json("upload", robot, "--kind", "robot", "--metadata", '{"gripper": "one finger"}')
    assert again["asset_id"] == f"asset-{packed.parent.name}"
    assert copy.json("assets", "show", again["asset_id"])["metadata"] == {"gripper": "one finger"}

    refused = click.testing.CliRunner().invoke(main, ["promotions", "rollback", "arm", "--store", str(copy.folder)])
    assert (refused.exit_code, "there was none" in refused.stderr) == (2, True)


def test_a_key_of_before_runs_code_as_it_did(old: Old) -> None:
    found = {row["name"]: row for row in old.json("keys", "list")}
    assert {name: row["grants"] for name, row in found.items()} == {
        "kept": ["admin"], "lab": ["jobs", "code"], "revoked": ["assets", "code"],
    }  # fmt: skip
    for row in found.values():
        record = old.store.get_record(keys.api_key(row["key_id"]), ApiKey)
        assert record.allows("code") and record.allows(record.scopes[0])


@pytest.mark.parametrize(
    ("noun", "files", "column"),
    [
        ("jobs", "jobs/*/job.json", "job_id"),
        ("jobs", "jobs/*/result.json", "job_id"),
        ("assets", "assets/*/asset.json", "asset_id"),
        ("managed", "training-runs/*/run.json", "run_id"),
        ("keys", "service/keys/*.json", "key_id"),
        ("promotions", "promotions/*.json", "name"),
    ],
)
def test_a_list_names_the_records_that_cannot_be_read(copy: Old, noun: str, files: str, column: str) -> None:
    listing = (noun, "list", *(("--limit", 100) if noun in ("jobs", "assets", "managed") else ()))
    before = [row[column] for row in copy.json(*listing)]
    there = sorted(copy.folder.glob(files))
    half = json.loads(there[-1].read_text()) | {"name": "\ud800", "metadata": {"": "\ud800"}, "store": "\ud800"}
    damage = (b"{", b'{"schema_version": 99}', b"[" * 100_000, json.dumps(half).encode())
    damaged = {}
    for path, content in zip(there, damage, strict=False):
        path.write_bytes(content)
        name = path.stem if path.parent.name in ("keys", "promotions") else path.parent.name
        damaged[f"asset-{name}" if noun == "assets" else name] = path

    rows = copy.json(*listing)
    assert {row["id"] for row in rows if "unreadable" in row} == damaged.keys()
    assert [row[column] for row in rows if "unreadable" not in row] == [one for one in before if one not in damaged]
    for name in damaged:
        assert f"{name}  cannot be read: " in copy(*listing)


def test_the_service_lists_what_can_be_read(api: Api, old: Old) -> None:
    """On the store of all tests here: what is damaged is mended again."""
    jobs, assets = api.get("/v0/jobs").json(), api.get("/v0/assets").json()
    assert (jobs["unreadable"], jobs["next_cursor"], assets["unreadable"]) == ([], None, [])
    job_id, asset = old.ids["failed"], assets["assets"][1]
    result = old.folder / "jobs" / job_id / "result.json"
    record = old.folder / "assets" / asset["sha256"] / "asset.json"
    before = {path: path.read_bytes() for path in (result, record)}
    result.write_bytes(b"[" * 100_000)
    record.write_text(json.dumps(asset | {"metadata": {"from an earlier version": "\ud800"}}))
    try:
        answers = [api.get(path) for path in ("/v0/jobs", "/v0/assets", f"/v0/assets/{asset['asset_id']}")]
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert [bad["id"] for bad in answers[0].json()["unreadable"]] == [job_id]
    left = [job["job_id"] for job in jobs["jobs"] if job["job_id"] != job_id]
    assert [job["job_id"] for job in answers[0].json()["jobs"]] == left
    (bad,) = answers[1].json()["unreadable"]
    assert bad["id"] == asset["asset_id"]
    assert "from an earlier version" in bad["error"] and "half of a surrogate pair" in bad["error"]
    assert {one["asset_id"] for one in answers[1].json()["assets"]} == {one["asset_id"] for one in assets["assets"]} - {
        asset["asset_id"]
    }
    assert answers[2].json()["code"] == "bad_json"
