"""`simyard sessions`, `--session` and `simyard run`: what they refuse, and what they print."""

import json
import os
import re
import signal
from dataclasses import replace
from datetime import datetime

import click.testing
import pytest
from helpers import HANG_S, CommandLine, last_json, wait_until
from scenario import play

from simyard.cli import run
from simyard.cli.main import main
from simyard.core.errors import RequestError
from simyard.requests.config import model_of
from simyard.requests.jobs import EvaluateRequest, ExportRequest, TrainRequest
from simyard.requests.rollout import RolloutRequest

GOOD = {"trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 4, "maxIterations": 2}}
EVALUATION = {"trainingConfig": {"mode": "evaluate", "task": "Isaac-Cartpole-Direct", "checkpointPath": "model_1.pt"}}
EXPORT = {"exportConfig": {"task": "Isaac-Cartpole-Direct", "checkpointPath": "model_1.pt"}}


@pytest.fixture
def refuse_all(refuse, tmp_path):
    """Run a command that must be refused, and that must leave no session either."""

    def run(*arguments, said):
        result = refuse(*arguments, said=said)
        assert list((tmp_path / "home").glob("sessions/*")) == []
        return result

    return run


# sessions start


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["no such.json"], ["'no such.json'", "No such file", "Name a JSON file"], id="no file"),
        pytest.param(["a.json", "b.json"], ["'b.json'", "'a.json'", "Name one CONFIG"], id="two configs"),
        pytest.param(["--store", "ftp://host/x"], ["'ftp://host/x'"], id="another kind of store"),
        pytest.param(["--jobs", "0"], ["--jobs", "0 is not in the range x>=1"], id="no jobs"),
        pytest.param(["--jobs", "many"], ["--jobs", "'many' is not a valid integer"], id="jobs in words"),
        pytest.param(["--jobs", "2.5"], ["--jobs", "'2.5' is not a valid integer"], id="half a job"),
        pytest.param(["--idle-minutes", "0"], ["--idle-minutes", "0.1<=x<=100000"], id="no time to wait"),
        pytest.param(["--idle-minutes", "inf"], ["--idle-minutes", "inf is not in the range"], id="endless"),
        pytest.param(["--idle-minutes", "nan"], ["--idle-minutes", "'nan'"], id="a time that is no number"),
        pytest.param(["--memory-gb", "-1"], ["--memory-gb", "-1.0 is not in the range"], id="negative memory"),
        pytest.param(["--gpu-memory-gb", "0"], ["--gpu-memory-gb", "0.0 is not in the range"], id="no GPU memory"),
        pytest.param(["--memory-gb", "1e9"], ["--memory-gb", "1000000000.0 is not in the range"], id="too much memory"),
        pytest.param(["--memory-gb", "nan"], ["--memory-gb", "'nan'"], id="a memory that is no number"),
        pytest.param(["--set", "numEnvs"], ["numEnvs", "key=value"], id="a setting without a value"),
        pytest.param(["--video"], ["--video needs CONFIG", "Name the task's config"], id="a picture of nothing"),
        pytest.param(["--warm", "yes"], ["No such option", "--warm"], id="an option that is none"),
    ],
)
def test_start_refuses_bad_arguments(refuse_all, arguments, said):
    refuse_all("sessions", "start", *arguments, said=said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"{", ["is not valid JSON", "line 1 column 2"], id="cut off"),
        pytest.param([], ["holds list, not an object"], id="a list"),
        pytest.param({}, ["It is not clear what kind of job this is", "trainingConfig"], id="empty"),
        pytest.param({"trainingConfig": {"task": "A", "numEnv": 4}}, ["'numEnv'", "'numEnvs'"], id="a slip"),
        pytest.param(
            GOOD | {"computeConfig": {"session": "maybe"}}, ["session", "'auto' or 'off'", "'maybe'"], id="a session"
        ),
        pytest.param(
            {"execution": {"num_envs": 2}, "robot": {"urdf_uri": "no.urdf"}}, ["execution.steps is missing"],
            id="rollout",
        ),
    ],
)  # fmt: skip
def test_start_refuses_a_bad_config(refuse_all, write, content, said):
    refuse_all("sessions", "start", write(content), said=said)


@pytest.mark.parametrize(
    ("config", "kind"), [(EVALUATION, "'evaluate'"), (EXPORT, "'export'")], ids=["evaluation", "export"]
)
def test_a_policys_job_does_not_warm_a_session_up(refuse_all, write, tmp_path, config, kind):
    (tmp_path / "model_1.pt").write_text("not looked into here")
    said = ["cannot be warmed up by a job of kind", kind, "Name a training or a rollout"]
    refuse_all("sessions", "start", write(config), said=said)


# sessions stop and list


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], ["Name a session, or --all", "simyard sessions list"], id="nothing named"),
        pytest.param(["session-1", "--all"], ["Name a session, or --all"], id="one and all"),
        pytest.param(["session-1"], ["'session-1'", "this machine keeps none", "sessions start"], id="unknown"),
        pytest.param(["../../etc"], ["'../../etc'", "this machine keeps none"], id="a path"),
        pytest.param([""], ["There is no session ''"], id="an empty name"),
        pytest.param(["a", "b"], ["unexpected extra argument", "b"], id="two"),
    ],
)
def test_stop_refuses_bad_arguments(refuse_all, arguments, said):
    refuse_all("sessions", "stop", *arguments, said=said)


@pytest.mark.parametrize(
    ("arguments", "stdout"),
    [
        pytest.param(["list"], "This machine keeps no simulator warm.\n", id="list"),
        pytest.param(["list", "--json"], "[]\n", id="list in JSON"),
        pytest.param(["stop", "--all", "--json"], "[]\n", id="stop in JSON"),
    ],
)
def test_where_there_is_none(tmp_path, monkeypatch, arguments, stdout):
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    result = click.testing.CliRunner().invoke(main, ["sessions", *arguments])
    assert (result.exit_code, result.stdout, result.stderr) == (0, stdout, "")
    assert not (tmp_path / "home").exists()


def test_a_session_from_its_start_to_its_end(tmp_path, store, flow_host):
    home = tmp_path / "home"
    own = {**play.ENVIRONMENT, "SIMYARD_HOME": str(home), "SIMYARD_STORE": str(store)}
    simyard = CommandLine({**os.environ, **own}, flow_host)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(play.config("")))
    started = simyard("sessions", "start", config, "--jobs", "3", "--json")
    assert (started.returncode, started.stderr) == (0, "")
    state = last_json(started)
    assert (state["state"], state["jobs"], state["processes"]) == ("ready", 0, 1)
    assert state["failure"] is state["replaced"] is state["used_at"] is state["memory_bytes"] is None
    listed = simyard("sessions", "list", "--json")
    assert json.loads(listed.stdout) == [state]
    text = simyard("sessions", "list").stdout
    assert text.splitlines()[0].split() == ["SESSION", "STATE", "SIMULATOR", "JOBS", "MEMORY", "GPU", "IDLE", "PROJECT"]
    assert [state["session_id"], "ready", "isaaclab", "0"] == text.splitlines()[1].split()[:4]
    unknown = simyard("sessions", "stop", "session-x")
    assert unknown.returncode == 2
    assert "'session-x'" in unknown.stderr
    assert repr(state["session_id"]) in unknown.stderr
    stopped = simyard("sessions", "stop", state["session_id"])
    assert (stopped.returncode, stopped.stdout) == (0, f"{state['session_id']} has ended.\n")
    wait_until(lambda: not list((home / "sessions").iterdir()), HANG_S, "the end of its folder")
    wait_until(lambda: play.running_below(tmp_path) == [], HANG_S, "the end of its processes")


@pytest.mark.long  # test_head_start.py has the start before the flow
def test_in_a_kept_session_a_job_begins_before_its_flow_and_is_canceled_in_good_order(
    simyard, prefect_server, tmp_path, store
):
    own = {**play.ENVIRONMENT, "SIMYARD_STORE": str(store)}
    simyard = replace(simyard, env=simyard.env | own)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(play.config("")))
    assert simyard("sessions", "start", config, "--json").returncode == 0
    trained = last_json(simyard("train", config, "--json"))
    assert trained["status"] == "succeeded"
    log = (store / "jobs" / trained["job_id"] / "attempts/001/files/runner.log").read_text()
    began = re.search(r"time=(\S+) stage=staging status=start", log).group(1)
    newest = {"flow_runs": {"name": {"any_": ["played"]}}, "sort": "START_TIME_DESC", "limit": 1}
    (flow_run,) = prefect_server.ask("/flow_runs/filter", newest)
    assert datetime.fromisoformat(began) < datetime.fromisoformat(flow_run["start_time"])
    config.write_text(json.dumps(play.config("slow; hang at 3")))
    hanging = simyard.start("train", config, "--json")
    wait_until(lambda: len(list(store.glob("jobs/*/attempts/001/checkpoints.json"))) == 2, HANG_S, "a checkpoint")
    hanging.send_signal(signal.SIGINT)
    out, _ = hanging.communicate(timeout=HANG_S)
    assert hanging.returncode == 130
    assert json.loads(out.splitlines()[-1])["status"] == "canceled"
    simyard("sessions", "stop", "--all")
    wait_until(lambda: play.running_below(tmp_path) == [], HANG_S, "the end of all that was started")


@pytest.mark.long  # a Prefect server that does not come up is waited for
def test_a_job_that_began_before_a_server_that_never_came_has_failed_and_can_go_on(tmp_path, store, flow_host):
    no_server = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "3", "PREFECT_HOME": str(tmp_path / "prefect")}
    no_server["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{tmp_path}/none/x.db"
    own = {**play.ENVIRONMENT, "SIMYARD_HOME": str(tmp_path / "home"), "SIMYARD_STORE": str(store), **no_server}
    simyard = CommandLine({k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | own, flow_host)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(play.config("slow; hang at 3")))
    try:
        assert simyard("sessions", "start", config, "--json").returncode == 0
        failed = simyard("train", config, "--json")
        (job,) = (store / "jobs").iterdir()
        error = last_json(failed)["error"]
        assert (failed.returncode, error["code"]) == (1, "no_prefect_server")
        assert f"simyard jobs resume {job.name}" in error["advice"]
        assert json.loads((job / "result.json").read_text())["error"]["code"] == "no_prefect_server"
    finally:
        simyard("sessions", "stop", "--all")
    wait_until(lambda: play.running_below(tmp_path) == [], HANG_S, "the end of all that was started")


@pytest.mark.parametrize(
    ("env", "files", "its_own"),
    [
        ({}, {}, True),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, {}, False),
        ({"PREFECT_PROFILE": "site"}, {}, False),
        ({}, {"home/profiles.toml": ""}, False),
        ({}, {"prefect.toml": ""}, False),
        ({}, {"pyproject.toml": "[tool.prefect.api]\nurl = 'http://127.0.0.1:9/api'\n"}, False),
        ({}, {"pyproject.toml": "[project]\nname = 'x'\n"}, True),
    ],
)
def test_a_job_may_begin_before_a_server_only_where_nothing_names_one(tmp_path, monkeypatch, env, files, its_own):
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert run._starts_server() is its_own


# The switches


@pytest.mark.parametrize("command", ["train", "evaluate", "export-policy", "rollout"])
@pytest.mark.parametrize("value", ["on", "maybe", "", "OFF"])
def test_session_is_auto_or_off(refuse_all, write, command, value):
    refuse_all(command, write(GOOD), "--session", value, said=["'--session'", repr(value), "'auto', 'off'"])


@pytest.mark.parametrize("value", [pytest.param(v, id=str(v)) for v in ("maybe", "on", None, True, 1)])
def test_session_in_a_config_is_auto_or_off(refuse_all, write, value):
    config = GOOD | {"computeConfig": {"session": value}}
    refuse_all("train", write(config), said=["computeConfig.session", "'auto' or 'off'", f"not {value!r}"])


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["run"], ["sessions", "start"], ["sessions", "list"], ["sessions", "stop", "--all"]],
    ids=" ".join,
)
@pytest.mark.parametrize("value", ["maybe", "1", "true", "ON", " on"])
def test_simyard_sessions_is_on_or_off(refuse_all, write, monkeypatch, arguments, value):
    config = [write(GOOD)] if arguments[-1] in ("train", "run", "start") else []
    monkeypatch.setenv("SIMYARD_SESSIONS", value)
    refuse_all(*arguments, *config, said=[f"SIMYARD_SESSIONS is {value!r}", "'on', 'off'"])


# run


@pytest.mark.parametrize(
    ("second", "said"),
    [
        pytest.param({"trainingConfig": {"task": "A", "numEnv": 1}}, ["'numEnv'", "'numEnvs'"], id="a slip"),
        pytest.param({"exportConfig": {"task": 5}}, ["task", "not 5"], id="an export"),
        pytest.param({"exportConfig": 5}, ["exportConfig", "not 5"], id="an export that is a number"),
        pytest.param({"trainingConfig": 5}, ["It is not clear what kind"], id="a training that is a number"),
        pytest.param({"control": {"task_mode": "hold"}}, ["['control']", "a rollout execution"], id="of no kind"),
        pytest.param({"execution": {"steps": 5}, "control": 5}, ["control", "not 5"], id="a rollout"),
        pytest.param({}, ["It is not clear what kind of job this is: the config has the fields []"], id="empty"),
        pytest.param(b"{", ["is not valid JSON"], id="no JSON"),
        pytest.param(None, ["No such file"], id="not there"),
    ],
)
def test_a_second_config_that_is_bad_stops_the_first_too(refuse_all, write, tmp_path, second, said):
    first = tmp_path / "first.json"
    first.write_text(json.dumps(GOOD))
    refuse_all("run", first, "second.json" if second is None else write(second), said=said)


def test_run_needs_a_config(refuse_all):
    refuse_all("run", said=["Missing argument 'CONFIG...'"])


@pytest.mark.parametrize(
    ("config", "model"),
    [
        pytest.param(GOOD, TrainRequest, id="training"),
        pytest.param({"training_config": {"task": "A"}}, TrainRequest, id="training in snake case"),
        pytest.param({"trainingConfig": {"mode": "train"}}, TrainRequest, id="training by its mode"),
        pytest.param(EVALUATION, EvaluateRequest, id="evaluation"),
        pytest.param(EXPORT, ExportRequest, id="export"),
        pytest.param({"export_config": {}}, ExportRequest, id="export in snake case"),
        pytest.param({"execution": {"steps": 1}}, RolloutRequest, id="rollout"),
    ],
)
def test_the_kind_of_a_config_is_told_from_its_fields(config, model):
    assert model_of(config) is model


@pytest.mark.parametrize("config", [{}, {"name": "a"}, {"trainingConfig": 5}, {"TrainingConfig": {}}, {"robot": None}])
def test_a_config_of_no_kind_is_refused(config):
    with pytest.raises(RequestError, match="not clear what kind") as raised:
        model_of(config)
    assert repr(sorted(config)) in str(raised.value)
