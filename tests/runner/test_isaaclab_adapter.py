"""Changes of Isaac Lab's modules: kernels are counted while they are compiled, steps of solvers are replayed."""

import subprocess
import sys

import pytest
from helpers import HANG_S

COMPILED = """
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
    script.write_text(COMPILED)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "cache"], capture_output=True, text=True, timeout=HANG_S, check=True
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
    subprocess.run([sys.executable, "-c", code + "assert 'warp' not in sys.modules"], timeout=HANG_S, check=True)


REPLAYED = """
import sys
from simyard.runner.isaaclab.adapter import replay_on_cpu

replay_on_cpu()
assert not {"isaaclab", "newton", "warp"} & set(sys.modules)
from isaaclab_newton.physics.newton_manager import NewtonManager

print(NewtonManager._invalidate_graph.__func__.__module__)
replay_on_cpu()
"""


@pytest.mark.long  # Newton imported anew; tests/sim has the replay
@pytest.mark.system  # the import takes seconds
def test_solvers_of_a_newton_that_is_imported_later_are_replayed():
    done = subprocess.run([sys.executable, "-c", REPLAYED], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.stdout.splitlines()[-1:] == ["simyard.runner.isaaclab.adapter"], done.stderr
