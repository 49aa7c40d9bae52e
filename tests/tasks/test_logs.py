"""Logs that grow without end: read from their ends, in pieces, and shortened while they are written."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from helpers import HANG_S, wait_until

from simyard.core.terminal import plain
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared.logs import MAX_LOG_BYTES, TAIL_BYTES, GrowingLog, LogFollower, begin_log, shorten

NAME = "command.stdout.log"


class Shelf:
    """A store with the log of one job."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(str(folder))
        self.job_id = keys.new_job_id()
        self.path = folder / JobKeys(self.job_id).attempt(1).file(NAME)
        self.path.parent.mkdir(parents=True)

    def follower(self, first_lines: int) -> LogFollower:
        return LogFollower(self.store, self.job_id, (NAME,), first_lines)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "store")


def lines_of(follower: LogFollower) -> list[str]:
    """Return what is new, however many looks that takes."""
    found: list[str] = []
    while new := follower.new_lines(1):
        found += [line for _, line in new]
    return found


def test_the_end_of_a_giant_log_costs_what_the_end_is(shelf: Shelf) -> None:
    with shelf.path.open("wb") as file:
        file.seek(3_000_000_000)  # a hole: nobody could read all of it here
        file.write(b"\n" + b"".join(b"line %d\n" % number for number in range(50_000)))
    tracemalloc.start()
    follower = shelf.follower(1)
    assert lines_of(follower) == ["line 49999"]
    assert lines_of(shelf.follower(2)) == ["line 49998", "line 49999"]
    with shelf.path.open("ab") as file:
        file.write(b"new\nhalf")
    assert lines_of(follower) == ["new"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000, "some hundred kilobytes, and what other threads of this process took meanwhile"


@pytest.mark.parametrize(
    ("content", "count", "found"),
    [
        (b"", 5, []),
        (b"one\ntwo\n", 5, ["one", "two"]),
        (b"one\ntwo\n", 0, []),
        (b"one\ntwo\nhalf", 2, ["one", "two"]),
        (b"======\n\n" * 20_000 + b"one\n" + b"------\n" * 20_000 + b"two\n", 2, ["one", "two"]),
        (b"x" * 200_000 + b"\nshort\n", 2, ["x" * 200_000, "short"]),
        (b"first\n" + b"y" * (TAIL_BYTES[-1] + 10) + b"\nlast\n", 5, ["last"]),
    ],
    ids=["empty", "few", "none", "half written", "decoration", "long line", "line beyond all limits"],
)
def test_the_last_lines_are_found_wherever_they_are(shelf: Shelf, content: bytes, count: int, found: list[str]) -> None:
    shelf.path.write_bytes(content)
    assert lines_of(shelf.follower(count)) == found


def test_a_flood_is_followed_line_by_line(shelf: Shelf) -> None:
    shelf.path.write_bytes(b"before\n")
    follower = shelf.follower(10)
    assert lines_of(follower) == ["before"]
    with shelf.path.open("ab") as file:
        file.writelines(b"line %d\n" % number for number in range(150_000))
    assert lines_of(follower) == [f"line {number}" for number in range(150_000)]


def test_a_line_without_an_end_does_not_stop_the_others(shelf: Shelf) -> None:
    shelf.path.write_bytes(b"before\n")
    follower = shelf.follower(10)
    assert lines_of(follower) == ["before"]
    with shelf.path.open("ab") as file:
        file.write(b"z" * 3_000_000 + b"\nafter\n")
    found = lines_of(follower)
    assert found[-1] == "after"
    assert sum(map(len, found[:-1])) == 3_000_000


# Where they are written


def test_a_log_that_is_too_long_loses_its_middle_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / NAME
    log = GrowingLog(path.parent, path.name)
    written = 0
    with begin_log(path) as file:
        for _ in range(5):
            for _ in range(3_000):
                written += file.write(b"line %07d\n" % written)
            assert b"".join(log.pieces()).endswith(b"%07d\n" % (written - 13))
            log.shorten(most_bytes=50_000, kept_bytes=10_000)
            assert path.stat().st_size < 50_000
        written += file.write(b"last\n")
    assert b"".join(log.pieces()) == b"last\n", "what was read is not read again, and nothing is skipped"

    beginning, note, *rest = path.read_text().partition("[")[0], *path.read_text().partition("[")[2].split("\n")
    assert beginning.startswith("line 0000000\n")
    assert beginning.endswith("\n")
    assert rest[-3:] == [f"line {written - 5 - 13:07d}", "last", ""]
    missing = int(note.split()[1].replace(",", ""))
    kept = len(beginning) + sum(len(line) + 1 for line in rest[:-1])
    assert missing + kept == written, "all that was left out, in all the times that it was shortened"
    assert note.endswith("bytes of this log were left out here; it had more than 50,000]")


def test_a_short_log_and_none_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert shorten(tmp_path, "a", 100, 10) == 0
    assert shorten(tmp_path, "b", 100, 10) == 0
    assert (tmp_path / "a").read_bytes() == b"x" * 100


def test_a_process_that_prints_without_end_fills_no_disk(tmp_path: Path) -> None:
    """It goes on as if nothing were: what it prints last is there."""
    path = tmp_path / NAME
    code = "import sys\nfor n in range(300_000): print('line', n)\nprint('the end')"
    log = GrowingLog(path.parent, path.name)
    last = b""
    with begin_log(path) as out, subprocess.Popen([sys.executable, "-c", code], stdout=out) as child:

        def look() -> bool:
            nonlocal last
            over_before = child.poll() is not None
            for piece in log.pieces():
                last = (last + piece)[-100:]
            log.shorten(most_bytes=400_000, kept_bytes=50_000)
            return over_before

        wait_until(look, HANG_S, "it to print all")
    assert last.endswith(b"the end\n")
    assert path.read_bytes().endswith(b"the end\n")
    assert path.stat().st_size <= 400_000


def test_a_log_of_an_attempt_may_be_as_long_as_docs_say() -> None:
    assert f"{MAX_LOG_BYTES // 2**20} MB" in (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()


# What a terminal makes of them


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain text\twith a tab\nand a line", "plain text\twith a tab\nand a line"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[?1049h\x1b[2J\x1b[H", ""),
        ("\x9b31mred", "red"),
        ("a\x1b]52;c;cm0gLXJmIH4K\x07b", "ab"),
        ("a\x1b]52;c;cm0gLXJmIH4K\x1b\\b", "ab"),
        ("a\x9d52;c;cm0gLXJmIH4K\x9cb", "ab"),
        ("\x1b]8;;http://evil.example/\x1b\\docs\x1b]8;;\x1b\\", "docs"),
        ("\x1b]0;title\x07text", "text"),
        ("a\x1bPq#0;2;0;0;0\x1b\\b", "ab"),
        ("a\x90q\x9cb", "ab"),
        ("a\x1b_Gf=24;AAAA\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
        ("a\x1bcb\x1b(0c\x1b#8d", "abcd"),
        ("nothing \x1b]0;is hidden", "nothing 0;is hidden"),
        ("\x1b\x1b[31m[31m", "\ufffd[31m"),
        ("\x1b", "\ufffd"),
        ("back\x08\rspace\x7f", "back\ufffd\ufffdspace\ufffd"),
        ("\u202egnp.exe\u202c \u2066x\u2069 \u200fy", "\ufffdgnp.exe\ufffd \ufffdx\ufffd \ufffdy"),
        ("half a pair \ud800", "half a pair \ufffd"),
        ("ünïcødé 日本語 😀", "ünïcødé 日本語 😀"),
    ],
)
def test_text_of_others_gives_a_terminal_no_orders(text: str, safe: str) -> None:
    assert plain(text) == safe


@pytest.mark.parametrize("text", ["\x9d" * 100_000, "\x1b]" * 100_000, "\x1b[" + "1;" * 100_000, "\x1b" * 100_000])
def test_a_hostile_line_takes_no_longer_than_another(text: str) -> None:
    assert set(plain(text)) <= set("\ufffd[]1;")


def test_lines_of_a_log_give_no_orders_either(shelf: Shelf) -> None:
    shelf.path.write_bytes(
        "\x1b]52;c;cm0=\x07one\n\x1b[1mtwo\x1b[0m \u202e\n\xc2\x9d".encode("utf-8", "surrogateescape") + b"\n"
    )
    assert lines_of(shelf.follower(5)) == ["one", "two \ufffd", "\xc2\ufffd"]
