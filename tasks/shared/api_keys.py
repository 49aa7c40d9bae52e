"""Secrets of a site: keys of the HTTP API, shown once and kept as a digest alone, and the one that it signs with."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from hmac import compare_digest
from pathlib import Path

from simyard.core.errors import RequestError, unknown
from simyard.core.files import secret_of
from simyard.core.records import ApiKey
from simyard.core.wire import now
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared.listing import Page, newest, shown

SCOPES = {
    "jobs": "submit, watch and cancel jobs, and fetch what they left",
    "training": "the same for managed training runs",
    "assets": "upload inputs, and register and list assets",
    "code": "have programs of its own run as the worker's user: task packages, local trainers, overrides with code",
    "admin": "all of it",
}
"""Scopes of a key, each with the actions that it allows."""
_KEY = re.compile(r"sy_live_([0-9a-z]{12})_([0-9A-Za-z_-]{43})")
_ID = re.compile(r"[0-9a-z]{12}")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def check_project(project: str) -> str:
    """Return a project's name, or raise `RequestError` where it cannot be one: it becomes a folder."""
    if not _PROJECT.fullmatch(project):
        raise RequestError(
            f"{project!r} cannot be the name of a project.",
            code="bad_project",
            advice="Use a-z, 0-9 and '-', 63 at most, not '-' first.",
        )
    return project


def default_scopes(store: Store, project: str, *, workers_contained: bool) -> tuple[str, ...]:
    """Return the scopes of a new key for which none are named.

    Code runs as the worker's user, who can read everything of the site: so `code` is among them only where no other
    project has a key, or the workers are contained.

    Args:
        store: The site's.
        project: Whose key.
        workers_contained: Whether each project's code runs in containers or on machines of its own.
    """
    page = list_keys(store)
    projects = {kept.project for kept in page.found if not kept.revoked_at} | {record.id for record in page.unreadable}
    may_run_code = workers_contained or not projects - {project}
    return ("jobs", "training", "assets", *(["code"] if may_run_code else []))


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
        created_at=now(), max_active_jobs=max_active_jobs, requests_per_minute=requests_per_minute,
        max_credits=max_credits, schema_version=2,
    )  # fmt: skip
    store.put_new(keys.api_key(key_id), json.dumps(kept.to_json()).encode())
    return key, kept


def find(store: Store, key: str) -> ApiKey | None:
    """Return the record of a key; None for one that does not exist, or that was revoked."""
    match = _KEY.fullmatch(key)
    if not match:
        return None
    kept = _read(store, match.group(1))
    if kept is None or not compare_digest(kept.sha256, _digest(key)) or kept.revoked_at:
        return None
    return kept


def find_by_id(store: Store, key_id: str) -> ApiKey | None:
    """Return the record of the key of an id; None for one that does not exist, or that was revoked."""
    kept = _read(store, key_id) if _ID.fullmatch(key_id) else None
    return None if kept is None or kept.revoked_at else kept


def list_keys(store: Store) -> Page[ApiKey]:
    """Return the record of every key, oldest first."""
    names = [entry.key.rpartition("/")[2].removesuffix(".json") for entry in store.list(keys.API_KEYS)]
    page = newest(names, lambda name: shown(store.get_record(keys.api_key(name), ApiKey)))
    page.found.sort(key=lambda kept: (kept.created_at, kept.key_id))
    return page


def revoke(store: Store, key_id: str) -> ApiKey:
    """Make a key good for nothing, for good.

    Raises:
        RequestError: There is none of this id.
    """
    kept = _read(store, key_id) if _ID.fullmatch(key_id) else None
    if kept is None:
        raise RequestError(f"There is no key {key_id!r}.", code="unknown_key", advice="See `simyard keys list`.")
    kept = replace(kept, revoked_at=kept.revoked_at or now())
    store.put_record(keys.api_key(key_id), kept)
    return kept


def _read(store: Store, key_id: str) -> ApiKey | None:
    return store.get_record_or_none(keys.api_key(key_id), ApiKey)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


_GIVEN = re.compile(r"[!-~]{32,512}")


def site_secret(home: Path) -> bytes:
    """Return `SIMYARD_SECRET`, else what the file `secret` in the home has, which is made when it is not there.

    Raises:
        RequestError: The variable is too short, or no printable text.
    """
    if given := os.environ.get("SIMYARD_SECRET"):
        if not _GIVEN.fullmatch(given):
            raise RequestError(
                f"SIMYARD_SECRET has {len(given)} characters, or some that are not printable.",
                code="bad_setting",
                advice="Give 32 to 512 printable ASCII characters: openssl rand -hex 32.",
            )
        return given.encode()
    return secret_of(home / "secret", lambda: secrets.token_hex(32)).encode()


def webhook_secret(secret: bytes, key_id: str) -> str:
    """Return the secret that webhooks about the jobs of an API key are signed with."""
    return f"whsec_{hmac.new(secret, b'simyard-webhook' + key_id.encode(), hashlib.sha256).hexdigest()}"
