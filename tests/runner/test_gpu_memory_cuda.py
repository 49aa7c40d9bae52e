"""Out of memory on a real GPU, by torch and by Warp: beside a process that holds it, and alone."""

import json
import subprocess
import sys

import pytest
from helpers import HANG_S
from lazy import lazy

torch = lazy("torch")

HOLDER = """
import time, torch
blocks, left = [], 3e9
while torch.cuda.mem_get_info()[0] > left + 2**28:
    blocks.append(torch.empty(2**28, dtype=torch.uint8, device="cuda"))
print("holds", flush=True)
time.sleep(600)
"""
JOB = """
import json, sys
from simyard.runner import gpu_memory
from simyard.runner.session import _failure
import torch, warp
warp.config.quiet = True
torch.zeros(1, device="cuda")
peak = gpu_memory.Peak()
kept, size = [], int(float(sys.argv[2]))
try:
    for _ in range(1000):
        if sys.argv[1] == "torch":
            kept.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        else:
            kept.append(warp.empty(size, dtype=warp.uint8, device="cuda:0"))
except Exception as error:
    failure = gpu_memory.explained(_failure(error), peak.demand(4096))
    held = gpu_memory.held_bytes()
    kept.clear()
    del error
    torch.cuda.empty_cache()
    warp.synchronize()
    print(json.dumps({**failure.to_json(), "held": held, "after": gpu_memory.held_bytes()}))
"""


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")


def job(library, size):
    command = [sys.executable, "-c", JOB, library, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("library", ["torch", "warp"])
def test_others_that_hold_the_gpu_are_named(library):
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holds\n"
        try:
            found = job(library, 5e8)
        finally:
            holder.kill()
    assert (found["code"], found["category"]) == ("gpu_out_of_memory", "infra"), found
    assert f"process {holder.pid} (" in found["message"] or "not seen from here" in found["message"], found
    assert "environments fit, of the 4,096 asked for" in found["advice"]


@pytest.mark.parametrize("library", ["torch", "warp"])
def test_a_job_too_large_by_itself_is_the_users(library):
    found = job(library, 5e9)
    assert (found["code"], found["category"]) == ("gpu_out_of_memory", "user"), found
    assert "environments fit, of the 4,096 asked for" in found["advice"]
    assert found["after"] < 4e9 < found["held"], "what a process holds is measured, and what it gave back is not"
