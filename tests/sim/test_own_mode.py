"""A control mode takes one file: it is in the request, in OpenAPI, and real Newton is driven by it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rolled import Rolled
from simulated import ENV
from test_standard_rollout import BENT, Case

import simyard

pytestmark = pytest.mark.sim

NOD = '''
from dataclasses import dataclass

from simyard.runner.newton.mode import Mode, setting


@dataclass(kw_only=True)
class Nod(Mode):
    """Jump between two poses."""

    every: float = setting("Control steps between two jumps.", low=1, high=100, default=5.0)
    by: float = setting("Radians or metres of a jump.", low=-1, high=1)

    def prepare(self, simulation, policy):
        self._low, self._high = simulation.first_targets, simulation.first_targets + self.by

    def targets(self, step):
        return self._low if step // self.every % 2 == 0 else self._high
'''
PROGRAM = """
import json, sys
from pathlib import Path
from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths
from simyard.requests.config import check_config
from simyard.requests.rollout import RolloutRequest
from simyard.runner.session import run_alone
from simyard.service.bodies import schemas

body, attempt = json.loads(sys.argv[1]), AttemptPaths(Path(sys.argv[2]))
try:
    check_config(body | {"control": {"task_mode": "nod", "by": 2, "evry": 1}}, RolloutRequest)
except RequestError as error:
    refused = str(error)
control = check_config(body, RolloutRequest).control.to_plain()
ended = run_alone(attempt)
print(json.dumps({"refused": refused, "control": control, "schema": schemas()["NodControl"], "ended": ended}))
"""


@pytest.fixture(scope="module")
def with_a_mode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of simyard with one more file; the folder it is imported from."""
    folder = tmp_path_factory.mktemp("with-a-mode")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(simyard.__file__).parent, folder / "simyard", ignore=ignored)
    (folder / "simyard" / "runner" / "newton" / "modes" / "nod.py").write_text(NOD)
    return folder


@pytest.mark.long  # a cold simulator of its own
def test_a_mode_takes_one_file(with_a_mode: Path, tmp_path: Path) -> None:
    control = {"task_mode": "nod", "by": 0.1, "initial_positions": BENT}
    case = Case(control=control, steps=20)
    paths = case.prepare(tmp_path / "attempt")
    body = {"robot": {"urdf_uri": "arm.urdf"}, "execution": {"steps": 20}, "control": control}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(body), paths.root],
        env={**os.environ, **ENV, "PYTHONPATH": str(with_a_mode)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["control"] == control
    assert "control.by: Input should be a number from -1 to 1, not 2" in said["refused"]
    assert "Unknown field 'evry'. Did you mean 'every'?" in said["refused"]
    assert (said["schema"]["title"], said["schema"]["description"]) == ("nod", "Jump between two poses.")
    assert said["schema"]["properties"]["every"] == {
        "type": "number", "title": "Every", "description": "Control steps between two jumps.",
        "minimum": 1, "maximum": 100, "default": 5.0,
    }  # fmt: skip
    result = Rolled(paths)
    elbow = result.column("action", "elbow")[0]
    np.testing.assert_allclose(elbow, BENT["elbow"] + 0.1 * (np.arange(20) // 5 % 2), atol=1e-6)
    moved = np.ptp(result.column("joint_position", "elbow")[0])
    assert 0.05 < moved < 0.15, "the robot follows"
