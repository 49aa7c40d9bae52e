"""The first thing that a process of simyard does: its files, its memory and its environment are for it alone.

python -m simyard.core.process MODULE ARGUMENTS…    runs a module of others so
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from contextlib import suppress

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 4, 24
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
CAPABILITIES_TO_LOOK = (19, 21, 38)
"""CAP_SYS_PTRACE, CAP_SYS_ADMIN and CAP_PERFMON: root looks into any process by one of them."""
_CAPABILITY_VERSION = 0x20080522
"""Third version of the structure that capget and capset take."""


def keep_private() -> None:
    """Keep others out of what this process writes, and out of what it knows.

    Files are made for this user alone. The kernel shows this process's memory, and `/proc/PID/environ` with what the
    environment held at the start, to no other process of this user any more. On a system without the call all is as
    before.
    """
    os.umask(0o077)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def reach_loopback_directly() -> None:
    """Have this process, and those that it starts, reach this machine itself without a proxy.

    No proxy leads back here. Every library that heeds `HTTP_PROXY` heeds `NO_PROXY` too.
    """
    names = {name.lower() for name in os.environ}
    if not names & {"http_proxy", "https_proxy", "all_proxy"}:
        return
    for variable in ("NO_PROXY", "no_proxy"):
        given = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
        os.environ[variable] = ",".join([*given, *(name for name in _LOOPBACK if name not in given)])


def give_up_looking() -> None:
    """Give up the capabilities by which root sees what other processes keep private, for good; others have none."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the first 32 of each, then the others
        if libc.capget(header, sets) == 0:
            for capability in CAPABILITIES_TO_LOOK:
                libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
                for kind in range(3):
                    sets[3 * (capability // 32) + kind] &= ~(1 << capability % 32)
            libc.capset(header, sets)


if __name__ == "__main__":
    keep_private()
    reach_loopback_directly()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
