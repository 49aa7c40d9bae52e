"""`python -m simyard.policy check BUNDLE`: exit code 0 for a proof, 1 with the reason, 2 for no bundle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from simyard.policy.check import STEPS, check


def main(arguments: list[str] | None = None) -> int:
    """Check a bundle, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m simyard.policy", description="An exported policy on a robot.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="parity with the golden pairs, and the time of a step, on this computer")
    one.add_argument("bundle", type=Path, help="what `simyard policy bundle` wrote")
    one.add_argument("--steps", type=int, default=STEPS, help=f"steps whose time is taken (default {STEPS})")
    one.add_argument("--json", action="store_true", help="print the report as JSON")
    given = parser.parse_args(arguments)
    if given.steps < 1:
        parser.error(f"--steps is {given.steps}, expected 1 or more")
    try:
        report = check(given.bundle, given.steps)
    except ValueError as error:
        print(f"error: {error}\n  -> Make the bundle again: simyard policy bundle JOB.", file=sys.stderr)
        return 2
    print(json.dumps(report.to_json()) if given.json else "\n".join(report.lines()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
