"""A few dozen of the thousand kills; `kills.py` beside this file runs the rest."""

import pytest
from kills import main

pytestmark = [pytest.mark.system, pytest.mark.long]


def test_whatever_is_killed_the_promises_hold(tmp_path, capsys):
    assert main(["--cases", "36", "--seed", "2", "--results", str(tmp_path / "kills.jsonl")]) == 0, (
        capsys.readouterr().out
    )
