"""Proof that an export does what training did: both formats against recorded pairs, each in a clean interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.wire import Wire
from simyard.runner.exporting.contract import FILES, ONNX, TORCHSCRIPT
from simyard.runner.rl import LIBRARIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simyard.runner.rl.networks import Network

LIMIT = 1e-4
"""Largest difference of any action, in the network's own unit: float32 sums in another order stay far below it."""
FEWEST_ROWS = 64
"""Rows at batch 1; fewer pairs prove little."""
BATCH = 64
"""Most rows of a call."""
_TIMEOUT_S = 300.0
"""For one interpreter to start, load the file and run every row."""

# Raw float32 goes in and out, so that neither child needs more than its runtime. Each call takes the next rows; where
# there is a memory, `begun` says which of them begin an episode, and a part of the plan starts with a new one.
_CHILD = """
import json, sys, time

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}: the export may not need it", name=name)

sys.meta_path.insert(0, Refuse())
model, folder, plan = sys.argv[1:]
plan = json.loads(plan)
inputs, states = plan["inputs"], plan["states"]
begun = open(f"{{folder}}/begun", "rb").read()
{start}
row, took = 0, []
with open(f"{{folder}}/taken", "wb") as file:
    for batch, rows in plan["parts"]:
        forget()
        for first in range(row, row + rows, batch):
            last = min(first + batch, row + rows)
            began = time.perf_counter()
            actions = infer(first, last, begun[first:last])
            took += [time.perf_counter() - began] if batch == 1 else []
            if actions.ndim != 2 or len(actions) != last - first:
                raise ValueError(f"actions of the shape {{tuple(actions.shape)}} for {{last - first}} observations")
            file.write(actions.tobytes())
        row += rows
print(json.dumps([runtime, sorted(took)[len(took) // 2] * 1000]))
"""
_START = {
    ONNX: """
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
given = {name: np.fromfile(f"{folder}/{n}", np.float32).reshape(-1, *shape) for n, (name, shape) in enumerate(inputs)}
memory = {}
def forget():
    memory.clear()
def infer(first, last, begun):
    feeds = {name: array[first:last] for name, array in given.items()}
    for taken, _, layers, size in states:
        state = memory.get(taken)
        if state is None:
            state = np.zeros((layers, last - first, size), np.float32)
        elif any(begun):
            state[:, np.frombuffer(begun, np.bool_)] = 0.0
        feeds[taken] = state
    actions, *after = session.run(["actions", *(each[1] for each in states)], feeds)
    memory.update(zip((each[0] for each in states), after))
    return actions
runtime = f"onnxruntime {onnxruntime.__version__}"
""",
    TORCHSCRIPT: """
import ctypes
import torch
torch.set_num_threads(1)
network = torch.jit.load(model, map_location="cpu")
def read(n, shape):
    return torch.frombuffer(bytearray(open(f"{folder}/{n}", "rb").read()), dtype=torch.float32).reshape(-1, *shape)
given = [read(n, shape) for n, (_, shape) in enumerate(inputs)]
def forget():
    if states:
        network.reset()
def infer(first, last, begun):
    with torch.no_grad():
        if states and any(begun):
            network.reset(torch.tensor(list(begun)) != 0)
        return Taken(network(*(tensor[first:last] for tensor in given)).to(torch.float32).contiguous())
class Taken:
    def __init__(self, actions):
        self.ndim, self.shape, self.actions = actions.ndim, actions.shape, actions
    def __len__(self):
        return self.shape[0]
    def tobytes(self):
        return ctypes.string_at(self.actions.data_ptr(), self.actions.numel() * 4)
runtime = f"torch {torch.__version__}"
""",
}
_REFUSED = ("gymnasium", "isaaclab", "isaaclab_rl", "isaaclab_tasks", "onnx", "simyard")
"""Besides the libraries."""


@dataclass(frozen=True, kw_only=True)
class Load(Wire):
    """Whether a format's file stands alone."""

    format: str
    """`onnx` or `torchscript`."""
    loads: bool
    """In an interpreter that has the format's runtime, and neither Isaac Lab nor simyard."""
    error: str | None
    """Reason it is not equal; None if it is."""
    runtime: str | None
    """Runtime that loaded it, with its version."""
    latency_ms: float | None = None
    """Median time of a call at batch 1 on one thread of this machine's CPU, memory included; None where it is not
    known."""


@dataclass(frozen=True, kw_only=True)
class Difference(Wire):
    """A format's actions against those of the library."""

    format: str
    batch: int
    """Rows of one call."""
    rows: int
    """Rows compared."""
    largest: float | None
    """Largest absolute difference of one action; None where it is not a number or cannot be taken."""
    problem: str | None
    """Reason it cannot be used; None if it can."""


@dataclass(frozen=True, kw_only=True)
class Parity(Wire):
    """The proof."""

    limit: float
    """Limit of `largest`."""
    largest_action: float | None
    """Largest magnitude among the library's actions, to read the differences by; None where it is not a number."""
    loads: tuple[Load, ...]
    differences: tuple[Difference, ...]
    resets: int | None = None
    """Times that a row's memory was set back in the middle of what was compared; None for a network without one."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Failures, a sentence each; none for a proof."""
        found = [
            f"{FILES[load.format]} does not run in a clean interpreter: {load.error}."
            for load in self.loads
            if not load.loads
        ]
        for part in self.differences:
            where = f"{FILES[part.format]} at batch {part.batch}"
            if part.problem:
                found.append(f"{where}: {part.problem}.")
            elif part.largest is None:
                found.append(f"{where} gives actions that are not numbers.")
            elif part.largest > self.limit:
                found.append(
                    f"{where} differs from the library's actions by {part.largest:.3g}; allowed: {self.limit:g}."
                )
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Both formats load alone and give the library's actions."""
        return not self.failures

    def require(self) -> None:
        """Raise unless it is a proof.

        Raises:
            WorkloadError: With the code `export_parity`; its message names format, batch and difference.
        """
        if self.passed:
            return
        raise WorkloadError(
            Failure(
                code="export_parity",
                category=Category.USER,
                message=" ".join(self.failures),
                advice="Do not run this export on a robot. The policy stays in its checkpoint; report the network.",
            )
        )


def check_parity(
    folder: Path,
    network: Network,
    observations: Mapping[str, NDArray[np.float32]],
    actions: NDArray[np.float32],
    first_steps: NDArray[np.bool_],
    *,
    python: str = sys.executable,
) -> Parity:
    """Run `policy.onnx` and `policy.pt` on recorded observations and compare with the recorded actions.

    At batch 1 it takes 64 rows spread over all of them, at batch 64 all rows, the remainder too. A network with a
    memory takes the steps one after another, with its own states, which are set back where an episode begins: at batch
    1 those of one environment, at batch 64 those of all, 64 environments at a time.

    Args:
        folder: Where the two files are.
        network: What was exported.
        observations: Of each input `(steps, environments, *its shape)`, as the environment gave them; 64 rows or more.
        actions: `(steps, environments, actions)`, what the library's own inference sent for each of them.
        first_steps: `(steps, environments)`, true where an episode has begun.
        python: The interpreter; it needs numpy and onnxruntime for one format and torch for the other.

    Raises:
        ValueError: If the pairs are too few, or no pairs.
    """
    import numpy as np

    steps, envs = actions.shape[:2]
    shapes = {name: given.shape[:2] for name, given in observations.items()}
    if set(shapes.values()) != {(steps, envs)} or first_steps.shape != (steps, envs) or steps * envs < FEWEST_ROWS:
        raise ValueError(
            f"Recorded observations {shapes}, actions {actions.shape} and first steps {first_steps.shape}: expected "
            f"(steps, environments) of each, with {FEWEST_ROWS} rows or more."
        )

    # The rows of every call, in order, as numbers of rows of the flat recording.
    rows = np.arange(steps * envs).reshape(steps, envs)
    if network.states:
        often = int(first_steps[1:].sum(axis=0).argmax())
        chosen = [rows[:, often : often + 1], *(rows[:, start : start + BATCH] for start in range(0, envs, BATCH))]
        plan = [(part.shape[1], part.size) for part in chosen]
    else:
        chosen = [np.linspace(0, rows.size - 1, FEWEST_ROWS).astype(int), rows]
        plan = [(1, FEWEST_ROWS), (BATCH, rows.size)]
    order = np.concatenate([part.reshape(-1) for part in chosen])

    def flat(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.reshape(rows.size, *array.shape[2:])[order])

    given = {name: flat(array.astype(np.float32)) for name, array in observations.items()}
    wanted = flat(actions.astype(np.float32))
    largest = float(np.abs(wanted).max())
    loads: list[Load] = []
    differences: list[Difference] = []
    for format_ in (ONNX, TORCHSCRIPT):
        load, got = _run(format_, folder / FILES[format_], network, given, flat(first_steps), plan, python)
        loads.append(load)
        if got is not None:
            differences += _compare(format_, got, wanted, plan[0][1])
    return Parity(
        limit=LIMIT,
        largest_action=largest if np.isfinite(largest) else None,
        loads=tuple(loads),
        differences=tuple(differences),
        resets=int(first_steps[1:].sum()) if network.states else None,
    )


def _run(
    format_: str,
    model: Path,
    network: Network,
    given: Mapping[str, NDArray[np.float32]],
    begun: NDArray[np.bool_],
    parts: list[tuple[int, int]],
    python: str,
) -> tuple[Load, NDArray[np.float32] | None]:
    """Run every row of the plan in a child; return (rows, actions) or why there are none."""
    import numpy as np

    refused = {*_REFUSED, *(library.module for library in LIBRARIES.values())}
    if format_ != TORCHSCRIPT:
        refused.add("torch")
    code = _CHILD.format(refused=refused, start=_START[format_])
    plan = {
        "inputs": [(each.name, each.shape) for each in network.inputs],
        "states": [(state.taken, state.given, state.layers, state.size) for state in network.states],
        "parts": parts,
    }
    with tempfile.TemporaryDirectory(prefix="simyard-parity-") as scratch:
        alone = Path(scratch) / model.name
        for n, each in enumerate(network.inputs):
            given[each.name].tofile(Path(scratch) / str(n))
        begun.tofile(Path(scratch) / "begun")
        error: str | None = None
        try:
            shutil.copyfile(model, alone)  # whatever lies beside the file does not help it
            done = subprocess.run(
                [python, "-I", "-c", code, str(alone), scratch, json.dumps(plan)],
                capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=scratch,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
            )  # fmt: skip
            if done.returncode != 0:
                error = _last_line(done.stderr) or f"exit code {done.returncode}"
        except (subprocess.TimeoutExpired, OSError) as failure:
            error = str(failure)
        if error is not None:
            return Load(format=format_, loads=False, error=error, runtime=None), None
        got = np.fromfile(Path(scratch) / "taken", np.float32)
    runtime, latency_ms = json.loads(_last_line(done.stdout))
    load = Load(format=format_, loads=True, error=None, runtime=runtime, latency_ms=latency_ms)
    return load, got.reshape(len(begun), -1)


def _compare(format_: str, got: NDArray[np.float32], wanted: NDArray[np.float32], alone: int) -> Iterator[Difference]:
    """Yield the differences of the first rows, which were run alone, and of the others."""
    import numpy as np

    for batch, part in ((1, slice(0, alone)), (BATCH, slice(alone, None))):
        largest = problem = None
        if got.shape != wanted.shape:
            problem = f"it gives {got.shape[1]} actions for each observation, the library {wanted.shape[1]}"
        else:
            # In float64, where the difference of two float32 is exact; a NaN on either side stays one.
            worst = float(np.abs(got[part].astype(np.float64) - wanted[part]).max())
            largest = worst if np.isfinite(worst) else None
        yield Difference(format=format_, batch=batch, rows=len(wanted[part]), largest=largest, problem=problem)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
