"""The failure table: every row knows its line, and nothing harmless is taken for a failure."""

import pytest

from simyard.core.errors import END_MARKER, SIGNATURES, Category, known_failure

KNOWN = {
    "gpu_out_of_memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "physx_buffer_too_small": "PhysX error: The application needs to increase "
    "PxgDynamicsMemoryConfig::foundLostPairsCapacity to 2048 , otherwise, the simulation will miss interactions",
    "contact_buffer_too_small": "nefc overflow - please increase njmax to 128",
    "gpu_state_corrupt": "RuntimeError: CUDA error: an illegal memory access was encountered",
    "render_out_of_memory": "[Fatal] A GPU crash occurred. Exiting the application...",
    "driver_unsupported": "[Error] [gpu.foundation] The currently installed NVIDIA graphics driver is unsupported",
    "no_vulkan": "[Error] [carb.graphics-vulkan.plugin] vkCreateInstance failed. Vulkan 1.1 is not supported",
    "no_rt_cores": "[Error] [rtx.postprocessing.plugin] createDLSSContext error",
    "eula_not_accepted": "Do you accept the EULA? (Yes/No): ",
    "kit_not_started": "2026-11-30T10:28:38Z [537ms] [Error] [omni.kit.app.plugin] Exiting app because of dependency "
    "solver failure...",
    "terminal_unknown": "'ansi+tabs': unknown terminal type.",
    "isaac_sim_not_linked": "[ERROR] Unable to find any Python executable at path: '/lab/_isaac_sim/python.sh'",
    "assets_unreachable": "FileNotFoundError: Unable to find the file: https://omniverse-content-production.s3/Robot.usd",
    "ranks_apart": "The ranks cannot talk to each other: rank 0 of 2 on 'box': DistStoreError: Timed out after 121 s",
    "rank_lost": "[rank1]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5)",
    "policy_std_invalid": "RuntimeError: normal expects all elements of std >= 0.0",
    "observation_nan": "ValueError: The observation group 'policy' contains NaN values.",
    "isaac_sim_absent": "ModuleNotFoundError: Isaac Sim is not installed or not found on PYTHONPATH.",
    "no_nvidia_driver": "RuntimeError: Found no NVIDIA driver on your system.",
    "wrong_arguments": "train.py: error: unrecognized arguments: --headles",
    "checkpoint_not_found": "ValueError: No checkpoints in the directory: '/logs' match 'model_.*.pt'.",
    "checkpoint_of_old_rsl_rl": "KeyError: 'actor_state_dict'",
    "checkpoint_wrong_shape": "size mismatch for actor.0.weight: copying a param with shape torch.Size([32, 4])",
    "not_writable": "PermissionError: [Errno 13] Permission denied: '/home/isaaclab/.local/share/ov/data'",
    "kit_started_late": "ModuleNotFoundError: No module named 'omni.usd'",
    "git_absent": "ImportError: Bad git executable.",
    "disk_full": "OSError: [Errno 28] No space left on device",
}
ALSO_KNOWN = [
    (
        "eula_not_accepted",
        "SystemExit: Unable to bootstrap inner kit kernel: EULA not accepted. Set OMNI_KIT_ACCEPT_EULA=YES to accept",
    ),
    (
        "kit_not_started",
        "[560ms] [Error] [simulation_app.simulation_app] SimulationApp._start_app: Application failed to start. "
        "Check the log above for errors.",
    ),
    ("terminal_unknown", "tabs: terminal type 'dumb' cannot reset tabs"),
    ("disk_full", "OSError: [Errno 122] Disk quota exceeded"),
    ("gpu_out_of_memory", "torch.cuda.OutOfMemoryError: CUDA out of memory."),
    ("gpu_out_of_memory", "torch.AcceleratorError: CUDA error: out of memory"),
    (
        "gpu_out_of_memory",
        "Search for `cudaErrorMemoryAllocation' in the CUDA documentation for more information.",
    ),
    ("gpu_out_of_memory", "Warp CUDA error 2: out of memory (in function wp_alloc_device_async, warp.cu:1200)"),
    ("gpu_out_of_memory", "RuntimeError: Failed to allocate 17179869184 bytes on device 'cuda:0'"),
    ("gpu_out_of_memory", "Warp error: Failed to allocate 4096 bytes on device 'cuda:1' (in function wp_alloc_device)"),
    ("gpu_out_of_memory", "RuntimeError: Failed to acquire primary context for device cuda:0"),
    ("gpu_out_of_memory", "[omni.physx.plugin] PxgCudaDeviceMemoryAllocator fail to allocate memory 67108864 bytes!!"),
    ("gpu_out_of_memory", "[Error] [gpu.foundation] VkResult: ERROR_OUT_OF_DEVICE_MEMORY"),
    ("gpu_out_of_memory", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("gpu_out_of_memory", "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying"),
    ("gpu_out_of_memory", "NCCL WARN Cuda failure 2 'out of memory'"),
    (
        "physx_buffer_too_small",
        "PxgDynamicsMemoryConfig::collisionStackSize buffer overflow detected, please increase it",
    ),
    (
        "physx_buffer_too_small",
        "PhysX error: Patch buffer overflow detected, please increase its size to at least 178421",
    ),
    ("contact_buffer_too_small", "Flex-flex SAP buffer overflow - please increase naconmax to 900"),
    ("contact_buffer_too_small", "CCD overflow - please increase naccdmax to 12"),
    ("gpu_state_corrupt", "PhysX error: GPU compute pipeline failed, error 700"),
    ("driver_unsupported", "[Error] [rtx driver verification failed]"),
    ("no_vulkan", "Failed to create any GPU devices, including an attempt with compatibility mode."),
    ("wrong_arguments", "gymnasium.error.NameNotFound: Environment `Isaac-Nowhere` doesn't exist."),
    ("wrong_arguments", "gymnasium.error.DeprecatedEnv: Environment version v0 for `Isaac-Ant` is deprecated."),
    ("checkpoint_not_found", "ValueError: No runs present in the directory: '/logs/rsl_rl' match '.*'."),
]
HARMLESS = [
    "ModuleNotFoundError: No module named 'isaaclab'",
    "",
    "Learning iteration 3/60",
    "Training time: 12.34 seconds",
    "[10.5s] app ready",
    "waiting for RtPso async group to finish",
    "The NVIDIA Omniverse License Agreement (EULA) must be accepted before Omniverse Kit can start.",
    "[Warning] [omni.client] Successfully created S3 provider",
    "Module newton._src.solvers load on device 'cpu' took 0.50 ms",
    "naconmax: 4096, njmax: 120",
    "[INFO]: Loading model checkpoint from: /data/model_5.pt",
    "There was an error running python",
    "Mean reward: nan",
    "std: 1.00",
    "RuntimeError: Failed to allocate 256 bytes on device 'cpu'",
    "Failed to allocate 8 bytes on device 'cuda:0':  Failed to allocate memory during graph capture because",
    "Warp CUDA error 201: invalid device context (in function get_stream, warp.cu:90)",
]


def test_every_row_has_an_example():
    assert [signature.code for signature in SIGNATURES] == list(KNOWN)


@pytest.mark.parametrize(("code", "line"), [*KNOWN.items(), *ALSO_KNOWN])
def test_a_line_is_known_by_its_own_row(code, line):
    failure = known_failure(f"  {line}\n")
    assert failure is not None
    assert failure.code == code
    assert failure.message == line.strip()
    assert failure.advice.endswith(".")
    assert failure.category in (Category.USER, Category.RESOURCE, Category.INFRA)


@pytest.mark.parametrize("line", HARMLESS)
def test_a_harmless_line_is_no_failure(line):
    assert known_failure(line) is None


def test_a_long_line_is_cut():
    failure = known_failure("CUDA out of memory " + "x" * 10_000)
    assert failure is not None
    assert len(failure.message) == 500


@pytest.mark.parametrize(
    ("line", "is_end"),
    [
        ("Training time: 12.34 seconds", True),
        ("Training time: 7 seconds", True),
        ("Training time limit: 7 seconds", False),
        ("[task] Training time: 12.34 seconds", False),
        ("Training time:", False),
    ],
)
def test_the_end_marker(line, is_end):
    assert bool(END_MARKER.match(line)) is is_end
