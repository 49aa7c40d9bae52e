"""Prefect flows; a process that imports one runs it, and keeps what it knows and writes to itself from here on."""

from functools import partial

from simyard.core.process import keep_private

keep_private()  # before Prefect writes anything


def _let_flows_end() -> None:
    """Have no flow wait for the thread of its heartbeat, which sleeps in whole seconds and then ends by itself."""
    from prefect import flow_engine

    flow_engine._send_heartbeats = partial(flow_engine._send_heartbeats, join_on_exit=False)


_let_flows_end()
