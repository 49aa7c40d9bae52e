"""The solver's steps are replayed whenever Newton is imported, and Newton is not imported for it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system  # the import takes seconds

SCRIPT = """
import sys
from simyard.runner.isaaclab.adapter import replay_on_cpu

replay_on_cpu()
assert not {"isaaclab", "newton", "warp"} & set(sys.modules)
from isaaclab_newton.physics.newton_manager import NewtonManager

print(NewtonManager._invalidate_graph.__func__.__module__)
replay_on_cpu()
"""


def test_solvers_of_a_newton_that_is_imported_later_are_replayed():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == ["simyard.runner.isaaclab.adapter"], done.stderr
