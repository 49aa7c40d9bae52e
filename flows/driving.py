"""The parts that the flows of managed runs and of sweeps share: both drive a loop for hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect import get_run_logger
from prefect.runtime import flow_run

from simyard.core.errors import StoreError
from simyard.core.run_records import Event
from simyard.flows.stages import Inline
from simyard.tasks.cluster.cancellation import PrefectButtons
from simyard.tasks.shared.control import LoopObserver

OUTAGE_S = 1800.0
"""After so long without store or Prefect server the run is left as it is, for somebody to resume."""
STEADY_S = 60.0
"""Work that went well for so long before it failed was not of the last outage any more."""
RETRY_S = 15.0
Result = TypeVar("Result")


def observing(given: Inline) -> LoopObserver:
    """Return the observer of a loop that this flow run drives: its log, its buttons, and the caller in this process."""
    logger = get_run_logger()

    def on_event(event: Event) -> None:
        logger.info(event.message)
        given.on_event(event)

    return LoopObserver(
        on_event=on_event,
        on_stage=given.on_progress,
        is_canceled=given.canceled,
        desired_state=PrefectButtons(str(flow_run.id)),
    )


def through_outages(
    drive: Callable[[], Result], warn: Callable[[str], object], *, outage_s: float = OUTAGE_S, retry_s: float = RETRY_S
) -> Result:
    """Do something that can be done again from where it stopped, until it comes through.

    Args:
        drive: What is done; it raises when the store or the Prefect server cannot be reached.
        warn: Called with the reason for each further try.
        outage_s: How long it may not come through.
        retry_s: How long to wait before it is done again.

    Raises:
        StoreError: The store was away for too long.
        HTTPError: Or the Prefect server was.
    """
    since: float | None = None
    while True:
        began = time.monotonic()
        try:
            return drive()
        except (StoreError, httpx.HTTPError) as error:
            now = time.monotonic()
            if since is None or now - began > STEADY_S:
                since = now
            if now - since >= outage_s:
                raise
            warn(f"Cannot go on now, and tries again in {retry_s:.0f} s: {error}")
            time.sleep(retry_s)
