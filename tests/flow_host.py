"""A process that has imported the flows once, and becomes a `simyard` command whenever a test wants one.

Importing Prefect and the flows takes a command four seconds of processor time, before it does anything. This process
has done that; for each order it forks, and the child goes on as the command itself: its own process with its own id,
group, environment, folder and streams, which ends as a Python program ends. It can be killed as any other.

    python flow_host.py ADDRESS    serves orders at a socket in the file system
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import socket
import sys
import tempfile


def import_all() -> None:
    """Import what commands import, and make sure that nothing of it would be lost in a fork."""
    import matplotlib.figure  # noqa: F401
    import prefect.task_engine  # noqa: F401

    import simyard.cli
    import simyard.cli.main
    import simyard.flows
    import simyard.service.prefect_api

    for package in (simyard.cli, simyard.flows):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread runs: a child would not have it, and maybe wait for it"
    gc.freeze()  # or each child looks through all of it when it ends, and copies it by that


def serve(address: str) -> dict:
    """Fork for each order, and tell who gave it how the child ended. Returns in children alone: their order."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(64)
    waiting = selectors.DefaultSelector()
    waiting.register(server, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is not server:
                pid, caller = key.data
                _, status = os.waitpid(pid, 0)
                waiting.unregister(key.fd)
                os.close(key.fd)
                with caller:
                    _tell(caller, os.waitstatus_to_exitcode(status))
                continue
            caller, _ = server.accept()
            data, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
            while not data.endswith(b"\n"):
                data += caller.recv(1 << 20)
            if (pid := os.fork()) == 0:
                os.setsid()
                _tell(caller, os.getpid())  # from now on it can be signalled as a group
                caller.close()
                server.close()
                for other in list(waiting.get_map().values())[1:]:
                    os.close(other.fd)
                    other.data[1].close()
                waiting.close()
                return become(json.loads(data), streams)
            for stream in streams:
                os.close(stream)
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, caller))


def _tell(caller: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it may listen no longer
        caller.sendall(f"{number}\n".encode())


def become(order: dict, streams: list[int]) -> dict:
    """Have this process be what a new one would be."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    tempfile.tempdir = None  # it is remembered from the first use on
    read_settings()
    return order


def read_settings() -> None:
    """Do what Prefect does with the environment when it is imported."""
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging()


def reading_settings_late() -> None:
    """Have commands read Prefect's settings where they import it: they set some of them just before."""
    from simyard.cli import run

    reach = run._reach_server

    def read_and_reach(*arguments: object) -> None:
        read_settings()
        reach(*arguments)

    run._reach_server = read_and_reach


if __name__ == "__main__":
    import_all()
    reading_settings_late()
    order = serve(sys.argv[1])
    # From here on this process is what was ordered.
    sys.argv = [order["program"] or "simyard", *order["arguments"]]
    if order["program"]:
        runpy.run_path(order["program"], run_name="__main__")
    else:
        from simyard.cli.main import main

        main()
