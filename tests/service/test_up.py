"""`simyard up`: everything comes up, stays up, ends in good order, and loses nothing. The simulator is played."""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import HANG_S, SCENARIO, CommandLine, FlowHost, Server, last_json, wait_until
from sites import UP_S, Site

ITERATIONS = 60
SLOW = "; ".join(f"slow at {index}" for index in range(ITERATIONS))
"""Wherever an attempt takes the job up."""
SLOW_ONCE = "slow once"
"""The attempt that is killed; the next one hurries."""


def training(description: str = "", iterations: int = ITERATIONS) -> dict[str, Any]:
    return {
        "name": "played",
        "description": description,
        "trainingConfig": {"task": "Scenario", "numEnvs": 4, "maxIterations": iterations, "seed": 1},
        "computeConfig": {"gpusPerNode": 0},
    }


@pytest.fixture(scope="module")
def site(flow_host: FlowHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A whole site; other commands in its home come from the flow host."""
    made = Site(tmp_path_factory.mktemp("up") / "home", **SCENARIO)
    made.up()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.down()


def test_it_says_where_everything_is(site: Site) -> None:
    assert f"API:         {site.url}" in site.said
    assert f"http://127.0.0.1:{site.prefect_port}" in site.said
    logs = [site.said, *(path.read_text() for path in (site.home / "up").glob("*.log"))]
    for name in ("api-key", "prefect-auth"):
        file = site.home / name
        assert str(file) in site.said
        assert not [log for log in logs if file.read_text().strip() in log], "a log shows where it is, not what it is"
    modes = {stat.S_IMODE((site.home / name).stat().st_mode) for name in ("api-key", "prefect-auth", "secret")}
    assert modes == {0o600}
    with urllib.request.urlopen(f"{site.url}/readyz", timeout=30) as answer:
        assert json.load(answer) == {"store": None, "prefect": None}


def ask_prefect(site: Site, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of an answer of the site's Prefect server."""
    host = headers.pop("host", f"127.0.0.1:{site.prefect_port}")
    named = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection = http.client.HTTPConnection("127.0.0.1", site.prefect_port, timeout=HANG_S)
    with contextlib.closing(connection):
        connection.request(method, path, b"{}" if method == "POST" else None, named)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}


def test_the_prefect_server_serves_the_site_alone(site: Site) -> None:
    auth = "Basic " + base64.b64encode((site.home / "prefect-auth").read_bytes()).decode()
    here, elsewhere = f"http://localhost:{site.prefect_port}", "http://elsewhere.example"
    deployments, create = "/api/deployments/filter", "/api/deployments/"
    wanted = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}

    # Without the string: no local user, and no page of anyone, whatever the browser asks before it sends.
    assert ask_prefect(site, deployments, "POST")[0] == 401
    for path, method in (
        (deployments, "POST"),
        (create, "POST"),
        ("/api/admin/settings", "GET"),
        ("/ui-settings", "GET"),
    ):
        status, headers = ask_prefect(site, path, method, Origin=elsewhere)
        assert (status == 401) == path.startswith("/api")
        assert "access-control-allow-origin" not in headers, "a page from elsewhere may not read it"
    status, headers = ask_prefect(site, create, "OPTIONS", Origin=elsewhere, **wanted)
    assert (status, headers.get("access-control-allow-origin")) == (400, None)
    # A page whose own name leads here (DNS rebinding) gets nothing, not even with the string.
    for path in ("/", "/ui-settings", "/api/health", "/api/version"):
        assert ask_prefect(site, path, host=f"elsewhere.example:{site.prefect_port}", Authorization=auth)[0] == 400
    # Scripts from elsewhere would read the string in the browser.
    assert [ask_prefect(site, path, Authorization=auth)[0] for path in ("/docs", "/redoc/")] == [404, 404]

    # The UI, under both of its names, and all that have the string.
    assert ask_prefect(site, "/")[0] == 200
    assert ask_prefect(site, deployments, "POST", Authorization=auth, Content_Type="application/json")[0] == 200
    status, headers = ask_prefect(site, create, "OPTIONS", Origin=here, **wanted)
    assert (status, headers.get("access-control-allow-origin")) == (200, here)


def test_a_command_in_its_home_finds_the_string(site: Site, flow_host: FlowHost) -> None:
    where = {"PREFECT_API_URL": f"http://localhost:{site.prefect_port}/api", "SIMYARD_PYTHON": "/bin/false"}
    checks = {check["name"]: check for check in last_json(CommandLine(site.env)("doctor", "--json", **where))["checks"]}
    assert checks["Prefect server"]["state"] == "ok", checks
    assert "server auth" not in checks
    strange = CommandLine(site.env, flow_host)("doctor", "--json", **where, PREFECT_API_AUTH_STRING="some:body")
    checks = {check["name"]: check for check in last_json(strange)["checks"]}
    assert "answers 401" in checks["Prefect server"]["text"]
    assert "PREFECT_API_AUTH_STRING" in checks["Prefect server"]["fix"]


def test_a_job_runs(site: Site) -> None:
    job_id = site.call("POST", "/v0/jobs", training(iterations=4))["job_id"]
    job = site.wait_for(job_id, "succeeded", "failed")
    assert (job["status"], job["done"], job["attempt_count"]) == ("succeeded", 4, 1)
    assert "artifact_manifest.json" in {entry["name"] for entry in job["artifacts"]}
    began = re.findall(r"process \d+ begins flow run (\S+)", (site.home / "up" / "flow-host.log").read_text())
    assert began, "the process of its flow run had imported the flows before it was asked for"


@pytest.mark.long  # logs are followed in test_jobs_api.py, a job is canceled in test_whole_session.py
def test_a_running_job_is_followed_and_canceled(site: Site) -> None:
    job_id = site.call("POST", "/v0/jobs", training("slow", iterations=1000))["job_id"]
    site.wait_for(job_id, "running")
    wait_until(lambda: site.saved(job_id, 1), UP_S, "a checkpoint")
    request = urllib.request.Request(
        f"{site.url}/v0/jobs/{job_id}/logs?follow=true&tail=1", headers={"Authorization": f"Bearer {site.key}"}
    )
    lines = []
    with urllib.request.urlopen(request, timeout=60) as log:
        for line in log:
            lines.append(line.decode().rstrip())
            if len(lines) == 3:
                site.call("POST", f"/v0/jobs/{job_id}/cancel")
    assert len(lines) >= 3, "the answer went on while the job ran, and ended with it"
    job = site.wait_for(job_id, "canceled")
    assert (job["attempt_count"], job["done"] > 0) == (1, True)


def test_what_dies_comes_again(site: Site) -> None:
    pids = [pid for pid, _ in json.loads((site.home / "up" / "processes.json").read_text())]
    service = next(p for p in map(psutil.Process, pids) if "simyard.service" in p.cmdline())
    service.kill()

    def answers_again() -> bool:
        try:
            return bool(site.call("GET", "/v0/jobs"))
        except (urllib.error.URLError, OSError):
            return False

    wait_until(lambda: not service.is_running() or service.status() == "zombie", UP_S, "its end")
    wait_until(answers_again, UP_S, "the API")


def test_it_does_not_run_twice_in_one_home(site: Site, flow_host: FlowHost) -> None:
    second = CommandLine(site.env, flow_host)("up")
    assert second.returncode == 2
    assert "runs already here" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_that_is_taken_is_named(site: Site, flow_host: FlowHost, tmp_path: Path) -> None:
    done = CommandLine({**site.env, "SIMYARD_HOME": str(tmp_path)}, flow_host)("up", "--port", site.port)
    assert done.returncode == 2
    assert f"127.0.0.1:{site.port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=pytest.mark.long)], ids=["", "stopped before"])
def test_a_job_outlives_the_site_that_is_killed(site: Site, stopped: bool) -> None:
    key = site.key
    job_id = site.call("POST", "/v0/jobs", training(SLOW if stopped else SLOW_ONCE))["job_id"]
    waiting = site.call("POST", "/v0/jobs", training(iterations=2))["job_id"]
    wait_until(lambda: site.saved(job_id, 1), UP_S, "a checkpoint of the first attempt")
    if stopped:
        said = site.down()
        assert "Stopped." in said
        assert not psutil.pid_exists(site.process.pid) or site.process.returncode == 0  # type: ignore[union-attr]
        outcome = json.loads((site.home / "store" / "jobs" / job_id / "attempts/001/outcome.json").read_text())
        assert outcome["failure"]["code"] == "interrupted", "it was told, and wrote down what it had"
        site.up()
        wait_until(lambda: site.saved(job_id, 2), UP_S, "a checkpoint of the second attempt")
    attempts = 3 if stopped else 2
    site.kill()
    left = [psutil.Process(pid) for pid, _ in json.loads((site.home / "up" / "processes.json").read_text())]
    for process in left:
        os.killpg(process.pid, signal.SIGKILL)
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("SIMYARD_HOME") == str(site.home):
            process.kill()  # the flow runs' own processes

    site.up(on_terminal=True)
    assert site.key == key
    assert key in site.said, "a person who looks on is shown it"
    job = site.wait_for(job_id, "succeeded", "failed")
    assert (job["status"], job["attempt_count"], job["error"]) == ("succeeded", attempts, None)
    folder = site.home / "store" / "jobs" / job_id
    for number in range(2, attempts + 1):
        status = json.loads((folder / f"attempts/{number:03d}/status.json").read_text())
        assert status["start_iteration"] == site.saved(job_id, number - 1)[-1], "it resumes from the last checkpoint"
    rows = (folder / "artifacts/metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(ITERATIONS)], "each step once"
    assert site.wait_for(waiting, "succeeded")["attempt_count"] >= 1


@pytest.mark.long  # another way to the same site
def test_a_prefect_server_that_is_there_is_used(prefect_server: Server, tmp_path: Path) -> None:
    made = Site(tmp_path / "home", **SCENARIO, **prefect_server.env)
    made.up()
    try:
        assert prefect_server.url.removesuffix("/api") in made.said
        pids = [pid for pid, _ in json.loads((made.home / "up" / "processes.json").read_text())]
        assert not [pid for pid in pids if "simyard.cli.prefect_server" in psutil.Process(pid).cmdline()]
        assert "warning: " in made.said
        assert "asks for no auth string" in made.said
    finally:
        made.down()
    with urllib.request.urlopen(f"{prefect_server.url}/health", timeout=30) as answer:
        assert answer.read() == b"true", "it is not ours to stop"
