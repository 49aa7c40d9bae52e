"""References to stores, resolved; Prefect is imported only for a block."""

from __future__ import annotations

import re

from simyard.core.errors import RequestError
from simyard.store.keys import check_key
from simyard.store.store import Store

BLOCK_PREFIX = "job-store/"
"""Prefix of a reference to a block; the block's name follows, and a folder in its store, if not the root."""


_BLOCK_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def check_block_name(name: str) -> str:
    """Return the name, or raise `RequestError` when no block can have it."""
    if not _BLOCK_NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} is not the name of a block.",
            code="bad_block",
            advice="Allowed: a-z, 0-9 and '-', a letter or digit first.",
        )
    return name


def absolute(ref: str) -> str:
    """Return a reference that means the same store from every folder: a worker's is not the caller's."""
    return ref if ref.startswith(BLOCK_PREFIX) else Store.open(ref).url()


def below(ref: str, prefix: str) -> str:
    """Return a reference to a part of a store, as a store of its own.

    Args:
        ref: What `absolute` returned.
        prefix: A plain key.
    """
    return f"{ref.rstrip('/')}/{check_key(prefix)}"


def open_store(ref: str) -> Store:
    """Open the store that a reference names.

    Args:
        ref: `job-store/NAME` for a Prefect block, `job-store/NAME/PREFIX` for a part of it, or anything `Store.open`
            takes: `s3://BUCKET/PREFIX`, `file:///FOLDER`, the path of a folder (`./job-store/NAME` for one of that
            name).

    Raises:
        RequestError: The reference is malformed, or there is no such block.
        StoreError: The folder cannot be made.
    """
    if not isinstance(ref, str) or not ref.startswith(BLOCK_PREFIX):
        return Store.open(ref)
    # Importing Prefect and its AWS integration costs seconds, which a store on a disk need not pay.
    from simyard.blocks.job_store import JobStore

    name, _, prefix = ref.removeprefix(BLOCK_PREFIX).partition("/")
    try:
        if not _BLOCK_NAME.fullmatch(name):  # it becomes a part of the address that Prefect is asked under
            raise ValueError(f"{name!r} cannot be a block's name")
        # Called from an async flow, a plain load would return a coroutine.
        block = JobStore.load(name, _sync=True)  # type: ignore[call-arg]
    except ValueError as error:
        raise RequestError(
            f"There is no block {BLOCK_PREFIX + name!r}: {error}",
            code="no_such_block",
            advice="See `prefect block ls`, or make one: `JobStore(url=…).save(NAME)`.",
        ) from error
    assert isinstance(block, JobStore)
    return block.open(prefix)
