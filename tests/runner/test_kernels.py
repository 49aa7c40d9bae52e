"""Kernels that are compiled are counted, by Warp itself; those in the cache are not."""

import subprocess
import sys

SCRIPT = """
import sys
import warp
from simyard.runner.isaaclab.adapter import compilations_told

warp.config.kernel_cache_dir = sys.argv[1]
warp.config.quiet = True

@warp.kernel(module="unique")
def double(numbers: warp.array(dtype=float)):
    numbers[warp.tid()] *= 2.0

@warp.kernel(module="unique")
def add(numbers: warp.array(dtype=float)):
    numbers[warp.tid()] += 1.0

def compute():
    numbers = warp.array([1.0, 2.0], dtype=float, device="cpu")
    for kernel in (double, add):
        warp.launch(kernel, dim=2, inputs=[numbers], device="cpu")
    print(numbers.numpy().tolist())

with compilations_told():
    compute()
    for kernel in (double, add):
        kernel.module.unload()
    compute()
warp.clear_kernel_cache()
for kernel in (double, add):
    kernel.module.unload()
compute()
"""


def test_each_compilation_is_told_with_its_number_and_what_is_cached_is_not(tmp_path):
    script = tmp_path / "compute.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "cache"], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.splitlines() == [
        "doing: compiling kernels: 1 so far",
        "doing: compiling kernels: 2 so far",
        "[3.0, 5.0]",
        "[3.0, 5.0]",
        "[3.0, 5.0]",
    ]


def test_where_nothing_has_imported_warp_nothing_does():
    code = "import sys\nfrom simyard.runner.isaaclab.adapter import compilations_told\nwith compilations_told(): pass\n"
    subprocess.run([sys.executable, "-c", code + "assert 'warp' not in sys.modules"], timeout=300, check=True)
