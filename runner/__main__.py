"""The workload's command.

python -m simyard.runner JOB_DIR                              run the attempt prepared in JOB_DIR, and exit
python -m simyard.runner --open JOB_DIR                       open the last checkpoint of one that hung at its end
python -m simyard.runner --control FD --simulator NAME        take the job from the supervisor, over a socket
"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from simyard.runner.paths import AttemptPaths
from simyard.runner.session import open_afterwards, run, serve


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m simyard.runner", description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", nargs="?", type=Path, help="folder with attempt.json and facts.json")
    parser.add_argument("--open", action="store_true", help="only open the last checkpoint")
    parser.add_argument("--control", type=int, help="descriptor of a connected socket")
    parser.add_argument("--simulator", default="isaaclab")
    parser.add_argument("--library", help="what to import ahead")
    arguments = parser.parse_args()
    if arguments.control is not None:
        serve(socket.socket(fileno=arguments.control), arguments.simulator, arguments.library)
        return 0
    if arguments.job_dir is None:
        parser.error("name a JOB_DIR, or --control")
    paths = AttemptPaths(arguments.job_dir.resolve())
    if arguments.open:
        open_afterwards(paths)
        return 0
    return run(paths)


if __name__ == "__main__":
    sys.exit(main())
