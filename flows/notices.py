"""Events that tell Prefect what happened, for its automations: `simyard deploy --notify` makes those that notify."""

from __future__ import annotations

from prefect.events import emit_event

from simyard.core.errors import Failure
from simyard.core.records import JobResult
from simyard.core.run_records import PromotionDecision, RunResult
from simyard.core.sweep_records import SweepResult
from simyard.tasks.shared.usage import cost_in_words

STALLS = ("no_progress", "workload_silent", "hang_in_close")
"""Codes of attempts that were ended because nothing moved."""
_BUDGETS = ("max_credits", "max_gpu_hours", "max_wallclock_hours")
"""Reasons of the end of a managed run or a sweep that are budgets."""


def tell(event: str, own_id: str, name: str, subject: str, message: str) -> None:
    """Emit an event; it is sent behind the caller's back, and lost where no server takes it.

    Args:
        event: Its name without `simyard.`, such as `job.failed`.
        own_id: Id of what it is about.
        name: Name of the same, for people.
        subject: The first line of a notification.
        message: The rest.
    """
    emit_event(
        event=f"simyard.{event}",
        resource={"prefect.resource.id": f"simyard.{own_id}", "prefect.resource.name": name or own_id},
        payload={"id": own_id, "subject": subject, "message": message},
    )


def tell_job(result: JobResult, name: str) -> None:
    """Tell how a job ended."""
    error = f"{result.error.code}: {result.error.message} {result.error.advice}" if result.error else ""
    done = f"{result.done} of {result.total} {result.unit}s"
    message = "\n".join(filter(None, (done, error, result.store)))
    tell(f"job.{result.status}", result.job_id, name, f"{name}: {result.kind} {result.status}", message)


def tell_stall(job_id: str, name: str, failure: Failure) -> None:
    """Tell that an attempt was ended since nothing moved; another one may go on."""
    message = f"{failure.code}: {failure.message} {failure.advice}\n{job_id}"
    tell("job.stalled", job_id, name, f"{name}: no progress", message)


def tell_run(result: RunResult) -> None:
    """Tell how a managed run ended, and whether a budget ended it."""
    _tell_end("run", "managed run", result.run_id, result, f"{result.credits:.2f} credits")


def tell_sweep(result: SweepResult) -> None:
    """Tell how a sweep ended, and whether a budget ended it."""
    said = result.verdict.sentence if result.verdict else ""
    _tell_end("sweep", "sweep", result.sweep_id, result, cost_in_words(result.cost), said)


def _tell_end(event: str, noun: str, own_id: str, result: RunResult | SweepResult, *said: str) -> None:
    error = f"{result.error.code}: {result.error.message}" if result.error else ""
    message = "\n".join(filter(None, (f"ended by {result.ended_by}", *said, error, result.store)))
    tell(f"{event}.{result.status}", own_id, result.name, f"{result.name}: {noun} {result.status}", message)
    if result.ended_by in _BUDGETS:
        tell(f"{event}.out_of_budget", own_id, result.name, f"{result.name}: out of budget", message)


def tell_decision(promotion: str, decision: PromotionDecision) -> None:
    """Tell of a policy that was promoted."""
    if decision.decision == "promoted":
        message = f"{decision.why}\n{decision.job_id}"
        tell("promotion.promoted", f"promotion.{promotion}", promotion, f"{promotion}: a policy was promoted", message)
