"""Folders that are one process's own: kept while it lives, removed by the next to come after it was killed."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import HANG_S

from simyard.core.files import HELD, lasting_scratch, own, scratch, sweep

HOLD = """
import sys, time
from pathlib import Path
from simyard.core.files import own, scratch, lasting_scratch
mark = own(Path(sys.argv[1]))
lasting = lasting_scratch("input")
with scratch("persist") as folder:
    for each in (folder, lasting):
        (each / "large").write_text("what somebody fetched")
    print(folder, lasting, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def tmp(tmp_path, monkeypatch):
    """A folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


@pytest.mark.parametrize("number", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_what_a_process_had_goes_when_it_is_gone_and_not_before(tmp, tmp_path, number):
    work = tmp_path / "work" / "job-1" / "001-77"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp)},
    ) as process:  # fmt: skip
        temporary = [Path(name) for name in process.stdout.readline().split()]
        for _ in range(2):
            sweep(tmp_path / "work", "*/*")
            with scratch("check") as mine:
                assert sorted(tmp.iterdir()) == sorted([*temporary, mine])
        assert (work / HELD).exists()
        assert len(temporary) == 2
        if number is None:
            process.stdin.close()
        else:
            process.send_signal(number)
        process.wait(HANG_S)
    assert [folder.exists() for folder in temporary] == [number is not None] * 2, "one that ends by itself leaves none"
    sweep(tmp_path / "work", "*/*")
    assert not work.exists()
    with scratch("check") as mine:
        assert list(tmp.iterdir()) == [mine]
    assert list(tmp.iterdir()) == []


def test_folders_without_the_mark_are_nobodys_to_remove(tmp, tmp_path):
    others = tmp / "simyard-of-somebody"
    others.mkdir()
    mark = own(tmp_path / "work" / "job-1" / "001-77")
    (tmp_path / "work" / "job-1" / "001-77" / HELD).unlink()  # it is kept, for a person to look at
    mark.close()
    sweep(tmp_path / "work", "*/*")
    with scratch("check"):
        assert others.exists()
    assert (tmp_path / "work" / "job-1" / "001-77").exists()
    assert lasting_scratch("input").exists()


def test_one_killed_before_its_mark_has_its_name_leaves_nothing_either(tmp):
    """The mark is written beside its name first; a kill in between is possible, and was seen."""
    left = tmp / "simyard-persist-abc"
    left.mkdir()
    unnamed = left / f"{HELD}-0123"
    unnamed.touch()
    sweep(tmp, "*")
    assert left.exists(), "its process may be about to name it"
    os.utime(unnamed, (0, 0))
    with unnamed.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep(tmp, "*")
        assert left.exists(), "its process lives"
    sweep(tmp, "*")
    assert not left.exists()


def test_folders_that_begin_and_end_at_once_are_not_taken_for_a_dead_ones() -> None:
    """Each of them looks for what the killed have left, while others are just made or just removed."""

    def again(number: int) -> None:
        for _ in range(40):
            with scratch("crowd") as folder:
                (folder / "file").write_text("x")
                assert (folder / HELD).exists()

    with ThreadPoolExecutor(8) as crowd:
        assert list(crowd.map(again, range(8))) == [None] * 8
