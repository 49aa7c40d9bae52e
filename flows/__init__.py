"""Prefect flows; a process that imports one runs it, and keeps what it knows and writes to itself from here on."""

import logging
from functools import partial

from simyard.core.errors import SimyardError
from simyard.core.process import keep_private

keep_private()  # before Prefect writes anything


def _let_flows_end() -> None:
    """Have no flow wait for the thread of its heartbeat, which sleeps in whole seconds and then ends by itself."""
    from prefect import flow_engine

    flow_engine._send_heartbeats = partial(flow_engine._send_heartbeats, join_on_exit=False)


_let_flows_end()


class _Plainly(logging.Filter):
    """Puts message and advice of a known failure in place of its traceback, once; a bug keeps its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown, which has no traceback any more."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if not isinstance(error, SimyardError):
            return True
        record.msg, record.args, record.exc_info = str(error), (), None
        is_told, error.is_told = error.is_told, True  # the same error passes the task, the flow and the engine
        return not is_told


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_Plainly())
