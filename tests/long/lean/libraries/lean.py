"""lean: `logs/lean/<task>/<time>/policy-<iteration>.zip`, a library of the standard library alone.

A thousand jobs are killed, and importing torch costs each of them more than all the rest: its policy is a number, the
iterations that it has seen. `simulator.py` beside this folder is the training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simyard.runner.rl.base import Library, Policy, Progress, Scale, to_int

_LINE = re.compile(r"^iteration (\d+) of \d+, return (\S+)$")
_FILE = re.compile(r"policy-(\d+)\.zip")


class Lean(Library):
    """An update of this library is one iteration."""

    name = "lean"
    module = "json"
    install = "nothing"
    packages = ()
    policy = Policy
    multi_gpu = False
    prints_absolute = True
    reward_tag = "lean/return"
    length_tag = "lean/length"
    checkpoint_glob = "logs/lean/*/*/policy-*.zip"
    file_glob = "policy-*.zip"
    file_example = "policy-12.zip"
    actor_keys = ("seen",)
    hidden_key = "agent.layers"

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return the one step of its simulator."""
        return 1

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read an iteration and its return."""
        match = _LINE.match(line)
        return None if match is None else Progress(done=int(match[1]), reward=float(match[2]))

    def iteration_in_name(self, name: str) -> int | None:
        """Read the iterations."""
        return to_int(_FILE.fullmatch(name))

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """Count steps from 0, over all attempts."""
        return start_iteration

    def load_own(self, file: Path) -> list[Any]:
        """Return no tensor: a number has none."""
        return []


LIBRARY = Lean()
