"""A few dozen of the thousand kills; `kills.py` beside this file runs the rest."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.long]


def test_whatever_is_killed_the_promises_hold(tmp_path):
    command = [sys.executable, Path(__file__).with_name("kills.py"), "--cases", "36", "--seed", "2"]
    done = subprocess.run(
        [*command, "--results", tmp_path / "kills.jsonl"], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
