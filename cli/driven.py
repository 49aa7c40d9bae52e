"""The words and exit codes that `simyard managed` and `simyard sweep` share: of work that some process drives."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Literal, NoReturn

import click

from simyard.cli.shared import EXITS, reckoned
from simyard.core.errors import EXIT_BAD_REQUEST, EXIT_SUCCEEDED

if TYPE_CHECKING:
    from simyard.core.run_records import RunState
    from simyard.core.sweep_records import SweepState

Noun = Literal["managed", "sweep"]
POLL_S = 1.0
KEPT_JOBS = 1_000_000
"""A simulator of such work is not replaced for having served many jobs, only for its memory."""


def say_paused(noun: Noun, own_id: str, known: RunState | SweepState) -> None:
    """Print that it begins nothing new, and the command that lets it go on."""
    click.echo(f"{own_id} begins nothing new. Let it go on: simyard {noun} resume {_named(own_id, known)}")


def say_canceled(own_id: str, known: RunState | SweepState) -> None:
    """Print that it has been canceled, or soon will be."""
    ended = known.status == "canceled"
    click.echo(f"{own_id} {'is canceled' if ended else 'will stop within seconds'}, and keeps what it has.")


def end_as(noun: Noun, own_id: str, known: RunState | SweepState, as_json: bool) -> NoReturn:
    """Print its status, and exit with the code of its result; what has not ended is no failure."""
    from simyard.tasks.shared.estimates import as_told

    if as_json:
        click.echo(json.dumps(known.to_json() | reckoned(known.estimate)))
    elif known.status not in EXITS:
        click.echo(f"{own_id} is {known.status}.")
        if known.estimate:
            click.echo(f"estimate:    {as_told(known.estimate)}")
        click.echo(f"Follow it: simyard {noun} watch {_named(own_id, known)}")
    refused = getattr(known, "ended_by", None) == "refused"
    sys.exit(EXIT_BAD_REQUEST if refused else EXITS.get(known.status, EXIT_SUCCEEDED))


def _named(own_id: str, known: RunState | SweepState) -> str:
    """Return the arguments by which a command names it: its id and its store."""
    return f"{own_id} --store {known.store.rsplit('/', 2)[0]}"
