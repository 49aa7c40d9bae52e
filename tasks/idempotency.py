"""One key, one job: a request that is sent again is the job that it was the first time."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from simyard.runner.errors import RequestError
from simyard.runner.spec import JobSpec
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


def claim(store: Store, key: str, spec: JobSpec) -> str:
    """Return the id of the job that this key stands for: the one given, or the one it was first used for.

    Args:
        store: The job's store.
        key: As the user gave it.
        spec: The frozen job; ids and times aside, the same request with the same files gives the same.

    Raises:
        RequestError: If the key was used for another request.
    """
    body = {name: value for name, value in spec.to_json().items() if name not in ("job_id", "created_at")}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    record = {"job_id": spec.job_id, "sha256": digest, "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
    place = keys.idempotency(check_key(key))
    if store.put_new(place, json.dumps(record).encode()):
        return spec.job_id
    first = store.get_json(place)
    if first["sha256"] != digest:
        raise RequestError(
            f"Idempotency key {key!r} was used for another request, job {first['job_id']}.",
            code="idempotency_conflict",
            advice="Send what was sent then, or take a new key.",
        )
    return str(first["job_id"])
