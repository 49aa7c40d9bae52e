"""Lines that people see of a job or a run while it goes on: one for each change."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, TextIO

from simyard.client.records import EventRecord, JobRecord, TrainingRunRecord

CATCH_UP_LINES = 1000
"""Lines of a log that are read again after a break."""
_OVERLAP = 50
_TENTHS = 10


class JobWatch:
    """Prints a job whenever its state, its attempt or another tenth of its work is new."""

    def __init__(self, job_id: str, stream: TextIO) -> None:
        self._job_id = job_id
        self._stream = stream
        self._shown: tuple[Any, ...] | None = None

    def show(self, job: JobRecord) -> None:
        """Print the job if it is another than last time."""
        done, total = job.get("done"), job.get("total")
        tenth = int(done * _TENTHS / total) if done is not None and total else None
        state = (job["status"], job.get("stage"), job.get("attempt_count"), job.get("error"), tenth)
        if state == self._shown:
            return
        self._shown = state
        parts: list[str] = [job["status"]]
        if (job.get("attempt_count") or 0) > 1:
            parts.append(f"attempt {job['attempt_count']}")
        if job["status"] == "running" and job.get("stage"):
            parts.append(str(job["stage"]))
        if done is not None and total:
            parts.append(f"{done:g} of {total:g} {job.get('unit') or ''}".rstrip())
        if job.get("reward") is not None:
            parts.append(f"reward {job['reward']:.4g}")
        _print(self._stream, f"{self._job_id}  {', '.join(parts)}{_reason(job.get('error'))}")


class RunWatch:
    """Prints a managed run whenever its state or its iteration is new, and each event once."""

    def __init__(self, run_id: str, stream: TextIO) -> None:
        self._run_id = run_id
        self._stream = stream
        self._shown: tuple[Any, ...] | None = None
        self._events: set[tuple[str, ...]] = set()

    def show(self, run: TrainingRunRecord) -> None:
        """Print the run if it is another than last time."""
        state = (run["status"], run.get("stage"), run.get("current_iteration"), run.get("error"))
        if state == self._shown:
            return
        self._shown = state
        parts: list[str] = [run["status"]]
        if run["status"] == "running" and run.get("stage"):
            parts.append(str(run["stage"]).removeprefix(f"iteration {run.get('current_iteration')}: "))
        if run.get("current_iteration") is not None:
            most = f" of {run['max_iterations']}" if run.get("max_iterations") else ""
            parts.append(f"iteration {run['current_iteration']}{most}")
        if run.get("credits") is not None:
            parts.append(f"{run['credits']:.2f} credits")
        _print(self._stream, f"{self._run_id}  {', '.join(parts)}{_reason(run.get('error'))}")

    def show_events(self, events: Iterable[EventRecord]) -> None:
        """Print those that were not printed yet, oldest first."""
        for event in sorted(events, key=lambda event: (event.get("created_at") or "", event.get("event_id") or "")):
            whole = tuple(str(event.get(key) or "") for key in ("event_id", "created_at", "event_type", "message"))
            known = whole[:1] if whole[0] else whole
            if known not in self._events:
                self._events.add(known)
                _print(self._stream, f"{whole[1]}  {whole[2]}  {whole[3]}")


class LogTail:
    """Filter for the new lines of a log, also after a break."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=_OVERLAP)
        self._to_skip = 0

    def is_new(self, line: str) -> bool:
        """Take the next line of a stream; return whether it was not seen before."""
        if self._to_skip:
            self._to_skip -= 1
            return False
        self._last.append(line)
        return True

    def catch_up(self, text: str, *, is_whole: bool) -> list[str]:
        """Take the end of the log, read again after a break; return its new lines.

        The next stream is expected to begin with the same lines.

        Args:
            text: The end of the log.
            is_whole: Whether nothing more is written, so that the last line counts without its line break too.
        """
        lines = text.splitlines(keepends=True)
        if lines and not is_whole and not lines[-1].endswith("\n"):
            lines.pop()
        lines = [line.splitlines()[0] for line in lines]
        seen = list(self._last)
        ends = range(len(lines), len(seen) - 1, -1) if seen else ()
        # No overlap: another log, or much was written meanwhile. Better twice than not at all.
        start = next((end for end in ends if lines[end - len(seen) : end] == seen), 0)
        self._last.extend(lines[start:])
        self._to_skip = len(lines)
        return lines[start:]

    @property
    def is_empty(self) -> bool:
        """Whether there was no line yet."""
        return not self._last


def _reason(error: str | None) -> str:
    return f": {error}" if error else ""


def _print(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()
