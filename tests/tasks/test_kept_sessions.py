"""A simulator that the machine keeps warm: borrowed by one command after another, and replaced when it has suffered."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HANG_S, train_request, wait_until
from scenario import play
from scenario.play import alive, started

from simyard.core.errors import RequestError, WorkloadError
from simyard.core.files import read_json
from simyard.core.specs import ONE_JOB, Bounds
from simyard.requests.settings import MachineSettings
from simyard.runner.session_server import LentWorkload, SessionFolder, SessionSpec, kept_sessions
from simyard.store import keys
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.attempt.supervise import gpu_count
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions import kept as sessions
from simyard.tasks.sessions.fingerprint import difference, fingerprint
from simyard.tasks.sessions.pool import Sessions

pytestmark = pytest.mark.system

TESTS = Path(__file__).parents[1]
SHORT = 2


class Machine(play.Player):
    """A machine, and the jobs of one project that come to it, each with a command of its own."""

    def __init__(self, home, store):
        super().__init__(MachineSettings(home=home, store=str(store), python=str(play.PYTHON)), None)

    def start(self, bounds=None, warm_up=None, **more):
        """Keep a session, warmed up by a scenario if one is given; return its id."""
        resolved = resolve(train_request(play.config(warm_up or "")), self.store, keys.new_job_id())
        return sessions.start(
            resolved.spec,
            None if warm_up is None else resolved,
            self.store,
            self.site,
            bounds or Bounds(),
            print,
            **more,
        ).session_id

    def stop(self, session_id=None):
        return sessions.stop(self.site, session_id, lambda what: None)

    def standing(self):
        """How the only session stands; None when there is none any more."""
        found = kept_sessions(self.site.sessions_folder)
        return found[0][1] if found else None

    def ready(self, processes=None):
        """Wait until the session would serve a job, by its n-th process if it matters; return how it stands."""

        def is_ready():
            state = self.standing()
            assert state is not None, "the session has ended"
            return state if state.state == "ready" and processes in (None, state.processes) else None

        return wait_until(is_ready, HANG_S, "a session that is ready")

    def run(self, scenario="", observer=None, *, iterations=SHORT, **changes):
        with Sessions(self.site, ONE_JOB) as sessions:
            changes = {"retries": 0, **changes}
            return self.play(scenario, observer, sessions=sessions, iterations=iterations, **changes)

    def command(self, scenario):
        """Start a job in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "scenario.one_job", self.site.home, self.site.store, scenario],
            cwd=TESTS, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def printed(self, text):
        """Wait until a running job has printed a text; return all that it has printed."""

        def found():
            logs = [path.read_text() for path in self.site.home.glob("work/job-*/*/command.stdout.log")]
            return next((log for log in logs if text in log), None)

        return wait_until(found, HANG_S, text)

    def assert_all_over(self):
        """Nothing runs and nothing is left of any session."""
        wait_until(lambda: not list(self.site.sessions_folder.glob("*")), HANG_S, "the end of the session's folder")
        wait_until(lambda: play.running_below(self.site.home) == [], HANG_S, "the end of its processes")


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENARIO_PYTHON", play.ENVIRONMENT["SCENARIO_PYTHON"])
        patch.setenv("SCENARIO_CODE", str(tmp_path_factory.mktemp("code")))
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A machine that keeps one session through most tests, whatever they do to it."""
    folder = tmp_path_factory.mktemp("shared")
    machine = Machine(folder / "home", folder / "store")
    machine.start()
    yield machine
    machine.stop()
    machine.assert_all_over()


@pytest.fixture
def kept(shared):
    """The shared machine, its session being ready."""
    shared.ready()
    return shared


@pytest.fixture
def machine(tmp_path, store):
    """A machine of its own, for a session that will end."""
    machine = Machine(tmp_path / "home", store)
    yield machine
    machine.stop()
    machine.assert_all_over()


def test_an_answer_to_a_borrower_that_died_goes_to_no_other(kept):
    """It would be taken for facts of another job, or for the end of one."""
    state = kept.ready()
    (root,) = kept.site.sessions_folder.glob("*")
    folder = SessionFolder(root=root)
    first = LentWorkload.borrow(folder, state.fingerprint)
    os.kill(state.pid, signal.SIGSTOP)
    try:
        with pytest.raises(WorkloadError, match="did not answer"):
            first.check(play.NOTHING, None, {}, 0.0)
        first._lines.close()  # as the kernel does for a process that is killed
        second = wait_until(lambda: LentWorkload.borrow(folder, state.fingerprint), HANG_S, "the session is lent again")
    finally:
        os.kill(state.pid, signal.SIGCONT)
    try:
        with pytest.raises(RequestError, match="Nowhere"):
            second.check(replace(play.NOTHING, description="refuse"), None, {}, 60.0)
    finally:
        second.let_go()


def test_jobs_borrow_the_process_and_give_it_back(kept):
    before = kept.ready()
    first, second = kept.run("look"), kept.run("look")
    after = kept.ready()
    assert {first.pid, second.pid} == {before.pid} == {after.pid}
    for number, left in enumerate((first, second)):
        left.assert_nothing_missing(SHORT)
        assert f"jobs_before={before.jobs + number}" in left.runner_log()
        assert "it waits for another job" in left.runner_log()
    assert second.said("sees") == first.said("sees")
    assert (after.jobs, after.processes) == (before.jobs + 2, before.processes)
    assert after.memory_bytes > 10_000_000
    assert after.used_at > before.started_at


def test_a_job_that_takes_what_there_is_shares_with_those_that_ask_for_that(kept):
    has = min(gpu_count(), 1)
    asked = [replace(play.NOTHING, gpus=gpus) for gpus in (None, has, 1 - has)]
    what_there_is, that, the_other = (fingerprint(kept.site, job, kept.store.url()) for job in asked)
    assert what_there_is == that
    assert difference(what_there_is, the_other) == "device"


def test_a_second_job_at_the_same_time_starts_cold(kept):
    pid = kept.standing().pid
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(kept.run, "", iterations=30)
        kept.printed("Learning iteration 2/30")
        assert kept.standing().state == "busy"
        second = kept.run()
    assert first.result().pid == pid != second.pid
    second.assert_nothing_missing(SHORT)
    assert alive([pid, second.pid]) == [pid]


def test_a_job_of_another_project_is_refused_twice(kept, tmp_path):
    stranger = Machine(kept.site.home, tmp_path / "another store")
    left = stranger.run()
    assert left.pid != kept.standing().pid
    assert f"session {kept.standing().session_id} is for other jobs: project" in left.runner_log()
    # And not by courtesy alone: its server asks, too.
    (folder, _) = kept_sessions(kept.site.sessions_folder)[0]
    job = kept.stage("")
    assert LentWorkload.borrow(folder, fingerprint(kept.site, job, "file:///another")) is None
    lent = LentWorkload.borrow(folder, fingerprint(kept.site, job, kept.store.url()))
    assert kept.standing().state == "busy"
    assert lent.pid == kept.standing().pid
    assert LentWorkload.borrow(folder, fingerprint(kept.site, job, kept.store.url())) is None
    lent.let_go()
    kept.ready()


@pytest.mark.parametrize(
    "nonsense", [b"", b"nonsense\n", b"{}\n", b"[]\n", b"5\n", b'{"op": "dance"}\n', b'{"op": "borrow"}\n', b'{"op"']
)
def test_a_caller_that_talks_nonsense_is_let_go(kept, nonsense):
    pid = kept.standing().pid
    (folder, _) = kept_sessions(kept.site.sessions_folder)[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller, folder.address() as address:
        caller.connect(address)
        caller.sendall(nonsense)
    lent = LentWorkload.borrow(folder, fingerprint(kept.site, kept.stage(""), kept.store.url()))
    assert lent is not None
    assert lent.pid == pid
    lent.let_go()


def cancel_after(iterations):
    seen = []
    return Observer(progress=seen.append, canceled=lambda: bool(seen) and seen[-1].done >= iterations)


@pytest.mark.parametrize(
    ("scenario", "code", "why", "options"),
    [
        pytest.param("family; crash at 1", "exception", "its job failed", {}, id="an exception"),
        pytest.param(
            "family; kill at 1", None, "it ended with signal SIGKILL", {}, id="killed", marks=pytest.mark.long
        ),
        pytest.param(
            "family", "canceled", "it was ended", {"observer": cancel_after(2), "iterations": 50}, id="a cancel"
        ),
    ],
)  # fmt: skip
def test_a_process_that_suffered_is_replaced(kept, scenario, code, why, options):
    before = kept.standing()
    bad = kept.run(scenario, **options)
    assert bad.pid == before.pid
    assert bad.result["status"] in ("failed", "canceled")
    assert bad.error["code"] == code if code else bad.error["category"] == "infra"
    assert len(started(bad.stdout())) == 4
    assert alive(started(bad.stdout())) == []
    after = kept.ready(before.processes + 1)
    assert after.replaced == why
    following = kept.run()
    following.assert_nothing_missing(SHORT)
    assert following.pid == after.pid != before.pid


def test_a_borrower_that_is_killed_takes_its_job_along(kept):
    before = kept.standing()
    command = kept.command("family; hang at 3")
    pids = started(kept.printed("Learning iteration 2/"))
    assert len(pids) == 4
    assert pids[0] == before.pid
    command.kill()
    command.wait()
    after = kept.ready(before.processes + 1)
    assert alive(pids) == []
    assert kept.run().pid == after.pid


def test_code_that_was_edited_gets_a_new_process(kept):
    before = kept.standing()
    code = Path(os.environ["SCENARIO_CODE"]) / "edited.py"
    code.write_text("VALUE = 1\n")
    assert kept.run("import-code").pid == before.pid
    code.write_text("VALUE = 1 + 1\n")
    cold = kept.run()
    cold.assert_nothing_missing(SHORT)
    assert "edited.py is not what it was when it was imported" in cold.runner_log()
    after = kept.ready(before.processes + 1)
    assert after.replaced == f"{code} is not what it was when it was imported"
    assert alive([before.pid, cold.pid]) == []


def test_a_keeper_that_is_killed_fails_its_job_as_a_machine_does(machine):
    machine.start()
    state = machine.ready()
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(machine.run, "family", iterations=12, retries=1)
        machine.printed("Learning iteration 4/")
        os.kill(state.server_pid, signal.SIGKILL)
        left = job.result(90)
    assert left.outcome(1)["failure"]["category"] == "infra"
    left.assert_nothing_missing(12)
    assert len(left.attempts) == 2
    assert started(left.stdout(1))[0] == state.pid != left.pid
    assert alive(started(left.stdout(1))) == []
    (folder, _) = kept_sessions(machine.site.sessions_folder)[0]
    assert sessions.alive_sessions(machine.site) == []
    assert not folder.root.exists()


@pytest.mark.long  # test_sessions_command.py lists and stops one
def test_a_session_that_starts_can_be_listed_and_stopped(machine, monkeypatch):
    with ThreadPoolExecutor(1) as threads:
        with monkeypatch.context() as patch:
            patch.setenv("SCENARIO_IMPORT_S", "4")
            starting = threads.submit(machine.start)
            wait_until(machine.standing, HANG_S, "a session that starts")
        for _ in range(40):
            assert [state.state for _, state in sessions.alive_sessions(machine.site)] == ["starting"]
        assert not starting.done()
        session_id = machine.standing().session_id
        assert machine.stop() == [session_id]
        assert starting.exception(5) or starting.result() == session_id
    machine.assert_all_over()


@pytest.mark.long  # stopping an idle one is shown by command
def test_stopping_waits_for_the_running_job(machine):
    session_id = machine.start()
    with pytest.raises(RequestError, match="session-of-mine") as raised:
        machine.stop("session-of-mine")
    assert session_id in str(raised.value)
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(machine.run, "", iterations=20)
        machine.printed("Learning iteration 1/")
        assert machine.stop(session_id) == [session_id]
        left = job.result(5)
    left.assert_nothing_missing(20)
    machine.assert_all_over()
    with pytest.raises(RequestError, match="this machine keeps none"):
        machine.stop(session_id)


@pytest.mark.long  # two more figures of the same start
def test_a_long_path_and_a_long_idleness(tmp_path, store):
    machine = Machine(tmp_path / ("long-" * 20) / ("path-" * 12), store)
    machine.start(Bounds(idle_s=3))
    state = machine.ready()
    assert len(str(machine.site.sessions_folder)) > 150
    assert machine.run().pid == state.pid
    began = time.monotonic()
    machine.assert_all_over()
    assert time.monotonic() - began > 1
    assert alive([state.pid, state.server_pid]) == []


def test_bounds_replace_a_process_and_its_successor_is_warmed_up_too(machine):
    machine.start(Bounds(jobs=1), warm_up="look")
    first = machine.ready()
    assert (first.jobs, first.processes) == (0, 1)
    left = machine.run()
    left.assert_nothing_missing(SHORT)
    assert left.pid == first.pid
    second = machine.ready(2)
    assert second.jobs == 1
    assert second.replaced == "it has served 2 jobs, as many as it may"
    (folder, _) = kept_sessions(machine.site.sessions_folder)[0]
    warmed = folder.warm_up.stdout.read_text()
    assert [f"started {state.pid}" in warmed for state in (first, second)] == [True, True]
    assert alive([first.pid]) == []


@pytest.mark.long  # as by its other bounds
def test_a_process_that_has_grown_is_replaced(machine):
    machine.start(Bounds(memory_bytes=1000))
    first = machine.ready()
    machine.run().assert_nothing_missing(SHORT)
    wait_until(lambda: machine.standing().replaced, HANG_S, "the end of a process that has grown")
    assert "GB of memory, more than 0.0 GB" in machine.standing().replaced
    assert alive([first.pid]) == []


@pytest.mark.long  # a process more
def test_a_warm_up_with_films_draws_the_task_too(machine):
    machine.start(Bounds(jobs=1), warm_up="look", video=True)
    (folder, state) = kept_sessions(machine.site.sessions_folder)[0]
    trained, drawn = SessionSpec.from_json(read_json(folder.spec)).warm_up
    assert (trained.kind, trained.max_iterations) == ("train", 1)
    assert (drawn.kind, drawn.task, drawn.num_envs) == ("rollout", trained.task, trained.num_envs)
    assert (drawn.rollout.steps, drawn.rollout.video) == (2, True)
    # Both were run, and count for none of those that it may serve.
    assert folder.warm_up.stdout.read_text().count(f"started {state.pid}") == 2
    assert machine.run().pid == state.pid


def test_a_job_that_fails_to_warm_it_up_starts_nothing(machine):
    with pytest.raises(WorkloadError, match="ValueError: the reward function is wrong"):
        machine.start(warm_up="crash")
    machine.assert_all_over()


def test_a_python_that_does_not_start_is_told(tmp_path, store):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'libcuda.so.1: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    machine = Machine(tmp_path / "home", store)
    machine.site = MachineSettings(home=tmp_path / "home", store=str(store), python=str(broken))
    with pytest.raises(WorkloadError, match=r"exit code 127: libcuda\.so\.1"):
        machine.start()
    machine.assert_all_over()
