"""Proof that an export does what training did: both formats against recorded pairs, each in a clean interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.wire import Wire
from simyard.runner.exporting.contract import FILES, ONNX, TORCHSCRIPT
from simyard.runner.rl import LIBRARIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIMIT = 1e-4
"""Largest difference of any action, in the network's own unit: float32 sums in another order stay far below it."""
FEWEST_ROWS = 64
"""Rows at batch 1; fewer pairs prove little."""
BATCH = 64
_TIMEOUT_S = 300.0
"""For one interpreter to start, load the file and run every row."""

# Raw float32 goes in and out, so that neither child needs more than its runtime. Plan: [[batch, rows], ...].
_CHILD = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}: the export may not need it", name=name)

sys.meta_path.insert(0, Refuse())
model, given, taken, columns, plan = sys.argv[1:]
columns, plan = int(columns), json.loads(plan)
{start}
start = 0
with open(taken, "wb") as file:
    for batch, rows in plan:
        for first in range(start, start + rows, batch):
            actions = infer(first, min(batch, start + rows - first))
            if actions.ndim != 2 or len(actions) != min(batch, start + rows - first):
                raise ValueError(f"actions of the shape {{tuple(actions.shape)}} for {{batch}} observations")
            file.write(actions.tobytes())
        start += rows
print(runtime)
"""
_START = {
    ONNX: """
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
observations = np.fromfile(given, np.float32).reshape(-1, columns)
infer = lambda first, rows: session.run(["actions"], {"obs": observations[first:first + rows]})[0]
runtime = f"onnxruntime {onnxruntime.__version__}"
""",
    TORCHSCRIPT: """
import ctypes
import torch
torch.set_num_threads(1)
network = torch.jit.load(model, map_location="cpu")
observations = torch.frombuffer(bytearray(open(given, "rb").read()), dtype=torch.float32).reshape(-1, columns)
def infer(first, rows):
    with torch.no_grad():
        return Taken(network(observations[first:first + rows]).to(torch.float32).contiguous())
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
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
    *,
    python: str = sys.executable,
) -> Parity:
    """Run `policy.onnx` and `policy.pt` on recorded observations and compare with the recorded actions.

    At batch 1 it takes 64 rows spread over all of them, at batch 64 all rows, the remainder too.

    Args:
        folder: Where the two files are.
        observations: (N, observations), as the environment gave them; N is 64 or more.
        actions: (N, actions), what the library's own inference sent to the base environment for each of them.
        python: The interpreter; it needs numpy and onnxruntime for one format and torch for the other.

    Raises:
        ValueError: If the pairs are too few, or no pairs.
    """
    import numpy as np

    given = np.ascontiguousarray(observations, np.float32)
    wanted = np.ascontiguousarray(actions, np.float32)
    if given.ndim != 2 or wanted.ndim != 2 or len(given) != len(wanted) or len(given) < FEWEST_ROWS:
        raise ValueError(
            f"Recorded observations {given.shape} and actions {wanted.shape}: expected (N, observations) and "
            f"(N, actions) with N at least {FEWEST_ROWS}."
        )
    spread = np.linspace(0, len(given) - 1, FEWEST_ROWS).astype(int)
    plan = [(1, FEWEST_ROWS), (BATCH, len(given))]
    largest = float(np.abs(wanted).max())
    loads: list[Load] = []
    differences: list[Difference] = []
    for format_ in (ONNX, TORCHSCRIPT):
        load, got = _run(format_, folder / FILES[format_], np.concatenate([given[spread], given]), plan, python)
        loads.append(load)
        if got is not None:
            differences += _compare(format_, got, np.concatenate([wanted[spread], wanted]), plan)
    return Parity(
        limit=LIMIT,
        largest_action=largest if np.isfinite(largest) else None,
        loads=tuple(loads),
        differences=tuple(differences),
    )


def _run(
    format_: str, model: Path, observations: NDArray[np.float32], plan: list[tuple[int, int]], python: str
) -> tuple[Load, NDArray[np.float32] | None]:
    """Run every row of the plan in a child; return (rows, actions) or why there are none."""
    import numpy as np

    refused = {*_REFUSED, *(library.module for library in LIBRARIES.values())}
    if format_ != TORCHSCRIPT:
        refused.add("torch")
    code = _CHILD.format(refused=refused, start=_START[format_])
    with tempfile.TemporaryDirectory(prefix="simyard-parity-") as scratch:
        alone, given, taken = (Path(scratch) / name for name in (model.name, "given", "taken"))
        observations.tofile(given)
        arguments = [str(alone), str(given), str(taken), str(observations.shape[1]), json.dumps(plan)]
        error: str | None = None
        try:
            shutil.copyfile(model, alone)  # whatever lies beside the file does not help it
            done = subprocess.run(
                [python, "-I", "-c", code, *arguments],
                capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=scratch,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
            )  # fmt: skip
            if done.returncode != 0:
                error = _last_line(done.stderr) or f"exit code {done.returncode}"
        except (subprocess.TimeoutExpired, OSError) as failure:
            error = str(failure)
        if error is not None:
            return Load(format=format_, loads=False, error=error, runtime=None), None
        got = np.fromfile(taken, np.float32)
    load = Load(format=format_, loads=True, error=None, runtime=_last_line(done.stdout))
    return load, got.reshape(len(observations), -1)


def _compare(
    format_: str, got: NDArray[np.float32], wanted: NDArray[np.float32], plan: list[tuple[int, int]]
) -> Iterator[Difference]:
    import numpy as np

    start = 0
    for batch, rows in plan:
        largest = problem = None
        if got.shape != wanted.shape:
            problem = f"it gives {got.shape[1]} actions for each observation, the library {wanted.shape[1]}"
        else:
            # In float64, where the difference of two float32 is exact; a NaN on either side stays one.
            part = slice(start, start + rows)
            worst = float(np.abs(got[part].astype(np.float64) - wanted[part]).max())
            largest = worst if np.isfinite(worst) else None
        yield Difference(format=format_, batch=batch, rows=rows, largest=largest, problem=problem)
        start += rows


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
