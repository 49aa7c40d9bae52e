"""The store and its clock, for `simyard doctor`."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import httpx

from simyard.blocks.reference import open_store
from simyard.cli.doctor.server import ASK_S, check_clock, clock_ahead_s, one_line
from simyard.core.errors import SimyardError, StoreError
from simyard.store import keys
from simyard.store.backend import Access
from simyard.store.store import Store
from simyard.tasks.shared.machine_checks import Check

STORE_S = 8.0
"""Seconds after which a bucket that does not answer is given up."""
_NAME = "store"


def find_store(reference: str) -> Store | Check:
    """Open the store that a reference names, or return the check that says why it cannot be opened."""
    try:
        return _impatient(open_store(reference))
    except SimyardError as error:
        return _refused(error)
    except httpx.HTTPError as error:  # a block is on the Prefect server
        return Check(_NAME, "failed", f"{reference!r} cannot be loaded: {one_line(error)}", "Mend the server first.")


def check_store(store: Store, pool_type: str | None) -> Check:
    """Say whether the store keeps what is written to it; `failed` if not.

    Args:
        store: What `find_store` returned.
        pool_type: Of the work pool whose machines must see the same store; None without a pool.
    """
    try:
        text = f"{store.url()}: {_write_and_read(store)}"
    except SimyardError as error:
        return _refused(error)
    if pool_type not in (None, "process") and store.url().startswith("file:"):
        return Check(
            _NAME, "warning", f"{text}; a folder, and workers of a pool must see the same one",
            "Mount it in every container at the same path, or take a bucket: --store s3://BUCKET/PREFIX.",
        )  # fmt: skip
    return Check(_NAME, "ok", text)


def check_clock_of_store(store: Store | None) -> Check:
    """Compare the clock of the bucket's server; None where no store could be opened."""
    name = "clock of store"
    if store is None:
        return Check(name, "skipped", "needs the store's address")
    location, options, credentials = store.opened_with
    if location.folder:
        return Check(name, "skipped", "a folder has none")
    access = Access.decide(options, credentials)
    endpoint = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
    before, began = datetime.now(UTC), time.monotonic()
    try:
        answer = httpx.head(endpoint, timeout=ASK_S, verify=ssl.create_default_context(cafile=access.ca_bundle))
    except httpx.HTTPError as error:
        return Check(name, "skipped", f"the server does not answer a plain question: {one_line(error)}")
    return check_clock(name, clock_ahead_s(answer, before, time.monotonic() - began), "the store's server")


def _refused(error: SimyardError) -> Check:
    return Check(_NAME, "failed", one_line(error.failure.message), error.failure.advice)


def _impatient(store: Store) -> Store:
    """Return the same store, which gives a dead server up soon."""
    location, options, credentials = store.opened_with
    if location.folder:
        return store
    return Store.open(location.url, options={**options, "timeout_s": str(STORE_S)}, credentials=credentials)


def _write_and_read(store: Store) -> str:
    """Do with one object what jobs do with theirs.

    Raises:
        StoreError: The store does not do it.
    """
    key, data = keys.doctor(secrets.token_hex(8)), secrets.token_bytes(1024)
    acts: dict[str, Callable[[], object]] = {
        "written": lambda: store.put_bytes(key, data),
        "read": lambda: store.get_bytes(key) == data,
        "listed": lambda: key in [entry.key for entry in store.list(keys.DOCTOR)],
        "deleted": lambda: store.delete(key),
    }
    times = {}
    try:
        for what, act in acts.items():
            began = time.monotonic()
            if act() is False:
                raise StoreError(
                    f"{store.url(key)!r} was written, and cannot be {what}.",
                    advice="The store loses or changes what it is given: look at it with its own tools.",
                )
            times[what] = (time.monotonic() - began) * 1000
    except SimyardError:
        if "written" in times:  # else it would be waited for once more
            with suppress(SimyardError):
                store.delete(key)
        raise
    return ", ".join(f"{what} in {took_ms:.0f} ms" for what, took_ms in times.items())
