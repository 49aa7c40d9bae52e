"""What recording a rollout costs.

    python benchmarks/recording.py [--megabytes 400] [--rounds 5] [--envs 64 1024] [--steps 300] [--task TASK]

**Writing.** The same shards of simulated trajectories (100 float32 values a step, in seven quantities) are written
with the same chunks and the same codec by the recorder's store, by zarr-python and, where they are installed, by
zarr-python with zarrs' codec pipeline and by tensorstore, in alternation. The best of each counts, in processor time of
the process and in wall time; each is read back and compared.

**Simulation.** Isaac-Cartpole-Direct with random actions, recorded and not, in alternation: the same steps in the same
environment. Recorded, every observation, action, reward and state of the robot goes into `rollout.zarr`. The median of
the rounds counts; `closing` is what is left to write when the simulation is done. On a GPU if there is one.

Every figure is printed; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from simyard.runner.assets.asset_root import embedded_root
from simyard.runner.recording.arrays import RolloutStore
from simyard.runner.recording.quantities import Layout
from simyard.runner.recording.recorder import SHARD_BYTES, RolloutRecorder

WIDTHS = {"obs/policy": 48, "action": 12, "joint/pos": 12, "joint/vel": 12, "root": 13, "height": 2, "reward": 1}
ROW = sum(WIDTHS.values())
GOAL = 1.05
"""Time of the recorded steps, at most, of that of the others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--envs", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--task", default="Isaac-Cartpole-Direct")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        written = writing(Path(folder), options)
        if "ISAACSIM_ASSET_ROOT" not in os.environ:
            os.environ["ISAACSIM_ASSET_ROOT"] = str(embedded_root(Path(folder) / "assets"))
        figures = [simulation(options, count, Path(folder)) for count in options.envs]
    print("| environments | bare, steps/s | recorded, steps/s | ratio | closing | MB |\n|---|---|---|---|---|---|")
    for row in figures:
        print(
            f"| {row['num_envs']} | {row['bare']:,.0f} | {row['recorded']:,.0f} | {row['ratio']:.3f} "
            f"| {row['closing_s']:.2f} s | {row['megabytes']:.1f} |"
        )
    print(json.dumps({"benchmark": "recording", "writing": written, "goal": GOAL, "simulation": figures}))


def trajectories(rows: int) -> np.ndarray[Any, Any]:
    """Return `(rows, ROW)`: damped oscillators under noisy commands, in episodes of 300 steps."""
    random = np.random.default_rng(0)
    quarter = ROW // 4
    stiffness = random.uniform(1, 60, quarter)
    state = np.zeros((3, quarter))
    found = np.empty((rows, ROW), np.float32)
    for row in range(rows):
        position, velocity, command = state
        if row % 300 == 0:
            position, velocity = random.normal(0, 0.3, (2, quarter))
        command = 0.95 * command + 0.05 * random.normal(size=quarter)
        velocity = velocity + 0.02 * (stiffness * (command - position) - 0.3 * velocity)
        position = position + 0.02 * velocity
        state = np.stack([position, velocity, command])
        found[row] = np.concatenate([position, velocity, command, np.tanh(position * velocity)])
    return found


def writing(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    first = {key: np.zeros((1, width), np.float32) for key, width in WIDTHS.items()}
    layout = Layout.of(first, 1)
    model = RolloutStore(folder / "model", {}, control_period_s=1, num_envs=1)
    rows = model.create(layout, {}, SHARD_BYTES)
    source = trajectories(rows)
    shards = max(1, round(options.megabytes * 1e6 / source.nbytes))

    def ours(path: Path) -> None:
        store = RolloutStore(path, {}, control_period_s=1, num_envs=1)
        store.create(layout, {}, SHARD_BYTES)
        for number in range(shards):
            store.write(number, [source], rows)

    def plain(path: Path) -> None:
        shutil.copytree(folder / "model", path)
        arrays = {key: zarr.open_array(path, path=f"data/{key}", mode="r+") for key in WIDTHS}
        for array in arrays.values():
            array.resize((shards * rows, array.shape[1]))
        for number in range(shards):
            for quantity in layout.quantities:
                arrays[quantity.key][number * rows : (number + 1) * rows] = source[:, quantity.columns]

    def zarrs(path: Path) -> None:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
            plain(path)

    def tensorstore(path: Path) -> None:
        import tensorstore

        shutil.copytree(folder / "model", path)
        arrays = {}
        for key in WIDTHS:
            kvstore = {"driver": "file", "path": str(path / "data" / key)}
            array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()
            arrays[key] = array.resize(exclusive_max=[shards * rows, array.shape[1]]).result()
        for number in range(shards):
            for quantity in layout.quantities:
                part = arrays[quantity.key][number * rows : (number + 1) * rows]
                part.write(source[:, quantity.columns]).result()

    writers: dict[str, Callable[[Path], None]] = {"ours": ours, "zarr_python": plain}
    writers |= {each.__name__: each for each in (zarrs, tensorstore) if find_spec(each.__name__)}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in writers}
    for number in range(options.rounds):
        for name, write in writers.items():
            path = folder / f"{name}-{number}"
            processor, wall = time.process_time(), time.perf_counter()
            # In a thread, as the recorder does: blosc takes threads of its own only in the main one.
            thread = threading.Thread(target=write, args=(path,))
            thread.start()
            thread.join()
            taken[name].append((time.process_time() - processor, time.perf_counter() - wall))
            if not number:
                compare(path, layout, source, shards, grown=name != "ours")
            shutil.rmtree(path)
    megabytes = shards * source.nbytes / 1e6
    found: dict[str, Any] = {"megabytes": round(megabytes), "shard_rows": rows}
    for name, each in taken.items():
        processor, wall = (min(values) for values in zip(*each, strict=True))
        found[name] = {"MB_per_processor_s": round(megabytes / processor), "MB_per_s": round(megabytes / wall)}
    for name in writers:
        ratios = {unit: round(found["ours"][unit] / found[name][unit], 2) for unit in found[name]}
        found[name]["ours_is_times"] = ratios
        print(f"writing  {name:12} {found[name]['MB_per_processor_s']:5} MB a processor second, "
              f"{found[name]['MB_per_s']:5} MB/s; ours is {ratios['MB_per_processor_s']:.2f} and "
              f"{ratios['MB_per_s']:.2f} times as fast")  # fmt: skip
    return found


def compare(path: Path, layout: Layout, source: np.ndarray[Any, Any], shards: int, *, grown: bool) -> None:
    """Stop unless every shard of every quantity is what was given."""
    for quantity in layout.quantities:
        metadata = path / "data" / quantity.key / "zarr.json"
        if not grown:
            read = json.loads(metadata.read_text())
            metadata.write_text(json.dumps(read | {"shape": [shards * len(source), *read["shape"][1:]]}))
        array = zarr.open_array(path, path=f"data/{quantity.key}", mode="r")
        for number in range(shards):
            rows = array[number * len(source) : (number + 1) * len(source)]
            if rows.tobytes() != np.ascontiguousarray(source[:, quantity.columns]).tobytes():
                raise SystemExit(f"recording: {path.name} does not hold what was written")


def simulation(options: argparse.Namespace, num_envs: int, folder: Path) -> dict[str, Any]:
    import torch

    from simyard.runner.isaaclab.environment import fresh_environment
    from simyard.runner.isaaclab.lookup import register_tasks
    from simyard.runner.rollout.actions import RandomActions

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    register_tasks(None, None)
    times: dict[str, list[float]] = {"bare": [], "recorded": [], "closing": []}
    size = 0
    with fresh_environment(
        options.task, None, ("physics=newton_mjwarp",), num_envs=num_envs, seed=1, device=device
    ) as (env, _):
        driver = RandomActions(env, 1)
        driver.begin()
        walk(driver, 50, device)
        for number in range(options.rounds):
            times["bare"].append(walk(driver, options.steps, device))
            took, closing, size = record(env, driver, options.steps, device, folder / f"{num_envs}-{number}")
            times["recorded"].append(took)
            times["closing"].append(closing)
    bare, recorded = (statistics.median(times[name]) for name in ("bare", "recorded"))
    return {
        "num_envs": num_envs,
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "bare": num_envs * options.steps / bare,
        "recorded": num_envs * options.steps / recorded,
        "ratio": statistics.median(b / a for a, b in zip(times["bare"], times["recorded"], strict=True)),
        "closing_s": statistics.median(times["closing"]),
        "megabytes": size / 1e6,
    }


def walk(driver: Any, steps: int, device: str) -> float:
    """Take steps; return the seconds until the last of them is really done."""
    import torch

    began = time.perf_counter()
    for _ in range(steps):
        driver.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def record(env: Any, driver: Any, steps: int, device: str, folder: Path) -> tuple[float, float, int]:
    """Take recorded steps; return their seconds, those of closing, and the bytes that are left."""
    from simyard.runner.isaaclab.environment_recorder import EnvironmentRecorder
    from simyard.runner.video.films import RolloutFilm

    base = env.unwrapped
    before = base.step, base.reset, base._reset_idx
    recorder = RolloutRecorder(
        folder, num_envs=base.num_envs, longest=base.max_episode_length + 1, control_period_s=base.step_dt,
        scratch=folder.parent,
    )  # fmt: skip
    EnvironmentRecorder(env, recorder, RolloutFilm(folder.parent, base.step_dt, wanted=False))
    driver.begin()
    walk(driver, 2, device)  # the first step makes room on the disk, once
    took = walk(driver, steps, device)
    began = time.perf_counter()
    recorder.close()
    closing = time.perf_counter() - began
    base.step, base.reset, base._reset_idx = before
    return took, closing, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
