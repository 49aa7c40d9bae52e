"""The live line: what is waited for, how far the work is, and an estimate that does not grow while nothing happens."""

import io
import threading

import click
import pytest

from simyard.cli.live import LiveLine, Pace
from simyard.cli.shared import Command, emit_rows
from simyard.core.errors import RequestError
from simyard.runner.progress import JobProgress


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self):
        return True


def status(stage, done=0, total=60, unit="iteration", reward=None):
    return JobProgress(stage=stage, done=done, total=total, unit=unit, reward=reward)


def test_what_it_waits_for_stands_instead_of_an_empty_bar():
    stream = io.StringIO()
    live = LiveLine(stream)
    live(status("making the environment"))
    live(status("working", 12, reward=1.234))
    live(status("drawing episode 3: best", 50, 50, "episode"))
    begins, works, draws = stream.getvalue().splitlines()
    assert begins.endswith(" s  making the environment …")
    assert works.endswith(f" s  [{'█' * 4}{'·' * 20}] iteration 12/60  reward 1.23")
    assert draws.endswith(f" s  [{'█' * 24}] episode 50/50  drawing episode 3: best …")


def test_away_from_a_terminal_a_count_that_moves_on_is_no_new_line():
    stream = io.StringIO()
    live = LiveLine(stream)
    for number in range(1, 4):
        live(status(f"compiling kernels: {number} so far"))
    live(status("preparing the agent"))
    first, second = stream.getvalue().splitlines()
    assert first.endswith("compiling kernels: 1 so far …")
    assert second.endswith("preparing the agent …")


def test_the_clock_goes_on_while_something_is_waited_for():
    stream, ticked = Terminal(), threading.Event()
    live = LiveLine(stream)
    live._began -= 99
    with live.waiting("importing the simulator"):
        while not ticked.wait(0.01):
            if " 100 s  importing the simulator …" in stream.getvalue():
                ticked.set()
    said = stream.getvalue()
    live.say("done")
    assert stream.getvalue() == f"{said}\r\x1b[2Kdone\n"


def test_what_fails_while_it_is_waited_for_fails_here_and_the_clock_stops():
    stream = Terminal()
    with pytest.raises(ValueError, match="refused"), LiveLine(stream).waiting("checking"):
        raise ValueError("refused")
    assert not [thread for thread in threading.enumerate() if thread.name == "live line"]


def test_the_time_left_is_that_of_the_rate_and_only_goes_by_until_the_next_unit():
    pace = Pace()
    pace.note(1, 100.0)
    assert pace.left_s(60, 130.0) is None, "one unit gives no rate, however long it is ago"
    pace.note(11, 105.0)
    assert pace.left_s(60, 105.0) == pytest.approx(24.5)
    waits = []
    for now in range(105, 140):
        pace.note(11, now)
        waits.append(pace.left_s(60, now))
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == 1.0
    pace.note(60, 140.0)
    assert pace.left_s(60, 140.0) is None


def test_another_attempt_that_begins_further_back_has_a_pace_of_its_own():
    pace = Pace()
    for done, now in ((1, 0.0), (31, 3.0), (20, 50.0)):
        pace.note(done, now)
    assert pace.left_s(60, 50.0) is None
    pace.note(30, 60.0)
    assert pace.left_s(60, 60.0) == pytest.approx(30.0)


def test_checks_are_unlike_each_other_so_nothing_is_estimated_from_them():
    stream = io.StringIO()
    live = LiveLine(stream)
    live(status("working", 1, 6, "check"))
    live._shown_at -= 60
    live(status("working", 2, 6, "check"))
    assert "left" not in stream.getvalue()


CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4K\x07"
"""Has a terminal put a command into the clipboard."""


def test_text_of_others_gives_a_terminal_no_orders(capsys):
    """What a workload or a record says is printed in these four ways, wherever it comes from."""
    stream = Terminal()
    live = LiveLine(stream)
    live(status(f"making{CLIPBOARD}\x9b2J it"))
    live.say(f"user_job.log: {CLIPBOARD}a line\u202e")
    assert stream.getvalue().replace("\r\x1b[2K", "").endswith("  making it …user_job.log: a line\ufffd\n")

    @click.command(cls=Command)
    def fails():
        emit_rows(
            [{"name": f"{CLIPBOARD}wide"}, {"name": "narrow"}], False, "none", {"NAME": "name", ">N": lambda _: 1}
        )
        raise RequestError(f"{CLIPBOARD}It is wrong.", code="wrong", advice="Mend\x1b[8m it.")

    with pytest.raises(SystemExit):
        fails.main([])
    printed = capsys.readouterr()
    assert printed.out == "NAME    N\nwide    1\nnarrow  1\n"
    assert printed.err == "Bad request: It is wrong. Mend it.\n"
