"""Times a store's transfers: simyard's Store against plain obstore on the same folder, in alternation.

    python benchmarks/transfer.py [--large-mb 1000] [--small 10000] [--rounds 3] [--folder FOLDER]

Up and down go one large file and many objects of 4 kB. The medians count; a ratio is obstore's time through ours, so
that 1 is as fast. What ours does besides: a download is hashed and compared with its digest, an upload's caller hears
of progress, keys are checked, errors are explained. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import obstore
from obstore.store import LocalStore

from simyard.store.store import Store, sha256_file

SMALL_BYTES = 4096
TURN = 50


class Plain:
    """What the same work is without simyard."""

    def __init__(self, folder: Path) -> None:
        self.backend = LocalStore(folder, mkdir=True)

    def put_file(self, key: str, path: Path) -> None:
        obstore.put(self.backend, key, path)

    def get_file(self, key: str, path: Path) -> None:
        with path.open("wb") as file:
            for piece in obstore.get(self.backend, key).stream():
                file.write(piece)

    def put_bytes(self, key: str, data: bytes) -> None:
        obstore.put(self.backend, key, data)

    def get_bytes(self, key: str) -> bytes:
        return bytes(obstore.get(self.backend, key).bytes())


class Ours:
    """A store, and every download with its digest."""

    def __init__(self, folder: Path, sha256: str) -> None:
        self.store = Store.open(str(folder))
        self.sha256 = sha256
        self.put_bytes, self.get_bytes = self.store.put_bytes, self.store.get_bytes

    def put_file(self, key: str, path: Path) -> None:
        self.store.put_file(key, path, on_bytes=lambda count: None)

    def get_file(self, key: str, path: Path) -> None:
        self.store.get_file(key, path, sha256=self.sha256)


Subjects = dict[str, Plain | Ours]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large-mb", type=int, default=1000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; default the system's folder for such")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-", dir=args.folder) as temporary:
        source = Path(temporary, "source")
        with source.open("wb") as file:
            for _ in range(args.large_mb):
                file.write(os.urandom(1_000_000))
        store = Path(temporary, "store")
        subjects: Subjects = {"obstore": Plain(store), "simyard": Ours(store, sha256_file(source))}
        times: dict[str, dict[str, list[float]]] = {}
        for number in range(args.rounds):
            done = large(subjects, source) | small(subjects, args.small, f"round-{number}")
            for work, seconds in done.items():
                for name, value in seconds.items():
                    times.setdefault(work, {}).setdefault(name, []).append(value)
    medians = {work: {name: statistics.median(values) for name, values in by.items()} for work, by in times.items()}
    ratios = {work: round(by["obstore"] / by["simyard"], 3) for work, by in medians.items()}
    print(f"{'':24} {'obstore':>9} {'simyard':>9} {'ratio':>6}")
    for work, by in medians.items():
        print(f"{work:24} {by['obstore']:7.2f} s {by['simyard']:7.2f} s {ratios[work]:6.2f}")
    print(json.dumps({"benchmark": "transfer", "rounds": args.rounds, "seconds": times, "ratios": ratios}))


def large(subjects: Subjects, source: Path) -> dict[str, dict[str, float]]:
    """Return each one's seconds for one large file."""
    target = source.with_name("target")
    size = f"{source.stat().st_size / 1e6:,.0f} MB"
    up, down = {}, {}
    for name, subject in subjects.items():
        os.sync()  # what went before is not to be paid for here
        up[name] = timed(subject.put_file, [name], source)
    for name, subject in subjects.items():
        target.unlink(missing_ok=True)
        os.sync()
        down[name] = timed(subject.get_file, [name], target)
        if target.read_bytes() != source.read_bytes():
            raise SystemExit("transfer: what came back is not what was sent")
    return {f"upload {size}": up, f"download {size}": down}


def small(subjects: Subjects, count: int, folder: str) -> dict[str, dict[str, float]]:
    """Return each one's seconds for many small objects; they take turns, so that both meet the same machine."""
    data = os.urandom(SMALL_BYTES)
    up, down = dict.fromkeys(subjects, 0.0), dict.fromkeys(subjects, 0.0)
    for first in range(0, count, TURN):
        for name, subject in subjects.items():
            keys = [f"{folder}/{name}/{number:05d}" for number in range(first, min(first + TURN, count))]
            up[name] += timed(subject.put_bytes, keys, data)
            down[name] += timed(subject.get_bytes, keys)
    return {f"upload {count:,} x 4 kB": up, f"download {count:,} x 4 kB": down}


def timed(work: Callable[..., object], keys: list[str], *arguments: object) -> float:
    """Return the seconds that work on these keys takes."""
    start = time.perf_counter()
    for key in keys:
        work(key, *arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
