"""`simyard keys`: who may use the HTTP API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from simyard.cli.shared import JSON, STORE, Columns, Finite, Group, emit, emit_rows, open_site_store

if TYPE_CHECKING:
    from simyard.core.records import ApiKey


@click.group(cls=Group)
def keys() -> None:
    """Manage the keys of the HTTP API."""


@keys.command()
@click.option("--project", default="default", show_default=True, help="Whose jobs and assets it sees.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", default=("jobs", "training", "assets"),
              show_default=True, help="jobs, training, assets or admin; may be repeated.")  # fmt: skip
@click.option("--name", default="", metavar="TEXT", help="For people.")
@click.option("--max-active-jobs", type=click.IntRange(min=1), metavar="N", help="Jobs and runs at once.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N", help="Of each copy of the service.")
@click.option("--max-credits", type=Finite(min=0), metavar="USD", help="GPU time that its jobs may cost in all.")
@STORE
@JSON
def create(store: str | None, as_json: bool, **given: Any) -> None:
    """Make a key and print it once: it cannot be shown again, since the store keeps a digest."""
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.shared import api_keys
    from simyard.tasks.shared.api_keys import site_secret, webhook_secret

    key, kept = api_keys.create(open_site_store(store), **given)
    secret = webhook_secret(site_secret(MachineSettings.from_env().home), kept.key_id)
    made = {"key": key, "webhook_secret": secret, **_shown(kept)}
    emit(made, as_json, lambda made: f"{key}\nIts webhooks are signed with {secret}")


@keys.command("list")
@STORE
@JSON
def list_keys(store: str | None, as_json: bool) -> None:
    """List keys, oldest first."""
    from simyard.tasks.shared import api_keys

    columns: Columns = {
        "KEY": "key_id",
        "PROJECT": "project",
        "SCOPES": lambda row: ",".join(row["scopes"]),
        "CREATED": lambda row: row["created_at"][:19],
        "REVOKED": lambda row: (row["revoked_at"] or "")[:19],
        "NAME": "name",
    }
    page = api_keys.list_keys(open_site_store(store))
    rows = [_shown(kept) for kept in page.found]
    emit_rows(rows, as_json, "No API keys yet: simyard keys create.", columns, page.unreadable)


@keys.command()
@click.argument("key_id")
@STORE
def revoke(key_id: str, store: str | None) -> None:
    """Make a key good for nothing, for good."""
    from simyard.tasks.shared import api_keys

    revoked = api_keys.revoke(open_site_store(store), key_id)
    click.echo(f"{revoked.key_id} is revoked; every copy of the service knows within seconds.")


def _shown(kept: ApiKey) -> dict[str, object]:
    return {name: value for name, value in kept.to_json().items() if name != "sha256"}
