"""Keep a store in order, by a schedule."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from simyard.blocks.reference import absolute
from simyard.requests.settings import MachineSettings
from simyard.tasks.retention import Rule, orders


@flow(name="gc", log_prints=False)
def gc(
    days: float = 30.0,
    newest: int = 20,
    checkpoints: int | None = None,
    dry_run: bool = False,
    store: str | None = None,
) -> list[dict[str, Any]]:
    """Delete old jobs and the inputs that nothing else names, as `simyard gc` does; return what went.

    Args:
        days: Jobs that ended less ago stay.
        newest: Number of newest jobs that stay whatever their age.
        checkpoints: Best checkpoints of an old training that stay beside its last one; None keeps all of them.
        dry_run: Whether nothing is deleted.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
    """
    logger = get_run_logger()
    done = []
    rule = Rule(days=days, newest=newest, checkpoints=checkpoints)
    for order in orders(absolute(store or MachineSettings.from_env().store), rule, dry_run=dry_run):
        for freed in order.freed:
            logger.info(f"{freed.what} {freed.id}: {freed.why}")
        logger.info(order.in_words())
        done.append(order.to_json())
    return done
