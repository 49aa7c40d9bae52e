"""What somebody wants of a managed training run: to pause, to go on, to stop. The process that drives it looks here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from simyard.core.errors import RequestError
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.run import load_run
from simyard.tasks.shared.history import read_or_none

Wish = Literal["run", "pause", "cancel"]


def wish(store: Store, run_id: str, wanted: Wish) -> None:
    """Say what is wanted from now on.

    Raises:
        RequestError: If there is no such run, it has ended, or it was canceled and cannot go on.
    """
    load_run(store, run_id)
    if (ended := read_or_none(store, RunKeys(run_id).result)) is not None:
        raise RequestError(
            f"{run_id} has {ended['status']}.", code="run_ended", advice="Begin another: simyard managed start."
        )
    if wanted != "cancel" and wished(store, run_id) == "cancel":
        raise RequestError(
            f"{run_id} is being canceled.", code="run_ended", advice="Begin another: simyard managed start."
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    store.put_json(RunKeys(run_id).wish, {"wanted": wanted, "requested_at": now})


def wished(store: Store, run_id: str) -> Wish:
    """Return what is wanted of the run."""
    found = read_or_none(store, RunKeys(run_id).wish)
    wanted: Wish = found["wanted"] if found else "run"
    return wanted
