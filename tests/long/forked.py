"""Stands for a flow run's process, which the flow host becomes: a worker starts it, and it ends as that one ends.

    python -S forked.py ADDRESS PROGRAM    has the flow host at the address become the program; see tests/flow_host.py

A worker starts `python -m prefect.engine` for each flow run, whose imports cost four seconds of processor time.
The number of the process is in ADDRESS.flows, in a file that is named after the flow run.
"""

import json
import os
import signal
import socket
import sys

_, address, program = sys.argv
order = {"arguments": [], "program": program, "env": dict(os.environ), "cwd": os.getcwd()}
with socket.socket(socket.AF_UNIX) as host:
    host.connect(address)
    socket.send_fds(host, [json.dumps(order).encode() + b"\n"], [0, 1, 2])
    said = host.makefile()
    pid = int(said.readline())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: os.kill(pid, number))
    os.makedirs(f"{address}.flows", exist_ok=True)
    with open(f"{address}.flows/{os.environ['PREFECT__FLOW_RUN_ID']}", "w") as file:
        file.write(str(pid))
    code = int(said.readline())
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
