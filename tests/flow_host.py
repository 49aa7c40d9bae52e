"""A process that has imported the flows once, and becomes a `simyard` command whenever a test wants one.

Importing Prefect and the flows takes a command four seconds of processor time, before it does anything. This process
has done that; for each order it forks, and the child goes on as the command itself: its own process with its own id,
group, environment, folder and streams, which ends as a Python program ends. It can be killed as any other.

    python flow_host.py ADDRESS    serves orders at a socket in the file system
"""

import importlib
import pkgutil
import runpy
import sys

import simyard.cli
import simyard.cli.main
import simyard.service.prefect_api
from simyard.cli.flow_host import import_flows, read_settings, serve


def reading_settings_late() -> None:
    """Have commands read Prefect's settings where they import it: they set some of them just before."""
    from simyard.cli import run

    reach = run._reach_server

    def read_and_reach(*arguments: object) -> None:
        read_settings()
        reach(*arguments)

    run._reach_server = read_and_reach


if __name__ == "__main__":
    import_flows()
    for module in pkgutil.iter_modules(simyard.cli.__path__, "simyard.cli."):
        importlib.import_module(module.name)
    reading_settings_late()
    order = serve(sys.argv[1], is_trusted=lambda pid: True)
    # From here on this process is what was ordered.
    sys.argv = [order["program"] or "simyard", *order["arguments"]]
    if order["program"]:
        runpy.run_path(order["program"], run_name="__main__")
    else:
        simyard.cli.main.main()
