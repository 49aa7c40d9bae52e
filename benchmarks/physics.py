"""Physics engines beside each other: steps a second, a processor second, and their start; a Markdown table.

    python benchmarks/physics.py [--cases Isaac-Cartpole-Direct:256 Isaac-Ant-Direct:64] [--physics newton physx]

It takes a GPU where there is one. Every figure is the median of so many rounds, each a process of its own, the engines
in turns; on a CPU `newton without replay` is what Isaac Lab does by itself. The start is from the process to the first
step, and to that of a second environment in the same process, as a session has it: cold is with an empty cache of
kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BARE = "newton without replay"
WARM_UP = 20
"""Steps that are not timed."""
COLUMNS = {
    "random steps/s": "random_wall", "a processor second": "random_cpu",
    "training steps/s": "training_wall", "a processor second ": "training_cpu",
    "cold start": "cold", "warm start": "warm", "warm, processor": "warm_cpu", "in a session": "again",
    "in a session, processor": "again_cpu",
}  # fmt: skip
"""Columns of the table, with the figure that each shows; a space keeps the two of one name apart."""


def main() -> None:
    """Measure every case with every engine, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", metavar="TASK:ENVS")
    parser.add_argument("--physics", nargs="+", default=["newton", "physx"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="leave out the start with an empty cache of kernels")
    parser.add_argument("--child", choices=("random", "training"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps({"random": play, "training": learn}[options.child](options)))
        return
    import torch

    on_gpu = torch.cuda.is_available()
    cases = options.cases or [f"Isaac-{robot}-Direct:{4096 if on_gpu else envs}"
                              for robot, envs in (("Cartpole", 256), ("Ant", 64))]  # fmt: skip
    engines = options.physics if on_gpu or "newton" not in options.physics else [*options.physics, BARE]
    print(
        f"{torch.cuda.get_device_name() if on_gpu else f'CPU, {os.cpu_count()} cores'}, {time.strftime('%Y-%m-%d')}\n"
    )
    print(f"| task | physics | {' | '.join(map(str.strip, COLUMNS))} |\n|---|---|{'---|' * len(COLUMNS)}")
    for case in cases:
        for engine, found in measured(case, engines, options).items():
            print(f"| {case} | {engine} | {' | '.join(shown(found, name) for name in COLUMNS.values())} |", flush=True)


def measured(case: str, engines: list[str], options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return all figures of a case by engine."""
    figures: dict[str, dict[str, list[float]]] = {engine: {} for engine in engines}
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        for number in range(options.rounds):
            for engine in engines:
                # The first process of a round has an empty cache of kernels, the second one what it left.
                cache = None if options.warm else Path(folder) / f"{engine}-{number}"
                one = {} if options.warm else {"cold": child("random", case, engine, options, cache)["start"]}
                warm = child("random", case, engine, options, cache)
                learnt = child("training", case, engine, options, cache)
                one |= {"warm": warm["start"], "warm_cpu": warm["start_cpu"]}
                one |= {name: warm[name] for name in ("again", "again_cpu", "random_wall", "random_cpu")}
                for name, value in (one | learnt).items():
                    figures[engine].setdefault(name, []).append(value)
    return figures


def child(kind: str, case: str, engine: str, options: argparse.Namespace, cache: Path | None) -> dict[str, float]:
    """Measure in a process of its own; without a cache of its own it has the machine's."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", kind, "--cases", case, "--physics", engine]
    command += ["--steps", str(options.steps), "--iterations", str(options.iterations)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "BEGAN": str(time.time())}
    env |= {} if cache is None else {"WARP_CACHE_PATH": str(cache)}
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def shown(found: dict[str, list[float]], name: str) -> str:
    if name not in found:
        return ""
    value = statistics.median(found[name])
    return f"{value:,.0f}" if name.startswith(("random", "training")) else f"{value:.1f} s"


# --- in a process of its own ------------------------------------------------------------------------------------------


class Case:
    """A task with an engine, as a job has it: its environment, and what makes it."""

    def __init__(self, options: argparse.Namespace) -> None:
        from simyard.core.specs import JobSpec
        from simyard.runner.isaaclab import adapter, lookup
        from simyard.runner.rl import get_library

        self.task, _, envs = options.cases[0].rpartition(":")
        self.envs, engine = int(envs), options.physics[0]
        self.library = get_library("rsl_rl")
        job = JobSpec(
            job_id="job-benchmark", kind="train", name="benchmark", simulator="isaaclab", task=self.task, seed=1,
            library="rsl_rl", num_envs=self.envs, max_iterations=options.iterations, physics=engine.split()[0],
            overrides=() if engine != BARE else ("env.sim.physics.use_cuda_graph=false",),
        )  # fmt: skip
        os.environ.setdefault("ISAACSIM_ASSET_ROOT", str(assets()))
        adapter.replay_on_cpu()
        adapter.without_pinned_memory()
        lookup.register_tasks(None)
        self.facts, _ = lookup.resolve(job, self.library, {})

    @contextmanager
    def environment(self) -> Iterator[Any]:
        from simyard.runner.isaaclab.environment import fresh_environment

        with fresh_environment(
            self.task, self.library, self.facts.overrides, num_envs=self.envs, seed=1, device=self.facts.device
        ) as (env, _):
            yield env


def assets() -> Path | None:
    from simyard.requests.settings import MachineSettings
    from simyard.runner.assets.asset_root import embedded_root

    return embedded_root(MachineSettings.from_env_in_part().home / "assets")


def play(options: argparse.Namespace) -> dict[str, float]:
    """Start twice, as two jobs of a session do, and take random actions in the second environment."""
    from simyard.runner.rollout.actions import RandomActions

    case = Case(options)
    with case.environment() as env:
        driver = RandomActions(env, 1)
        driver.begin()
        driver.step()
    found = {"start": time.time() - float(os.environ["BEGAN"]), "start_cpu": time.process_time()}
    again, again_cpu = time.time(), time.process_time()
    with case.environment() as env:
        driver = RandomActions(env, 1)
        driver.begin()
        driver.step()
        found |= {"again": time.time() - again, "again_cpu": time.process_time() - again_cpu}
        for _ in range(WARM_UP):
            driver.step()
        wall, cpu = timed(lambda: [driver.step() for _ in range(options.steps)], case.facts.device)
    steps = options.steps * case.envs
    return {**found, "random_wall": steps / wall, "random_cpu": steps / cpu}


def learn(options: argparse.Namespace) -> dict[str, float]:
    """Train as a job does; its start is not counted."""
    case = Case(options)
    from isaaclab_rl.entrypoints import TrainingRequest, train
    from rsl_rl.runners import OnPolicyRunner

    taken: list[tuple[float, float]] = []
    learn = OnPolicyRunner.learn

    def timed_learn(self: Any, *arguments: Any, **more: Any) -> None:
        taken.append(timed(lambda: learn(self, *arguments, **more), case.facts.device))

    OnPolicyRunner.learn = timed_learn
    request = TrainingRequest(
        backend="rsl_rl", task=case.task, num_envs=case.envs, seed=1, max_iterations=options.iterations,
        device=case.facts.device, checkpoint=None, backend_args=(), hydra_args=case.facts.overrides,
    )  # fmt: skip
    if train(request):
        sys.exit("the training failed")
    steps = options.iterations * case.facts.rollout * case.envs
    (wall, cpu), *_ = taken
    return {"training_wall": steps / wall, "training_cpu": steps / cpu}


def timed(work: Callable[[], Any], device: str) -> tuple[float, float]:
    """Do some work; return its wall time and its processor time, until the last of it is really done."""
    import torch

    began, cpu = time.perf_counter(), time.process_time()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - cpu


if __name__ == "__main__":
    main()
