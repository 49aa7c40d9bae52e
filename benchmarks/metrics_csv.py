"""Times metrics.csv from one million scalars: simyard's reader against TensorBoard's own EventAccumulator.

    python benchmarks/metrics_csv.py [--steps 50000] [--rounds 3]

Both read the same event file (20 tags) and write the same table; the runs alternate, the best of each counts, and
every number of the two tables is compared as the float32 it came from. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import struct
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from simyard.tasks.metrics.events import masked_crc32c
from simyard.tasks.metrics.table import LiveMetrics

# What rsl_rl logs for a small task; half of a real run's tags are reward terms.
TAGS = [
    *(f"Loss/{name}" for name in ("value", "surrogate", "entropy", "learning_rate")),
    *(f"Perf/{name}" for name in ("total_fps", "collection_time", "learning_time")),
    *(f"Train/{name}" for name in ("mean_reward", "mean_episode_length")),
    "Policy/mean_std",
    *(f"Episode_Reward/term_{number}" for number in range(10)),
]


def write_events(folder: Path, steps: int) -> None:
    rng = random.Random(1)
    with (folder / "events.out.tfevents.1700000000.benchmark").open("wb") as file:
        for step in range(steps):
            for tag in TAGS:
                value = Summary.Value(tag=tag, simple_value=rng.gauss(0, 1) * 10 ** rng.randint(-3, 3))
                event = Event(wall_time=1.7e9 + step * 0.1, step=step, summary=Summary(value=[value]))
                payload = event.SerializeToString()
                length = struct.pack("<Q", len(payload))
                checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, payload))
                file.write(length + next(checksums) + payload + next(checksums))


def ours(folder: Path, out: Path) -> None:
    metrics = LiveMetrics(folder)
    metrics.update()
    metrics.table.write_csv(out)


def tensorboards(folder: Path, out: Path) -> None:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = sorted(accumulator.Tags()["scalars"])
    columns, walls = [], {}
    for tag in tags:
        column = {}
        for event in accumulator.Scalars(tag):
            column[event.step] = f"{event.value:.9g}"
            walls[event.step] = event.wall_time
        columns.append(column)
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "wall_time", *tags])
        for step in sorted(walls):
            writer.writerow([step, repr(walls[step]), *(column.get(step, "") for column in columns)])


def numbers(path: Path) -> tuple[list[str], list[str], array[float]]:
    """Return the header, the two axes and the values of a table; values as float32, row by row."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    axes = [cell for row in rows for cell in row[:2]]
    return header, axes, array("f", (float(cell) for row in rows for cell in row[2:]))


def timed(work: Callable[[Path, Path], None], folder: Path, out: Path) -> float:
    start = time.perf_counter()
    work(folder, out)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, mine, theirs = (Path(temporary, name) for name in ("events", "ours.csv", "tensorboard.csv"))
        folder.mkdir()
        write_events(folder, args.steps)
        seconds: dict[str, list[float]] = {"ours": [], "tensorboard": []}
        for _ in range(args.rounds):
            seconds["ours"].append(timed(ours, folder, mine))
            seconds["tensorboard"].append(timed(tensorboards, folder, theirs))
        if numbers(mine) != numbers(theirs):
            raise SystemExit("metrics_csv: the two tables differ")
    best = {name: min(times) for name, times in seconds.items()}
    ratio = best["tensorboard"] / best["ours"]
    scalars = args.steps * len(TAGS)
    print(
        f"metrics.csv from {scalars:,} scalars: simyard {best['ours']:.2f} s, "
        f"EventAccumulator {best['tensorboard']:.2f} s, {ratio:.1f} times faster, all numbers equal"
    )
    print(
        json.dumps(
            {
                "benchmark": "metrics_csv",
                "scalars": scalars,
                "rounds": args.rounds,
                "seconds": {name: round(value, 3) for name, value in best.items()},
                "ratio": round(ratio, 1),
                "equal": True,
            }
        )
    )


if __name__ == "__main__":
    main()
