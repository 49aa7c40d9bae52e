"""The live line: one line on a terminal, rewritten; a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

BAR = 24
QUIET_S = 10.0
"""Seconds between lines where the output is not a terminal."""


class LiveLine:
    """Shows a job's status as it changes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._began = time.monotonic()
        self._shown = ""
        self._shown_at = 0.0
        self._trained: tuple[float, int] | None = None

    def __call__(self, status: dict[str, Any]) -> None:
        """Show a status."""
        now = time.monotonic()
        text = self._text(status, now)
        if self._stream.isatty():
            if text != self._shown and now - self._shown_at > 0.1:
                self._stream.write(f"\r\x1b[2K{text}")
                self._stream.flush()
                self._shown, self._shown_at = text, now
        elif status["stage"] != self._shown or now - self._shown_at > QUIET_S:
            self.say(text)
            self._shown, self._shown_at = status["stage"], now

    def say(self, text: str) -> None:
        """Print a line for good."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[2K")
        self._stream.write(text + "\n")
        self._stream.flush()

    def _text(self, status: dict[str, Any], now: float) -> str:
        done, total = status["done"], status["total"]
        seconds = f"{now - self._began:4.0f} s"
        if status["stage"] != "working":
            return f"{seconds}  {status['stage']} …"
        if self._trained is None:
            self._trained = (now, done)
        filled = BAR * done // max(total, 1)
        reward = "" if status["reward"] is None else f"  reward {status['reward']:.2f}"
        began, first = self._trained
        left = ""
        if done > first and done < total:
            left = f"  {(total - done) * (now - began) / (done - first):.0f} s left"
        return f"{seconds}  [{'█' * filled}{'·' * (BAR - filled)}] {status['unit']} {done}/{total}{reward}{left}"
