"""The live line: one line on a terminal, rewritten; a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from simyard.core.terminal import plain
from simyard.runner.progress import JobProgress

BAR = 24
QUIET_S = 10.0
"""Seconds between lines where the output is not a terminal."""
TICK_S = 0.5
"""Between two looks at the clock while nothing else happens."""


class LiveLine:
    """Shows the progress of a job as it changes.

    Args:
        stream: Where to; by default the standard error.
        quiet: Whether to show nothing but what `insist` is given.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._began = time.monotonic()
        self._shown = ""
        self._shown_at = 0.0
        self._pace = Pace()

    def __call__(self, progress: JobProgress) -> None:
        """Show progress."""
        if self._quiet:
            return
        now = time.monotonic()
        text = plain(self._text(progress, now))
        stage = progress.stage.partition(":")[0]  # behind it stands a count
        if self._stream.isatty():
            if text != self._shown and now - self._shown_at > 0.1:
                self._stream.write(f"\r\x1b[2K{text}")
                self._stream.flush()
                self._shown, self._shown_at = text, now
        elif stage != self._shown or now - self._shown_at > QUIET_S:
            self.say(text)
            self._shown, self._shown_at = stage, now

    def stage(self, name: str) -> None:
        """Show a stage of which no more is known."""
        self(JobProgress(stage=name))

    def say(self, text: str) -> None:
        """Print a line for good."""
        if not self._quiet:
            self.insist(text)

    def insist(self, text: str) -> None:
        """Print a line for good, quiet or not."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[2K")
        self._stream.write(plain(text) + "\n")
        self._stream.flush()

    @contextmanager
    def waiting(self, stage: str) -> Iterator[None]:
        """Show a stage, and the time that it has taken so far, while the body runs and reports nothing."""
        over = threading.Event()

        def tick() -> None:
            while True:
                self.stage(stage)
                if over.wait(TICK_S):
                    return

        clock = threading.Thread(target=tick, name="live line", daemon=True)
        clock.start()
        try:
            yield
        finally:
            over.set()
            clock.join()

    def _text(self, progress: JobProgress, now: float) -> str:
        done, total, stage = progress.done, progress.total, progress.stage
        seconds = f"{now - self._began:4.0f} s"
        doing = "" if stage == "working" else f"  {stage} …"
        if doing and not done:
            return f"{seconds}{doing}"
        filled = BAR * done // max(total, 1)
        bar = f"  [{'█' * filled}{'·' * (BAR - filled)}] {progress.unit} {done}/{total}"
        reward = "" if progress.reward is None else f"  reward {progress.reward:.2f}"
        self._pace.note(done, now)
        # Checks are unlike each other: how long some took says nothing of the others.
        left = None if doing or progress.unit == "check" else self._pace.left_s(total, now)
        return f"{seconds}{bar}{reward}{doing}" + ("" if left is None else f"  {left:.0f} s left")


class Pace:
    """Rate of the units done, from the first that was seen to the last."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def note(self, done: int, now: float) -> None:
        """Record the number of units done so far."""
        if self._first is None or self._last is None or done < self._last[1]:  # another attempt begins before that
            self._first = self._last = (now, done)
        elif done > self._last[1]:
            self._last = (now, done)

    def left_s(self, total: int, now: float) -> float | None:
        """Return the seconds that are left; None where no rate is known. While no unit is done they only go by."""
        if self._first is None or self._last is None or not self._first[1] < self._last[1] < total:
            return None
        (began, first), (at, done) = self._first, self._last
        return max(1.0, (total - done) * (at - began) / (done - first) - (now - at))
