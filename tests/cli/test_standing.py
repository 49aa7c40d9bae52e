"""`simyard` alone, and the completion of its commands by a real shell."""

import fcntl
import shutil
import subprocess

import click.testing
import pytest
import records
from helpers import SIMYARD
from scenario.play import NOTHING

from simyard.cli.main import main
from simyard.core.errors import Category, Failure
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store

FAILED = Failure(code="no_room", category=Category.RESOURCE, message="Full.", advice="Make room.")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Run `simyard` without a command on a site of its own."""
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SIMYARD_STORE", raising=False)

    def run():
        done = click.testing.CliRunner().invoke(main, [])
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_on_a_bare_machine_it_says_how_to_begin_and_writes_nothing(alone, tmp_path):
    said = alone()
    assert "not up" in said
    assert "no jobs yet" in said
    assert "simyard init my_robot_task" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "failure", "command"),
    [
        ("train", None, "simyard evaluate --job latest"),
        ("evaluate", None, "simyard export-policy --job latest"),
        ("train", FAILED, "simyard jobs resume {}"),
    ],
)
def test_the_last_job_says_what_comes_next(alone, tmp_path, kind, failure, command):
    store, job = Store.open(str(tmp_path / "home" / "store")), JobKeys(keys.new_job_id())
    store.put_record(job.job, NOTHING.__class__(**{**vars(NOTHING), "job_id": job.job_id, "kind": kind}))
    store.put_json(job.result, records.result(job.job_id, failure, kind=kind))
    if failure is None:
        store.put_json(job.manifest, {})
    said = alone()
    assert f"{job.job_id}  {kind}" in said
    assert command.format(job.job_id) in said


def test_a_site_that_is_up_is_seen(alone, tmp_path):
    lock = tmp_path / "home" / "up" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711")
        held.flush()
        assert "up, as process 4711" in alone()
    assert "not up" in alone()


def test_a_store_that_cannot_be_opened_is_said(alone, monkeypatch):
    monkeypatch.setenv("SIMYARD_STORE", "ftp://robots")
    said = alone()
    assert "'ftp://robots'" in said
    assert "simyard doctor" in said


@pytest.mark.long  # a shell and the installed command, a second of start each
@pytest.mark.system
def test_a_shell_completes_commands(tmp_path):
    bash = shutil.which("bash")
    script = f'eval "$({SIMYARD} completion bash)"; COMP_WORDS=(simyard jobs re); COMP_CWORD=2; ' + (
        f'_simyard_completion {SIMYARD}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=False)
    assert "resume" in done.stdout.split(), done.stderr
