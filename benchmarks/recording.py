"""What recording a rollout costs.

    python benchmarks/recording.py [--megabytes 400] [--rounds 5]

**Writing.** The same shards of simulated trajectories (100 float32 values a step, in seven quantities) are written
with the same chunks and the same codec by the recorder's store, by zarr-python and, where they are installed, by
zarr-python with zarrs' codec pipeline and by tensorstore, in alternation. The best of each counts, in processor time of
the process and in wall time; each is read back and compared.

**Steps.** What `record` and `end` take of the thread that simulates, in processor and in wall time, at 64, 1024 and
4096 environments of 100 float32 values, while the writer keeps up: between two steps the thread rests, so its caches
are cold. `behind` is the throughput when it does not rest, from the first step until the store is closed.

Every figure is printed; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
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
import torch
import zarr

from simyard.runner.recording.arrays import RolloutStore
from simyard.runner.recording.quantities import Layout
from simyard.runner.recording.recorder import SHARD_BYTES, RolloutRecorder

WIDTHS = {"obs/policy": 48, "action": 12, "joint/pos": 12, "joint/vel": 12, "root": 13, "height": 2, "reward": 1}
ROW = sum(WIDTHS.values())
PERIODS = {64: 0.005, 1024: 0.02, 4096: 0.06}
"""Rest between two steps, in seconds; a simulation on a CPU takes about as long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        figures = {"writing": writing(Path(folder), options), "steps": steps(Path(folder))}
    print(json.dumps({"benchmark": "recording", **figures}))


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


def steps(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    source = torch.from_numpy(trajectories(1 << 14))
    found = {}
    for envs, period in PERIODS.items():
        given = [quantities(source, envs, step) for step in range(20)]
        processor, wall = zip(*recorded(folder, given, envs, count=600, period=period)[0], strict=True)
        blocked = recorded(folder, given, envs, count=max(300, (1 << 19) // envs), period=0)[1]
        # The first step also makes the store, and its time does not grow with the run.
        each = {
            "processor_us": round(statistics.mean(processor[1:]) * 1e6),
            "wall_us": round(statistics.median(wall) * 1e6),
            "first_ms": round(wall[0] * 1e3),
            "behind_MB_per_s": round(blocked),
        }
        print(
            f"steps  {envs:5} envs: {each['processor_us']} us of the processor in the mean, {each['wall_us']} us of "
            f"wall time in the median, the first {each['first_ms']} ms; behind: {each['behind_MB_per_s']} MB/s"
        )
        found[str(envs)] = each
    return found


def quantities(source: torch.Tensor, envs: int, step: int) -> dict[str, torch.Tensor]:
    rows = source[(torch.arange(envs) * 300 + step) % len(source)]
    parts = torch.split(rows, list(WIDTHS.values()), dim=1)
    return {key: part.squeeze(1).contiguous() for key, part in zip(WIDTHS, parts, strict=True)}


def recorded(
    folder: Path, given: list[dict[str, torch.Tensor]], envs: int, *, count: int, period: float
) -> tuple[list[tuple[float, float]], float]:
    """Record steps; return what each took of the processor and of wall time, and MB/s of all."""
    none, all_of_them = torch.zeros(envs, dtype=torch.bool), torch.ones(envs, dtype=torch.bool)
    taken = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        recorder = RolloutRecorder(
            Path(place) / "rollout.zarr", num_envs=envs, longest=300, control_period_s=0.02, scratch=Path(place)
        )
        began = time.perf_counter()
        for step in range(count):
            if period:
                time.sleep(period)
            processor, wall = time.thread_time(), time.perf_counter()
            recorder.record(given[step % len(given)])
            recorder.end(all_of_them if step % 300 == 299 else none, terminated=none)
            taken.append((time.thread_time() - processor, time.perf_counter() - wall))
        recorder.close()
        return taken, count * envs * ROW * 4 / 1e6 / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
