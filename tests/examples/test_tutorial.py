"""The tutorial, run as it stands: its commands, its changes and its program, one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HANG_S, Server

from simyard.store import keys
from simyard.store.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.mark.long  # four jobs in the real simulator
@pytest.mark.sim
def test_the_tutorial_does_what_it_says(prefect_server: Server, tmp_path: Path) -> None:
    store = tmp_path / "store"
    env = {
        **os.environ, **prefect_server.env, "PATH": PATH, "SIMYARD_HOME": str(tmp_path / "home"),
        "SIMYARD_STORE": str(store),
    }  # fmt: skip

    def run(command: list[str], given: str | None = None) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=env, input=given, capture_output=True, text=True, timeout=2 * HANG_S, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    for language, block in re.findall(r"^```(console|diff|python)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.M):
        if language == "diff":
            run(["patch", "-p0", "--batch", "--fuzz=0"], block)
        elif language == "python":
            run([sys.executable, "-c", block])
        for command in re.findall(r"^\$ (.+)$", block, re.M) if language == "console" else ():
            if " JOB " in command:
                command = command.replace("JOB", Store.open(str(store)).list_dirs(keys.JOBS)[-1])
            said = run(["bash", "-c", command])
            if "--job latest" in command or command.startswith("simyard train"):
                assert "succeeded" in said
