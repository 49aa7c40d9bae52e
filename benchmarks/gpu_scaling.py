"""How trainings scale to several GPUs of one machine; `gpu.py --gpus N` runs it, and has the options.

    weak-LIBRARY-TASK      as many environments on each GPU as on one alone; start-up, and the parts of rsl_rl
    strong-LIBRARY-TASK    as many environments on all GPUs together as on one alone
    reduce                 an all-reduce of the sizes that gradients have
    alone                  a training on each GPU at once, none of which waits for another: contention and stragglers
    repeat                 two trainings with the same seed and ranks, compared to the bit
    killed                 a rank is killed, and the job goes on
    sweep                  trials each on a GPU of its own, against one after another on all

What a training on N GPUs takes longer than one on one is then: contention (`alone`, its mean), stragglers (`alone`, the
slowest of each iteration) and the all-reduces (`reduce`, times the minibatches), and what is left.
Without GPUs (`--device cpu`) each case has one process, save `reduce` and `alone`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpu import ANT, CARTPOLE, HERE, GpuBench, Line, OutOfTimeError, spread
from sessions import SIMYARD, wall_times

HUMANOID = "Isaac-Humanoid-Direct"
TASKS = {"cartpole": CARTPOLE, "ant": ANT, "humanoid": HUMANOID}
LIBRARIES = ("rsl_rl", "skrl", "rl_games")
GRADIENTS = {"64 kB": 2**14, "1 MB": 2**18, "16 MB": 2**22}
"""Numbers of float32 values: Cartpole's networks have 16 kB, Ant's 1.6 MB."""
CASE_S = 45.0
"""Seconds of one training, of which the start is half."""
WANTED = 0.9


@dataclass(frozen=True)
class Case:
    """A training that has ended."""

    job_id: str
    iteration_s: float
    startup_s: float
    parts: dict[str, float]
    """Seconds of collection and learning, where the library tells."""


def rows(options: argparse.Namespace) -> dict[str, tuple[Callable[[GpuBench], list[Line]], float]]:
    """Return the rows, each with the seconds that it takes."""
    pairs = [(library, task) for task in ("cartpole", "ant") for library in LIBRARIES] + [("rsl_rl", "humanoid")]
    found: dict[str, tuple[Callable[[GpuBench], list[Line]], float]] = {
        "reduce": (reduce, 40), "alone": (alone, 90), "repeat": (repeat, 2 * CASE_S), "killed": (killed, 120),
        "sweep": (sweep, (options.several + 1) * CASE_S),
    }  # fmt: skip
    for library, task in pairs:
        found[f"weak-{library}-{task}"] = (_weak(library, TASKS[task]), (4 if options.large else 2) * CASE_S)
        found[f"strong-{library}-{task}"] = (_strong(library, TASKS[task]), 2 * CASE_S)
    return found


def _weak(library: str, task: str) -> Callable[[GpuBench], list[Line]]:
    def row(bench: GpuBench) -> list[Line]:
        """Weak scaling of a task with a library, of a small and of a large number of environments."""
        several, small, lines = bench.options.several, bench.options.envs, bench.lines
        for envs in (small, bench.options.large * small) if bench.options.large else (small,):
            one, all_of = (_train(bench, library, task, envs, gpus) for gpus in (1, several))
            ratio = one.iteration_s / all_of.iteration_s
            wanted, holds = ("", None) if envs == small else (f"{WANTED}", ratio >= WANTED)
            times = f"{1e3 * one.iteration_s:.1f} ms an iteration on one, {1e3 * all_of.iteration_s:.1f} on {several}"
            lines.append(Line(f"weak, {envs:,} environments a GPU", f"{ratio:.2f}: {times}", wanted, holds))
            if one.parts and all_of.parts:
                told = (f"{name} +{1e3 * (all_of.parts[name] - one.parts[name]):.1f} ms" for name in one.parts)
                lines.append(Line("where the loss is", ", ".join(told)))
            startup = f"{one.startup_s:.1f} s on one, {all_of.startup_s:.1f} s on {several}"
            lines.append(Line("start-up", startup))
        return lines

    return row


def _strong(library: str, task: str) -> Callable[[GpuBench], list[Line]]:
    def row(bench: GpuBench) -> list[Line]:
        """Strong scaling of a task with a library."""
        several, large = bench.options.several, (bench.options.large or 1) * bench.options.envs
        share = _train(bench, library, task, large // several, several)
        ratio = _train(bench, library, task, large, 1).iteration_s / share.iteration_s / several
        return [Line(f"strong, {large:,} environments in all", f"{ratio:.2f}")]

    return row


def _train(bench: GpuBench, library: str, task: str, envs: int, gpus: int, seed: int = 42, *, again: int = 0) -> Case:
    """Train, once for each case."""
    key = (library, task, envs, gpus, seed, again)
    known: dict[Any, Case] = bench.__dict__.setdefault("cases", {})
    if key not in known:
        config = _config(bench, library, task, envs, gpus, seed=seed)
        result = bench.simyard("train", config, "--store", bench.store, "--session", "off")
        known[key] = _read(bench, result["job_id"], result["timings"]["startup_s"])
    return known[key]


def _config(bench: GpuBench, library: str, task: str, envs: int, gpus: int, **section: Any) -> Path:
    path = bench.training("scaling", task, rlLibrary=library, numEnvs=envs, **{"maxIterations": 40, **section})
    request = json.loads(path.read_text())
    request["computeConfig"]["gpusPerNode"] = gpus if bench.options.on_gpu else 0
    if not bench.options.on_gpu:
        request["trainingConfig"]["maxIterations"] = min(3, request["trainingConfig"]["maxIterations"])
    path.write_text(json.dumps(request))
    return path


def _read(bench: GpuBench, job_id: str, startup_s: float) -> Case:
    """Return what a job tells of its iterations; its first third warms up."""
    folder = bench.job(job_id)
    walls = max(wall_times(folder), key=len)
    gaps = [later - earlier for earlier, later in pairwise(walls)]
    parts = {}
    with (folder / "artifacts" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    for name in ("collection", "learning"):
        values = [float(row[column]) for row in table if row.get(column := f"Perf/{name}_time")]
        if values:
            parts[name] = statistics.median(values[len(values) // 3 :])
    return Case(job_id, statistics.median(gaps[len(gaps) // 3 :]), startup_s, parts)


def reduce(bench: GpuBench) -> list[Line]:
    """What an all-reduce takes."""
    count = bench.options.several
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
    printed = bench._in(bench.folder, [*command, HERE / "gpu_scaling.py", bench.options.device])
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    return [Line(f"all-reduce of {size}, {count} ranks", f"{ms:.3f} ms") for size, ms in found.items()]


def _reduce_here(device: str) -> None:
    """Be one of the ranks of `reduce`."""
    import torch
    import torch.distributed as dist

    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    found = {}
    for size, count in GRADIENTS.items():
        values = torch.ones(count, device="cuda" if on_gpu else "cpu")
        times = 100 if on_gpu else 5
        for number in range(times + 5):
            if number == 5:
                dist.barrier()
                began = time.perf_counter()
            dist.all_reduce(values)
        if on_gpu:
            torch.cuda.synchronize()
        found[size] = 1e3 * (time.perf_counter() - began) / times
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def alone(bench: GpuBench) -> list[Line]:
    """A training on each GPU, first one by itself, then all at once; none waits for another."""
    several = bench.options.several
    (one,) = _beside(bench, 1)
    all_of = _beside(bench, several)
    lines = []
    for part in ("collection", "learning"):
        by_itself = statistics.median(one[part])
        means = statistics.fmean(statistics.median(times[part]) for times in all_of)
        slowest = statistics.median(map(max, zip(*(times[part] for times in all_of), strict=True)))
        text = (
            f"{by_itself:.1f} ms by itself, {means:.1f} beside {several - 1}, slowest of each iteration {slowest:.1f}"
        )
        lines.append(Line(f"{part} without all-reduce", text))
    return lines


def _beside(bench: GpuBench, count: int) -> list[dict[str, list[float]]]:
    command = [sys.executable, HERE / "gpu_profile.py", "--child", CARTPOLE, "--times"]
    command += ["--device", bench.options.device, "--envs", bench.options.envs]
    command += ["--iterations", 60 if bench.options.on_gpu else 4]
    processes = [
        subprocess.Popen(
            list(map(str, command)), env=_on(bench, gpu), cwd=bench.folder,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for gpu in range(count)
    ]  # fmt: skip
    try:
        outs = [process.communicate(timeout=max(1.0, bench.left_s))[0] for process in processes]
    except subprocess.TimeoutExpired:
        raise OutOfTimeError("ended: the time was up") from None
    finally:
        for process in processes:
            process.kill()
    if failed := [process.returncode for process in processes if process.returncode]:
        raise RuntimeError(f"gpu_profile.py ended with exit code {failed[0]}")
    return [json.loads(out.splitlines()[-1]) for out in outs]


def _on(bench: GpuBench, gpu: int) -> dict[str, str]:
    """Return the environment of a process that sees one of the GPUs."""
    return bench.env | ({"CUDA_VISIBLE_DEVICES": str(gpu)} if bench.options.on_gpu else {})


def repeat(bench: GpuBench) -> list[Line]:
    """The same training twice."""
    import torch

    gpus, envs = bench.options.several, bench.options.envs
    cases = [_train(bench, "rsl_rl", CARTPOLE, envs, gpus, again=number) for number in (1, 2)]
    states = []
    for case in cases:
        path = max((bench.job(case.job_id) / "artifacts/checkpoints").glob("model_*.pt"), key=_number)
        states.append(torch.load(path, weights_only=True, map_location="cpu")["actor_state_dict"])
    same = all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    apart = max(float((value - states[1][name]).abs().max()) for name, value in states[0].items())
    found = "yes" if same else f"no: apart by {apart:.1e}"
    return [Line(f"two runs with one seed on {gpus}, the same to the bit", found, "yes", same)]


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def killed(bench: GpuBench) -> list[Line]:
    """A rank is killed in the middle; the next attempt goes on from the last checkpoint."""
    gpus = bench.options.several
    if not bench.options.on_gpu:
        return [Line("a rank killed", "not run: ranks need GPUs")]
    config = _config(bench, "rsl_rl", CARTPOLE, bench.options.envs, gpus, maxIterations=400)
    command = [sys.executable, "-c", SIMYARD, "train", config, "--store", bench.store, "--json"]
    command += ["--set", "agent.save_interval=20"]
    process = subprocess.Popen(
        list(map(str, command)), env=bench.env, cwd=bench.folder, stdout=subprocess.PIPE, text=True
    )
    try:
        while not (found := _ranks(bench)):
            if process.poll() is not None or bench.left_s < 0:
                raise RuntimeError("the training ended before a rank could be killed")
            time.sleep(0.2)
        os.kill(found[-1], signal.SIGKILL)
        result = json.loads(process.communicate(timeout=max(1.0, bench.left_s))[0].splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise OutOfTimeError("ended: the time was up") from None
    finally:
        process.kill()
    ended = (result["status"], result["attempts"])
    text = f"{ended[0]} after {ended[1]} attempts, {result['timings']['total_s']:.0f} s"
    return [Line(f"one of {gpus} ranks killed", text, "succeeded, 2", ended == ("succeeded", 2))]


def _ranks(bench: GpuBench) -> list[int]:
    """Return the processes of the ranks, once a checkpoint of their training is in the store; none before."""
    for path in (Path(bench.env["SIMYARD_HOME"]) / "work").glob("job-*/001-*/**/world.json"):
        job_id = next(part for part in path.parts if part.startswith("job-"))
        saved = bench.job(job_id) / "attempts" / "001" / "checkpoints.json"
        if saved.exists() and "model_20" in saved.read_text():
            return [rank["pid"] for rank in json.loads(path.read_text())["ranks"]]
    return []


def sweep(bench: GpuBench) -> list[Line]:
    """As many trials as GPUs: each on one, all at once, against one after another on all."""
    several, envs = bench.options.several, bench.options.envs
    configs = [
        _config(bench, "rsl_rl", CARTPOLE, envs, 1, seed=seed).rename(bench.folder / f"trial-{seed}.json")
        for seed in range(several)
    ]
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SIMYARD, "train", config, "--store", bench.store, "--session", "off", "--json"],
            env=_on(bench, gpu),
            cwd=bench.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for gpu, config in enumerate(configs)
    ]  # fmt: skip
    try:
        codes = [process.wait(max(1.0, bench.left_s)) for process in processes]
    except subprocess.TimeoutExpired:
        raise OutOfTimeError("ended: the time was up") from None
    finally:
        for process in processes:
            process.terminate()
    if any(codes):
        raise RuntimeError(f"a trial ended with exit code {max(codes)}")
    spread_over = time.monotonic() - began
    began = time.monotonic()
    for seed in range(several):
        _train(bench, "rsl_rl", CARTPOLE, envs // several, several, seed=seed, again=3)
    return [
        Line(f"{several} trials of {envs:,} environments, each on a GPU of its own", spread([spread_over])),
        Line(f"the same one after another, each on all {several}", spread([time.monotonic() - began])),
    ]


if __name__ == "__main__":
    _reduce_here(sys.argv[1])
