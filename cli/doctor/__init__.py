"""`simyard doctor`: looks at a site, and says how to mend what is wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from simyard.cli.shared import STORE, Command
from simyard.core.errors import EXIT_JOB_FAILED, EXIT_SUCCEEDED


@click.command(cls=Command)
@click.option("--pool", metavar="NAME", help="Look at this work pool, and have a machine of it look at itself.")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print all checks as one JSON object.")
def doctor(pool: str | None, store: str | None, as_json: bool) -> None:
    """Check a site and the machines of its pool. Each failed check comes with its fix.

    Without --pool the simulator is looked for on this machine. Exits 1 when something failed.
    """
    from simyard.cli.doctor.site import check_site

    checks = check_site(pool, store, quiet=as_json)
    failed = any(check.state == "failed" for check in checks)
    if as_json:
        found = [asdict(check) for check in checks]
        click.echo(json.dumps({"status": "failed" if failed else "ok", "checks": found}))
    sys.exit(EXIT_JOB_FAILED if failed else EXIT_SUCCEEDED)
