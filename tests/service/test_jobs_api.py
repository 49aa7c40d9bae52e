"""`/v0/jobs` and `/v1/training-runs` without a worker: what is taken, what is refused, and what nobody else sees."""

import gzip
import io
import json
import re
import resource
import socket
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import records
from helpers import HANG_S, Server, make_bucket
from quickstart import BODY
from serving import Answer, Service

from simyard.core import records as records_of
from simyard.core.errors import RequestError
from simyard.requests.settings import MachineSettings
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


PACKAGE = {"task_class_or_name": "Lift", "task_module": "lift", "task_package_asset_id": f"asset-{'0' * 64}"}
IN_A_CONTAINER = {**RUN, "trainer_spec": {"image_uri": "trainers/ppo:1", "resources": {"gpu": 1}}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**TRAINING, "customEnvironmentS3Uri": "s3://robots/lift.zip"}, "custom_environment_s3_uri"),
        ({**TRAINING, "customEnvironmentPath": "lift.zip"}, "custom_environment_path"),
        (
            {"trainingConfig": {**TRAINING["trainingConfig"], "agentConfig": "agent.yaml"}},
            "training_config.agent_config",
        ),
        ({**TRAINING, "customEnvironmentCallback": "os:abort"}, "custom_environment_callback"),
        ({**TRAINING, "overrides": ["agent.save_interval=2", "agent.algorithm.class_name=os:system"]}, "overrides"),
        ({**TRAINING, "overrides": ["agent.agent.learning_rate_scheduler=exec('1')"]}, "overrides"),
        ({**TRAINING, "overrides": ["agent.algorithm={class_name: os.system}"]}, "overrides"),
        ({**ROLLOUT, "isaac_lab": PACKAGE}, "isaac_lab.task_module"),
        ({**ROLLOUT, "isaac_lab": {"task_class_or_name": "T", "task_module": "timeit"}}, "isaac_lab.task_module"),
        (RUN, "trainer_spec.image_uri"),
        ({**IN_A_CONTAINER, "rollout_template": {**RUN["rollout_template"], "isaac_lab": PACKAGE}},  # type: ignore[dict-item]
         "rollout_template.isaac_lab.task_module"),
        ({**TRAINING, "overrides": ["agent.save_interval=2", "env.sim.dt=0.01", "physics=newton_mjwarp"]}, None),
        (ROLLOUT, None),
        (IN_A_CONTAINER, None),
    ],
)  # fmt: skip
def test_code_of_its_sender_needs_a_scope(service: Service, body: dict[str, Any], field: str | None) -> None:
    path = "/v1/training-runs" if "loop_policy" in body else "/v0/jobs"
    without = Api(service, "code", "jobs", "training")
    answer = without("POST", path, body)
    if field is None:
        assert answer.status == 201, answer.body
        return
    assert (answer.status, answer.json["code"]) == (403, "missing_scope"), answer.body
    assert answer.json["detail"].startswith(f"{field} ")
    assert "--scope code" in answer.json["detail"]
    assert Api(service, "code", "jobs", "training", "code")("POST", path, body).status != 403


def test_a_revoked_key_is_good_for_nothing_within_seconds(service: Service, api: Api) -> None:
    assert api("GET", "/v0/jobs").status == 200
    job = api.submit().json
    api("POST", f"/v0/jobs/{job['job_id']}/cancel")
    download = api("GET", f"/v0/jobs/{job['job_id']}/artifacts/report.md/download-url").json["url"]
    upload = presign(api, b"x" * 10, "robot.urdf")["upload_url"]
    links = [("GET", download, None), ("GET", job["page_url"], None), ("PUT", upload, b"x" * 10)]
    assert [service.call(*link).status for link in links[:2]] == [200, 200]
    from simyard.tasks.shared import api_keys

    api_keys.revoke(service.store, api.key.split("_")[2])
    deadline = time.monotonic() + 10
    while api("GET", "/v0/jobs").status == 200 or any(service.call(*link).status != 404 for link in links):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert api("GET", "/v0/jobs").json["code"] == "bad_api_key"
    assert "The API key that this URL was made for is not valid any more." in service.call(*links[0]).json["detail"]


def test_a_wrong_key_is_remembered_as_a_digest(service: Service, api: Api, tmp_path: Path) -> None:
    from simyard.service.auth import Guard
    from simyard.service.settings import Settings

    store = service.store.url()
    guard = Guard(
        Settings(machine=MachineSettings(home=tmp_path, store=store, python="python"), store=store, secret=b"0" * 32)
    )
    nearly = f"{api.key[:-1]}{'a' if api.key[-1] != 'a' else 'b'}"
    for given in (nearly, api.key):
        with pytest.raises(RequestError) if given == nearly else nullcontext():
            guard.admit(given, "jobs")
        assert given not in repr(vars(guard))


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
    assert other("GET", "/v0/jobs").json["jobs"] == []
    assert other("GET", "/v0/assets").json["assets"] == []
    assert other("GET", "/v1/training-runs").json["runs"] == []
    named = other.submit({**ROLLOUT, "robot": {"urdf_asset_id": asset}})
    assert (named.status, named.json["code"]) == (404, "unknown_asset")


# What is taken


def test_a_job_is_submitted_once_and_waits_in_prefect(api: Api, deployments: Server) -> None:
    answer = api.submit()
    assert answer.status == 201, answer.body
    job = answer.json
    assert (job["status"], job["kind"], job["attempt_count"], job["error"]) == ("queued", "train", 0, None)
    assert (job["estimated_usd"], job["estimated_credits"], job["gpu_hourly_rate_usd"]) == (0.0, 0.0, 2.99)
    assert job["estimated_seconds"] == job["estimate"]["seconds"] > 0
    assert "environments on a CPU" in job["estimate"]["how"]
    (run,) = deployments.flow_runs(job["job_id"])
    assert run["state_type"] == "SCHEDULED"
    assert run["parameters"]["request"] == TRAINING, "the form of Prefect's UI shows what was sent"
    shown = api("GET", f"/v0/jobs/{job['job_id']}").json
    assert (shown["name"], shown["estimate"], shown["cost"]) == ("of the API", job["estimate"], None)
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


@pytest.mark.parametrize("limits", [{}, {"max_active_jobs": 1}], ids=["", "and one place"])
def test_many_at_once_with_one_key_are_one_job(service: Service, deployments: Server, limits: dict[str, int]) -> None:
    api = Api(service, f"p{uuid.uuid4().hex[:8]}", **limits)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.submit(None, "at once"), range(8)))
    # Which comes while another has the place and not yet the key is sent again, as every client does.
    answers = [api.submit(None, "at once") if limits and answer.status == 429 else answer for answer in answers]
    assert {answer.status for answer in answers} <= {200, 201}, [answer.body for answer in answers]
    (job_id,) = {answer.json["job_id"] for answer in answers}
    assert len(deployments.flow_runs(job_id)) == 1
    assert len(api("GET", "/v0/jobs").json["jobs"]) == 1


@pytest.mark.parametrize("key", [" ", "x" * 257])
def test_a_bad_idempotency_key_is_refused(api: Api, key: str) -> None:
    answer = api.submit(None, key)
    assert (answer.status, answer.json["code"]) == (400, "bad_idempotency_key")
    assert api("GET", "/v0/jobs").json["jobs"] == []


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


def test_many_jobs_are_listed_page_by_page_with_few_questions(api: Api, deployments: Server) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from simyard.service.prefect_api import PAGE, Launches
    from simyard.service.status import job_answers

    # One that Prefect knows and has canceled, many that it does not know, and one that cannot be read.
    first = api.submit().json["job_id"]
    spec = api.store.get_json(keys.JobKeys(first).job)
    ids = [first, *(keys.new_job_id() for _ in range(2 * PAGE + 20))]
    for job_id in ids[1:]:
        api.store.put_json(keys.JobKeys(job_id).job, spec | {"job_id": job_id})
    bad = ids.pop()
    api.store.put_bytes(keys.JobKeys(bad).job, b"{")
    (run,) = deployments.flow_runs(first)
    deployments.ask(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLED"}, "force": True})

    # The service.
    pages, query = [], "limit=200"
    while query:
        pages.append(api("GET", f"/v0/jobs?{query}").json)
        cursor = pages[-1]["next_cursor"]
        query = f"limit=200&cursor={cursor}" if cursor else ""
    assert [len(page["jobs"]) + len(page["unreadable"]) for page in pages] == [200, 200, 21]
    found = {job["job_id"]: job["status"] for page in pages for job in page["jobs"]}
    assert list(found) == sorted(ids, reverse=True)
    assert found == dict.fromkeys(ids, "queued") | {first: "canceled"}
    assert [record["id"] for page in pages for record in page["unreadable"]] == [bad]
    for cursor in ("nonsense!", "é", "_w=="):
        answer = api("GET", f"/v0/jobs?cursor={quote(cursor)}")
        assert (answer.status, answer.json["code"]) == (400, "bad_cursor"), answer.body

    # And its questions.
    asked = []
    with temporary_settings({PREFECT_API_URL: deployments.url}):
        launches = Launches()
        launches._client._client.event_hooks["request"].append(lambda request: asked.append(request.url.path))
        page = job_answers(api.store, launches, 1000, None)
        launches.close()
    assert len(page.found) == len(ids)
    assert len([path for path in asked if path.endswith("/flow_runs/filter")]) == 3, asked


# What is refused


def test_several_machines_need_a_pool(api: Api) -> None:
    answer = api.submit({**TRAINING, "computeConfig": {"numNodes": 2, "gpusPerNode": 1}})
    assert (answer.status, answer.json["code"]) == (400, "no_pool"), answer.body
    assert "computeConfig.numNodes is 2, and no pool was named" in answer.json["detail"]
    assert api("GET", "/v0/jobs").json["jobs"] == []


def test_every_wrong_field_is_named_at_once(api: Api) -> None:
    wrong = {"trainingConfig": {"task": "", "numEnvs": 0, "seed": "x"}, "computeConfig": {"gpus": 1}, "retries": -1}
    answer = api.submit(wrong)
    assert answer.status == 422
    problems = {".".join(problem["loc"][1:]): problem["msg"] for problem in answer.json["detail"]}
    assert set(problems) == {
        "trainingConfig.task", "trainingConfig.numEnvs", "trainingConfig.seed", "computeConfig.gpus", "retries",
    }  # fmt: skip
    assert "gpusPerNode" in problems["computeConfig.gpus"], "the nearest match is named"
    assert api("GET", "/v0/jobs").json["jobs"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"execution": {"steps": NaN}}', 400),
        (b'{"execution": {"steps": 1}, "execution": {"steps": 2}}', 400),
        (b'{"control": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, 400),
        (b'{"control": ' + b'{"a":' * 30 + b"1" + b"}" * 30 + b', "execution": {"steps": 1}}', 400),
        (b'{"execution": {"steps": 1e999}}', 400),
        (b'{"name": "a \\ud800 b", "execution": {"steps": 1}}', 400),
        (b'{"execution": {"steps": 1}, "control": {"\\udfff": 1}}', 400),
        (b'{"name": "' + b"x" * 1_000_000 + b'"}', 413),
        (b'\xff\xfe{"name": 1}', 400),
        (b"{}", 422),
        (b'{"trainingConfig": []}', 400),
        (b'{"trainingConfig": {"task": "T", "rlLibrary": "rsl-rl"}}', 400),
        (b'{"execution": {"steps": 1}, "notify_url": 7}', 422),
        (b'{"execution": {"steps": 1}, "control": {"a": [{"__prefect_kind": "jinja", "template": "{{ 1 }}"}]}}', 400),
    ],
    ids=["empty", "list", "null", "nan", "twice", "deep", "deep but JSON", "infinite", "surrogate",
         "surrogate as a key", "large", "utf-16", "no field",
         "list section", "library", "notify", "placeholder"],
)  # fmt: skip
def test_hostile_bodies_are_refused(api: Api, body: bytes, status: int) -> None:
    answer = api("POST", "/v0/jobs", body)
    assert answer.status == status, answer.body
    assert b"Traceback" not in answer.body
    assert api("GET", "/v0/jobs").json["jobs"] == []


@pytest.mark.parametrize(
    "path", ["/v0/jobs", "/v1/training-runs", "/v0/inputs/presign-upload", "/v0/assets/register", "/hooks/typed"]
)
def test_a_body_without_end_is_refused_before_it_is_read(service: Service, path: str) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), HANG_S) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")  # more would come
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


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
        ("http://[/robot.urdf", "refused_url"),
        ("http://[::1/robot.urdf", "refused_url"),
        ("http://example.com:x/robot.urdf", "refused_url"),
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
    assert api("GET", "/v0/jobs").json["jobs"] == []


def zipped(**files: str) -> bytes:
    """Pack texts; a name's `_` stands for its dot."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_", "."), text)
    return data.getvalue()


def peak_bytes(service: Service) -> int:
    """Return the most memory that the service has held."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.pids[0]}/status").read_text())
    return int(line) * 1024


MESH = '<robot name="r"><link name="a"><visual><geometry><mesh filename="m.dae"/></geometry></visual></link></robot>'
HOSTILE_ROBOTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "elements": ("r.zip", lambda: zipped(a_urdf=f"<robot>{'<a/>' * 6_000_000}</robot>")),
    "attribute": ("r.zip", lambda: zipped(a_urdf=f'<robot name="{"x" * 20_000_000}"/>')),
    "a mesh": ("r.zip", lambda: zipped(a_urdf=MESH, m_dae=f"<C><triangles/>{'<a>b</a>' * 4_000_000}</C>")),
    "utf-7": ("r.urdf", lambda: b'<?xml version="1.0" encoding="utf-7"?><robot/>'),
}


@pytest.mark.parametrize("case", HOSTILE_ROBOTS)
def test_a_hostile_robot_costs_the_service_nothing(service: Service, api: Api, case: str) -> None:
    name, data = HOSTILE_ROBOTS[case]
    asset = register(api, data(), name, "robot")["asset_id"]
    before = peak_bytes(service)
    answer = api.submit({"robot": {"urdf_asset_id": asset}, "execution": {"steps": 1}})
    assert (answer.status, answer.json["code"]) == (400, "asset_unreadable"), answer.body
    assert peak_bytes(service) - before < 100_000_000, "in the service's own process such a file takes a gigabyte"
    assert api("GET", "/v0/jobs").json["jobs"] == []


def test_an_archive_of_empty_members_is_no_asset(api: Api) -> None:
    data = gzip.compress(b"", mtime=0) * 50_000
    link = presign(api, data, "package.tgz")
    assert put(api.service, link, data).status == 204
    asked = {"input_uri": link["input_uri"], "kind": "isaac_lab_task_package"}
    answer = api("POST", "/v0/assets/register", asked)
    assert (answer.status, answer.json["code"]) == (400, "archive_too_large"), answer.body
    assert "has too many members" in answer.json["detail"]
    assert api("GET", "/v0/assets").json["assets"] == []


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


def test_of_many_at_once_so_many_are_taken_as_the_key_has_places(make_site: Callable[..., Service]) -> None:
    """Over two copies of the service, jobs and managed runs; those that are refused leave nothing."""
    site = make_site()
    copies = [site.start(), site.start()]
    api = Api(site, "places", max_active_jobs=3)
    asked = [("/v0/jobs", TRAINING), ("/v1/training-runs", RUN)]

    def submit(number: int) -> Answer:
        path, body = asked[number % 2]
        return api("POST", path, {**body, "name": f"number {number}"}, url=copies[number // 2 % 2])

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(submit, range(20)))
    assert Counter(answer.status for answer in answers) == {201: 3, 429: 17}, [answer.body for answer in answers]
    assert {answer.json.get("code") for answer in answers if answer.status == 429} == {"too_many_jobs"}
    jobs, runs = api("GET", "/v0/jobs").json["jobs"], api("GET", "/v1/training-runs").json["runs"]
    assert len(jobs) + len(runs) == 3

    # A place is free as soon as its job has ended, for one of many again.
    ended = [f"/v0/jobs/{job['job_id']}" for job in jobs] + [f"/v1/training-runs/{run['run_id']}" for run in runs]
    assert api("POST", f"{ended[0]}/cancel").json["status"] == "canceled"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(20, 28)))
    assert Counter(answer.status for answer in answers) == {201: 1, 429: 7}, [answer.body for answer in answers]
    assert len(site.store.list(keys.PLACES)) == 3, "what was in a place before is cleared up"


@pytest.mark.parametrize(("age_s", "status"), [(480, 429), (720, 201)])
def test_a_place_whose_request_died_is_kept_for_a_while(service: Service, age_s: float, status: int) -> None:
    api = Api(service, "died", max_active_jobs=1)
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    place = records_of.Place(id=keys.new_job_id(), taken_at=at)
    service.store.put_record(keys.place(api.key.split("_")[2], 1, 4), place)
    answer = api.submit()
    assert answer.status == status, answer.body
    assert answer.json.get("code") == ("too_many_jobs" if status == 429 else None)


def test_a_job_that_was_staged_and_never_begun_takes_its_place_later(service: Service, deployments: Server) -> None:
    """Its request is sent again when another job has the key's only place."""
    api = Api(service, f"p{uuid.uuid4().hex[:8]}", max_active_jobs=1)
    first = api.submit(None, "first").json["job_id"]
    (flow_run,) = deployments.flow_runs(first)
    deployments.ask(f"/flow_runs/{flow_run['id']}", method="DELETE")
    key_id = api.key.split("_")[2]
    long_ago = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    service.store.put_record(keys.place(key_id, 1, 1), records_of.Place(id=first, taken_at=long_ago))
    second = api.submit(None, "second")
    assert second.status == 201, second.body
    assert api.submit(None, "first").json["code"] == "too_many_jobs"
    api("POST", f"/v0/jobs/{second.json['job_id']}/cancel")
    again = api.submit(None, "first")
    assert (again.status, again.json["job_id"]) == (200, first), again.body
    assert len(deployments.flow_runs(first)) == 1


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


@pytest.mark.parametrize(
    "body",
    [
        b'{"input_uri": "http://["}',
        b'{"input_uri": "http://[::1"}',
        b'{"input_uri": "s3://["}',
        b'{"input_uri": "s3://robots/\\ud800"}',
        b'{"input_uri": "%s", "size_bytes": NaN}',
        b'{"input_uri": "%s", "size_bytes": 1e999}',
        b'{"input_uri": "%s", "filename": "\\ud800.urdf"}',
        b'{"input_uri": "%s", "kind": "\\ud800"}',
        b'{"input_uri": "%s", "\\ud800": 1}',
        b'{"input_uri": "%s", "metadata": {"a": NaN}}',
        b'{"input_uri": "%s", "metadata": {"a": "\\ud800"}}',
        b'{"input_uri": "%s//[", "metadata": {}}',
    ],
    ids=ascii,
)
def test_what_no_asset_may_hold_is_refused_in_words(service: Service, api: Api, body: bytes) -> None:
    link = presign(api, b"<robot/>", "robot.urdf")
    answer = api("POST", "/v0/assets/register", body.replace(b"%s", link["input_uri"].encode()))
    assert answer.status in (400, 422), answer.body
    assert answer.json["detail"]
    assert api("GET", "/v0/assets").json["assets"] == []


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
        assert "X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost&" in link["upload_url"], "and takes no other"
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
    run = RUN | {"trainer_spec": {**RUN["trainer_spec"], "env": {"TOKEN": "hunter2"}}}
    first = api("POST", "/v1/training-runs", run, headers={"Idempotency-Key": "r"})
    assert first.status == 201, first.body
    run_id = first.json["run_id"]
    again = api("POST", "/v1/training-runs", run, headers={"Idempotency-Key": "r"})
    assert (again.status, again.json["run_id"]) == (200, run_id)
    assert api("POST", "/v1/training-runs", {**run, "name": "x"}, headers={"Idempotency-Key": "r"}).status == 409
    assert api.submit(None, "r").status == 201, "a job may have the key that a run has"
    (flow_run,) = deployments.flow_runs(run_id)
    shown = RUN | {"trainer_spec": {**RUN["trainer_spec"], "env": {"TOKEN": "********"}}}
    assert flow_run["parameters"]["request"] == shown, "Prefect's users see parameters"
    secrets = api.store.get_json(keys.RunKeys(run_id).secrets)
    assert secrets == {"env": {"TOKEN": "hunter2"}}
    assert api("POST", f"/v1/training-runs/{run_id}/pause").json["status"] == "paused"
    assert api("POST", f"/v1/training-runs/{run_id}/resume").json["status"] == "queued"
    canceled = api("POST", f"/v1/training-runs/{run_id}/cancel").json
    assert (canceled["status"], canceled["ended_by"]) == ("canceled", "canceled")
    assert api("POST", f"/v1/training-runs/{run_id}/cancel").json["status"] == "canceled", "said twice it is the same"
    assert api("POST", f"/v1/training-runs/{run_id}/resume").status == 409
    assert not api.store.exists(keys.RunKeys(run_id).secrets), "nobody needs them any more"
    assert [run["run_id"] for run in api("GET", "/v1/training-runs").json["runs"]] == [run_id]
    assert deployments.flow_runs(run_id)[0]["state_type"] == "CANCELLED"


def test_the_quickstarts_request_is_taken_to_the_letter(api: Api, service: Service) -> None:
    """Scene, mode and robot are built in: the job that each rollout is has all of it."""
    made = api("POST", "/v1/training-runs", BODY)
    assert made.status == 201, made.body
    path = f"/v1/training-runs/{made.json['run_id']}"
    frozen = api.store.get_json(keys.RunKeys(made.json["run_id"]).run)
    assert frozen["request"]["rollout_template"] == BODY["rollout_template"]
    rollout = frozen["template"]["rollout"]
    assert (rollout["robot"]["file"]["name"], rollout["scene_id"]) == ("fr3.zip", "franka_cabinet_oige_v1")
    assert api.store.exists(rollout["robot"]["file"]["key"])
    assert rollout["dt"] * rollout["steps"] == pytest.approx(3.0)
    assert rollout["dt"] / rollout["substeps"] <= 0.0025
    for what in ("iterations", "checkpoints", "events"):
        assert api("GET", f"{path}/{what}").json == {what: []}
    assert api("GET", f"{path}/checkpoints/ckpt-1/download-url").status == 404
    assert api("POST", f"{path}/cancel").json["status"] == "canceled"


def test_a_checkpoint_to_begin_from_is_named_by_its_asset(api: Api) -> None:
    checkpoint = {"checkpoint_init_asset_id": register(api, b"weights", "model.pt", "checkpoint")["asset_id"]}
    made = api("POST", "/v1/training-runs", BODY | checkpoint)
    assert made.status == 201, made.body
    frozen = api.store.get_json(keys.RunKeys(made.json["run_id"]).run)
    assert keys.asset_id_of(frozen["checkpoint"]["sha256"]) == checkpoint["checkpoint_init_asset_id"]


@pytest.mark.parametrize("resources", [{"gpu": 0, "cpu": 1}, {"cpu": 1}, None], ids=["0", "omitted", "no resources"])
def test_a_trainer_without_a_gpu_is_refused_by_default(api: Api, resources: dict[str, int] | None) -> None:
    trainer = {**BODY["trainer_spec"], "resources": resources}
    if resources is None:
        del trainer["resources"]
    answer = api("POST", "/v1/training-runs", {**BODY, "trainer_spec": trainer})
    assert (answer.status, answer.json["code"]) == (400, "gpu_required")
    assert "GPU-only by default (trainer_spec.resources.gpu > 0 is required)" in answer.json["detail"]
    assert "SIMYARD_ALLOW_CPU_TRAINERS=on" in answer.json["detail"]
    assert api("GET", "/v1/training-runs").json["runs"] == []


def test_a_site_may_allow_trainers_without_a_gpu(make_site: Callable[..., Service]) -> None:
    site = make_site(SIMYARD_ALLOW_CPU_TRAINERS="on")
    site.start()
    without = {**RUN, "trainer_spec": {**RUN["trainer_spec"], "resources": {"gpu": 0}}}  # type: ignore[dict-item]
    assert Api(site, "gpus")("POST", "/v1/training-runs", without).status == 201


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


@pytest.mark.long  # seconds of waiting; test_it_is_not_ready_without_prefect… has one that is away
def test_one_look_at_a_prefect_that_hangs_is_for_all_who_ask(make_site: Callable[..., Service]) -> None:
    """It takes no thread of those who want something else, and none of the service's many jobs is looked at."""
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen()  # and never answers
        site = make_site(PREFECT_API_URL=f"http://127.0.0.1:{hung.getsockname()[1]}/api")
        jobs = site.home / "store" / "jobs"
        jobs.symlink_to(jobs)  # cannot be listed
        site.start()
        key = site.key()
        host, port = site.url.removeprefix("http://").split(":")
        with ExitStack() as asking:
            for _ in range(150):
                asked = asking.enter_context(socket.create_connection((host, int(port)), HANG_S))
                asked.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert site.call("GET", "/v0/assets", key=key).json["assets"] == []
            said = b"".join(iter(lambda: asked.recv(4096), b""))
        assert said.startswith(b"HTTP/1.1 503 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2]) == {"store": None, "prefect": "no answer within 8 s"}


def test_it_may_open_as_many_files_as_the_system_allows(make_site: Callable[..., Service]) -> None:
    """Connections are files, and the limit of a shell is 1,024 or less."""
    site = make_site()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    try:
        site.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(site.pids[0], resource.RLIMIT_NOFILE) == (hard, hard)


def test_every_operation_is_documented(service: Service) -> None:
    document = service.call("GET", "/openapi.json").json
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["tags"], (method, path)
    assert {"TrainRequest", "UploadRequest", "RegisterRequest"} <= set(document["components"]["schemas"])


def test_the_reference_loads_nothing_from_elsewhere(service: Service) -> None:
    page = service.call("GET", "/docs").body.decode()
    assert "simyard" in page
    loaded = re.findall(r'(?:src|href)="(.*?)"', page)
    assert len([name for name in loaded if name.endswith((".js", ".css"))]) == 2
    assert {service.call("GET", name).status for name in loaded} == {200}
    assert "://" not in page
    assert service.call("GET", "/redoc").status == 404
