"""`simyard keys`: who may use the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simyard.cli.site_store import open_site_store
from simyard.requests.settings import Site
from simyard.tasks.shared import api_keys
from simyard.tasks.shared.api_keys import ApiKey
from simyard.tasks.shared.site_secret import site_secret, webhook_secret


def create(
    reference: str | None, project: str, scopes: Sequence[str], name: str, max_active_jobs: int | None,
    requests_per_minute: int | None, max_credits: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Make a key; return it with the secret of its webhooks, and what is kept of it.

    Raises:
        RequestError: The project or a scope is none.
    """
    key, kept = api_keys.create(
        open_site_store(reference), project, scopes, name,
        max_active_jobs=max_active_jobs, requests_per_minute=requests_per_minute, max_credits=max_credits,
    )  # fmt: skip
    secret = webhook_secret(site_secret(Site.from_env().home), kept.key_id)
    return {"key": key, "webhook_secret": secret, **_shown(kept)}


def list_keys(reference: str | None) -> list[dict[str, Any]]:
    """Return what is kept of every key, without its digest."""
    return [_shown(kept) for kept in api_keys.list_keys(open_site_store(reference))]


def revoke(reference: str | None, key_id: str) -> dict[str, Any]:
    """Make a key good for nothing.

    Raises:
        RequestError: There is none of this id.
    """
    return _shown(api_keys.revoke(open_site_store(reference), key_id))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the list as text."""
    if not rows:
        return "No API keys yet: simyard keys create."
    lines = [f"{'KEY':13} {'PROJECT':16} {'SCOPES':22} {'CREATED':20} {'REVOKED':20} NAME"]
    for row in rows:
        revoked = (row["revoked_at"] or "")[:19]
        scopes = ",".join(row["scopes"])
        lines.append(
            f"{row['key_id']:13} {row['project']:16} {scopes:22} {row['created_at'][:19]:20} {revoked:20} {row['name']}"
        )
    return "\n".join(lines)


def _shown(kept: ApiKey) -> dict[str, Any]:
    return {name: value for name, value in kept.to_json().items() if name != "sha256"}
