"""`simyard.Client` and `simyard.AsyncClient` over real connections."""

import asyncio
import inspect
import io
import json
import pickle
import pkgutil
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module

import generate_client
import pytest
from helpers import free_port
from played_service import KEY, both

import simyard as hs
from simyard.client import errors
from simyard.client.settings import Settings
from simyard.service import endpoints

# What is sent

RUNS = "/v1/training-runs"
SWEEPS = "/v1/sweeps"
RUN = {
    "project_id": "proj",
    "name": "loop",
    "rollout_template": {"steps": 1},
    "trainer_spec": {"image_uri": "local"},
    "loop_policy": {},
    "success_criteria": {},
    "budget_policy": {},
}
ROLLOUT = {
    "job_type": "rollout",
    "robot": {"urdf_uri": "s3://b/arm.urdf"},
    "scene": {"scene_id": "ground"},
    "physics": {"dt": 0.005, "substeps": 2},
    "execution": {"num_envs": 2, "steps": 3, "seed": 42},
    "outputs": {"video": True, "log_format": "zarr"},
}
ARM = ("s3://b/arm.urdf", "ground", 2, 3)
ASSETS = {"num_envs": 2, "steps": 3}


@pytest.mark.parametrize(
    ("method", "arguments", "options", "sent", "query", "body"),
    [
        ("run", ARM, {}, "POST /v0/jobs", {}, ROLLOUT),
        ("submit", ARM, {"control": {"task_mode": "sine"}}, "POST /v0/jobs", {},
         {**ROLLOUT, "control": {"task_mode": "sine"}}),
        ("step", ARM, {"video": False, "notify_url": "https://me/done"}, "POST /v0/jobs", {},
         {**ROLLOUT, "outputs": {"video": False, "log_format": "zarr"}, "notify_url": "https://me/done"}),
        ("submit_assets", (), {**ASSETS, "robot_asset": "s3://b/arm.urdf", "scene_id": "ground"}, "POST /v0/jobs", {},
         ROLLOUT),
        ("submit_assets", (),
         {**ASSETS, "robot_asset_id": "asset-1", "robot_asset_type": "usd", "scene_asset_id": "asset-2", "seed": 7,
          "outputs": {"video": False}, "overrides": ("a=1",), "compute_config": {"gpus_per_node": 0}, "name": "n",
          "policy": {"asset_id": "asset-3"}, "runtime_profile": "standard"},
         "POST /v0/jobs", {},
         {**ROLLOUT, "robot": {"usd_asset_id": "asset-1"}, "scene": {"usd_asset_id": "asset-2"},
          "execution": {"num_envs": 2, "steps": 3, "seed": 7}, "outputs": {"video": False, "log_format": "zarr"},
          "overrides": ["a=1"], "compute_config": {"gpus_per_node": 0}, "name": "n", "policy": {"asset_id": "asset-3"},
          "runtime_profile": "standard"}),
        ("submit_assets", (),
         {**ASSETS, "runtime_profile": "isaac_lab_rollout", "isaac_lab": {"task_class_or_name": "T"}},
         "POST /v0/jobs", {},
         {**{key: ROLLOUT[key] for key in ("job_type", "physics", "execution")}, "outputs": {"log_format": "zarr"},
          "runtime_profile": "isaac_lab_rollout", "isaac_lab": {"task_class_or_name": "T"}}),
        ("create_job", ({"execution": {"steps": 1}},), {"notify_url": "https://me/done"}, "POST /v0/jobs", {},
         {"execution": {"steps": 1}, "notify_url": "https://me/done"}),
        ("train", ({"trainingConfig": {"task": "T"}},), {}, "POST /v0/jobs", {}, {"trainingConfig": {"task": "T"}}),
        ("evaluate", ({"trainingConfig": {"task": "T"}},), {}, "POST /v0/jobs", {},
         {"trainingConfig": {"task": "T", "mode": "evaluate"}}),
        ("export_policy", ({"exportConfig": {"task": "T"}},), {}, "POST /v0/jobs", {}, {"exportConfig": {"task": "T"}}),
        ("list_jobs", (), {}, "GET /v0/jobs", {"limit": "100"}, None),
        ("status", ("job-1",), {}, "GET /v0/jobs/job-1", {}, None),
        ("cancel", ("job-1",), {}, "POST /v0/jobs/job-1/cancel", {}, None),
        ("wait", ("job-1",), {}, "GET /v0/jobs/job-1", {}, None),
        ("watch_job", ("job-1",), {"stream": io.StringIO()}, "GET /v0/jobs/job-1", {}, None),
        ("logs", ("job-1",), {"name": "runner.log", "tail": 5}, "GET /v0/jobs/job-1/logs",
         {"name": "runner.log", "tail": "5"}, None),
        ("get_download_url", ("job-1", "a b/c.pt"), {}, "GET /v0/jobs/job-1/artifacts/a b/c.pt/download-url", {}, None),
        ("register_input_asset", (), {"input_uri": "u/x.zip", "kind": "robot"}, "POST /v0/assets/register", {},
         {"input_uri": "u/x.zip", "kind": "robot"}),
        ("get_input_asset", ("asset-1",), {}, "GET /v0/assets/asset-1", {}, None),
        ("list_input_assets", (), {"limit": 3}, "GET /v0/assets", {"limit": "3"}, None),
        ("list_tasks", (), {}, "GET /v1/tasks", {}, None),
        ("list_tasks", (), {"text": "pole", "runnable": True, "physics": "physx"}, "GET /v1/tasks",
         {"text": "pole", "runnable": "true", "physics": "physx"}, None),
        ("get_task", ("Isaac-Ant-v0",), {}, "GET /v1/tasks/Isaac-Ant-v0", {}, None),
        ("create_training_run", (), {key: RUN[key] for key in list(RUN)[:4]}, f"POST {RUNS}", {}, RUN),
        ("create_training_run", (), {**RUN, "checkpoint_init_asset_id": "asset-1"}, f"POST {RUNS}", {},
         {**RUN, "checkpoint_init_asset_id": "asset-1"}),
        ("list_training_runs", (), {}, f"GET {RUNS}", {"limit": "100"}, None),
        ("get_training_run", ("run-1",), {}, f"GET {RUNS}/run-1", {}, None),
        ("wait_training_run", ("run-1",), {}, f"GET {RUNS}/run-1", {}, None),
        ("pause_training_run", ("run-1",), {}, f"POST {RUNS}/run-1/pause", {}, None),
        ("resume_training_run", ("run-1",), {}, f"POST {RUNS}/run-1/resume", {}, None),
        ("cancel_training_run", ("run-1",), {}, f"POST {RUNS}/run-1/cancel", {}, None),
        ("list_training_iterations", ("run-1",), {}, f"GET {RUNS}/run-1/iterations", {"limit": "200"}, None),
        ("list_run_checkpoints", ("run-1",), {}, f"GET {RUNS}/run-1/checkpoints", {"limit": "200"}, None),
        ("get_latest_checkpoint", ("run-1",), {}, f"GET {RUNS}/run-1/checkpoints", {"limit": "1"}, None),
        ("list_training_events", ("run-1",), {}, f"GET {RUNS}/run-1/events", {"limit": "500"}, None),
        ("get_checkpoint_download_url", ("run-1", "ckpt-1"), {}, f"GET {RUNS}/run-1/checkpoints/ckpt-1/download-url",
         {}, None),
        ("create_sweep", ({"sweep": {"seeds": 3}},), {}, f"POST {SWEEPS}", {}, {"sweep": {"seeds": 3}}),
        ("list_sweeps", (), {}, f"GET {SWEEPS}", {"limit": "100"}, None),
        ("get_sweep", ("sweep-1",), {}, f"GET {SWEEPS}/sweep-1", {}, None),
        ("wait_sweep", ("sweep-1",), {}, f"GET {SWEEPS}/sweep-1", {}, None),
        ("pause_sweep", ("sweep-1",), {}, f"POST {SWEEPS}/sweep-1/pause", {}, None),
        ("resume_sweep", ("sweep-1",), {}, f"POST {SWEEPS}/sweep-1/resume", {}, None),
        ("cancel_sweep", ("sweep-1",), {}, f"POST {SWEEPS}/sweep-1/cancel", {}, None),
        ("list_sweep_settings", ("sweep-1",), {}, f"GET {SWEEPS}/sweep-1/settings", {}, None),
        ("list_sweep_events", ("sweep-1",), {"limit": 2}, f"GET {SWEEPS}/sweep-1/events", {"limit": "2"}, None),
        ("get_best_of_sweep", ("sweep-1",), {}, f"GET {SWEEPS}/sweep-1/best", {}, None),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)  # fmt: skip
def test_every_method_sends_its_request(service, client, method, arguments, options, sent, query, body):
    service.job({})
    service.run({})
    service.sweep({})
    service.artifacts = {"a b/c.pt": b"1", "ckpt-1": b"2"}
    getattr(client, method)(*arguments, **options)
    (request,) = service.requests
    assert f"{request.method} {request.path}" == sent
    assert (request.query, request.body) == (query, body)
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert ("idempotency-key" in request.headers) == (sent in ("POST /v0/jobs", f"POST {RUNS}", f"POST {SWEEPS}"))
    if body is not None:
        assert request.headers["content-type"] == "application/json"


@both
@pytest.mark.parametrize(
    ("limit", "queries"),
    [
        (100, [{"limit": "100"}, {"limit": "97", "cursor": "3"}, {"limit": "94", "cursor": "6"}]),
        (5, [{"limit": "5"}, {"limit": "2", "cursor": "3"}]),
        (3, [{"limit": "3"}]),
        (5000, [{"limit": "1000"}, {"limit": "1000", "cursor": "3"}, {"limit": "1000", "cursor": "6"}]),
    ],
)
def test_a_list_is_read_page_by_page(service, client, limit, queries):
    service.largest_page = 3
    for number in range(7):
        service.job({}, job_id=f"job-{number}")
    assert [job["job_id"] for job in client.list_jobs(limit=limit)] == [f"job-{n}" for n in range(min(7, limit))]
    assert [request.query for request in service.sent("GET /v0/jobs")] == queries


def test_what_comes_back_is_read(service, client):
    service.job({"status": "running"})
    service.checkpoints = [{"checkpoint_id": "ckpt-2"}, {"checkpoint_id": "ckpt-1"}]
    service.events = [{"event_id": f"evt-{n}"} for n in range(3)]
    service.logs = ["one", "two", "three"]
    service.artifacts = {"ckpt-1": b"2"}
    job = client.run(*ARM)
    assert (job.job_id, job.record["estimated_usd"]) == ("job-0", 0.0)
    assert client.run(*ARM).job_id != job.job_id, "every submission has a key of its own"
    assert [job["job_id"] for job in client.list_jobs()] == ["job-1"]
    assert client.status("job-1")["status"] == "running"
    assert client.get_latest_checkpoint("run-1") == {"checkpoint_id": "ckpt-2"}
    assert [event["event_id"] for event in client.list_training_events("run-1", limit=2)] == ["evt-1", "evt-2"]
    assert client.logs("job-1", tail=2) == "two\nthree\n"
    assert client.pause_training_run("run-1")["status"] == "paused"
    assert client.get_checkpoint_download_url("run-1", "ckpt-1") == f"{service.url}/files/ckpt-1"
    assert client.list_input_assets() == [{"asset_id": "asset-1"}]
    service.checkpoints = []
    assert client.get_latest_checkpoint("run-1") is None


@pytest.mark.parametrize(("given", "key"), [(" night-7 ", "night-7"), (None, "auto-")], ids=["given", "made"])
@pytest.mark.parametrize("what", ["job", "run"])
def test_a_repeated_submission_keeps_its_key(service, client, what, given, key):
    service.trouble("POST .*", 2)
    if what == "job":
        assert client.run(*ARM, idempotency_key=given).job_id == "job-0"
    else:
        assert client.create_training_run(**RUN, idempotency_key=given)["run_id"] == "run-1"
    keys = {request.headers["idempotency-key"] for request in service.requests}
    assert (len(service.requests), len(keys)) == (3, 1)
    assert keys.pop().startswith(key)


# Retries


@both
@pytest.mark.parametrize(
    "trouble", [*({"status": code} for code in (429, 500, 502, 503, 504)), {"hang_up": True}, {"cut_at": 5}], ids=str
)
def test_a_passing_failure_is_repeated(service, client, trouble):
    service.job({})
    service.trouble("GET .*", 2, **trouble)
    assert client.status("job-1")["status"] == "succeeded"
    assert len(service.requests) == 3


@pytest.mark.parametrize("trouble", [{"status": 503}, {"hang_up": True}], ids=["503", "hang up"])
def test_what_may_not_be_repeated_is_not(service, client, trouble):
    service.trouble("POST .*", **trouble)
    with pytest.raises((hs.ServerError, hs.TransportError)):
        client.resume_training_run("run-1")
    assert len(service.requests) == 1
    for repeatable in (client.cancel_training_run, client.pause_training_run):
        service.trouble("POST .*", **trouble)
        repeatable("run-1")
    assert len(service.requests) == 5


def test_retry_after_is_honoured(service, client):
    service.job({})
    service.trouble("GET .*", status=429, headers={"Retry-After": "1"})
    start = time.monotonic()
    client.status("job-1")
    assert time.monotonic() - start >= 1


def test_a_long_retry_after_is_the_callers(service, client):
    service.trouble("GET .*", status=429, headers={"Retry-After": "121"})
    with pytest.raises(hs.RateLimitError) as caught:
        client.status("job-1")
    assert (caught.value.retry_after_s, len(service.requests)) == (121, 1)


def test_pauses_double_and_differ():
    settings = Settings(api_key=KEY, max_retries=3, retry_backoff_s=1)
    error = hs.TransportError("gone")
    for tries, longest in ((1, 1), (2, 2), (3, 4)):
        pauses = {settings.pause_s(tries, error) for _ in range(20)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)
    assert settings.pause_s(4, error) is None


def test_a_service_that_is_not_there(connect):
    with pytest.raises(hs.TransportError, match="There is no whole answer"):
        connect(f"http://127.0.0.1:{free_port()}", max_retries=1).status("job-1")


def test_a_slow_answer_is_no_answer(service, connect):
    service.job({})
    service.trouble("GET .*", 2, delay_s=0.5)
    client = connect(service.url, timeout_s=0.1, max_retries=1)
    with pytest.raises(hs.TransportError, match="ReadTimeout"):
        client.status("job-1")
    assert client.status("job-1")["status"] == "succeeded"


def test_a_submission_may_take_longer(service, connect):
    service.trouble("POST .*", delay_s=0.5)
    connect(service.url, timeout_s=0.1).run(*ARM)
    assert len(service.requests) == 1


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, hs.InvalidRequestError), (401, hs.AuthenticationError), (402, hs.BudgetError),
        (403, hs.AuthenticationError), (404, hs.NotFoundError), (405, hs.ApiError), (409, hs.ConflictError),
        (413, hs.ApiError), (422, hs.InvalidRequestError), (429, hs.RateLimitError), (500, hs.ServerError),
        (501, hs.ServerError), (599, hs.ServerError),
    ],
)  # fmt: skip
def test_a_status_has_its_error(service, client, status, kind):
    body = b'{"detail": "It is so. Do this.", "code": "its_name"}'
    service.trouble("GET .*", 9, status=status, body=body)
    with pytest.raises(hs.ApiError) as caught:
        client.status("job-1")
    assert type(caught.value) is kind
    assert (caught.value.status_code, caught.value.code) == (status, "its_name")
    assert str(caught.value) == f"HTTP {status}: It is so. Do this."
    assert len(service.requests) == (4 if status in (429, 500) else 1), "a lasting failure is not repeated"


def test_wrong_fields_are_named(service, client):
    problems = [
        {"loc": ["body", "execution", "steps"], "msg": "Give more than 0", "type": "greater_than"},
        {"loc": ["body"], "msg": "robot is missing", "type": "value_error"},
        {"loc": ["body", "name"], "msg": "name: Input should be text", "type": "string_type"},
    ]
    service.trouble("POST .*", status=422, body=json.dumps({"detail": problems}).encode())
    with pytest.raises(hs.InvalidRequestError) as caught:
        client.run(*ARM)
    assert str(caught.value) == (
        "HTTP 422: execution.steps: Give more than 0; body: robot is missing; name: Input should be text"
    )
    assert list(caught.value.fields) == problems


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b"", "Bad Gateway"), (b"<html>proxy</html>", "<html>proxy</html>"), (b"[" * 5000, "[[["), (b'"x"', "x")],
    ids=["nothing", "page", "nested", "text"],
)
def test_an_error_that_is_not_the_services(service, connect, body, shown):
    service.trouble("GET .*", status=502, body=body)
    with pytest.raises(hs.ServerError) as caught:
        connect(service.url, max_retries=0).status("job-1")
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 2100


def test_a_redirect_is_not_followed_with_the_key(service, client):
    service.trouble("GET .*", status=308, headers={"Location": "https://elsewhere"})
    with pytest.raises(hs.ApiError, match="'https://elsewhere'; set base_url"):
        client.status("job-1")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"[]",
        b"{}",
        b'{"job_id": 3, "status": "queued"}',
        b"[" * 100_000,
        b"",
        b'{"job_id": "job-1", "status": "queued", "artifacts": [{"name": 3}]}',
        b'{"job_id": "job-1", "status": "queued", "artifacts": 3}',
    ],
    ids=lambda body: body[:20].decode() + str(len(body)),
)
def test_an_answer_of_something_else_is_told(service, client, body):
    service.trouble("GET .*", status=200, body=body)
    with pytest.raises(hs.AnswerError, match="Is base_url a simyard service"):
        client.status("job-1")


def test_errors_can_be_pickled():
    made = [
        hs.InvalidRequestError(422, "detail", "code", ({"loc": []},), 1.5),
        hs.JobFailedError("job-1", "failed", {"error": "boom"}),
        hs.TrainingRunCanceledError("run-1", "canceled", {}),
        hs.JobTimeoutError("too long"),
    ]
    for error in made:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_every_error_is_of_one_family():
    raised = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, hs.SimyardClientError) for kind in raised)
    assert {kind.__name__ for kind in raised} <= set(hs.__all__)


# The key and the settings


def test_the_key_is_in_nothing_that_is_shown(service, client):
    service.job({"status": "failed"})
    job = client.run(*ARM)
    shown = [repr(client), str(client), repr(job), repr(Settings(api_key=KEY))]
    service.trouble("GET .*", 4, hang_up=True)
    for call in (lambda: client.status("job-1"), lambda: client.status("no such"), lambda: client.wait("job-1")):
        with pytest.raises(hs.SimyardClientError) as caught:
            call()
        shown += [str(caught.value), repr(caught.value)]
    assert not [text for text in shown if "SECRET" in text]


@pytest.mark.parametrize("key", ["", " ", "sy_live_\nSECRET", "SECRET key", "SECRETü", "SECRET\x00", None, 3])
@pytest.mark.parametrize("kind", [hs.Client, hs.AsyncClient])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(kind, key):
    with pytest.raises(hs.ConfigurationError, match="api_key") as caught:
        kind(key)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base_url", "localhost:8400"), ("base_url", "ftp://host"), ("base_url", "http://"), ("base_url", "http://h:x"),
        ("base_url", "http://host?x=1"), ("base_url", "http://ho st"), ("base_url", None),
        ("timeout_s", 0), ("timeout_s", -1), ("timeout_s", float("nan")), ("timeout_s", "30"), ("timeout_s", True),
        ("max_retries", -1), ("max_retries", 1.5), ("max_retries", 101), ("retry_backoff_s", -0.1),
        ("retry_backoff_s", float("inf")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [hs.Client, hs.AsyncClient])
def test_a_bad_setting_is_refused(kind, name, value):
    with pytest.raises(hs.ConfigurationError, match=name) as caught:
        kind(KEY, **{name: value})
    assert repr(value) in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(hs.ConfigurationError) as caught:
        hs.Client(KEY, "http://me:SECRET@host")
    assert "SECRET" not in str(caught.value)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def give(**variables: str) -> None:
        for name in ("API_KEY", "API_URL", "HTTP_TIMEOUT_S", "HTTP_RETRIES", "HTTP_BACKOFF_S"):
            for variable, given in ((f"SIMYARD_{name}", name), (f"HARDSIM_{name}", f"HARDSIM_{name}")):
                monkeypatch.delenv(variable, raising=False)
                if given in variables:
                    monkeypatch.setenv(variable, variables[given])

    return give


@pytest.mark.parametrize("kind", [hs.Client, hs.AsyncClient])
def test_the_environment_makes_a_client(environment, kind):
    environment(API_KEY=f" {KEY}\n", API_URL="https://sim.lab/api/", HTTP_TIMEOUT_S="7.5", HTTP_RETRIES="0")
    client = kind.from_env()
    found = (client.base_url, client.timeout_s, client.max_retries, client.retry_backoff_s)
    assert found == ("https://sim.lab/api", 7.5, 0, 0.5)
    environment(API_KEY=KEY, API_URL="", HTTP_TIMEOUT_S=" ")
    client = kind.from_env()
    assert (client.base_url, client.timeout_s, client.max_retries) == ("http://127.0.0.1:8400", 30, 3)


def test_a_program_of_hardsim_has_its_client_and_its_variables(environment):
    other = {"HARDSIM_API_KEY": "hls_live_1", "HARDSIM_API_URL": "https://sim.lab", "HARDSIM_HTTP_RETRIES": "1"}
    environment(**other, API_URL="http://own.lab")
    client = hs.HardsimClient.from_env()
    assert isinstance(client, hs.Client)
    assert (client.base_url, client.max_retries) == ("https://sim.lab", 1)
    environment(**other, API_KEY=KEY)
    assert hs.HardsimClient.from_env().base_url == "http://127.0.0.1:8400", "our key went to the other's address"


@pytest.mark.parametrize(
    ("variables", "about"),
    [
        ({}, "SIMYARD_API_KEY is not set"),
        ({"API_KEY": " "}, "SIMYARD_API_KEY is not set"),
        ({"API_KEY": KEY, "API_URL": "lab"}, "'lab'"),
        ({"API_KEY": KEY, "HTTP_TIMEOUT_S": "soon"}, "SIMYARD_HTTP_TIMEOUT_S is 'soon'"),
        ({"API_KEY": KEY, "HTTP_TIMEOUT_S": "0"}, "SIMYARD_HTTP_TIMEOUT_S is 0"),
        ({"API_KEY": KEY, "HTTP_TIMEOUT_S": "nan"}, "SIMYARD_HTTP_TIMEOUT_S is nan"),
        ({"API_KEY": KEY, "HTTP_RETRIES": "1.5"}, "SIMYARD_HTTP_RETRIES is '1.5': give a whole number"),
        ({"API_KEY": KEY, "HTTP_RETRIES": "-1"}, "SIMYARD_HTTP_RETRIES is -1"),
        ({"HARDSIM_API_KEY": KEY, "HARDSIM_HTTP_RETRIES": "-1"}, "HARDSIM_HTTP_RETRIES is -1"),
        ({"API_KEY": KEY, "HTTP_BACKOFF_S": "-1"}, "SIMYARD_HTTP_BACKOFF_S is -1"),
    ],
)
def test_a_bad_environment_is_told(environment, variables, about):
    environment(**variables)
    with pytest.raises(hs.ConfigurationError) as caught:
        hs.Client.from_env()
    assert about in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "arguments", "options", "about"),
    [
        ("status", ("",), {}, "job_id"),
        ("status", ("..",), {}, "job_id"),
        ("list_jobs", (), {"limit": 0}, "limit"),
        ("logs", ("job-1",), {"tail": -1}, "tail"),
        ("follow_logs", ("job-1",), {"tail": -1}, "tail"),
        ("wait", ("job-1",), {"poll_interval_s": 0}, "poll_interval_s"),
        ("wait", ("job-1",), {"timeout_s": float("nan")}, "timeout_s"),
        ("watch_training_run", ("run-1",), {"event_limit": 0}, "event_limit"),
        ("run", ARM, {"idempotency_key": " "}, "idempotency_key"),
        ("run", ARM, {"idempotency_key": "x" * 257}, "idempotency_key"),
        ("run", ARM, {"control": {"x": float("nan")}}, "JSON"),
        ("run", ("s3://b/arm.urdf", " ", 1, 1), {}, "scene"),
        ("run", ("arm.png", "ground", 1, 1), {}, "arm.png"),
        ("run", ("sftp://b/arm.urdf", "ground", 1, 1), {}, "sftp://"),
        ("submit_assets", (), ASSETS, "no robot"),
        ("submit_assets", (), {**ASSETS, "robot_asset_id": "asset-1"}, "'auto'"),
        ("submit_assets", (), {**ASSETS, "robot_asset": "s3://b/a.usd", "robot_asset_type": "urdf"}, "'urdf'"),
        ("submit_assets", (), {**ASSETS, "robot_asset": "s3://b/a.usd", "robot_asset_type": "step"}, "'step'"),
        ("submit_assets", (), {**ASSETS, "robot_asset": "s3://b/a.usd", "scene_usd": "s3://b/a.png"}, "a.png"),
        ("submit_assets", (),
         {**ASSETS, "robot_asset": "s3://b/a.usd", "video": True, "outputs": {"video": False}}, "video"),
        ("submit_assets", (),
         {**ASSETS, "robot_asset": "a.usd", "auto_upload_inputs": False}, "auto_upload_inputs"),
        ("upload_input_asset", ("nowhere.zip",), {}, "nowhere.zip"),
        ("upload_input_asset", (".",), {}, "folder"),
        ("upload_input", (__file__,), {"prefer_presigned": False}, "bucket"),
        ("upload_input", (__file__,), {"destination_uri": "https://b/x"}, "destination_uri"),
        ("train", ({"exportConfig": {}},), {}, "trainingConfig"),
        ("train", ({"trainingConfig": {"mode": "evaluate"}},), {}, "evaluate"),
        ("evaluate", ({"trainingConfig": {"mode": "train"}},), {}, "train"),
        ("export_policy", ({},), {}, "exportConfig"),
        ("train", ("nowhere.json",), {}, "nowhere.json"),
        ("train", (__file__,), {}, "JSON"),
        ("download", ("job-1", "out"), {"at_once": 0}, "at_once"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_refused_before_anything_is_sent(service, client, method, arguments, options, about):
    with pytest.raises(hs.ConfigurationError) as caught:
        getattr(client, method)(*arguments, **options)
    assert about in str(caught.value)
    assert not service.requests


def test_a_config_may_be_a_file(service, client, tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"trainingConfig": {"task": "T"}}')
    for given in (path, str(path)):
        client.train(given)
        assert service.requests[-1].body == {"trainingConfig": {"task": "T"}}


# Waiting

QUEUED, RUNNING = {"status": "queued"}, {"status": "running", "stage": "train", "attempt_count": 1}


@both
@pytest.mark.parametrize("by", ["client", "job"])
def test_waiting_ends_with_the_job(service, client, by):
    service.job(QUEUED, RUNNING, {"status": "succeeded"}, job_id="job-0")
    job = client.run(*ARM)
    wait = job.wait if by == "job" else lambda **options: client.wait("job-0", **options)
    assert wait(poll_interval_s=0.01)["status"] == "succeeded"
    assert len(service.sent("GET /v0/jobs/job-0")) == 3


def test_a_watched_sweep_prints_how_it_stands_and_its_picture_is_fetched(service, client, tmp_path, capsys):
    verdict = {"sentence": "Setting 1 (x 2) leads setting 0.", "table": []}
    running = {"status": "running", "settings": 2, "best": None, "error": None, "verdict": None}
    service.sweep(running, running, running | {"best": 4.5}, running | {"status": "succeeded", "best": 4.5,
                                                                       "verdict": verdict})  # fmt: skip
    assert client.watch_sweep("sweep-1", poll_interval_s=0.01)["verdict"] == verdict
    assert capsys.readouterr().out.splitlines() == [
        "sweep-1  running, 2 settings", "sweep-1  running, 2 settings, best 4.5",
        "sweep-1  succeeded, 2 settings, best 4.5: Setting 1 (x 2) leads setting 0.",
    ]  # fmt: skip
    service.artifacts = {"curves.png": b"\x89PNG"}
    path = client.download_sweep_artifact("sweep-1", "curves.png", tmp_path / "new" / "curves.png")
    assert (tmp_path / "new" / "curves.png").read_bytes() == b"\x89PNG" and path.endswith("curves.png")
    service.sweep(running | {"status": "failed", "error": "All diverged."})
    with pytest.raises(hs.SweepFailedError, match="All diverged"):
        client.wait_sweep("sweep-1")
    assert client.wait_sweep("sweep-1", raise_on_error=False)["status"] == "failed"


WAYS = ["wait", "watch_job", "wait_training_run", "watch_training_run"]


@both
@pytest.mark.parametrize("status", ["failed", "canceled"])
@pytest.mark.parametrize("method", WAYS)
def test_what_did_not_succeed_is_an_error_if_wished(service, client, method, status):
    name, label, error = ("run-1", "Training run", "TrainingRun") if "run" in method else ("job-1", "Job", "Job")
    options = {"stream": io.StringIO()} if method.startswith("watch") else {}
    for make in (service.job, service.run):
        make({"status": status, "error": "out of memory. Take fewer environments."})
    with pytest.raises(getattr(hs, f"{error}{status.title()}Error")) as caught:
        getattr(client, method)(name, **options)
    assert str(caught.value).startswith(f"{label} {name} {status}: out of memory")
    found = getattr(caught.value, f"{name.partition('-')[0]}_id"), caught.value.status, caught.value.record["status"]
    assert found == (name, status, status)
    assert getattr(client, method)(name, raise_on_error=False, **options)["status"] == status


@pytest.mark.parametrize("method", WAYS)
def test_waiting_ends_in_time(service, client, method):
    options = {"stream": io.StringIO()} if method.startswith("watch") else {}
    service.job(RUNNING)
    service.run({"status": "paused"})
    about = "run-1" if "run" in method else "job-1"
    start = time.monotonic()
    with pytest.raises(hs.JobTimeoutError, match="was not over after 0") as caught:
        getattr(client, method)(about, poll_interval_s=5, timeout_s=0.2, **options)
    assert time.monotonic() - start < 2
    assert isinstance(caught.value, TimeoutError)


def test_a_service_that_is_away_does_not_end_the_wait(service, connect):
    service.job(QUEUED, RUNNING, {})
    client = connect(service.url, max_retries=1, retry_backoff_s=0)
    states = iter([None])

    class Stream(io.StringIO):
        """Sends the service away after the first line."""

        def write(self, text: str) -> int:
            if next(states, "over") is None:
                service.trouble("GET .*", 10, hang_up=True)
            return super().write(text)

    assert client.watch_job("job-1", poll_interval_s=0.01, stream=Stream())["status"] == "succeeded"
    assert not service.troubles


@pytest.mark.parametrize("trouble", [{"hang_up": True}, {"status": 503}], ids=["hang up", "503"])
def test_a_service_that_was_never_there_ends_the_wait(service, connect, trouble):
    service.trouble("GET .*", 9, **trouble)
    with pytest.raises((hs.TransportError, hs.ServerError)):
        connect(service.url, max_retries=1).wait("job-1", poll_interval_s=0.01)
    assert len(service.requests) == 2


def test_a_watched_job_prints_what_is_new(service, client):
    service.job(
        QUEUED,
        {**RUNNING, "done": 0, "total": 60, "unit": "iterations"},
        {**RUNNING, "done": 1, "total": 60, "unit": "iterations", "reward": 0.1},
        {**RUNNING, "done": 30, "total": 60, "unit": "iterations", "reward": 4.93, "attempt_count": 2},
        {"status": "failed", "attempt_count": 2, "error": "out of memory"},
    )
    stream = io.StringIO()
    client.watch_job("job-1", poll_interval_s=0.01, raise_on_error=False, stream=stream)
    assert stream.getvalue().splitlines() == [
        "job-1  queued",
        "job-1  running, train, 0 of 60 iterations",
        "job-1  running, attempt 2, train, 30 of 60 iterations, reward 4.93",
        "job-1  failed, attempt 2: out of memory",
    ]


def test_a_watched_run_prints_changes_and_each_event_once(service, client):
    run = {
        "status": "running",
        "stage": "iteration 1: rollouts",
        "current_iteration": 1,
        "max_iterations": 3,
        "credits": 0.25,
    }
    service.run(run, run, {**run, "status": "succeeded"})
    service.events = [
        {"event_id": "evt-1", "event_type": "run.started", "created_at": "2026-01-01", "message": "It began."},
        {"event_id": "evt-2", "event_type": "rollout.failed", "created_at": "2026-01-02", "message": "No robot."},
    ]
    stream = io.StringIO()
    client.watch_training_run("run-1", poll_interval_s=0.01, stream=stream)
    assert stream.getvalue().splitlines() == [
        "run-1  running, rollouts, iteration 1 of 3, 0.25 credits",
        "2026-01-01  run.started  It began.",
        "2026-01-02  rollout.failed  No robot.",
        "run-1  succeeded, iteration 1 of 3, 0.25 credits",
    ]
    assert service.sent(f"GET {RUNS}/run-1/events")[0].query == {"limit": "200"}


# Logs


def test_a_followed_log_gives_every_line(service, client):
    service.job({})
    service.logs = [f"line {n}" for n in range(10)]
    assert list(client.follow_logs("job-1", tail=3)) == ["line 7", "line 8", "line 9"]
    assert service.requests[0].query == {"name": "command.stdout.log", "tail": "3", "follow": "true"}


@both
def test_a_followed_log_goes_on_after_a_break(service, client):
    service.job(RUNNING, {})
    service.logs = [f"line {n}" for n in range(4)]
    service.trouble("GET .*/logs", cut_at=17)  # two lines and a bit
    lines = client.follow_logs("job-1")
    got = [next(lines), next(lines)]
    service.logs += ["line 4"]
    assert got + list(lines) == [f"line {n}" for n in range(5)]


def test_a_log_that_is_not_there_yet_is_waited_for(service, client):
    service.job(QUEUED, {})
    service.logs = ["begun"]
    service.trouble("GET .*/logs", 2, status=404)
    assert list(client.follow_logs("job-1")) == ["begun"]


@pytest.mark.parametrize(("status", "error"), [(404, hs.NotFoundError), (403, hs.AuthenticationError)])
def test_a_log_that_never_was_or_is_refused_is_an_error(service, client, status, error):
    service.job({})
    service.trouble("GET .*/logs", 2, status=status)
    with pytest.raises(error):
        list(client.follow_logs("job-1"))


# Importing


def test_importing_simyard_is_light():
    code = (
        "import sys, simyard\nprint('httpx' in sys.modules)\nsimyard.Client, simyard.AsyncClient\n"
        "print(*sorted({'prefect', 'torch', 'pydantic', 'obstore', 'botocore'} & set(sys.modules)), 'end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "end"]


def test_the_names_are_those_of_the_client_package():
    import simyard.client

    assert sorted(hs.__all__) == sorted(simyard.client.__all__)
    assert all(getattr(hs, name) is getattr(simyard.client, name) for name in hs.__all__)
    assert set(hs.__all__) <= set(dir(hs))
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        hs.Clint  # noqa: B018


def test_both_clients_have_the_same_methods():
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in found if name[0] != "_"}

    assert {**methods(hs.Client), "aclose": ["self"]} == methods(hs.AsyncClient)
    assert methods(hs.Job) == methods(hs.AsyncJob)


def test_the_generated_client_is_current():
    twins = {generate_client.twin(source) for source in generate_client.SOURCES}
    assert twins == set(generate_client.FOLDER.glob("sync_*.py"))
    for source in generate_client.SOURCES:
        assert generate_client.twin(source).read_text() == generate_client.generated(source), "run `make client`"


def test_an_endpoint_is_a_file_of_the_service_and_one_of_the_client():
    def endpoint(method: str, path: str) -> str:
        return f"{method or 'GET'} {re.sub('{[^}]*}', '{}', path)}"

    served: dict[str, set[str]] = {}
    for found in pkgutil.iter_modules(endpoints.__path__, f"{endpoints.__name__}."):
        for route in import_module(found.name).router.routes:
            served.setdefault(endpoint(*route.methods, route.path), set()).add(found.name)
    sent: dict[str, set[str]] = {}
    for source in generate_client.FOLDER.glob("*.py"):
        if not source.name.startswith("sync_"):  # generated
            for method, path in re.findall(r'(?:"([A-Z]+)",\s*)?f?"(/v\d/[^"]*)"', source.read_text()):
                sent.setdefault(endpoint(method, path), set()).add(source.name)
    assert len(sent) > 15
    assert {name: files for name, files in sent.items() if len(files) + len(served[name]) > 2} == {}


def test_a_client_is_a_context(service):
    service.job({})
    with hs.Client(KEY, service.url) as client:
        client.status("job-1")
    with pytest.raises(RuntimeError, match="closed"):
        client.status("job-1")

    async def use() -> hs.AsyncClient:
        async with hs.AsyncClient(KEY, service.url) as client:
            await client.status("job-1")
        return client

    async def after() -> None:
        await (await use()).status("job-1")

    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(after())
