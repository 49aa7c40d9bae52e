"""A machine that has GPUs as far as the driver's own program tells: no test of these computes on one."""

import os
from pathlib import Path

import pytest


def install_driver(folder: Path, patch: pytest.MonkeyPatch, gpus: list[str], processes: list[str]) -> None:
    """Put an `nvidia-smi` first on the path that prints these rows."""
    program = folder / "nvidia-smi"
    rows = {"gpus": gpus, "processes": processes}
    for name, lines in rows.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    program.write_text(
        f'#!/bin/sh\ncase "$1" in --query-gpu=*) /bin/cat "{folder}/gpus";; *) /bin/cat "{folder}/processes";; esac\n'
    )
    program.chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
