"""`simyard doctor` against a real Prefect server, a real worker, real stores, and things that are wrong with them."""

import json
import platform
import shlex
import subprocess
import time
from http.server import BaseHTTPRequestHandler

import click.testing
import pytest
from helpers import HANG_S, PREFECT, end, free_port, serving, wait_until
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from simyard.cli.main import main

CLOSED = "http://127.0.0.1:9"
HOST = platform.node()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A home of its own, and a Python that answers nothing, which keeps short what is not about it."""
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMYARD_PYTHON", "/bin/false")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")


@pytest.fixture
def call(machine, prefect_server):
    """Run a command in this process, against the test's server or another one."""

    def run(*words, url=prefect_server.url):
        with temporary_settings({PREFECT_API_URL: url}, restore_defaults=() if url else {PREFECT_API_URL}):
            return click.testing.CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture
def examine(call, store):
    """Return the exit code of `simyard doctor`, and its checks by name."""

    def run(*words, reference=store, **where):
        done = call("doctor", *words, "--json", *(["--store", reference] if reference else []), **where)
        assert done.exit_code in (0, 1), done.output
        (line,) = done.stdout.splitlines()
        said = json.loads(line)
        assert (said["status"] == "failed") == (done.exit_code == 1)
        assert all(check["fix"] for check in said["checks"] if check["state"] in ("failed", "warning"))
        return done.exit_code, {check.pop("name"): check for check in said["checks"]}

    return run


@pytest.fixture
def deployed(call):
    """Make a pool of a name, with `simyard deploy`."""

    def make(name, *words):
        done = call("deploy", "--pool", name, *words)
        assert done.exit_code == 0, done.output
        return name

    return make


@pytest.fixture
def answering():
    """Serve every question with JSON and a Date of long ago."""

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp=None):
            return "Sat, 01 Jan 2000 00:00:00 GMT"

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'"3.8.8"')

        def do_HEAD(self):
            self.send_response(403)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with serving(Handler) as url:
        yield url


@pytest.mark.long  # a worker's start; what it asks the machine is in test_machine_checks.py
def test_a_healthy_pool_and_the_machine_of_its_worker(simyard, deployed, store, tmp_path):
    pool = deployed("healthy")
    command = [PREFECT, "worker", "start", "--pool", pool, "--type", "process"]
    env = {**simyard.env, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        with temporary_settings({PREFECT_API_URL: env["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
            wait_until(lambda: client.read_workers_for_work_pool(pool), HANG_S, "a worker")
        with simyard.start("doctor", "--pool", pool, "--store", store) as doctor:
            first = doctor.stdout.readline()
            assert doctor.poll() is None, "lines are printed when all is over"
            out, err = doctor.communicate(timeout=HANG_S)
    finally:
        end(worker)
    assert doctor.returncode == 0, first + out + err
    assert first.startswith("ok      settings         SIMYARD_HOME is ")
    lines = {line[8:24].strip(): line for line in out.splitlines() if not line.startswith(" ")}
    assert lines["Prefect server"].startswith("ok      Prefect server   3.8.8 at http://127.0.0.1:")
    for name in ("pool", "deployments", "queues", "worker", "clock", "store", "machine", "Python", "Isaac Lab", "disk"):
        assert lines[name].startswith("ok "), lines[name]
    assert lines["image"].startswith("skipped ")
    assert all(f" {HOST}: " in lines[name] for name in ("Python", "Isaac Lab", "GPU", "kernel cache"))
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_without_a_server_a_pool_is_not_looked_at(examine):
    code, checks = examine("--pool", "any", url=f"{CLOSED}/api")
    assert code == 1
    assert checks["Prefect server"]["state"] == "failed"
    assert f"{CLOSED}/api does not answer" in checks["Prefect server"]["text"]
    assert "prefect server start" in checks["Prefect server"]["fix"]
    assert {checks[name]["state"] for name in ("pool", "deployments", "queues", "worker", "clock", "machine")} == {
        "skipped"
    }
    assert checks["store"]["state"] == "ok"


def test_a_password_in_the_servers_address_is_not_printed(call, store):
    done = call("doctor", "--pool", "any", "--store", store, url="http://user:hunter2@127.0.0.1:9/api")
    assert done.exit_code == 1
    assert "FAILED  Prefect server   http://127.0.0.1:9/api does not answer" in done.output
    assert "hunter2" not in done.output


def test_a_pool_that_does_not_exist(examine, deployed):
    deployed("exists")
    code, checks = examine("--pool", "absent")
    assert code == 1
    assert "'absent'" in checks["pool"]["text"]
    assert "'exists'" in checks["pool"]["text"]
    assert checks["pool"]["fix"].startswith("simyard deploy --pool absent --type ")
    assert checks["machine"] == {"state": "skipped", "text": "needs the pool", "fix": ""}


def test_a_pool_that_is_paused(examine, deployed, prefect_server):
    pool = deployed("asleep")
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        client.update_work_pool(pool, WorkPoolUpdate(is_paused=True))
    code, checks = examine("--pool", pool)
    assert code == 1
    assert checks["pool"]["state"] == "failed"
    assert checks["pool"]["fix"] == "prefect work-pool resume asleep"
    assert checks["machine"]["state"] == "skipped"


def test_a_pool_without_a_worker(examine, deployed):
    code, checks = examine("--pool", deployed("idle"))
    assert code == 1
    assert checks["worker"]["state"] == "failed"
    assert checks["worker"]["text"] == "pool 'idle' has no worker with a heartbeat in the last 60 s"
    assert "prefect worker start --pool idle --type process" in checks["worker"]["fix"]
    assert {name for name, check in checks.items() if check["state"] == "failed"} == {"worker"}
    assert checks["machine"] == {"state": "skipped", "text": "needs a worker", "fix": ""}


def test_what_a_pool_lacks_is_mended_by_the_line_that_is_printed(examine, call, deployed, prefect_server):
    words = ("--type", "docker", "--image", "somewhere/simyard:3.0", "--set", "mem_limit=64g", "--accept-nvidia-eula")
    pool = deployed("torn", *words)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        template = client.read_work_pool(pool).base_job_template
        client.delete_deployment(client.read_deployment_by_name(f"run-worker/{pool}").id)
        client.delete_work_queue_by_id(client.read_work_queue_by_name("low", work_pool_name=pool).id)
    _, checks = examine("--pool", pool)
    assert (checks["deployments"]["state"], checks["deployments"]["text"]) == ("failed", "run-worker is missing")
    assert (checks["queues"]["state"], checks["queues"]["text"]) == ("failed", "missing: low")
    program, *fix = shlex.split(checks["queues"]["fix"])
    assert (program, call(*fix).exit_code) == ("simyard", 0)
    _, checks = examine("--pool", pool)
    assert (checks["deployments"]["state"], checks["queues"]["state"]) == ("ok", "ok")
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        assert client.read_work_pool(pool).base_job_template == template


@pytest.mark.long  # a pool more; test_what_a_pool_lacks… has one
def test_the_line_that_mends_a_pool_shows_no_values_of_its_environment(examine, call, deployed, prefect_server):
    env = 'env={"AWS_SECRET_ACCESS_KEY": "hunter2"}'
    pool = deployed("secretive", "--type", "docker", "--image", "somewhere/simyard:3.0", "--set", env)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        client.delete_work_queue_by_id(client.read_work_queue_by_name("low", work_pool_name=pool).id)
    _, checks = examine("--pool", pool)
    assert "AWS_SECRET_ACCESS_KEY" in checks["queues"]["fix"]
    assert "hunter2" not in json.dumps(checks)
    # Sent as it stands it would replace the secret: it is refused.
    assert call(*shlex.split(checks["queues"]["fix"])[1:]).exit_code == 2


@pytest.mark.long  # a pool more; test_what_a_pool_lacks… has one
def test_containers_that_reach_neither_the_server_nor_the_folder(examine, deployed):
    pool = deployed("boxes", "--type", "docker", "--image", "somewhere/simyard:3.0")
    _, checks = examine("--pool", pool)
    assert checks["server address"]["state"] == "warning"
    assert "127.0.0.1" in checks["server address"]["text"]
    assert checks["store"]["state"] == "warning"
    assert checks["image"]["state"] == "skipped"
    assert "docker image inspect somewhere/simyard:3.0" in checks["image"]["fix"]


@pytest.mark.long  # a pool more; test_what_a_pool_lacks… has one
@pytest.mark.parametrize(
    ("words", "shared"),
    [
        ((), "the worker's user and its files"),
        pytest.param(
            ("--type", "docker", "--image", "somewhere/simyard:3.0"),
            "the auth string of the Prefect server",
            marks=pytest.mark.long,
        ),
        (("--type", "ecs", "--image", "somewhere/simyard:3.0"), "the caches of compiled code"),
    ],
    ids=["process", "docker", "ecs"],
)
def test_what_projects_share_is_said_where_there_are_several(examine, deployed, store, words, shared):
    pool = deployed("projects" + "".join(words[1:2]), *words)
    _, checks = examine("--pool", pool)
    assert checks["projects"]["state"] == "ok"
    (store / "projects" / "lab" / "jobs").mkdir(parents=True)
    (store / "projects" / "lab" / "jobs" / "x").touch()
    _, checks = examine("--pool", pool)
    assert checks["projects"]["state"] == "warning"
    assert checks["projects"]["text"].startswith(f"2 projects, whose attempts share {shared}")
    assert "docs/security.md" in checks["projects"]["fix"]


@pytest.mark.long  # a pool more; test_what_a_pool_lacks… has one
@pytest.mark.parametrize(
    ("kind", "command"),
    [("kubernetes", "kubectl --namespace default run"), ("ecs", "docker manifest inspect")],
    ids=["kubernetes", "ecs"],
)
def test_an_image_that_only_the_cluster_sees(examine, deployed, kind, command):
    _, checks = examine("--pool", deployed(f"far-{kind}", "--type", kind, "--image", "somewhere/simyard:3.0"))
    assert checks["image"]["state"] == "skipped"
    assert command in checks["image"]["fix"]


def test_a_bucket_that_nobody_serves_is_given_up_soon(examine, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "robot")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    began = time.monotonic()
    code, checks = examine(reference="s3://robots/simyard", url=None)
    assert time.monotonic() - began < 30
    assert code == 1
    assert checks["store"]["state"] == "failed"
    assert "AWS_ENDPOINT_URL" in checks["store"]["fix"]
    assert checks["clock of store"]["state"] == "skipped"
    assert "hunter2" not in json.dumps(checks)


def test_a_bucket_that_is_served(examine, s3_server, monkeypatch):
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "robot")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    bucket = boto3.resource("s3", region_name="us-east-1").create_bucket(Bucket="doctors")
    _, checks = examine(reference="s3://doctors/simyard", url=None)
    assert checks["store"]["state"] == "ok"
    assert checks["clock of store"]["state"] == "ok"
    assert list(bucket.objects.all()) == []


def test_a_bad_setting_is_one_line_and_the_rest_goes_on(examine, monkeypatch):
    monkeypatch.setenv("SIMYARD_SESSIONS", "perhaps")
    code, checks = examine()
    assert code == 1
    assert checks["settings"] == {
        "state": "failed", "text": "SIMYARD_SESSIONS is 'perhaps'.", "fix": "Allowed: 'on', 'off'."
    }  # fmt: skip
    assert (checks["Prefect server"]["state"], checks["store"]["state"], checks["disk"]["state"]) == ("ok",) * 3
    assert checks["pool"] == {"state": "skipped", "text": "needs --pool", "fix": ""}


def test_a_server_whose_clock_is_wrong(examine, answering, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", answering)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "robot")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    code, checks = examine(reference="s3://robots/simyard", url=f"{answering}/api")
    assert code == 1
    assert checks["Prefect server"]["state"] == "ok"
    for name, whose in (("clock", "the Prefect server"), ("clock of store", "the store's server")):
        assert checks[name]["state"] == "failed"
        assert whose in checks[name]["text"]
        assert "behind" in checks[name]["text"]


@pytest.mark.parametrize(
    ("host", "state", "whose"),
    [("127.0.0.1", "warning", "every web page in its browsers"), ("0.0.0.0", "failed", "everybody")],
    ids=["this machine's", "the network's"],
)
def test_a_server_that_asks_for_no_auth_string(examine, answering, host, state, whose):
    _, checks = examine(url=f"{answering.replace('127.0.0.1', host)}/api")
    assert checks["server auth"]["state"] == state
    assert "asks for no auth string" in checks["server auth"]["text"]
    assert whose in checks["server auth"]["text"]
    assert "PREFECT_SERVER_API_AUTH_STRING" in checks["server auth"]["fix"]


def test_a_bad_address_of_the_store_is_a_bad_command(call):
    done = call("doctor", "--store", "ftp://robots/simyard")
    assert done.exit_code == 2
    assert "ftp" in done.stderr
    assert done.stdout == ""


def test_jobs_without_a_pool_need_no_server(examine):
    code, checks = examine(url=None)
    assert checks["Prefect server"]["state"] == "skipped"
    assert code == 1
    assert {name for name, check in checks.items() if check["state"] == "failed"} == {"Python"}
