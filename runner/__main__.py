"""The workload's command.

python -m simyard.runner JOB_DIR                              run the attempt prepared in JOB_DIR, and exit
python -m simyard.runner --open JOB_DIR                       open the last checkpoint of one that hung at its end
python -m simyard.runner --control FD --simulator NAME        take jobs from the supervisor, over a socket
python -m simyard.runner --session FOLDER                     keep a warm process of that form for supervisors to come
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path

from simyard.core.files import AttemptPaths
from simyard.core.process import give_up_looking
from simyard.core.specs import ONE_JOB, Bounds
from simyard.runner.session import open_afterwards, run_alone, serve
from simyard.runner.session_server import keep


def main() -> int:
    """Parse the command line and run."""
    give_up_looking()
    parser = argparse.ArgumentParser(prog="python -m simyard.runner", description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", nargs="?", type=Path, help="folder with attempt.json and facts.json")
    parser.add_argument("--open", action="store_true", help="only open the last checkpoint")
    parser.add_argument("--control", type=int, help="descriptor of a connected socket")
    parser.add_argument("--simulator", default="isaaclab")
    parser.add_argument("--library", help="what to import ahead")
    parser.add_argument("--bounds", type=json.loads, help="when it has served enough; JSON")
    parser.add_argument("--session", type=Path, help="folder of a session, with its spec.json")
    arguments = parser.parse_args()
    if arguments.control is not None:
        bounds = Bounds.from_json(arguments.bounds) if arguments.bounds else ONE_JOB
        serve(socket.socket(fileno=arguments.control), arguments.simulator, arguments.library, bounds)
    if arguments.session is not None:
        return keep(arguments.session.resolve())
    if arguments.job_dir is None:
        parser.error("name a JOB_DIR, --control or --session")
    paths = AttemptPaths(arguments.job_dir.resolve())
    if arguments.open:
        open_afterwards(paths)
        return 0
    return run_alone(paths)


if __name__ == "__main__":
    sys.exit(main())
