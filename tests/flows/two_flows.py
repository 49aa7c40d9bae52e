"""A flow in a flow, as a process of a worker runs them: prints what began a thread, and what waited for the end of one.

python two_flows.py
"""

import json
import sys
import threading

from prefect import flow

import simyard.flows  # noqa: F401

seen = {"start": [], "join": []}


def noting(name):
    original = getattr(threading.Thread, name)

    def noted(thread, *arguments, **more):
        seen[name].append(sys._getframe(1).f_code.co_name)
        return original(thread, *arguments, **more)

    setattr(threading.Thread, name, noted)


@flow
def inner():
    return 1


@flow
def outer():
    return inner()


noting("start")
noting("join")
assert outer() == 1
print(json.dumps({name: callers.count("_send_heartbeats") for name, callers in seen.items()}))
