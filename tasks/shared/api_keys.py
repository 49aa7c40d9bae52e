"""Keys of the HTTP API: made once, shown once, kept as a digest alone."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared.history import read_or_none

SCOPES = {
    "jobs": "submit, watch and cancel jobs, and fetch what they left",
    "training": "the same for managed training runs",
    "assets": "upload inputs, and register and list assets",
    "admin": "all of it",
}
"""What a key may be good for."""
_KEY = re.compile(r"sy_live_([0-9a-z]{12})_([0-9A-Za-z_-]{43})")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """What is kept of a key."""

    key_id: str
    """The part that is no secret."""
    sha256: str
    """Of the whole key. It has 256 random bits, so a slow hash would add nothing."""
    project: str
    """Whose jobs and assets it sees."""
    scopes: tuple[str, ...]
    """What it is good for: of `SCOPES`."""
    name: str
    """For people."""
    created_at: str
    """UTC, ISO 8601."""
    revoked_at: str | None = None
    """Since when it is good for nothing."""
    max_active_jobs: int | None = None
    """Jobs and runs that may be waiting or running at once."""
    requests_per_minute: int | None = None
    """Of each copy of the service."""
    max_credits: float | None = None
    """USD of GPU time that its jobs may cost in all."""

    def allows(self, scope: str) -> bool:
        """Return whether the key is good for this."""
        return scope in self.scopes or "admin" in self.scopes

    def to_json(self) -> dict[str, Any]:
        """Return what is kept, as JSON types."""
        return asdict(self) | {"scopes": list(self.scopes)}


def check_project(project: str) -> str:
    """Return a project's name, or raise `RequestError` where it cannot be one: it becomes a folder."""
    if not _PROJECT.fullmatch(project):
        raise RequestError(
            f"{project!r} cannot be the name of a project.",
            code="bad_project",
            advice="Use a-z, 0-9 and '-', 63 at most, not '-' first.",
        )
    return project


def create(
    store: Store, project: str, scopes: Sequence[str], name: str, *, max_active_jobs: int | None = None,
    requests_per_minute: int | None = None, max_credits: float | None = None,
) -> tuple[str, ApiKey]:  # fmt: skip
    """Make a key.

    Args:
        store: The site's.
        project: Whose.
        scopes: What it is good for.
        name: For people.
        max_active_jobs: As kept; None for no limit.
        requests_per_minute: As kept; None for no limit.
        max_credits: As kept; None for no limit.

    Returns:
        The key, which nobody can tell again, and what is kept of it.

    Raises:
        RequestError: The project or a scope is none.
    """
    check_project(project)
    for scope in scopes:
        if scope not in SCOPES:
            raise unknown("scope", scope, SCOPES, code="unknown_scope")
    if not scopes:
        raise RequestError("A key needs a scope.", code="no_scope", advice=f"Allowed: {', '.join(SCOPES)}.")
    key_id = "".join(secrets.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(12))
    key = f"sy_live_{key_id}_{secrets.token_urlsafe(32)}"
    kept = ApiKey(
        key_id=key_id, sha256=_digest(key), project=project, scopes=tuple(dict.fromkeys(scopes)), name=name,
        created_at=_now(), max_active_jobs=max_active_jobs, requests_per_minute=requests_per_minute,
        max_credits=max_credits,
    )  # fmt: skip
    store.put_new(keys.api_key(key_id), json.dumps(kept.to_json()).encode())
    return key, kept


def find(store: Store, key: str) -> ApiKey | None:
    """Return what is kept of a key; None for one that there is not, or that was revoked."""
    match = _KEY.fullmatch(key)
    if not match:
        return None
    kept = _read(store, match.group(1))
    if kept is None or not compare_digest(kept.sha256, _digest(key)) or kept.revoked_at:
        return None
    return kept


def list_keys(store: Store) -> list[ApiKey]:
    """Return what is kept of every key, oldest first."""
    found = (store.get_json(entry.key) for entry in store.list(keys.API_KEYS))
    return sorted(map(_from_json, found), key=lambda kept: (kept.created_at, kept.key_id))


def revoke(store: Store, key_id: str) -> ApiKey:
    """Make a key good for nothing, for good.

    Raises:
        RequestError: There is none of this id.
    """
    kept = _read(store, key_id) if re.fullmatch(r"[0-9a-z]{12}", key_id) else None
    if kept is None:
        raise RequestError(f"There is no key {key_id!r}.", code="unknown_key", advice="See `simyard keys list`.")
    kept = replace(kept, revoked_at=kept.revoked_at or _now())
    store.put_json(keys.api_key(key_id), kept.to_json())
    return kept


def _read(store: Store, key_id: str) -> ApiKey | None:
    found = read_or_none(store, keys.api_key(key_id))
    return _from_json(found) if found else None


def _from_json(data: dict[str, Any]) -> ApiKey:
    return ApiKey(**data | {"scopes": tuple(data["scopes"])})


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
