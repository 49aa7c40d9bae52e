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
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE",
              help="jobs, training, assets, code or admin (all); may be repeated. Without it the key has the first "
              "three, and code where no other project has a key or SIMYARD_WORKERS_CONTAINED is on: code lets its jobs "
              "run programs of their sender (task packages, local trainers) as the worker's user.")  # fmt: skip
@click.option("--name", default="", metavar="TEXT", help="For people.")
@click.option("--max-active-jobs", type=click.IntRange(min=1), metavar="N", help="Jobs and runs at once.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N", help="Of each copy of the service.")
@click.option("--max-credits", type=Finite(min=0), metavar="USD", help="GPU time that its jobs may cost in all.")
@STORE
@JSON
def create(store: str | None, as_json: bool, project: str, scopes: tuple[str, ...], **given: Any) -> None:
    """Make a key and print it once: it cannot be shown again, since the store keeps a digest."""
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.shared import api_keys
    from simyard.tasks.shared.api_keys import site_secret, webhook_secret

    machine, opened = MachineSettings.from_env(), open_site_store(store)
    named = scopes or api_keys.default_scopes(opened, project, workers_contained=machine.workers_contained)
    key, kept = api_keys.create(opened, project, named, **given)
    secret = webhook_secret(site_secret(machine.home), kept.key_id)
    made = {"key": key, "webhook_secret": secret, **_shown(kept)}
    code = (
        "Its jobs may run programs of their sender (task packages, local trainers) as the worker's user."
        if kept.allows("code")
        else "Its jobs run no programs of their sender (task packages, local trainers): that needs --scope code too."
    )
    emit(made, as_json, lambda made: f"{key}\nIts webhooks are signed with {secret}\n{code}")


@keys.command("list")
@STORE
@JSON
def list_keys(store: str | None, as_json: bool) -> None:
    """List keys, oldest first."""
    from simyard.tasks.shared import api_keys

    columns: Columns = {
        "KEY": "key_id",
        "PROJECT": "project",
        "SCOPES": lambda row: ",".join(row["grants"]),
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
    return {name: value for name, value in kept.to_json().items() if name != "sha256"} | {"grants": [*kept.grants]}
