"""Start the copying of assets from a store on the network, in the Python that has Isaac Lab."""

from __future__ import annotations

import subprocess
from pathlib import Path

from simyard.core.errors import Category, Failure, RequestError, SimyardError
from simyard.core.files import read_json, scratch
from simyard.requests.settings import MachineSettings
from simyard.runner.assets.mirror import Answer, Mirrored

_LAST_LINES = 8


def mirror(machine: MachineSettings, folder: Path, tasks: tuple[str, ...], source: str | None) -> Mirrored:
    """Copy what tasks need into a folder.

    Args:
        machine: Whose Python has Isaac Lab.
        folder: An asset root, made if need be.
        tasks: Ids of registered tasks.
        source: Address of the store, as far as its `Isaac` folder; None for the one that Isaac Lab has: NVIDIA's.

    Raises:
        RequestError: A task is unknown, or the store is not reached.
        SimyardError: The child ended without an answer.
    """
    env = machine.workload_env(embedded_assets=False)
    env.pop("ISAACSIM_ASSET_ROOT", None)
    if source is not None:
        env["ISAACSIM_ASSET_ROOT"] = source
    with scratch("mirror") as temporary:
        answer = temporary / "answer.json"
        command = [machine.python, "-P", "-m", "simyard.runner.assets.mirror", str(folder.resolve()), str(answer)]
        done = subprocess.run(
            [*command, *tasks], env=env, cwd=temporary, capture_output=True, text=True, errors="replace", check=False
        )
        if not answer.is_file():
            lines = "".join(f"\n    {line[:300]}" for line in done.stderr.splitlines()[-_LAST_LINES:])
            raise SimyardError(
                Failure(
                    code="mirror_failed",
                    category=Category.INFRA,
                    message=f"The process that copies ended with exit code {done.returncode}:{lines}\n",
                    advice=f"It ran {machine.python!r}, which must have Isaac Lab 3.0 and simyard: SIMYARD_PYTHON.",
                )
            )
        said = Answer.from_json(read_json(answer))
    if said.failure is not None:
        if said.failure.category is Category.USER:
            raise RequestError(said.failure.message, code=said.failure.code, advice=said.failure.advice)
        raise SimyardError(said.failure)
    assert said.mirrored is not None
    return said.mirrored
