"""Where the time of a warm training goes: which part is Isaac Lab's, the physics', rsl_rl's; and what would buy some.

    python benchmarks/gpu_profile.py [--tasks Isaac-Cartpole-Direct Isaac-Ant-Direct] [--envs 4096] [--iterations 60]

Each task has one process: a tenth of the iterations to warm up, then four looks at the same loop, each at its own.

    time      nothing is changed: iterations by rsl_rl's own clock, collection and learning apart
    parts     the GPU is waited for before and after each part, so that it has its own time; all together take longer
    packages  cProfile: whose Python the main thread was in; a package that waits for the GPU has the waiting
    GPU       torch's profiler: the share of the time in which kernels ran, and how many an iteration launches

Then what might help, each against the loop as it is: `agent.check_for_nan=false`, a longer rollout, `torch.compile`,
and the policy's step in a CUDA graph; the latter two say whether the numbers stay the same to the bit. Without a GPU
what needs one is left out. Prints Markdown; the last line is JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simyard.runner.assets.asset_root import embedded_root

TASKS = ("Isaac-Cartpole-Direct", "Isaac-Ant-Direct")
PACKAGES = {
    "isaaclab": "Isaac Lab", "isaaclab_tasks": "Isaac Lab", "isaaclab_rl": "Isaac Lab", "isaaclab_newton": "Isaac Lab",
    "newton": "Newton", "mujoco_warp": "Newton", "warp": "Newton", "rsl_rl": "rsl_rl", "tensordict": "rsl_rl",
    "torch": "torch", "simyard": "simyard",
}  # fmt: skip
"""Whose a package is; tensordict is what rsl_rl keeps observations in."""


def main() -> None:
    """Profile each task in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--envs", type=int, default=4096)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--times", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(profile(options.child, options)))
        return
    found = {}
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        root = os.environ.get("ISAACSIM_ASSET_ROOT") or str(embedded_root(Path(folder) / "assets"))
        env = {**os.environ, "ISAACSIM_ASSET_ROOT": root, "OMP_NUM_THREADS": "1"}
        for task in options.tasks:
            command = [sys.executable, str(Path(__file__).resolve()), "--child", task, "--envs", str(options.envs)]
            command += ["--iterations", str(options.iterations), "--device", options.device]
            done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{task} failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
            found[task] = json.loads(done.stdout.splitlines()[-1])
            print(table(task, found[task], options), flush=True)
    print(json.dumps(found))


def table(task: str, found: dict[str, Any], options: argparse.Namespace) -> str:
    """Return what was found about a task as Markdown."""
    lines = [
        f"\n{task}, {options.envs} environments, {options.device}",
        "",
        "| | ms an iteration | share |",
        "|---|---|---|",
    ]
    whole = found["time"]["collection"] + found["time"]["learning"]
    lines += [f"| {name}, by rsl_rl's clock | {ms:.2f} | {ms / whole:.0%} |" for name, ms in found["time"].items()]
    parts = sum(found["parts"].values())
    lines += [f"| part: {name} | {ms:.2f} | {ms / parts:.0%} |" for name, ms in found["parts"].items()]
    lines += [f"| Python of {name} | | {share:.0%} |" for name, share in found["packages"].items()]
    if gpu := found["gpu"]:
        lines += [f"| GPU busy | {gpu['busy_ms']:.2f} | {gpu['busy']:.0%} |"]
        lines += [f"| kernels launched | {gpu['kernels']:.0f} | |"]
        lines += [f"| kernel `{name[:60]}` | {ms:.2f} | |" for name, ms in gpu["longest"].items()]
    lines += ["", "| tried | steps/s | against as it is | same to the bit |", "|---|---|---|---|"]
    base = found["tried"]["as it is"]["rate"]
    for name, tried in found["tried"].items():
        rate, ratio = (f"{tried['rate']:,.0f}", f"{tried['rate'] / base:.2f}") if tried.get("rate") else ("", "")
        lines.append(f"| {name} | {rate} | {ratio} | {tried.get('said', '')} |")
    return "\n".join(lines)


def profile(task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a task, and look at it; this is the child."""
    import isaaclab_tasks  # noqa: F401
    import torch
    from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, handle_deprecated_rsl_rl_cfg

    from simyard.runner.isaaclab.adapter import replay_on_cpu
    from simyard.runner.isaaclab.environment import fresh_environment
    from simyard.runner.rl import get_library

    replay_on_cpu()
    overrides = ["physics=newton_mjwarp", f"agent.device={options.device}"]
    library = get_library("rsl_rl")
    with fresh_environment(task, library, overrides, num_envs=options.envs, seed=42, device=options.device) as (
        env,
        agent_cfg,
    ):
        wrapped = RslRlVecEnvWrapper(env, clip_actions=agent_cfg.clip_actions)
        loop = Loop(wrapped, handle_deprecated_rsl_rl_cfg(agent_cfg, version("rsl-rl-lib")), torch)
        few = max(2, options.iterations // 6)
        loop.run(max(2, options.iterations // 10))
        if options.times:
            return loop.times(options.iterations)
        found: dict[str, Any] = {"time": loop.run(options.iterations)}
        found["parts"] = loop.parts(few)
        found["packages"] = loop.packages(few)
        found["gpu"] = loop.gpu(few) if loop.on_gpu else None
        found["tried"] = loop.tried(few)
    return found


class Loop:
    """rsl_rl's loop on one environment."""

    def __init__(self, env: Any, agent_cfg: Any, torch: Any) -> None:
        self.env, self.agent_cfg, self.torch = env, agent_cfg, torch
        self.on_gpu = str(env.device).startswith("cuda")
        self.runner = self._runner()

    def _runner(self, rollout: int = 1, compiled: bool = False) -> Any:
        from isaaclab_rl.rsl_rl import create_rsl_rl_runner

        cfg = self.agent_cfg.copy()
        cfg.num_steps_per_env *= rollout
        cfg.torch_compile_mode = "default" if compiled else None
        self.torch.manual_seed(42)
        return create_rsl_rl_runner(self.env, cfg, log_dir=None)

    def wait(self) -> None:
        """Wait for the GPU."""
        if self.on_gpu:
            self.torch.cuda.synchronize()

    def times(self, iterations: int, runner: Any = None) -> dict[str, list[float]]:
        """Learn; return the milliseconds of each iteration, collection and learning apart."""
        runner = runner or self.runner
        said: list[dict[str, Any]] = []
        runner.logger.log = lambda **about: said.append(about)
        runner.learn(iterations)
        self.wait()
        names = {"collection": "collect_time", "learning": "learn_time"}
        return {part: [1e3 * about[name] for about in said] for part, name in names.items()}

    def run(self, iterations: int, runner: Any = None) -> dict[str, float]:
        """Learn; return the mean of those."""
        return {part: statistics.fmean(every) for part, every in self.times(iterations, runner).items()}

    def rate(self, iterations: int, runner: Any = None) -> float:
        """Learn; return the environment steps a second."""
        runner = runner or self.runner
        self.run(1, runner)
        began = time.perf_counter()
        self.run(iterations, runner)
        steps = iterations * runner.cfg["num_steps_per_env"] * self.env.num_envs
        return steps / (time.perf_counter() - began)

    def parts(self, iterations: int) -> dict[str, float]:
        """Learn with a clock around each part; return the milliseconds of an iteration in each."""
        base, runner = self.env.unwrapped, self.runner
        module = sys.modules[type(runner).__module__]
        seconds: dict[str, float] = defaultdict(float)
        places = [
            (runner.alg, "act", "policy's step (rsl_rl)"), (base, "step", "environment's step"),
            (base.sim, "step", "physics (Newton)"), (module, "check_nan", "check for NaN (rsl_rl)"),
            (runner.alg, "process_env_step", "storing (rsl_rl)"), (runner.alg, "compute_returns", "returns (rsl_rl)"),
            (runner.alg, "update", "update (rsl_rl)"),
        ]  # fmt: skip
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for owner, name, label in places:
            setattr(owner, name, self._timed(getattr(owner, name), seconds, label))
        try:
            began = time.perf_counter()
            self.run(iterations)
            whole = time.perf_counter() - began
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)
        seconds["task: rewards, resets, observations (Isaac Lab)"] = (
            seconds.pop("environment's step") - seconds["physics (Newton)"]
        )
        seconds["rest"] = whole - sum(seconds.values())
        return {name: 1e3 * value / iterations for name, value in seconds.items()}

    def _timed(self, function: Callable[..., Any], seconds: dict[str, float], label: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            self.wait()
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.wait()
                seconds[label] += time.perf_counter() - began

        return timed

    def packages(self, iterations: int) -> dict[str, float]:
        """Learn under cProfile; return whose code the time was in, what is built in by who called it."""
        watch = cProfile.Profile()
        watch.runcall(self.run, iterations)
        shares: dict[str, float] = defaultdict(float)
        for (file, _, _), (_, _, own, _, callers) in pstats.Stats(watch).stats.items():  # type: ignore[attr-defined]
            if file == "~":
                for (caller, _, _), (_, _, part, _) in callers.items():
                    shares[_whose(caller)] += part
            else:
                shares[_whose(file)] += own
        whole = sum(shares.values())
        return {name: seconds / whole for name, seconds in sorted(shares.items(), key=lambda item: -item[1])}

    def gpu(self, iterations: int) -> dict[str, Any]:
        """Learn under torch's profiler; return how busy the GPU was, and its longest kernels."""
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as watching

        with watching(activities=[ProfilerActivity.CUDA]) as watch:
            began = time.perf_counter()
            self.run(iterations)
            seconds = time.perf_counter() - began
        spent: dict[str, float] = defaultdict(float)
        count = 0
        for event in watch.events():
            if str(event.device_type).endswith("CUDA"):
                spent[event.name] += event.time_range.elapsed_us() / 1e3
                count += 1
        busy = sum(spent.values())
        longest = sorted(spent.items(), key=lambda item: -item[1])[:6]
        return {
            "busy_ms": busy / iterations, "busy": busy / 1e3 / seconds, "kernels": count / iterations,
            "longest": {name: ms / iterations for name, ms in longest},
        }  # fmt: skip

    def tried(self, iterations: int) -> dict[str, dict[str, Any]]:
        """Measure what might help."""
        found: dict[str, dict[str, Any]] = {"as it is": {"rate": self.rate(iterations)}}
        self.runner.cfg["check_for_nan"] = False
        said = "yes, and NaN is found later"
        found["agent.check_for_nan=false"] = {"rate": self.rate(iterations), "said": said}
        self.runner.cfg["check_for_nan"] = True
        for factor in (2, 4):
            name = f"agent.num_steps_per_env x {factor}"
            runner = self._runner(rollout=factor)
            found[name] = {"rate": self.rate(max(1, iterations // factor), runner), "said": "another training"}
        if self.on_gpu:
            found["agent.torch_compile_mode=default"] = self._compiled(iterations)
            found["policy's step in a CUDA graph"] = self._in_a_graph()
        return found

    def _compiled(self, iterations: int) -> dict[str, Any]:
        torch = self.torch
        try:
            plain, compiled = self._runner(), self._runner(compiled=True)
            observations = self.env.get_observations()
            with torch.inference_mode():
                same = torch.equal(plain.alg.actor(observations), compiled.alg.actor(observations))
            return {"rate": self.rate(iterations, compiled), "said": "yes" if same else "no"}
        except Exception as error:  # its compilers may be missing
            return {"said": f"not done: {type(error).__name__}: {str(error).splitlines()[0][:80]}"}

    def _in_a_graph(self) -> dict[str, Any]:
        """Return how long the network of the policy takes, eager and replayed, and whether both act alike."""
        torch, actor = self.torch, self.runner.alg.get_policy()
        observations = self.env.get_observations().clone()
        stream = torch.cuda.Stream()
        with torch.inference_mode():
            eager = actor(observations).clone()
            with torch.cuda.stream(stream):
                actor(observations)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                acted = actor(observations)
            graph.replay()
            same = torch.equal(eager, acted)
            eager_ms, graph_ms = (self._ms(call) for call in (lambda: actor(observations), graph.replay))
        steps = self.agent_cfg.num_steps_per_env
        gained = f"{steps} of an iteration: {steps * eager_ms:.2f} ms eager, {steps * graph_ms:.2f} ms as a graph"
        return {"said": f"{'yes' if same else 'no'}; {gained}"}

    def _ms(self, call: Callable[[], Any], times: int = 200) -> float:
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            call()
        self.wait()
        return 1e3 * (time.perf_counter() - began) / times


def _whose(file: str) -> str:
    package = file.rpartition("site-packages/")[2].partition("/")[0]
    if package in PACKAGES:
        return PACKAGES[package]
    return "simyard" if "/simyard/" in file or "/runner/" in file else "Python and others"


if __name__ == "__main__":
    main()
