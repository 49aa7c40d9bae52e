"""`simyard gc`: old jobs, checkpoints and inputs go, and nothing that anything rests on."""

from __future__ import annotations

import json

import click

from simyard.cli.shared import JSON, STORE, Command, Finite, open_site, text_table
from simyard.core.terminal import plain


@click.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@click.option("--days", type=Finite(min=0), default=30, show_default=True, help="Keep jobs that ended less ago.")
@click.option(
    "--newest", type=click.IntRange(min=0), default=20, show_default=True, help="Keep so many newest jobs of any age."
)
@click.option(
    "--checkpoints", type=click.IntRange(min=0), metavar="N",
    help="Of old trainings that stay, keep the last checkpoint and the N best; left out, all.",
)  # fmt: skip
@STORE
@JSON
def gc(dry_run: bool, days: float, newest: int, checkpoints: int | None, store: str | None, as_json: bool) -> None:
    """Delete old jobs, with the inputs that nothing else names.

    What a promotion, a managed run, a sweep or a job that stays rests on is kept; so are jobs that have not ended, and
    assets that somebody uploaded. Projects of the store are put in order too.
    """
    from simyard.tasks.retention import Rule, in_units, orders

    _, reference, _ = open_site(store)
    done = list(orders(reference, Rule(days=days, newest=newest, checkpoints=checkpoints), dry_run=dry_run))
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "size_bytes": sum(one.size_bytes for one in done),
                               "stores": [one.to_json() for one in done]}))  # fmt: skip
        return
    for order in done:
        if order.freed:
            rows = [(freed.id, freed.what, in_units(freed.size_bytes), freed.why) for freed in order.freed]
            click.echo(plain(text_table(("ID", "WHAT", ">SIZE", "WHY"), rows)))
        click.echo(plain(order.in_words()))
