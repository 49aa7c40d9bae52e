"""Run as a program: calls functions that need a simulator, one after another, in one process.

Each line of its input is an order, `{"function": "module:name", "folder": …, "arguments": […]}`; each line of its
output says what came of it. A function runs in its folder; what it leaves in the process is put back, as after a job.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from simyard.runner.isolation import Isolation


def call(function: str, folder: str, arguments: list[Any]) -> Any:
    os.chdir(folder)
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(Path(folder), *arguments)


def main() -> None:
    # What simulators print goes to the log: the answers have a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    isolation = Isolation()
    for line in sys.stdin:
        order = json.loads(line)
        isolation.begin()
        try:
            value, error = call(order["function"], order["folder"], order["arguments"]), None
        except BaseException:  # sys.exit of a simulator too
            value, error = None, traceback.format_exc()
        isolation.end()
        isolation.left_over()
        print(json.dumps({"value": value, "error": error}), file=answers, flush=True)


if __name__ == "__main__":
    main()
