"""One key, one job or run: a request that is sent again is what it was the first time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from simyard.core.errors import RequestError
from simyard.core.records import IdempotencyRecord
from simyard.core.specs import JobSpec
from simyard.core.wire import now
from simyard.store import keys
from simyard.store.store import Store

MAX_KEY_CHARACTERS = 256


def check_key(key: str) -> str:
    """Return the key without spaces around it.

    Raises:
        RequestError: If nothing is left, or it is too long.
    """
    key = key.strip()
    if not key or len(key) > MAX_KEY_CHARACTERS:
        raise RequestError(
            f"The idempotency key has {len(key)} characters.",
            code="bad_idempotency_key",
            advice=f"Allowed: 1 to {MAX_KEY_CHARACTERS}.",
        )
    return key


def content_of(spec: JobSpec) -> dict[str, object]:
    """Return the content of a frozen job; ids and times aside, the same request with the same files gives the same."""
    return {name: value for name, value in spec.to_json().items() if name not in ("job_id", "created_at")}


def claimed(store: Store, key: str, content: Mapping[str, object]) -> str | None:
    """Return the id that this key stands for, or None where it is new.

    Args:
        store: The store of the job or run.
        key: As the user gave it.
        content: What was asked for, as JSON types.

    Raises:
        RequestError: If the key was used for something else.
    """
    first = store.get_record_or_none(keys.idempotency(check_key(key)), IdempotencyRecord)
    return None if first is None else _same(first, key, content)


def claim(store: Store, key: str, own_id: str, content: Mapping[str, object]) -> str:
    """Return the id that this key stands for from now on: the one given, or the one it was first used for.

    Args:
        store: The store of the job or run.
        key: As the user gave it.
        own_id: The new one.
        content: What was asked for, as JSON types.

    Raises:
        RequestError: If the key was used for something else.
    """
    record = IdempotencyRecord(id=own_id, sha256=_digest(content), created_at=now())
    place = keys.idempotency(check_key(key))
    if store.put_new(place, json.dumps(record.to_json()).encode()):
        return own_id
    return _same(store.get_record(place, IdempotencyRecord), key, content)


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _same(first: IdempotencyRecord, key: str, content: Mapping[str, object]) -> str:
    if first.sha256 != _digest(content):
        raise RequestError(
            f"Idempotency key {key!r} was used for another request, {first.id}.",
            code="idempotency_conflict",
            advice="Send what was sent then, or take a new key.",
        )
    return first.id
