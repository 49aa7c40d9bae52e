"""The record of a sweep in the store: its desired state, decisions and settings, and how it stands."""

from __future__ import annotations

from simyard.core.errors import RequestError
from simyard.core.records import Estimate
from simyard.core.run_records import Event
from simyard.core.sweep_records import (
    Decision,
    Setting,
    SweepProgress,
    SweepResult,
    SweepState,
    SweepStatus,
    SweepVerdict,
)
from simyard.store import keys
from simyard.store.keys import SweepKeys
from simyard.store.store import Store
from simyard.tasks.shared.control import DesiredState, desired_state_at, driven_status, why_not, write_desired_state
from simyard.tasks.shared.events import events_at, numbers_of_events
from simyard.tasks.shared.listing import Page, newest, shown
from simyard.tasks.sweeps.plan import load_sweep

EVENT_TYPES = {
    "sweep.started": "the sweep began",
    "sweep.taken_up": "another process drives it now, since the one before was lost",
    "sweep.paused": "somebody paused it; nothing new is begun",
    "sweep.resumed": "it goes on",
    "sweep.parallel": "it is known how many trainings go side by side",
    "setting.suggested": "a setting was chosen, and is trained next",
    "training.started": "a setting is trained with one seed, up to a rung",
    "training.measured": "its objective is known",
    "training.failed": "its training or its evaluation failed for good",
    "setting.promoted": "a setting is among the best of its rung, and goes on",
    "setting.pruned": "a setting goes no further",
    "setting.copied": "a setting takes up the state of another, with values near its",
    "sweep.ended": "the sweep ended; the message names the reason",
}
"""Every `event_type`, and what it means."""


def set_desired_state(store: Store, sweep_id: str, desired: DesiredState) -> None:
    """Write the desired state.

    Raises:
        RequestError: If there is no such sweep, it has ended, or it was canceled and cannot go on.
    """
    load_sweep(store, sweep_id)
    sweep = SweepKeys(sweep_id)
    result = store.get_record_or_none(sweep.result, SweepResult)
    if problem := why_not(sweep_id, result, store, sweep.desired_state, desired):
        raise RequestError(
            problem, code="sweep_ended", advice="Begin another, simyard sweep CONFIG: what this one trained is used."
        )
    write_desired_state(store, sweep.desired_state, desired)


def decisions(store: Store, sweep_id: str) -> list[Decision]:
    """Return every decision of a sweep, in order."""
    sweep = SweepKeys(sweep_id)
    names = sorted(entry.key for entry in store.list(sweep.decisions))
    return [store.get_record(key, Decision) for key in names]


def settings(store: Store, sweep_id: str) -> list[Setting]:
    """Return the settings of a sweep as they stand, in order."""
    names = sorted(entry.key for entry in store.list(SweepKeys(sweep_id).settings))
    return [store.get_record(key, Setting) for key in names]


def event_numbers(store: Store, sweep_id: str) -> list[int]:
    """Return the numbers of a sweep's events, in order."""
    return numbers_of_events(store, SweepKeys(sweep_id))


def read_events(store: Store, sweep_id: str, numbers: list[int]) -> list[Event]:
    """Return these events."""
    return events_at(store, SweepKeys(sweep_id), numbers)


def sweep_status(store: Store, sweep_id: str) -> SweepState:
    """Return the status of a sweep, from the store alone.

    Raises:
        RequestError: If there is no such sweep.
    """
    spec = load_sweep(store, sweep_id)
    sweep = SweepKeys(sweep_id)
    if (result := store.get_record_or_none(sweep.result, SweepResult)) is not None:
        return result
    beat = store.get_record_or_none(sweep.status, SweepStatus)
    status = driven_status(beat, desired_state_at(store, sweep.desired_state))
    return SweepProgress(
        sweep_id=sweep_id,
        name=spec.asked.name,
        project_id=spec.asked.project_id,
        status=status,
        stage=beat.stage if beat else None,
        settings=beat.settings if beat else 0,
        most_settings=spec.asked.sweep.settings,
        running=beat.running if beat and status != "interrupted" else 0,
        pruned=beat.pruned if beat else 0,
        best=beat.best if beat else None,
        verdict=store.get_record_or_none(sweep.verdict, SweepVerdict),
        cost=beat.cost if beat else None,
        seconds_left=beat.seconds_left if beat and status == "running" else None,
        store=store.url(sweep.prefix),
        created_at=spec.created_at,
        updated_at=beat.updated_at if beat else None,
        estimate=store.get_record_or_none(sweep.estimate, Estimate),
    )


def list_sweeps(store: Store, limit: int, after: str | None = None) -> Page[SweepState]:
    """Return a page of the status of each sweep, newest first."""
    names = [name for name in store.list_dirs(keys.SWEEPS) if name.startswith("sweep-")]
    return newest(names, lambda sweep_id: shown(sweep_status(store, sweep_id)), limit, after)


def summary(result: SweepResult) -> str:
    """Return the result of a sweep in one line."""
    count = f"{result.settings} setting{'s' * (result.settings != 1)} ({result.ended_by})"
    return f"{count}: {result.verdict.sentence}" if result.verdict and result.verdict.sentence else count
