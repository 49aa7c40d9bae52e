"""Stands for a flow run's process, which the flow host becomes: a worker starts it, and it ends as that one ends.

    python -S forked.py ADDRESS PROGRAM    has the flow host at the address become the program; see tests/flow_host.py

A worker starts `python -m prefect.engine` for each flow run, whose imports cost four seconds of processor time.
The number of the process is in ADDRESS.flows, in a file that is named after the flow run.
"""

import os
import sys

from flow_stub import end_with, hand_over

_, address, program = sys.argv
found = hand_over(address, {"arguments": [], "program": program, "env": dict(os.environ), "cwd": os.getcwd()})
assert found, "the flow host does not answer"
os.makedirs(f"{address}.flows", exist_ok=True)
with open(f"{address}.flows/{os.environ['PREFECT__FLOW_RUN_ID']}", "w") as file:
    file.write(str(found[0]))
end_with(*found)
