"""Ending -> success or failure: an exit code proves nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from simyard.core.errors import NOT_STARTED, Category, Failure
from simyard.core.files import AttemptPaths, full_disk, lines_inside, write_json
from simyard.core.records import Outcome, WorkloadAccount
from simyard.runner.gpu_memory import explained
from simyard.tasks.attempt.supervise import Ending

TAIL_LINES = 100
"""Lines of each log in the diagnostics."""
TAIL_BYTES = 64 * 1024
"""Bytes at the end of a log in which its last lines are looked for."""
_NO_CAUSE = ("exception", "exit_called", "ended_without_result")
"""Codes of ends that a full disk can have too: a log has no room then for the cause."""
_KIT_PREFIX = re.compile(r"^\S+ \[[\d,]+m?s\] \[\w+\] \[omni\.kit\.app\._impl\] \[py stderr\]: ")
"""What Kit, which logs all that Python writes, puts before it."""


def judge(
    ending: Ending,
    account: WorkloadAccount | None,
    log: Callable[..., None],
    *,
    folder: Path,
    runs_user_code: bool = False,
    traceback: str = "",
) -> Failure | None:
    """Return the failure of the attempt, the original cause first, or None when the work was done and can be opened.

    An exit code proves nothing: the end marker was seen, and what was promised opens, with finite weights.

    Args:
        ending: The end of the workload.
        account: The workload's own account of its end; None where it left none.
        log: Writes a line of runner.log.
        folder: The attempt's.
        runs_user_code: Whether a task of the user's drives the process; an end without any cause is its fault then.
        traceback: The last one that the workload printed.
    """
    seen = ending.watched
    if seen.stopped_because and seen.stopped_because.category is Category.CANCELED:
        return seen.stopped_because
    if seen.end_marker:
        opened = account.opened if account else ()
        if account and account.failure is None and opened and not any(record.error for record in opened):
            sick = [record.name for record in opened if record.finite is False]
            if not sick:
                return None
            return Failure(
                code="policy_not_finite",
                category=Category.USER,
                message=f"The last checkpoint, {sick[-1]}, has NaN or infinite weights.",
                advice="Lower the learning rate or mend the reward; earlier checkpoints may be good.",
            )
        log("judge", "warning", "the end marker was seen, but the workload could not open what it promised")
    cause = _cause(ending, account)
    if cause and seen.hint and cause.code == NOT_STARTED:
        return seen.hint  # that the app did not start is no cause; what it lives with elsewhere may be the cause here
    failure = cause or seen.hint or seen.stopped_because or _unexplained(ending, runs_user_code, traceback)
    return _full_disk(failure, folder) or failure


def judge_part(ending: Ending, account: WorkloadAccount | None, folder: Path) -> Failure | None:
    """Return the failure of one of an attempt's further machines; the first machine judges the whole.

    Args:
        ending: The end of the workload.
        account: The workload's own account of its end; None where it left none.
        folder: Its part's.
    """
    seen = ending.watched
    if seen.stopped_because:
        return seen.stopped_because
    if account and account.failure is None:
        return None
    failure = _cause(ending, account) or _unexplained(ending, False, "")
    return _full_disk(failure, folder) or failure


def _full_disk(failure: Failure, folder: Path) -> Failure | None:
    """Return the failure to name instead, where one without a known cause ended on a full disk."""
    return full_disk(folder, failure.message) if failure.code in _NO_CAUSE else None


def _cause(ending: Ending, account: WorkloadAccount | None) -> Failure | None:
    """Return the first known cause that was printed; of the same cause the workload's own account knows more."""
    seen, told = ending.watched.failure, account.failure if account else ending.untold
    if seen is None or (told is not None and told.code == seen.code):
        return told
    return explained(seen)


def _unexplained(ending: Ending, runs_user_code: bool, traceback: str) -> Failure:
    if ending.signal:
        return Failure(
            code="killed",
            category=Category.INFRA,
            message=f"The simulator was ended by {ending.signal} at {ending.watched.unit} {ending.watched.done}.",
            advice="SIGKILL from outside is often the machine's memory limit.",
        )
    # Kit ends with 0 after an exception that nobody caught: its line is the first after the frames.
    error = next((line for line in traceback.splitlines()[1:] if line and not line.startswith(" ")), "")
    if error:
        return Failure(
            code="exception",
            category=Category.USER,
            message=error[:500],
            advice=f"The traceback is in command.stderr.log; the exit code was {ending.exit_code}.",
        )
    return Failure(
        code="ended_without_result",
        category=Category.USER if runs_user_code else Category.INFRA,
        message=f"The simulator ended with exit code {ending.exit_code}, without end marker or promised files.",
        advice="Some versions exit 0 after an exception or a signal: read command.stderr.log.",
    )


def write_diagnostics(outcome: Outcome, failure: Failure, paths: AttemptPaths) -> None:
    """Write diagnostics for a person: first the original failure, then the ends of the logs."""
    logs = (paths.user_log, paths.stderr, paths.stdout, paths.runner_log, paths.staging_log)
    write_json(
        paths.diagnostics,
        {
            "error": failure.message,
            "stage": "working" if outcome.done > outcome.start_iteration else "starting",
            "error_code": failure.code,
            "error_category": failure.category,
            "retryable": failure.category is Category.INFRA,
            "advice": failure.advice,
            "secondary": outcome.stopped_because.to_json() if outcome.stopped_because else None,
            "runner": {
                "exit_code": outcome.exit_code,
                "signal": outcome.signal,
                "end_marker": outcome.end_marker,
                "done": outcome.done,
                "timings": outcome.timings,
            },
            "tails": {
                path.name: lines_inside(path, TAIL_BYTES)[-TAIL_LINES:] for path in logs if os.path.lexists(path)
            },
        },
    )


def last_traceback(paths: AttemptPaths) -> str:
    """Return the last Python traceback of the workload; empty where there is none."""
    lines = [_KIT_PREFIX.sub("", line) for line in lines_inside(paths.stderr, TAIL_BYTES)[-400:]]
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return "\n".join(lines[starts[-1] :][:100]) if starts else ""
