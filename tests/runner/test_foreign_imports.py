"""Packages written for an older Isaac Lab or for Kit, or whose tasks nothing imports; with Isaac Lab itself."""

import json
import subprocess
import sys

import pytest
from helpers import HANG_S

pytestmark = pytest.mark.long  # it imports all of Isaac Lab's tasks; test_task_contract.py shows the usual two without

CARTPOLE = "isaaclab_tasks.core.cartpole"
TASK = f"""import gymnasium

gymnasium.register(id="Quiet-Cartpole", entry_point="{CARTPOLE}.cartpole_direct_env:CartpoleEnv", kwargs={{}})
"""
OLD_REFERENCE = """import gymnasium

gymnasium.register(
    id="Old-Cartpole",
    entry_point="isaaclab.envs:DirectRLEnv",
    kwargs={"env_cfg_entry_point": "isaaclab_tasks.direct.cartpole.cartpole_env:CartpoleEnvCfg"},
)
"""
OLDER, KIT, SILENT = "package_for_older_isaaclab", "package_needs_kit", "package_registers_nothing"
PACKAGES = {
    "moved": (
        {"": "from .tasks import *\n", "tasks": "from isaaclab_tasks.manager_based.locomotion.velocity.mdp import *\n"},
        OLDER,
        "written for Isaac Lab 2.x or older: it uses 'isaaclab_tasks.manager_based.locomotion.velocity.mdp' "
        "(moved/tasks.py, line 1), which 3.0.0 does not have. In 3.0.0: "
        "'isaaclab_tasks.manager_based.locomotion.velocity.mdp' is 'isaaclab_tasks.core.velocity.mdp'.",
    ),
    "orbit": (
        {
            "": "import math\nfrom omni.isaac.orbit.envs import RLTaskEnv\n",
            "later": "import omni.ext\nfrom omni.isaac.orbit_assets.anymal import ANYMAL_D_CFG\n",
            "broken": "def (:",
        },
        OLDER,
        "it uses 'omni.isaac.orbit.envs' (orbit/__init__.py, line 2), which 3.0.0 does not have. In 3.0.0: "
        "'omni.isaac.orbit' is 'isaaclab'; "
        "'ANYMAL_D_CFG' of 'omni.isaac.orbit_assets.anymal' is in 'isaaclab_assets.robots.anymal'. "
        "It needs Kit, too, for 'omni.ext'.",
    ),
    "renamed": (
        {"": "from isaaclab.envs import DirectRLEnv, RLTaskEnv\n"},
        OLDER,
        "it uses 'RLTaskEnv' of 'isaaclab.envs' (renamed/__init__.py, line 1), which 3.0.0 does not have. In 3.0.0: "
        "'RLTaskEnv' of 'isaaclab.envs' is gone",
    ),
    "window": (
        {"": "from .ui import *\n", "ui": "\nimport omni.ext\n"},
        KIT,
        "needs Kit (Isaac Sim), which is not installed",
    ),
    "window_too": (
        {"": "import omni.ext\nimport isaaclab_tasks.utils.wrappers.rsl_rl\n"},
        KIT,
        "written for Isaac Lab 2.x or older, too: 'isaaclab_tasks.utils.wrappers.rsl_rl' is 'isaaclab_rl.rsl_rl'.",
    ),
    "other": ({"": "\nimport no_such_library\n"}, "task_package_import", "No module named 'no_such_library'"),
    "old_reference": (
        {"": OLD_REFERENCE},
        OLDER,
        "it uses 'isaaclab_tasks.direct.cartpole.cartpole_env' (Old-Cartpole, env_cfg_entry_point), which 3.0.0 does "
        "not have. In 3.0.0: 'CartpoleEnvCfg' of 'isaaclab_tasks.direct.cartpole.cartpole_env' is in "
        f"'{CARTPOLE}.cartpole_direct_env_cfg'.",
    ),
    "quiet": (
        {"": "", "tasks/__init__": TASK, "tasks/agents": "def register(value):\n    return value\n"},
        SILENT,
        "Unknown task 'Quiet-Cartpole': the package registers nothing when 'quiet' is imported. Set "
        "customEnvironmentCallback to the module that does: 'quiet.tasks'.",
    ),
}
SCRIPT = """
import json, sys
from pathlib import Path
from simyard.core.errors import RequestError
from simyard.runner.isaaclab.foreign_imports import require_references, require_registered
from simyard.runner.isaaclab.lookup import register_tasks, registered_tasks

said = {}
for name in sys.argv[2:]:
    overlay = Path(sys.argv[1]) / name
    module = next(overlay.iterdir()).name
    try:
        register_tasks(overlay, module)
        if module == "quiet":
            require_registered("Quiet-Cartpole", overlay, registered_tasks())
        require_references("Old-Cartpole")
    except RequestError as error:
        said[name] = [error.failure.code, str(error)]
    try:
        require_references("Isaac-Cartpole-Direct")
        require_registered("Isaac-Cartpole-Direct", overlay, registered_tasks())
    except RequestError as error:
        said[name] = ["a task of Isaac Lab's own", str(error)]
print("SAID " + json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each package is told: all of them in one process, which imports Isaac Lab's tasks once."""
    folder = tmp_path_factory.mktemp("packages")
    for name, (files, *_) in PACKAGES.items():
        for file, text in files.items():
            path = folder / name / name / f"{file or '__init__'}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    command = [sys.executable, "-c", SCRIPT, folder, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SAID ")] or [done.stderr]
    return json.loads(line.removeprefix("SAID "))


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_is_told(name, said):
    _, code, says = PACKAGES[name]
    assert said[name][0] == code
    assert says in said[name][1]
