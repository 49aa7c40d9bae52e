"""docs/client.md and the client's examples say what is there."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HANG_S
from played_service import KEY

import simyard as hs
from simyard.client import errors, settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")


def test_the_page_names_every_method():
    rows = TEXT.partition("| what | methods |")[2].partition("\n\n")[0]
    methods = {name for name, _ in inspect.getmembers(hs.Client, inspect.isroutine) if name[0] != "_"}
    assert set(re.findall(r"`(\w+)`", rows)) == methods - {"close", "from_env"}


def test_the_page_names_every_setting_and_its_default():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\S+) \|", TEXT, re.MULTILINE)
    defaults = {name: parameter.default for name, parameter in inspect.signature(hs.Client).parameters.items()}
    assert [name for name, _, _ in rows] == list(defaults)
    for name, variable, default in rows:
        assert variable in inspect.getsource(settings)
        required = defaults[name] is inspect.Parameter.empty
        assert default == ("required" if required else f"`{defaults[name]}`".replace(".0`", "`"))


def test_the_page_names_every_error():
    raised = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    bases = {"JobError", "TrainingRunError", "SweepError"}
    assert {name for name in raised - bases if f"`{name}`" not in TEXT} == set()


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
def test_the_pages_programs_run(service, tmp_path, block):
    (tmp_path / "arm.urdf").write_text("<robot/>")
    (tmp_path / "train.json").write_text('{"trainingConfig": {"task": "T"}}')
    service.files(**{"rollout.zarr": b"z"})
    service.jobs |= {f"job-{n}": service.jobs["job-1"] for n in range(3)}
    lines = ["import asyncio", "import simyard as hs"]
    if "await" in block:
        block = "async def main():\n" + "".join(f"    {line}\n" for line in block.splitlines()) + "asyncio.run(main())"
    (tmp_path / "program.py").write_text("\n".join([*lines, block]))
    run_program(tmp_path / "program.py", service.url, tmp_path)
    assert service.sent("POST /v0/jobs")


def test_the_example_of_a_job_runs(service, tmp_path):
    for name in ("task.zip", "arm.usdz", "table.usdz"):
        (tmp_path / name).write_bytes(b"x")
    service.files(**{"rollout.zarr": b"z"})
    service.jobs["job-0"] = service.jobs["job-1"]
    arguments = ("task.zip", "m.t", "T", "--robot", "arm.usdz", "--scene", "table.usdz", "--output", "out")
    run_program(ROOT / "examples" / "client" / "isaac_lab_job.py", service.url, tmp_path, *arguments)
    (sent,) = service.sent("POST /v0/jobs")
    assert sent.body["isaac_lab"]["task_package_asset_id"] == "asset-task.zip"
    assert (sent.body["robot"], sent.body["scene"]) == (
        {"usd_asset_id": "asset-arm.usdz"},
        {"usd_asset_id": "asset-table.usdz"},
    )
    assert (tmp_path / "out" / "rollout.zarr").read_bytes() == b"z"


def test_the_example_of_a_run_runs(service, tmp_path):
    service.run({"status": "running"}, {})
    service.checkpoints = [{"checkpoint_id": "ckpt-1"}]
    service.artifacts = {"ckpt-1": b"weights"}
    request = ROOT / "examples" / "managed_training" / "smoke.json"
    program = ROOT / "examples" / "client" / "managed_training.py"
    run_program(program, service.url, tmp_path, str(request), "policy.pt", "--interval", "0.01")
    (sent,) = service.sent("POST /v1/training-runs")
    assert sent.body["rollout_template"]["robot"] == {"urdf_asset_id": "asset-gripper_arm.urdf"}
    assert (tmp_path / "policy.pt").read_bytes() == b"weights"


def run_program(program: Path, url: str, folder: Path, *arguments: str) -> None:
    """Run a program to a success, with a client's settings in its environment."""
    env = {**os.environ, "SIMYARD_API_KEY": KEY, "SIMYARD_API_URL": url, "SIMYARD_HTTP_BACKOFF_S": "0.01"}
    command = [sys.executable, str(program), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
