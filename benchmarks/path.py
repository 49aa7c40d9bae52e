"""The path of a `train`: which modules of simyard run code, from the command line to the judged result.

    python benchmarks/path.py [--show] [--config FILE]

One real `simyard train` on the CPU, with a Prefect server of its own. A module counts when one of its functions runs in
the control process (command, flow and stages) or in the workload process; being imported is not enough, nor is what
runs while a module is imported. Functions are put in the order of their first call, thread by thread: a step is a
function, a folder change is a step into another top folder than the one before. What a job should need once is counted:
how often it is resolved, checked by the simulator's environment, and how often tasks are registered.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("blocks", "cli", "core", "deployments", "flows", "runner", "sdk", "service", "store", "tasks")
CONFIG = {
    "trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 16, "maxIterations": 2},
    "computeConfig": {"gpusPerNode": 0},
}
COUNTED = {
    "resolved": ("tasks/resolve.py", "resolve"),
    "checked": ("runner/session.py", "_Session._check"),
    "registered": ("runner/isaaclab/lookup.py", "register_tasks"),
}
"""What a job should need once, and the function that does it."""
RECORDER = '''
"""Writes down the first call of every function below a folder; Python imports this file when it starts."""
import inspect, os, sys, threading

ROOT, LOG, COUNTED = {root!r} + os.sep, {log!r}, {counted!r}
LINKS = f"{{os.sep}}simyard{{os.sep}}"  # of an editable install: what is below leads to the checkout
OUT = os.open(f"{{LOG}}/{{'workload' if 'simyard.runner' in sys.orig_argv else 'control'}}-{{os.getpid()}}",
              os.O_WRONLY | os.O_CREAT | os.O_APPEND)
TOOL = sys.monitoring.PROFILER_ID


def called(code, offset):
    """Write a function down, unless it runs while a module is imported."""
    if LINKS in code.co_filename and code.co_flags & inspect.CO_OPTIMIZED:
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "<module>" and LINKS in frame.f_code.co_filename:
                if frame.f_globals["__name__"] != "__main__":
                    return None  # not yet: it may be called again
            frame = frame.f_back
        name = os.path.realpath(code.co_filename).removeprefix(ROOT)
        os.write(OUT, f"{{threading.get_ident()}}\\t{{name}}\\t{{code.co_qualname}}\\n".encode())
        if (name, code.co_qualname) in COUNTED:
            return None
    return sys.monitoring.DISABLE


sys.monitoring.use_tool_id(TOOL, "path")
sys.monitoring.register_callback(TOOL, sys.monitoring.events.PY_START, called)
sys.monitoring.set_events(TOOL, sys.monitoring.events.PY_START)
'''


@dataclass(frozen=True)
class Step:
    """The first call of a function."""

    thread: str
    module: str
    """Its file, relative to the checkout."""
    function: str


def main() -> None:
    """Run one training and print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true", help="print every module, and the steps in order")
    parser.add_argument("--config", type=Path, help="a config of a training; by default a small one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-path-") as folder:
        calls = record(Path(folder), options.config)
    steps = {name: list(dict.fromkeys(found)) for name, found in calls.items()}
    sides = {
        side: [step for name, found in steps.items() if name.startswith(side) for step in found]
        for side in ("control", "workload")
    }
    if options.show:
        for side, found in sides.items():
            print(f"# {side}")
            for step in found:
                print(f"{step.module:44} {step.function}")
        for module in sorted({step.module for found in sides.values() for step in found}):
            print(module)
    figures = {side: figures_of(found) for side, found in sides.items()}
    figures["both"] = figures_of([step for found in sides.values() for step in found])
    print("| process | modules | functions | folder changes |\n|---|---|---|---|")
    for side, numbers in figures.items():
        print(f"| {side} | {numbers['modules']} | {numbers['functions']} | {numbers['folder_changes']} |")
    everywhere = [step for found in calls.values() for step in found]
    counts = {
        name: sum((step.module, step.function) == function for step in everywhere) for name, function in COUNTED.items()
    }
    print(", ".join(f"{name} {number} x" for name, number in counts.items()))
    print(json.dumps(figures | {"counts": counts}))


def record(folder: Path, config: Path | None) -> dict[str, list[Step]]:
    """Train with the recorder in every process; return what each that ran code of simyard wrote down."""
    log = folder / "log"
    log.mkdir()
    recorder = RECORDER.format(root=str(ROOT), log=str(log), counted=list(COUNTED.values()))
    (folder / "sitecustomize.py").write_text(recorder)
    if config is None:
        config = folder / "config.json"
        config.write_text(json.dumps(CONFIG))
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {
        "SIMYARD_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PYTHONPATH": str(folder),
    }  # fmt: skip
    simyard = str(Path(sys.executable).parent / "simyard")
    command = [simyard, "train", str(config), "--store", str(folder / "store"), "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The training did not succeed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return {path.name: steps for path in sorted(log.iterdir()) if (steps := steps_of(path))}


def steps_of(log: Path) -> list[Step]:
    """Return the calls that one process wrote down, thread by thread; code outside simyard's folders is left out."""
    lines = [Step(*line.split("\t")) for line in log.read_text(encoding="utf-8").splitlines()]
    own = [step for step in lines if step.module.partition("/")[0] in FOLDERS]
    threads = list(dict.fromkeys(step.thread for step in own))
    return [step for thread in threads for step in own if step.thread == thread]


def figures_of(steps: list[Step]) -> dict[str, int]:
    """Return how many modules and functions there are, and how often the next one is in another top folder."""
    folders = [step.module.partition("/")[0] for step in steps]
    return {
        "modules": len({step.module for step in steps}),
        "functions": len(steps),
        "folder_changes": sum(one != other for one, other in pairwise(folders)),
    }


if __name__ == "__main__":
    main()
