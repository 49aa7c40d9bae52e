"""`/v0/jobs` and `/v1/training-runs` without a worker: what is taken, what is refused, and what nobody else sees."""

import json
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import records
from helpers import Server, make_bucket
from serving import Answer, Service

from simyard.service.settings import DEFAULT_PROJECT
from simyard.store import keys
from simyard.store.store import Store

TRAINING = {
    "name": "of the API",
    "trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 16, "maxIterations": 2},
    "computeConfig": {"gpusPerNode": 0},
}
ROLLOUT = {
    "job_type": "rollout",
    "runtime_profile": "isaac_lab_rollout",
    "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"},
    "execution": {"num_envs": 4, "steps": 10},
}
RUN = {
    "project_id": "p",
    "name": "a loop",
    "rollout_template": {
        "runtime_profile": "isaac_lab_rollout",
        "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"},
        "steps": 10,
    },
    "trainer_spec": {"image_uri": "local", "entrypoint": "python train.py", "resources": {"gpu": 1}},
    "loop_policy": {"max_iterations": 2},
}


class Api:
    """The API as one key sees it."""

    def __init__(self, service: Service, project: str, *scopes: str, **limits: Any) -> None:
        self.service = service
        self.project = project
        self.key = service.key(project, *scopes, **limits)

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return self.service.call(method, path, body, key=self.key, **more)

    def submit(self, body: Any = None, key: str | None = None) -> Answer:
        headers = {"Idempotency-Key": key} if key else {}
        return self("POST", "/v0/jobs", TRAINING if body is None else body, headers=headers)

    @property
    def store(self) -> Store:
        url = self.service.store.url()
        return self.service.store if self.project == DEFAULT_PROJECT else Store.open(f"{url}/projects/{self.project}")


@pytest.fixture
def api(service: Service) -> Api:
    """A key of a project of its own."""
    return Api(service, f"p{uuid.uuid4().hex[:8]}")


def stranger(service: Service) -> Api:
    """A key of some other project."""
    return Api(service, f"s{uuid.uuid4().hex[:8]}")


# Who may


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({}, "no_api_key"),
        ({"Authorization": "Bearer nonsense"}, "bad_api_key"),
        ({"Authorization": f"Bearer sy_live_{'a' * 12}_{'b' * 43}"}, "bad_api_key"),
        ({"Authorization": "Bearer sy_live_../../keys_x"}, "bad_api_key"),
        ({"Authorization": "Basic YTpi"}, "no_api_key"),
    ],
)
def test_without_a_key_there_is_nothing(service: Service, header: dict[str, str], code: str) -> None:
    answer = service.call("GET", "/v0/jobs", headers=header)
    assert (answer.status, answer.json["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("scope", "method", "path", "body", "status"),
    [
        ("assets", "POST", "/v0/jobs", TRAINING, 403),
        ("assets", "GET", "/v0/jobs", None, 403),
        ("assets", "GET", "/v0/assets", None, 200),
        ("jobs", "GET", "/v0/assets", None, 403),
        ("jobs", "GET", "/v1/training-runs", None, 403),
        ("training", "GET", "/v1/training-runs", None, 200),
        ("admin", "GET", "/v1/training-runs", None, 200),
    ],
)
def test_a_key_is_good_for_its_scopes(
    service: Service, scope: str, method: str, path: str, body: Any, status: int
) -> None:
    assert Api(service, "scopes", scope)(method, path, body).status == status


def test_a_revoked_key_is_good_for_nothing_within_seconds(service: Service, api: Api) -> None:
    assert api("GET", "/v0/jobs").status == 200
    from simyard.tasks.shared import api_keys

    api_keys.revoke(service.store, api.key.split("_")[2])
    deadline = time.monotonic() + 10
    while api("GET", "/v0/jobs").status == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert api("GET", "/v0/jobs").json["code"] == "bad_api_key"


def test_only_a_digest_of_a_key_is_in_the_store(service: Service, api: Api) -> None:
    kept = b"".join(service.store.get_bytes(entry.key) for entry in service.store.list(keys.API_KEYS))
    secret = api.key.rpartition("_")[2]
    assert api.key.split("_")[2].encode() in kept
    assert secret.encode() not in kept


def test_a_project_sees_nothing_of_another(service: Service, api: Api) -> None:
    mine = api.submit().json["job_id"]
    run = api("POST", "/v1/training-runs", RUN).json["run_id"]
    asset = register(api, b"<robot/>", "robot.urdf", "robot")["asset_id"]
    other = stranger(service)
    for method, path in [
        ("GET", f"/v0/jobs/{mine}"),
        ("POST", f"/v0/jobs/{mine}/cancel"),
        ("GET", f"/v0/jobs/{mine}/logs"),
        ("GET", f"/v0/jobs/{mine}/artifacts/report.md/download-url"),
        ("GET", f"/v0/assets/{asset}"),
        ("GET", f"/v1/training-runs/{run}"),
        *(("POST", f"/v1/training-runs/{run}/{what}") for what in ("pause", "resume", "cancel")),
        *(("GET", f"/v1/training-runs/{run}/{what}") for what in ("iterations", "checkpoints", "events")),
        ("GET", f"/v1/training-runs/{run}/checkpoints/ckpt-1/download-url"),
    ]:
        assert api(method, path).status in (200, 404, 409), path
        assert other(method, path).status == 404, path
    assert other("GET", "/v0/jobs").json == {"jobs": []}
    assert other("GET", "/v0/assets").json == {"assets": []}
    assert other("GET", "/v1/training-runs").json == {"runs": []}
    named = other.submit({**ROLLOUT, "robot": {"urdf_asset_id": asset}})
    assert (named.status, named.json["code"]) == (404, "unknown_asset")


# What is taken


def test_a_job_is_submitted_once_and_waits_in_prefect(api: Api, deployments: Server) -> None:
    answer = api.submit()
    assert answer.status == 201, answer.body
    job = answer.json
    assert (job["status"], job["kind"], job["attempt_count"], job["error"]) == ("queued", "train", 0, None)
    assert (job["estimated_credits"], job["gpu_hourly_rate_usd"]) == (0.0, 2.99)
    (run,) = deployments.flow_runs(job["job_id"])
    assert run["state_type"] == "SCHEDULED"
    assert run["parameters"]["request"] == TRAINING, "the form of Prefect's UI shows what was sent"
    assert api("GET", f"/v0/jobs/{job['job_id']}").json["name"] == "of the API"
    assert [found["job_id"] for found in api("GET", "/v0/jobs").json["jobs"]] == [job["job_id"]]


@pytest.mark.parametrize("body", [TRAINING, ROLLOUT], ids=["training", "rollout"])
def test_the_same_key_is_the_same_job(service: Service, api: Api, body: dict[str, Any], deployments: Server) -> None:
    first, again = api.submit(body, "once"), api.submit(body, " once ")
    assert (first.status, again.status) == (201, 200), again.body
    assert first.json["job_id"] == again.json["job_id"]
    other = api.submit({**body, "name": "another"}, "once")
    assert (other.status, other.json["code"]) == (409, "idempotency_conflict")
    assert len(api("GET", "/v0/jobs").json["jobs"]) == len(deployments.flow_runs(first.json["job_id"])) == 1
    assert stranger(service).submit(body, "once").json["job_id"] != first.json["job_id"]


def test_many_at_once_with_one_key_are_one_job(api: Api, deployments: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.submit(None, "at once"), range(8)))
    assert {answer.status for answer in answers} <= {200, 201}, [answer.body for answer in answers]
    (job_id,) = {answer.json["job_id"] for answer in answers}
    assert len(deployments.flow_runs(job_id)) == 1
    assert len(api("GET", "/v0/jobs").json["jobs"]) == 1


@pytest.mark.parametrize("key", [" ", "x" * 257])
def test_a_bad_idempotency_key_is_refused(api: Api, key: str) -> None:
    answer = api.submit(None, key)
    assert (answer.status, answer.json["code"]) == (400, "bad_idempotency_key")
    assert api("GET", "/v0/jobs").json == {"jobs": []}


def test_two_copies_of_the_service_are_one(service: Service, api: Api) -> None:
    second = service.start()
    job = api.submit(None, "k").json
    again = api("POST", "/v0/jobs", TRAINING, headers={"Idempotency-Key": "k"}, url=second)
    assert (again.status, again.json["job_id"]) == (200, job["job_id"])
    assert api("POST", f"/v0/jobs/{job['job_id']}/cancel", url=second).json["status"] == "canceled"
    assert api("GET", f"/v0/jobs/{job['job_id']}").json["status"] == "canceled"


def test_a_job_is_canceled_before_it_begins(api: Api, deployments: Server) -> None:
    job_id = api.submit().json["job_id"]
    canceled = api("POST", f"/v0/jobs/{job_id}/cancel")
    assert (canceled.status, canceled.json["status"]) == (200, "canceled")
    assert api("POST", f"/v0/jobs/{job_id}/cancel").json["status"] == "canceled", "said twice it is the same"
    (run,) = deployments.flow_runs(job_id)
    assert run["state_type"] == "CANCELLED"
    assert json.loads(api.store.get_bytes(keys.JobKeys(job_id).result))["status"] == "canceled"


# What is refused


def test_several_machines_need_a_pool(api: Api) -> None:
    answer = api.submit({**TRAINING, "computeConfig": {"numNodes": 2, "gpusPerNode": 1}})
    assert (answer.status, answer.json["code"]) == (400, "no_pool"), answer.body
    assert "computeConfig.numNodes is 2, and no pool was named" in answer.json["detail"]
    assert api("GET", "/v0/jobs").json == {"jobs": []}


def test_every_wrong_field_is_named_at_once(api: Api) -> None:
    wrong = {"trainingConfig": {"task": "", "numEnvs": 0, "seed": "x"}, "computeConfig": {"gpus": 1}, "retries": -1}
    answer = api.submit(wrong)
    assert answer.status == 422
    problems = {".".join(problem["loc"][1:]): problem["msg"] for problem in answer.json["detail"]}
    assert set(problems) == {
        "trainingConfig.task", "trainingConfig.numEnvs", "trainingConfig.seed", "computeConfig.gpus", "retries",
    }  # fmt: skip
    assert "gpusPerNode" in problems["computeConfig.gpus"], "the nearest match is named"
    assert api("GET", "/v0/jobs").json == {"jobs": []}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"execution": {"steps": NaN}}', 400),
        (b'{"execution": {"steps": 1}, "execution": {"steps": 2}}', 400),
        (b'{"control": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, 400),
        (b'{"control": ' + b'{"a":' * 30 + b"1" + b"}" * 30 + b', "execution": {"steps": 1}}', 422),
        (b'{"name": "' + b"x" * 1_000_000 + b'"}', 413),
        (b'\xff\xfe{"name": 1}', 400),
        (b"{}", 422),
        (b'{"trainingConfig": []}', 400),
        (b'{"trainingConfig": {"task": "T", "rlLibrary": "rsl-rl"}}', 400),
        (b'{"execution": {"steps": 1}, "notify_url": 7}', 422),
        (b'{"execution": {"steps": 1}, "control": {"a": [{"__prefect_kind": "jinja", "template": "{{ 1 }}"}]}}', 400),
    ],
    ids=["empty", "list", "null", "nan", "twice", "deep", "deep but JSON", "large", "utf-16", "no field",
         "list section", "library", "notify", "placeholder"],
)  # fmt: skip
def test_hostile_bodies_are_refused(api: Api, body: bytes, status: int) -> None:
    answer = api("POST", "/v0/jobs", body)
    assert answer.status == status, answer.body
    assert b"Traceback" not in answer.body
    assert api("GET", "/v0/jobs").json == {"jobs": []}


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("/etc/passwd", "bad_reference"),
        ("../../etc/passwd", "bad_reference"),
        ("file:///etc/passwd", "bad_reference"),
        ("s3://somebody-elses/robot.urdf", "store_not_allowed"),
        ("s3://robots-of-others/robot.urdf", "store_not_allowed"),
        ("http://127.0.0.1:4200/robot.urdf", "refused_url"),
        ("http://169.254.169.254/latest/meta-data/robot.urdf", "refused_url"),
        ("http://[::1]/robot.urdf", "refused_url"),
        ("http://0x7f000001/robot.urdf", "refused_url"),
        ("http://localhost/robot.urdf", "refused_url"),
        ("http://user:secret@example.com/robot.urdf", "refused_url"),
        ("ftp://example.com/robot.urdf", "bad_reference"),
        ("job-store/lab", "bad_reference"),
    ],
)
def test_inputs_come_from_nowhere_but_where_they_may(api: Api, uri: str, code: str) -> None:
    robot = {"robot": {"urdf_uri": uri}, "scene": {"scene_id": "ground"}, "execution": {"steps": 1}}
    packaged = {
        **ROLLOUT,
        "isaac_lab": {"task_class_or_name": "T", "task_module": "m", "task_package_uri": uri},
    }
    resumed = {**TRAINING, "resume": {"checkpoint": uri}}
    for body in (robot, packaged, resumed):
        answer = api.submit(body)
        assert (answer.status, answer.json["code"]) == (400, code), answer.body
    assert api("GET", "/v0/jobs").json == {"jobs": []}


def test_a_project_may_not_name_the_files_of_another(service: Service, api: Api) -> None:
    asset = register(api, b"<robot/>", "robot.urdf", "robot")
    file = api.store.url(keys.asset(asset["sha256"], "robot.urdf"))
    default = Api(service, DEFAULT_PROJECT)
    for other in (stranger(service), default):
        answer = other("POST", "/v0/assets/register", {"input_uri": file, "kind": "robot"})
        assert (answer.status, answer.json["code"]) == (400, "bad_reference"), answer.body
    own_key = service.store.url(f"{keys.API_KEYS}/{api.key.split('_')[2]}.json")
    answer = default("POST", "/v0/assets/register", {"input_uri": own_key, "kind": "robot"})
    assert answer.status == 400, "not even the default project reads the service's own records"
    mine = api("POST", "/v0/assets/register", {"input_uri": file, "kind": "scene", "filename": "scene.usd"})
    assert mine.json["filename"] == "scene.usd", mine.body


# Limits


def test_a_key_has_so_many_jobs_at_once(service: Service) -> None:
    api = Api(service, "few", max_active_jobs=2)
    first, _ = api.submit().json, api.submit()
    third = api.submit()
    assert (third.status, third.json["code"]) == (429, "too_many_jobs")
    assert int(third.headers["retry-after"]) > 0
    api("POST", f"/v0/jobs/{first['job_id']}/cancel")
    assert api.submit().status == 201


def test_a_key_sends_so_many_requests_a_minute(service: Service) -> None:
    api = Api(service, "slow", requests_per_minute=3)
    assert [api("GET", "/v0/jobs").status for _ in range(4)] == [200, 200, 200, 429]


def test_a_key_spends_so_much(service: Service) -> None:
    api = Api(service, "poor", max_credits=5.0)
    job_id = api.submit({**TRAINING, "computeConfig": {"gpusPerNode": 2}}).json["job_id"]
    assert api.submit().status == 201
    # What an attempt of an hour on two GPUs writes at its end.
    outcome = records.outcome(status="failed", timings={"total_s": 3600.0}, facts=records.facts("cuda:0"))
    api.store.put_json(keys.JobKeys(job_id).attempt(1).outcome, outcome)
    answer = api.submit()
    assert (answer.status, answer.json["code"]) == (402, "over_budget")
    assert "5.98" in answer.json["detail"]


# Files


def presign(api: Api, data: bytes, name: str, **more: Any) -> dict[str, Any]:
    answer = api("POST", "/v0/inputs/presign-upload", {"filename": name, "size_bytes": len(data), **more})
    assert answer.status == 200, answer.body
    return dict(answer.json)


def put(service: Service, link: dict[str, Any], data: bytes) -> Answer:
    return service.call(link["upload_method"], link["upload_url"], data, headers=link["upload_headers"])


def register(api: Api, data: bytes, name: str, kind: str) -> dict[str, Any]:
    link = presign(api, data, name)
    assert put(api.service, link, data).status == 204
    answer = api("POST", "/v0/assets/register", {"input_uri": link["input_uri"], "kind": kind, "size_bytes": len(data)})
    assert answer.status == 200, answer.body
    return dict(answer.json)


def test_a_file_is_uploaded_registered_and_named(service: Service, api: Api) -> None:
    data = b"<mujoco/>" * 1000
    asset = register(api, data, "robot.xml", "robot")
    assert (asset["size_bytes"], asset["kind"]) == (len(data), "robot")
    assert api("GET", f"/v0/assets/{asset['asset_id']}").json == asset
    assert api("GET", "/v0/assets").json["assets"] == [asset]
    assert api.store.get_bytes(keys.asset(asset["sha256"], "robot.xml")) == data


@pytest.mark.parametrize(("sent", "code"), [(b"x" * 11, "too_large"), (b"x" * 9, "wrong_size")])
def test_an_upload_has_the_size_that_was_announced(service: Service, api: Api, sent: bytes, code: str) -> None:
    link = presign(api, b"x" * 10, "robot.urdf")
    answer = put(service, link, sent)
    assert (answer.status, answer.json["code"]) == (413 if code == "too_large" else 400, code)
    again = api("POST", "/v0/assets/register", {"input_uri": link["input_uri"], "kind": "robot"})
    assert (again.status, again.json["code"]) == (400, "missing_file")
    folder = api.store.opened_with[0].folder
    assert folder is not None
    assert not [path for path in (folder / "uploads").rglob("*") if path.is_file()], "nothing is left half written"


@pytest.mark.parametrize(
    "body",
    [
        {"filename": "../robot.urdf", "size_bytes": 1},
        {"filename": "asset.json", "size_bytes": 1},
        {"filename": "a/b.urdf", "size_bytes": 1},
        {"filename": "robot.urdf", "size_bytes": 10**15},
        {"filename": "robot.exe", "size_bytes": 1, "asset_kind": "robot"},
        {"filename": "robot.urdf", "size_bytes": 1, "asset_kind": "vehicle"},
        {"filename": "robot.urdf", "size_bytes": 0},
        {"filename": "robot.urdf", "size_bytes": 1, "content_type": "text/html\r\nX: y"},
    ],
)
def test_a_bad_upload_gets_no_url(api: Api, body: dict[str, Any]) -> None:
    assert api("POST", "/v0/inputs/presign-upload", body).status in (400, 413, 422)


def test_urls_are_good_for_one_thing_and_not_forever(service: Service, api: Api) -> None:
    from simyard.service.signatures import seal

    link = presign(api, b"x" * 10, "robot.urdf")
    job_id = api.submit().json["job_id"]
    api("POST", f"/v0/jobs/{job_id}/cancel")
    url = api("GET", f"/v0/jobs/{job_id}/artifacts/report.md/download-url").json["url"]
    assert service.call("GET", url).body.startswith(b"# of the API: canceled")
    assert service.call("GET", link["upload_url"]).status == 404, "an upload URL reads nothing"
    assert service.call("PUT", url, b"x" * 10).status == 404, "a download URL writes nothing"
    assert service.call("GET", url[:-2] + ("AA" if url[-2:] != "AA" else "BB")).status == 404
    secret = (service.home / "home" / "secret").read_bytes()
    late = seal(secret, "download", -1, project=api.project, key=keys.JobKeys(job_id).job, name="job.json")
    expired = service.call("GET", f"{service.url}/v0/files/{late}")
    assert (expired.status, expired.json["code"]) == (404, "url_expired")


def test_a_download_is_answered_in_ranges_and_never_as_a_page(service: Service, api: Api) -> None:
    job_id = api.submit().json["job_id"]
    job = api("POST", f"/v0/jobs/{job_id}/cancel").json
    entry = next(entry for entry in job["artifacts"] if entry["name"] == "job.json")
    link = api("GET", f"/v0/jobs/{job_id}/artifacts/job.json/download-url").json
    assert (link["sha256"], link["size_bytes"]) == (entry["sha256"], entry["size_bytes"])
    whole = service.call("GET", link["url"])
    part = service.call("GET", link["url"], headers={"Range": "bytes=5-9"})
    assert (part.status, part.body) == (206, whole.body[5:10])
    assert whole.headers["content-disposition"].startswith("attachment")
    assert whole.headers["x-content-type-options"] == "nosniff"
    for name in ("nothing.txt", "../job.json", "%2e%2e/job.json", "/etc/passwd", ""):
        assert api("GET", f"/v0/jobs/{job_id}/artifacts/{name}/download-url").status == 404, name


def test_a_bucket_signs_its_own_urls(make_site: Callable[..., Service], s3_server: str) -> None:
    env = make_bucket(s3_server, "yard") | {"SIMYARD_STORE": "s3://yard/site"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        site = make_site(**env)
        site.start()
        api = Api(site, "robots")
        link = presign(api, b"<robot/>", "robot.urdf")
        assert link["upload_url"].startswith(s3_server)
        put_there = site.call("PUT", link["upload_url"], b"<robot/>", headers=link["upload_headers"])
        assert put_there.status == 200
        asset = api("POST", "/v0/assets/register", {"input_uri": link["input_uri"], "kind": "robot"})
        assert asset.json["size_bytes"] == 8, asset.body
        job_id = api.submit().json["job_id"]
        assert api("POST", f"/v0/jobs/{job_id}/cancel").json["status"] == "canceled"
        url = api("GET", f"/v0/jobs/{job_id}/artifacts/report.md/download-url").json["url"]
        assert url.startswith(s3_server)
        assert site.call("GET", url).body.startswith(b"# of the API: canceled")


# Managed runs


def test_a_managed_run_is_begun_paused_and_canceled(api: Api, deployments: Server) -> None:
    first = api("POST", "/v1/training-runs", RUN, headers={"Idempotency-Key": "r"})
    assert first.status == 201, first.body
    run_id = first.json["run_id"]
    again = api("POST", "/v1/training-runs", RUN, headers={"Idempotency-Key": "r"})
    assert (again.status, again.json["run_id"]) == (200, run_id)
    assert api("POST", "/v1/training-runs", {**RUN, "name": "x"}, headers={"Idempotency-Key": "r"}).status == 409
    assert api.submit(None, "r").status == 201, "a job may have the key that a run has"
    (flow_run,) = deployments.flow_runs(run_id)
    assert flow_run["parameters"]["request"] == RUN
    assert api("POST", f"/v1/training-runs/{run_id}/pause").json["status"] == "paused"
    assert api("POST", f"/v1/training-runs/{run_id}/resume").json["status"] == "queued"
    canceled = api("POST", f"/v1/training-runs/{run_id}/cancel").json
    assert (canceled["status"], canceled["ended_by"]) == ("canceled", "canceled")
    assert api("POST", f"/v1/training-runs/{run_id}/cancel").json["status"] == "canceled", "said twice it is the same"
    assert api("POST", f"/v1/training-runs/{run_id}/resume").status == 409
    assert [run["run_id"] for run in api("GET", "/v1/training-runs").json["runs"]] == [run_id]
    assert deployments.flow_runs(run_id)[0]["state_type"] == "CANCELLED"


def test_a_site_may_want_gpus_of_every_trainer(make_site: Callable[..., Service]) -> None:
    site = make_site(SIMYARD_REQUIRE_GPU="on")
    site.start()
    without = {**RUN, "trainer_spec": {**RUN["trainer_spec"], "resources": {"gpu": 0}}}  # type: ignore[dict-item]
    api = Api(site, "gpus")
    answer = api("POST", "/v1/training-runs", without)
    assert (answer.status, answer.json["code"]) == (400, "gpu_required")
    assert api("POST", "/v1/training-runs", RUN).status == 201


# The service itself


def test_it_is_healthy_and_ready(service: Service) -> None:
    assert service.call("GET", "/healthz").json == {"status": "ok"}
    assert service.call("GET", "/readyz").json == {"store": None, "prefect": None}


def test_it_is_not_ready_without_prefect_and_says_so(make_site: Callable[..., Service], dead_port: int) -> None:
    site = make_site(PREFECT_API_URL=f"http://127.0.0.1:{dead_port}/api", PREFECT_CLIENT_MAX_RETRIES="0")
    site.start()
    ready = site.call("GET", "/readyz")
    assert (ready.status, ready.json["store"]) == (503, None)
    answer = Api(site, "p").submit()
    assert (answer.status, answer.json["code"]) == (503, "no_prefect_server")
    assert int(answer.headers["retry-after"]) > 0


def test_every_operation_is_documented(service: Service) -> None:
    document = service.call("GET", "/openapi.json").json
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["tags"], (method, path)
    assert "TrainRequest" in document["components"]["schemas"]


def test_the_reference_loads_nothing_from_elsewhere(service: Service) -> None:
    page = service.call("GET", "/docs").body.decode()
    assert "simyard" in page
    loaded = re.findall(r'(?:src|href)="(.*?)"', page)
    assert len([name for name in loaded if name.endswith((".js", ".css"))]) == 2
    assert {service.call("GET", name).status for name in loaded} == {200}
    assert "://" not in page
    assert service.call("GET", "/redoc").status == 404
