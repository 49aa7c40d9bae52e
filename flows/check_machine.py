"""A look at the machine of a pool, for `simyard doctor`."""

from __future__ import annotations

import platform
from dataclasses import asdict

from prefect import flow

from simyard.blocks.reference import open_store
from simyard.store import keys
from simyard.tasks.shared.machine_checks import machine_checks, read_settings


@flow(name="check-machine", log_prints=False)
def check_machine(check_id: str, store: str) -> None:
    """Look at this machine, and leave the report in the store.

    Args:
        check_id: Which report it is.
        store: The store's URL, or the name of a block: `job-store/NAME`.
    """
    opened = open_store(store)
    settings, machine = read_settings()
    checks = [settings, *machine_checks(machine)]
    opened.put_json(keys.doctor(check_id), {"host": platform.node(), "checks": [asdict(check) for check in checks]})
