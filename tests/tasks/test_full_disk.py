"""A disk without room is the machine's failure: the job goes on where there is room, and is never told as canceled."""

import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import click.testing
import pytest
from helpers import wait_until
from scenario import play

from simyard.cli.main import main
from simyard.core.errors import Category, Failure, StoreError
from simyard.core.files import AttemptPaths, write_json
from simyard.core.specs import AttemptSpec, Facts
from simyard.requests.settings import MachineSettings
from simyard.runner.adapter import ADAPTERS, Adapter
from simyard.runner.session import run
from simyard.tasks.attempt.attempt import sweep_kept
from simyard.tasks.attempt.judge import judge
from simyard.tasks.attempt.supervise import Ending, Telemetry, Watched

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@pytest.fixture(params=["home"])
def small(request, tmp_path, waiting):
    """A machine whose home, or whose store, is a disk of a few megabytes."""
    home, store = tmp_path / "home", tmp_path / "small store"
    disk = tmp_path / request.param
    for folder in (home, store):
        folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    yield play.Player(MachineSettings(home=home, store=str(store), python=str(play.PYTHON)), waiting)
    wait_until(lambda: play.running_below(tmp_path) == [], 60, "the end of all that was started")
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(folder):
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return folder / "ballast"


def test_an_attempt_that_finds_no_room_is_made_again(small):
    spec = small.stage("", iterations=4)
    ballast = fill(small.site.home)
    error = small.attempt(spec, fresh=True)
    assert (error.failure.code, error.failure.category) == ("disk_full", Category.INFRA)
    assert "No space left" in error.failure.message
    ballast.unlink()
    assert small.attempt(spec) is None
    left = small.end(spec)
    assert left.outcome(1)["status"] == "failed"
    left.assert_nothing_missing(4)


@pytest.mark.parametrize("small", ["home", "small store"], indirect=True)
def test_a_job_that_will_not_fit_does_not_begin(small, request):
    disk = small.site.home if request.node.callspec.params["small"] == "home" else small.store.folder
    error = small.attempt(spec := small.stage("large"))
    assert (error.failure.code, error.failure.category) == ("disk_full", Category.INFRA)
    for part in (repr(str(disk)), "MB free", "about 1.0 GB", "an estimate: a gigabyte of nothing"):
        assert part in error.failure.message
    left = small.end(spec, error)
    assert left.error["code"] == "disk_full"
    assert not (left.folder / "attempts/001/files/command.stdout.log").exists(), "nothing was simulated"


@pytest.mark.parametrize("small", ["small store"], indirect=True)
def test_a_full_store_is_told_as_such_and_the_files_are_kept_until_the_job_has_succeeded(small):
    spec = small.stage("", iterations=4)
    ballast = fill(small.store.folder)
    kept = []
    for _ in range(2):  # both of the same number: the store knows of none
        with pytest.raises(StoreError) as full:
            small.attempt(spec)
        assert (full.value.failure.code, full.value.failure.category) == ("disk_full", Category.INFRA)
        assert spec.job_id in full.value.failure.message
        kept.append(Path(re.search(r"kept in '(.+)' on", full.value.failure.advice)[1]))
    assert [len([*folder.glob("work/logs/*/*/*/model_*.pt")]) for folder in kept] == [3, 3]
    ballast.unlink()
    elsewhere, own = kept[0].parents[1] / "job-of-another-store", kept[0].parent
    shutil.copytree(own, elsewhere)
    assert small.attempt(spec) is None
    assert not own.exists(), "all of it is in the store"
    small.end(spec).assert_nothing_missing(4)

    # One of another machine's, so to say: its job has succeeded meanwhile.
    shutil.copytree(elsewhere, own)
    sweep_kept(own.parent, small.store)
    assert [folder.name for folder in own.parent.iterdir()] == [elsewhere.name]


def test_what_is_refused_where_there_is_no_room_is_not_the_requests_fault(small):
    (small.site.home / "ballast").write_bytes(bytes(3_300_000))  # enough is left for the check itself
    error = small.attempt(small.stage("refuse"))
    assert (error.failure.code, error.failure.category) == ("disk_full", Category.INFRA)
    assert "MB free. Unknown task 'Nowhere'." in error.failure.message
    (small.site.home / "ballast").unlink()
    assert small.attempt(small.stage("refuse")).failure.code == "unknown_task"


def test_an_end_without_words_on_a_full_disk_is_no_fault_of_the_task(small):
    home = small.site.home
    seen = Watched(started=0.0, unit="step", done=3)
    ending = Ending(exit_code=1, signal=None, watched=seen, leaving=None)

    def failure(ending=ending):
        return judge(ending, None, lambda *words, **more: None, folder=home / "work/gone", runs_user_code=True)

    fill(home)
    assert (failure().code, failure().category) == ("disk_full", Category.INFRA)
    assert "0.0 MB free. The simulator ended with exit code 1" in failure().message
    (home / "ballast").unlink()
    assert (failure().code, failure().category) == ("ended_without_result", Category.USER)
    # There is room again: but the workload knew.
    told = Failure(code="disk_full", category=Category.INFRA, message="No space left on device")
    assert failure(replace(ending, untold=told)) == told


def test_a_workload_that_cannot_write_its_account_says_it_all_the_same(small, monkeypatch):
    job = replace(play.NOTHING, kind="evaluate")
    paths = AttemptPaths(small.site.home / "attempt")
    paths.make()
    write_json(paths.spec, AttemptSpec(job=job, number=1).to_json())
    write_json(
        paths.facts,
        Facts(simulator="isaaclab", version="1", flavor="api", device="cpu", rollout=1, overrides=()).to_json(),
    )

    class Full(Adapter):
        def run(self, attempt, facts, paths):
            fill(small.site.home)
            (paths.output / "summary.json").write_text("no room" * 1000)

    monkeypatch.setitem(ADAPTERS, "isaaclab", Full)
    monkeypatch.chdir(paths.work)
    code, leaving, untold = run(paths)
    assert (code, leaving, paths.outcome.exists()) == (1, "its job failed", False)
    assert (untold.code, untold.category) == ("disk_full", Category.INFRA)
    monkeypatch.chdir("/")


def test_what_cannot_be_measured_for_want_of_room_shows_no_traceback(small, monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    fill(small.site.home)
    with Telemetry(small.site.home / "telemetry.csv", os.getpid()):
        pass
    assert shown == []


def test_a_command_says_so_in_words(small, tmp_path, monkeypatch):
    fill(small.site.home)
    monkeypatch.setenv("SIMYARD_HOME", str(small.site.home))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(play.config("")))
    done = click.testing.CliRunner().invoke(main, ["train", str(config), "--store", small.site.store])
    assert (done.exit_code, "Traceback" in done.output) == (1, False), done.output
    assert "No space left on device" in done.stderr
    assert "Make room" in done.stderr
