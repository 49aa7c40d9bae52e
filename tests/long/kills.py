"""A thousand kills: real jobs, one to three faults each at moments that a seed draws, and then the promises.

    python tests/long/kills.py --cases 1000 --seed 1                 adds to build/kills.jsonl, and goes on where it was
    python tests/long/kills.py --cases 1000 --seed 1 --case 17       this one alone
    python tests/long/kills.py --cases 1000 --seed 1 --only export   cases of this kind, or with this victim
    python tests/long/kills.py --table                               the table of all that was written

A clock that is set forward is not among the faults: libfaketime (0.9.10) breaks the sleep of Python 3.12.

A case follows from the seed and its number alone: kind of job, store, faults. The moment of a fault is a share of the
time that such a job takes on this machine, which is measured first. Servers are kept from case to case.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS, TESTS / "contract", TESTS / "flows", TESTS / "long"):  # as pytest finds them
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import hurried  # noqa: E402

hurried.hurry()  # before anything of simyard: this process sends the deployments, and judges who is gone

from kill_machine import Machine  # noqa: E402
from kill_runs import WAYS_OF_RUNS  # noqa: E402
from kill_service import WAYS_OF_THE_SERVICE  # noqa: E402
from kill_ways import WAYS_OF_COMMANDS, Case, Fault, Way  # noqa: E402

WAYS: dict[str, type[Way]] = {**WAYS_OF_COMMANDS, **WAYS_OF_THE_SERVICE, **WAYS_OF_RUNS}
RESULTS = TESTS.parent / "build" / "kills.jsonl"
MOST_FAULTS = 3
NOT_WITH = {"folder": "S3 server", "s3": "store's disk"}
"""The victim that a case with such a store has not."""


def draw(seed: int, number: int) -> Case:
    """Draw a case; the same numbers draw the same one."""
    chance = random.Random(f"{seed}/{number}")
    way = chance.choices(list(WAYS), [each.weight for each in WAYS.values()])[0]
    store = chance.choice(["folder", "folder", "s3"])
    can = {one: weight for one, weight in WAYS[way].faults.items() if one[0] != NOT_WITH[store]}
    faults = []
    for _ in range(chance.choices(range(1, MOST_FAULTS + 1), [5, 3, 2])[0]):
        victim, action = chance.choices(list(can), list(can.values()))[0]
        faults.append(Fault(victim, action, chance.random(), chance.uniform(1, 6)))
    return Case(seed, number, way, store, tuple(faults))


def run_case(machine: Machine, case: Case) -> dict[str, Any]:
    """Run a case; return its row."""
    row: dict[str, Any] = {"seed": case.seed, "case": case.number, "way": case.way, "store": case.store}
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder:
        way: Way = WAYS[case.way](machine, case, Path(folder))
        try:
            row |= way.run()
        except Exception as error:  # a case that breaks the harness is looked at like any other
            row |= {"problems": [["harness", f"{type(error).__name__}: {error}"]], "traceback": traceback.format_exc()}
            row |= {"faults": [asdict(fault) for fault in case.faults]}
        if row["problems"]:
            row["kept"] = str(way.keep())
    return row | {"seconds": round(time.time() - began, 1), "at": round(began)}


def main(arguments: Sequence[str]) -> int:
    """Run the cases that have no row yet; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this one alone, whether it has a row or not")
    parser.add_argument("--only", default="", help="words, separated by commas, all of which concern a case")
    parser.add_argument("--first", type=int, default=1, help="the number of the first case")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no case after so long")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table")
    given = parser.parse_args(arguments)
    if given.table:
        print(table(read(given.results)))
        return 0
    known = {(row["seed"], row["case"]) for row in read(given.results)}
    cases = [draw(given.seed, number) for number in range(given.first, given.first + given.cases)]
    cases = [case for case in cases if all(case.concerns(word) for word in given.only.split(",") if word)]
    if given.case is not None:
        cases = [draw(given.seed, given.case)]
    else:
        cases = [case for case in cases if (case.seed, case.number) not in known]
    given.results.parent.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # its servers end with it
    deadline, bad = time.monotonic() + 60 * given.minutes, 0
    with Machine() as machine, given.results.open("a") as results:
        for case in cases:
            if time.monotonic() > deadline:
                break
            row = run_case(machine, case)
            results.write(json.dumps(row) + "\n")
            results.flush()
            bad += bool(row["problems"])
            said = "; ".join(
                f"{fault['action']} to {fault['victim']} at {fault['share']:.2f}" for fault in row["faults"]
            )
            print(
                f"{case.number} {case.way} {case.store}: {said}: {row.get('status')} in {row['seconds']} s", flush=True
            )
            for name, sentence in row["problems"]:
                print(f"    {name}: {sentence}", flush=True)
    return int(bad > 0)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; of a case that was run again the last one."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({(row["seed"], row["case"]): row for row in rows}.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Return a table in Markdown, a row for each victim: a case with several counts for each of them."""
    lines = [
        "| victim | cases | resumed | lost | doubled | other promises broken | recovery p50 | p99 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    by_victim = defaultdict(list)
    for row in rows:
        for victim in sorted({fault["victim"] for fault in row["faults"]}):
            by_victim[victim].append(row)
    for victim, of in [*sorted(by_victim.items()), ("all", rows)]:
        broken = [{name for name, _ in row["problems"]} for row in of]
        took = [
            fault["recovery_s"]
            for row in of
            for fault in row["faults"]
            if fault.get("recovery_s") is not None and victim in ("all", fault["victim"])
        ]
        p50, p99 = ("", "")
        if took:
            p50 = f"{statistics.median(took):.1f} s"
            p99 = f"{sorted(took)[min(len(took) - 1, int(0.99 * len(took)))]:.1f} s"
        lines.append(
            f"| {victim} | {len(of)} | {sum(row.get('attempts', 1) > 1 for row in of)} |"
            f" {sum('lost' in names for names in broken)} | {sum('doubled' in names for names in broken)} |"
            f" {sum(bool(names - {'lost', 'doubled'}) for names in broken)} | {p50} | {p99} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
