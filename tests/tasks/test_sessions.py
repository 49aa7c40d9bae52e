"""Job after job in one process: each as if it were the first, and none pays for another."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HANG_S, wait_until
from scenario import play
from scenario.play import alive, started

from simyard.core.specs import ONE_JOB, Bounds, InputFile
from simyard.requests.settings import MachineSettings
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.attempt.supervise import gpu_count
from simyard.tasks.sessions.fingerprint import difference, fingerprint
from simyard.tasks.sessions.pool import Sessions

pytestmark = pytest.mark.system

SHORT = 2
OFF = {"gpusPerNode": 0, "session": "off"}


class Machine(play.Player):
    """Jobs of one project, as one command runs them: in sessions of its own, with a simulator in reserve."""

    def __init__(self, folder, warm, bounds=None, **settings):
        super().__init__(
            MachineSettings(home=folder / "home", store=str(folder / "store"), python=str(play.PYTHON), **settings),
            warm,
        )
        self.sessions = Sessions(self.site, bounds or Bounds())
        self.pids = set()
        self.last = None

    def waiting(self):
        """Return the process that did the last job and waits for another; begin with one where none does."""
        if self.last is None or not alive([self.last]):
            self.add()
            self.run()
        return self.last

    def add(self):
        """Have a new process wait, so that nothing is imported in the middle of a test."""
        self.reserve(self.stage(""), self.sessions)

    def run(self, scenario="", observer=None, *, sessions=None, iterations=SHORT, **changes):
        # What follows a job takes a moment on a busy machine, and is no hang.
        changes = {"retries": 0, **changes, "timeouts": {"closeSeconds": 30, **changes.get("timeouts", {})}}
        left = self.play(scenario, observer, sessions=sessions or self.sessions, iterations=iterations, **changes)
        self.pids |= set(started(left.stdout()))
        self.last = left.pid
        return left


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """Workloads that have imported torch, each of which may serve many jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENARIO_PYTHON", play.ENVIRONMENT["SCENARIO_PYTHON"])
        patch.setenv("SCENARIO_CODE", str(tmp_path_factory.mktemp("code")))
        pool = play.Waiting(tmp_path_factory.mktemp("warm"), Bounds())
        yield pool
        pool.close()


@pytest.fixture(scope="module")
def machine(tmp_path_factory, warm):
    """One command's sessions, for all tests here that need no others."""
    folder = tmp_path_factory.mktemp("machine")
    machine = Machine(folder, warm)
    yield machine
    machine.sessions.close()
    assert alive(machine.pids) == []
    assert play.running_below(folder) == []


@pytest.fixture
def other_machine(tmp_path, warm):
    """Make one with other settings."""
    machines = []

    def make(bounds=None, **settings):
        machines.append(Machine(tmp_path / str(len(machines)), warm, bounds, **settings))
        return machines[-1]

    yield make
    for machine in machines:
        machine.sessions.close()
        assert alive(machine.pids) == []
    assert play.running_below(tmp_path) == []


def test_jobs_one_after_another_share_a_process_and_nothing_else(machine):
    machine.add()
    first = machine.run("look")
    littering = machine.run("litter at end; warn at 1")
    last = machine.run("look", iterations=6)
    assert first.pid == littering.pid == last.pid
    assert [left.result["status"] for left in (first, littering, last)] == ["succeeded"] * 3
    assert last.said("sees") == first.said("sees")
    assert last.said("draws") == littering.said("draws") == first.said("draws")
    assert last.said("sees")["folder"] == "work"
    assert last.said("sees")["files"] == ["logs"]
    last.assert_nothing_missing(6)
    for left, iterations in ((first, SHORT), (littering, SHORT)):
        left.assert_nothing_missing(iterations)
        assert left.stdout().count("started ") == 1
    assert "nefc overflow" in (littering.folder / "attempts/001/files/command.stderr.log").read_text()
    assert "nefc overflow" not in (last.folder / "attempts/001/files/command.stderr.log").read_text()
    logs = [left.runner_log() for left in (first, littering, last)]
    assert ["jobs_before=0" in log for log in logs] == [True, False, False]
    assert all("it waits for another job" in log for log in logs)
    assert [path for path in (machine.site.home / "work").glob("job-*/*") if path.is_dir()] == []


def test_many_jobs_leave_nothing_open(machine):
    pid = machine.waiting()
    before = len(os.listdir(f"/proc/{pid}/fd"))
    after = [machine.run() for _ in range(4)]
    assert {left.pid for left in after} == {pid}
    assert len(os.listdir(f"/proc/{pid}/fd")) <= before + 1


def cancel_after(iterations):
    seen = []
    return Observer(progress=seen.append, canceled=lambda: bool(seen) and seen[-1].done >= iterations)


@pytest.mark.parametrize(
    ("scenario", "code", "options"),
    [
        pytest.param("crash at 1", "exception", {}, id="an exception"),
        pytest.param("bad-argument at 1", "exit_called", {}, id="sys.exit", marks=pytest.mark.long),
        pytest.param("leave at 1", "ended_without_result", {}, id="os._exit"),
        pytest.param("kill at 1", None, {}, id="SIGKILL", marks=pytest.mark.long),
        pytest.param("family; hang at 1", "no_progress", {"timeouts": {"iterationSeconds": 1}}, id="a hang"),
        pytest.param("", "canceled", {"observer": cancel_after(1), "iterations": 50}, id="a cancel"),
    ],
)
def test_a_job_that_does_not_succeed_costs_its_process_the_life(machine, scenario, code, options):
    pid = machine.waiting()
    bad = machine.run(scenario, **options)
    assert bad.pid == pid
    assert bad.result["status"] == ("canceled" if code == "canceled" else "failed")
    if code:
        assert bad.error["code"] == code
    else:
        assert bad.error["category"] == "infra"
    assert alive(started(bad.stdout())) == []
    machine.add()
    following = machine.run()
    following.assert_nothing_missing(SHORT)
    assert following.pid != bad.pid


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        pytest.param("thread at end", "left a thread running: 'never ends'", id="a thread"),
        pytest.param("family at end", "left a process running: ", id="children", marks=pytest.mark.long),
        pytest.param("orphan at end", "left a process running: ", id="an orphan"),
        pytest.param("open-files at end", "file descriptors open", id="open files", marks=pytest.mark.long),
    ],
)
def test_who_leaves_something_behind_succeeds_and_is_the_last(machine, scenario, why):
    pid = machine.waiting()
    leaving = machine.run(scenario, timeouts={"closeSeconds": 10})  # a thread is given some time to end
    assert leaving.pid == pid
    leaving.assert_nothing_missing(SHORT)
    assert why in leaving.runner_log()
    assert alive(started(leaving.stdout())) == []
    machine.add()
    assert machine.run().pid != leaving.pid


def test_a_process_that_died_while_it_waited_is_not_used(machine):
    pid = machine.waiting()
    os.kill(pid, signal.SIGKILL)
    machine.add()
    following = machine.run()
    following.assert_nothing_missing(SHORT)
    assert following.pid != pid
    assert len(following.attempts) == 1


def test_code_that_was_edited_while_a_session_waited_gets_a_new_process(machine):
    code = Path(os.environ["SCENARIO_CODE"]) / "edited.py"
    code.write_text("VALUE = 1\n")
    machine.waiting()
    first = machine.run("import-code")
    assert machine.run().pid == first.pid
    code.write_text("VALUE = 1 + 1\n")
    machine.add()
    following = machine.run()
    following.assert_nothing_missing(SHORT)
    assert following.pid != first.pid
    assert "edited.py is not what it was when it was imported" in following.runner_log()
    assert alive([first.pid]) == []


def test_two_projects_never_meet(machine, warm, tmp_path):
    stranger = Machine(tmp_path, warm)
    mine = machine.waiting()
    stranger.reserve(stranger.stage(""), machine.sessions)
    theirs = stranger.run(sessions=machine.sessions)
    assert theirs.pid != mine
    assert machine.run().pid == mine
    assert stranger.run(sessions=machine.sessions).pid == theirs.pid


def test_a_job_without_a_session_starts_cold_and_shares_nothing(machine):
    shared = machine.waiting()
    alone = machine.run(computeConfig=OFF)
    alone.assert_nothing_missing(SHORT)
    assert alone.pid != shared
    assert alive([alone.pid]) == []
    assert machine.run().pid == shared


def test_two_jobs_at_the_same_time_have_two_processes_and_closing_ends_both(machine):
    machine.waiting()
    machine.add()
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: machine.run("", iterations=8), range(2))
    one.assert_nothing_missing(8)
    other.assert_nothing_missing(8)
    assert one.pid != other.pid
    assert machine.run().pid in {one.pid, other.pid}
    assert alive([one.pid, other.pid]) == [one.pid, other.pid]
    machine.sessions.close()
    assert alive([one.pid, other.pid]) == []


def test_a_job_without_a_session_leaves_no_process_to_others_either(other_machine):
    machine = other_machine()
    machine.add()
    alone = machine.run(computeConfig=OFF)
    assert alive([alone.pid]) == []


@pytest.mark.long  # a job without one shares nothing either
def test_a_site_without_sessions_shares_nothing(other_machine):
    machine = other_machine(sessions=False)
    machine.add()
    first = machine.run()
    machine.add()
    second = machine.run()
    assert first.pid != second.pid
    assert alive([first.pid, second.pid]) == []


def test_a_process_serves_as_many_jobs_as_it_may(other_machine):
    machine = other_machine(Bounds(jobs=2))
    first, second = machine.run(), machine.run()
    assert first.pid == second.pid
    assert "it has served 2 jobs, as many as it may" in second.runner_log()
    assert alive([first.pid]) == []


@pytest.mark.long  # a process more; test_a_process_serves_as_many_jobs_as_it_may has the replacement
def test_a_process_that_has_grown_serves_no_other_job(other_machine):
    machine = other_machine(Bounds(memory_bytes=1000))
    left = machine.run()
    left.assert_nothing_missing(SHORT)
    assert "GB of memory, more than 0.0 GB" in left.runner_log()
    assert alive([left.pid]) == []


def test_a_process_that_waits_too_long_ends_by_itself(other_machine):
    machine = other_machine(Bounds(idle_s=1))
    first = machine.run()
    wait_until(lambda: alive([first.pid]) == [], HANG_S, "the end of an idle process")
    machine.add()
    assert machine.run().pid != first.pid


def test_an_input_that_takes_longer_than_a_process_waits_is_no_failure(other_machine):
    machine = other_machine(Bounds(idle_s=4))
    first = machine.run()
    job = machine.stage("")
    lease = machine.sessions.take(job, machine.store.url())
    assert lease.workload.pid == first.pid
    wait_until(lambda: alive([first.pid]) == [], HANG_S, "the end of an idle process")
    machine.add()
    assert lease.check(job, None, {}).simulator == "isaaclab"
    assert lease.workload.pid != first.pid
    lease.give_back()


def test_sessions_of_one_job_keep_no_process(other_machine):
    machine = other_machine(ONE_JOB)
    machine.add()
    assert alive([machine.run().pid]) == []


# What a process and a job must have in common

PACKAGE = InputFile(name="mine.zip", key="assets/1/mine.zip", sha256="1" * 64, size_bytes=1)


@pytest.fixture
def site(tmp_path):
    return MachineSettings(home=tmp_path, store="store", python="python")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        pytest.param({"gpus": 1}, "device", id="device"),
        pytest.param({"gpus": None}, "device" if gpu_count() else None, id="what there is, which is what it finds"),
        pytest.param({"packages": (PACKAGE,)}, "packages", id="packages"),
        pytest.param({"import_callback": "mine.register"}, "callback", id="callback"),
        pytest.param({"simulator": "newton"}, "simulator", id="simulator"),
        pytest.param({"task": "Other", "num_envs": 4096, "seed": 5, "max_iterations": 9}, None, id="the task's size"),
        pytest.param({"kind": "evaluate", "library": "skrl"}, None, id="kind and library"),
        pytest.param({"name": "other", "retries": 0, "job_id": "another"}, None, id="name"),
    ],
)
def test_jobs_that_may_meet_in_one_process(site, change, differs):
    job = replace(play.NOTHING, gpus=0)
    one, other = fingerprint(site, job, "file:///a"), fingerprint(site, replace(job, **change), "file:///a")
    assert (one == other) == (differs is None)
    assert difference(one, other) == (differs or "")
    assert type(one).from_json(one.to_json()) == one


def test_needs_of_several_differences_name_all(site):
    one = fingerprint(site, replace(play.NOTHING, gpus=1), "file:///a")
    other = fingerprint(replace(site, python="other"), replace(play.NOTHING, gpus=0), "file:///b")
    assert difference(one, other) == "project, python, device"


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "MY_TASK_SIZE"])
@pytest.mark.parametrize("value", [pytest.param("7", id="set"), pytest.param("", id="empty")])
def test_an_environment_variable_tells_processes_apart(site, monkeypatch, name, value):
    monkeypatch.delenv(name, raising=False)
    before = fingerprint(site, play.NOTHING, "file:///a")
    monkeypatch.setenv(name, value)
    after = fingerprint(site, play.NOTHING, "file:///a")
    assert before != after
    assert difference(before, after) == difference(after, before) == f"${name}"


@pytest.mark.parametrize(
    "name",
    ["TERM", "COLUMNS", "PWD", "SHLVL", "SSH_AUTH_SOCK", "TMUX_PANE", "VSCODE_PID", "VIRTUAL_ENV", "PREFECT_API_URL",
     "AWS_SECRET_ACCESS_KEY", "SIMYARD_STORE"],
)  # fmt: skip
def test_a_terminals_variables_and_our_own_do_not_matter(site, monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    before = fingerprint(site, play.NOTHING, "file:///a")
    monkeypatch.setenv(name, "/some/thing")
    assert fingerprint(site, play.NOTHING, "file:///a") == before


def test_no_value_of_the_environment_can_be_read_out_of_needs(site, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "a secret of mine")
    assert "a secret of mine" not in json.dumps(fingerprint(site, play.NOTHING, "file:///a").to_json())
