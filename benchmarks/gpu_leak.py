"""Memory of a session over many jobs, and each way to run out of GPU memory, on a machine with a GPU.

    python benchmarks/gpu_leak.py [--jobs 100] [--gpus 1] [--only leak|shortage]

leak        jobs of changing size in one warm simulator: GPU memory, resident memory, models, arrays after each
shortage    a job beside a process that holds the GPU, in three degrees; jobs too large by themselves: a training, an
            evaluation, a rollout; each row has the failure as a user sees it, and whether it is what it should be
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

SIZES = (4096, 512, 2048, 1024, 8192, 256)
"""Environments of the jobs, in turns; on a CPU a 128th of them."""
TASKS = ("Isaac-Cartpole-Direct", "Isaac-Cartpole-Direct", "Isaac-Ant-Direct")
HOLDER = """
import sys, time, torch
left, blocks = float(sys.argv[1]), []
for size in (2**28, 2**21):
    while torch.cuda.mem_get_info()[0] > left + size:
        try:
            blocks.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:  # the driver counts some as free that it does not give
            break
print("holds", flush=True)
time.sleep(3600)
"""
"""Holds a GPU's memory but so many bytes."""


@dataclass(frozen=True, kw_only=True)
class LeakRow:
    """A row of the first table: what the process has after a job."""

    job: int
    task: str
    num_envs: int
    seconds: float
    gpu_mb: float
    resident_mb: float
    models: int
    arrays: int
    leaving: str | None


@dataclass(frozen=True, kw_only=True)
class ShortageRow:
    """A row of the second table: what a user is told."""

    case: str
    expected: str
    """Category of the failure."""
    code: str
    category: str
    message: str
    advice: str

    @property
    def ok(self) -> bool:
        return (self.code, self.category) == ("gpu_out_of_memory", self.expected)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--gpus", type=int, default=1, choices=(0, 1))
    parser.add_argument("--only", choices=("leak", "shortage"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-", ignore_cleanup_errors=True) as folder:
        if options.only != "shortage":
            print(markdown(rows := leak(Path(folder), options.jobs, options.gpus)))
            print(f"\n{growth(rows)}\n")
        if options.only != "leak":
            print(markdown(list(shortage(Path(folder)))), flush=True)


# --- growth over many jobs --------------------------------------------------------------------------------------------


def leak(folder: Path, jobs: int = 100, gpus: int = 1) -> list[LeakRow]:
    """Run jobs of changing size in one process, a child of this one; return a row for each."""
    command = [sys.executable, __file__, str(folder), str(jobs), str(gpus)]
    env = {**os.environ, "SIMYARD_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "GPU_LEAK_CHILD": "1"}
    rows = []
    with subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith('{"job"'):
                rows.append(LeakRow(**json.loads(line)))
                print(line, end="", file=sys.stderr, flush=True)
    return rows


def growth(rows: list[LeakRow]) -> str:
    """Return what the second half of the jobs has added, in words: the first half has loaded every kernel."""
    first, last = rows[len(rows) // 2], rows[-1]
    same = next(row for row in rows[len(rows) // 2 :] if (row.task, row.num_envs) == (last.task, last.num_envs))
    replaced = sum(row.leaving is not None for row in rows)
    return (
        f"Jobs {same.job} to {last.job}, both {last.task} with {last.num_envs}: "
        f"GPU {last.gpu_mb - same.gpu_mb:+.1f} MB, resident {last.resident_mb - same.resident_mb:+.1f} MB, "
        f"models {last.models}, arrays {last.arrays - first.arrays:+d}, process to be replaced {replaced} times."
    )


def _serve(folder: Path, jobs: int, gpus: int) -> None:
    """Be the process of a session: serve jobs as it does, and print a row after each."""
    import gymnasium  # noqa: F401

    from simyard.core.files import AttemptPaths, write_json
    from simyard.core.specs import AttemptSpec, Bounds
    from simyard.requests.config import check_config
    from simyard.requests.jobs import TrainRequest
    from simyard.requests.settings import MachineSettings
    from simyard.runner import messages
    from simyard.runner.adapter import adapter_of
    from simyard.runner.session import _Session
    from simyard.store import keys
    from simyard.store.store import Store
    from simyard.tasks.resolve import resolve

    machine = MachineSettings(home=folder / "home", store=str(folder / "store"), python=sys.executable)
    os.environ.update(machine.workload_env())
    store = Store.open(machine.store)
    adapter = adapter_of("isaaclab")()
    adapter.preload("rsl_rl")
    adapter.import_rest()
    session = _Session(adapter, Bounds(jobs=jobs + 1), {})
    for number, (task, num_envs) in enumerate(islice(zip(cycle(TASKS), cycle(SIZES), strict=False), jobs), start=1):
        num_envs = num_envs if gpus else num_envs // 128
        training = {"task": task, "numEnvs": num_envs, "maxIterations": 2, "seed": 1}
        request = check_config({"trainingConfig": training, "computeConfig": {"gpusPerNode": gpus}}, TrainRequest)
        spec = resolve(request, store, keys.new_job_id(), folder).spec
        paths = AttemptPaths(folder / "work" / str(number))
        paths.make()
        checked = session.answer(messages.Check(job=spec, overlay=None, files={}))
        assert isinstance(checked, messages.Checked), checked
        write_json(paths.facts, checked.facts.to_json())
        write_json(paths.spec, AttemptSpec(job=spec, number=1).to_json())
        began = time.monotonic()
        done = session.answer(messages.RunAttempt(root=str(paths.root)))
        assert isinstance(done, messages.Done) and done.code == 0, paths.stderr.read_text()[-2000:]
        os.chdir(folder)
        models, arrays = _alive()
        row = {
            "job": number, "task": task, "num_envs": num_envs, "seconds": round(time.monotonic() - began, 2),
            "gpu_mb": round((done.gpu_memory_bytes or 0) / 1e6, 1), "resident_mb": round(done.memory_bytes / 1e6, 1),
            "models": models, "arrays": arrays, "leaving": done.leaving,
        }  # fmt: skip
        print(json.dumps(row), flush=True)


def _alive() -> tuple[int, int]:
    """Return how many models and arrays with memory there are."""
    import newton
    import warp

    objects = gc.get_objects()
    arrays = sum(type(item) is warp.array and bool(item.capacity) for item in objects)
    return sum(type(item) is newton.Model for item in objects), arrays


# --- out of GPU memory ------------------------------------------------------------------------------------------------


def shortage(folder: Path) -> Iterator[ShortageRow]:
    """Run out of GPU memory in every way; yield what is said of each."""
    task = "Isaac-Cartpole-Direct"
    training = {"task": task, "numEnvs": 4096, "maxIterations": 2}
    compute = {"computeConfig": {"gpusPerNode": 1}, "retries": 0}
    train = {"trainingConfig": training, **compute}
    rollout = {
        "runtime_profile": "isaac_lab_rollout",
        "execution": {"num_envs": 4096, "steps": 20, "seed": 1},
        "isaac_lab": {"task_class_or_name": task},
        "compute_config": {"gpus_per_node": 1},
        "retries": 0,
    }
    told = [_run(folder, "train", train)]  # it fits: it fills the kernel cache, and its policy is measured below
    job = str(told[0].get("job_id"))

    # Beside others.
    for left_mb in (0, 300, 1500):
        with _held(left_mb * 1e6):
            case = f"others leave {left_mb} MB"
            yield _row(case, "infra", _run(folder, "train", train | {"trainingConfig": training | _WIDE}))
            if left_mb == 300:
                yield _row(f"{case}, a rollout", "infra", _run(folder, "rollout", rollout, "--wait"))

    # Too large by themselves: buffers of the solver, which are Warp's, and the library's storage, which is torch's.
    buffers, storage = "env.sim.physics.solver_cfg.njmax=2000000", "agent.num_steps_per_env=2000000"
    wide = ("numEnvs=4096", "numEpisodes=4096")
    for case, kind, config, more in (
        ("a training, in Warp", "train", train | {"overrides": [buffers]}, ()),
        ("a training, in torch", "train", train | {"overrides": [storage]}, ()),
        ("a rollout", "rollout", rollout | {"overrides": [buffers]}, ("--wait",)),
        ("an evaluation", "evaluate", None, ("--job", job, "--set", *wide, buffers)),
        ("an export", "export-policy", None, ("--job", job, "--set", *wide, buffers)),
    ):
        yield _row(f"too large by itself: {case}", "user", _run(folder, kind, config, *more))


_WIDE = {"numEnvs": 65536}


@contextmanager
def _held(left: float) -> Iterator[None]:
    """Have another process hold the GPU's memory."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(left)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        try:
            yield
        finally:
            process.kill()


def _run(folder: Path, kind: str, config: dict[str, Any] | None, *arguments: str) -> dict[str, Any]:
    """Run a job by the command; return what it prints."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    env = {**os.environ, "SIMYARD_HOME": str(folder / "home"), "SIMYARD_STORE": str(folder / "store")}
    command = [sys.executable, "-m", "simyard", kind, *([] if config is None else [str(path)]), *arguments, "--json"]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    refused = {"code": f"exit code {done.returncode}", "category": "", "message": done.stderr[-500:], "advice": ""}
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": refused}
    print(kind, found.get("status"), found.get("error"), file=sys.stderr, flush=True)
    return found


def _row(case: str, expected: str, found: dict[str, Any]) -> ShortageRow:
    nothing = {"code": str(found.get("status")), "category": "", "message": "", "advice": ""}
    return ShortageRow(case=case, expected=expected, **(found.get("error") or nothing))


def markdown(rows: list[Any]) -> str:
    """Return rows as a table."""
    names = [*vars(rows[0]), *(["ok"] if isinstance(rows[0], ShortageRow) else [])]
    cells = [[" ".join(str(getattr(row, name)).split()).replace("|", "/") for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, ["---"] * len(names), *cells])


if __name__ == "__main__":
    if os.environ.get("GPU_LEAK_CHILD"):
        _serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
