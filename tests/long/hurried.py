"""Runs a part of simyard ten times as impatient as it is: nobody waits five minutes for a thousand lost processes.

What is scaled are the product's own constants, all of them by the same factor, so that what holds between them holds:
a heartbeat comes every half second, and is missed after six seconds, twelve or thirty.

    python hurried.py FILE [ARGUMENTS]         runs a Python file, such as tests/flow_host.py
    python hurried.py -m MODULE [ARGUMENTS]    runs a module, such as simyard.service
"""

import os
import runpy
import sys
from dataclasses import fields, replace
from pathlib import Path

FACTOR = 10.0
LIBRARIES = Path(__file__).with_name("lean") / "libraries"


def hurry() -> None:
    """Scale what this process waits for; to be called before anything else of simyard is imported."""
    from simyard.runner import rl
    from simyard.tasks.shared import heartbeat

    rl.__path__.append(str(LIBRARIES))
    table = heartbeat.PATIENCE
    for field in fields(table):
        patience = getattr(table, field.name)
        scaled = replace(patience, silence_s=patience.silence_s / FACTOR, starting_s=patience.starting_s / FACTOR)
        object.__setattr__(table, field.name, scaled)

    from simyard.tasks.attempt import transfer

    transfer.INTERVAL_S /= FACTOR


def hurry_service() -> None:
    """Scale what the service does now and then."""
    from simyard.service import app

    app.RECOVER_EVERY_S /= FACTOR


if __name__ == "__main__":
    hurry()
    _, what, *arguments = sys.argv
    if what == "-m":
        what, *arguments = arguments
        if what == "simyard.service":
            hurry_service()
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [what, *arguments]
        sys.path.insert(0, os.path.dirname(what))
        runpy.run_path(what, run_name="__main__")
