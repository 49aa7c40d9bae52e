"""Packages that some long tests are about, and that nothing else needs: installed once a checkout, in `build/`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HANG_S

BUILD = Path(__file__).parents[1] / "build"


def installed(name: str, *arguments: str) -> Path:
    """Return a folder with packages; the test is skipped where no package index has them.

    Args:
        name: Of the folder.
        arguments: For `uv pip install`, besides the folder: without what the packages require.
    """
    folder = BUILD / name
    if not folder.is_dir():
        part = folder.with_name(f"{name}.part{os.getpid()}")
        uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-deps", "--target", part]
        done = subprocess.run([*uv, *arguments], capture_output=True, text=True, timeout=HANG_S, check=False)
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            pytest.skip(f"no package index has {name}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        part.rename(folder)
    return folder
