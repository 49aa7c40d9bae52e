"""A disk without room is the machine's failure: the job goes on where there is room, and is never told as canceled."""

import json
import os
import subprocess

import click.testing
import pytest
from helpers import wait_until
from scenario import play

from simyard.cli.main import main
from simyard.core.errors import Category
from simyard.requests.settings import MachineSettings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@pytest.fixture
def small(tmp_path, store, waiting):
    """A machine whose home is a disk of a few megabytes."""
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", home], check=True)
    yield play.Player(MachineSettings(home=home, store=str(store), python=str(play.PYTHON)), waiting)
    wait_until(lambda: play.running_below(tmp_path) == [], 60, "the end of all that was started")
    subprocess.run(["umount", "--lazy", home], check=True)


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


def test_a_command_says_so_in_words(small, tmp_path, monkeypatch):
    fill(small.site.home)
    monkeypatch.setenv("SIMYARD_HOME", str(small.site.home))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(play.config("")))
    done = click.testing.CliRunner().invoke(main, ["train", str(config), "--store", small.site.store])
    assert (done.exit_code, "Traceback" in done.output) == (1, False), done.output
    assert "No space left on device" in done.stderr
    assert "Make room" in done.stderr
