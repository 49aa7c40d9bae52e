"""Steps per second of an evaluation against those of bare `isaaclab play`, and what a video costs.

    python benchmarks/evaluation.py [--envs 64] [--steps 600] [--rounds 3] [--device cpu]

Each kind of run is a process of its own, in alternation: `bare` is Isaac Lab's own play backend with its own step,
whose endless loop is replaced by one that counts and times; `measured` is the same policy under simyard's meter;
`filmed` also records trajectories, and then draws one episode. Prints each figure, the medians, ratios, and one JSON
line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simyard.runner.assets.asset_root import embedded_root

TASK = "Isaac-Cartpole-Direct"
WARM_UP = 30
KINDS = ("bare", "measured", "filmed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(globals()[options.child](options)))
        return
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        figures = compare(options, Path(folder))
    medians = {kind: statistics.median(found["steps_per_s"] for found in each) for kind, each in figures.items()}
    ratios = {kind: round(medians[kind] / medians["bare"], 3) for kind in KINDS if kind != "bare"}
    for kind, value in medians.items():
        against = f"   {ratios[kind]:.2f} x bare" if kind in ratios else ""
        print(f"{kind:9} median {value:8.0f} environment steps/s{against}")
    frame = statistics.median(found["ms_per_frame"] for found in figures["filmed"])
    print(f"drawing: {frame:.1f} ms a frame")
    print(json.dumps({"envs": options.envs, "figures": figures, "ratios": ratios, "ms_per_frame": frame}))


def compare(options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    root = os.environ.get("ISAACSIM_ASSET_ROOT") or str(embedded_root(folder / "assets"))
    env = {**os.environ, "ISAACSIM_ASSET_ROOT": root, "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=env, cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    train = ["-m", "isaaclab", "train", "--rl_library", "rsl_rl", "--task", TASK, "--num_envs", "64", "--seed", "1"]
    train += ["--max_iterations", "2", "--device", options.device, "physics=newton_mjwarp"]
    run(*train, f"agent.device={options.device}")
    (checkpoint,) = folder.glob("logs/rsl_rl/*/*/model_1.pt")
    figures: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    sizes = ["--envs", str(options.envs), "--steps", str(options.steps), "--device", options.device]
    for number in range(options.rounds):
        for kind in KINDS:
            out = run(str(Path(__file__).resolve()), *sizes, "--child", kind, "--checkpoint", str(checkpoint))
            found = json.loads(out.splitlines()[-1])
            figures[kind].append(found)
            print(f"round {number + 1}  {kind:9} {found['steps_per_s']:8.0f} steps/s", flush=True)
    return figures


def timed(step: Callable[[], Any], options: argparse.Namespace) -> dict[str, float]:
    """Call a step until the count is full, the first ones not timed."""
    import torch

    for _ in range(WARM_UP):
        step()
    if options.device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(options.steps):
        step()
    if options.device != "cpu":
        torch.cuda.synchronize()
    return {"steps_per_s": options.steps * options.envs / (time.perf_counter() - began)}


def bare(options: argparse.Namespace) -> dict[str, float]:
    import torch
    from isaaclab_rl.entrypoints.backends import play_rsl_rl

    found: dict[str, float] = {}

    def play(step: Callable[[], None], **_: Any) -> None:
        with torch.inference_mode():
            found.update(timed(step, options))

    play_rsl_rl.run_playback = play
    sizes = ["--task", TASK, "--num_envs", str(options.envs), "--device", options.device]
    same = ["--viz", "none", "--train_env_cfg", "physics=newton_mjwarp", f"agent.device={options.device}"]
    play_rsl_rl.run([*sizes, "--checkpoint", options.checkpoint, *same])
    return found


def measured(options: argparse.Namespace, *, film: bool = False) -> dict[str, float]:
    import isaaclab_tasks  # noqa: F401

    from simyard.core.files import AttemptPaths
    from simyard.core.specs import Evaluation
    from simyard.runner.evaluation.episode_statistics import EpisodeMeter
    from simyard.runner.isaaclab.environment import fresh_environment
    from simyard.runner.rl import get_library
    from simyard.runner.rl.inference import load_policy
    from simyard.runner.video.films import EvaluationFilm

    overrides = ["physics=newton_mjwarp", f"agent.device={options.device}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_environment(
            TASK, get_library("rsl_rl"), overrides, num_envs=options.envs, seed=1, device=options.device
        ) as (env, agent_cfg),
    ):
        paths = AttemptPaths(Path(folder))
        wanted = Evaluation(num_episodes=1, steps_per_episode=1000, videos=("first",) if film else ())
        recorder = EvaluationFilm(env, wanted, paths, "")
        meter = EpisodeMeter(
            env, episodes=10**6, longest=1000, seed=1, before_step=recorder.capture, on_episode=recorder.consider
        )
        policy = load_policy("rsl_rl", env, agent_cfg, Path(options.checkpoint))
        policy.begin()
        found = timed(policy.step, options)
        assert not meter.done
        if film:
            began = time.perf_counter()
            videos, problem = recorder.develop()
            assert videos, problem
            found["ms_per_frame"] = 1000 * (time.perf_counter() - began) / videos[0]["frames"]
    return found


def filmed(options: argparse.Namespace) -> dict[str, float]:
    return measured(options, film=True)


if __name__ == "__main__":
    main()
