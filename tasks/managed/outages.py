"""Outages: a run that goes on for a week outlives a store or a Prefect server that is away for some minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from simyard.core.errors import StoreError

OUTAGE_S = 1800.0
"""After so long without either the run is left as it is; somebody can take it up."""
STEADY_S = 60.0
"""Work that went well for so long before it failed was not of the last outage any more."""
RETRY_S = 15.0

Result = TypeVar("Result")


def through_outages(
    drive: Callable[[], Result], say: Callable[[str], object], *, outage_s: float = OUTAGE_S, retry_s: float = RETRY_S
) -> Result:
    """Do something that can be done again from where it stopped, until it comes through.

    Args:
        drive: What is done; it raises when the store or the Prefect server cannot be reached.
        say: Called with the reason for each further try.
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
            say(f"Cannot go on now, and tries again in {retry_s:.0f} s: {error}")
            time.sleep(retry_s)
