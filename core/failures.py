"""The failure table: the line that names the cause, whose fault it is, and the advice to print.

Sources: issue threads of IsaacLab, IsaacSim, rsl_rl and newton, and runs of 3.0.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from simyard.core.errors import Category, Failure

_U, _R, _I = Category.USER, Category.RESOURCE, Category.INFRA


@dataclass(frozen=True)
class Signature:
    """One known cause."""

    code: str
    category: Category
    pattern: re.Pattern[str]
    advice: str


def _row(code: str, category: Category, pattern: str, advice: str) -> Signature:
    return Signature(code, category, re.compile(pattern), advice)


SIGNATURES: tuple[Signature, ...] = (
    _row("cuda_out_of_memory", _R, r"torch\.OutOfMemoryError|torch\.cuda\.OutOfMemoryError|CUDA out of memory",
         "Use fewer environments (trainingConfig.numEnvs); another process may hold the GPU."),
    _row("physx_out_of_memory", _R, r"PxgCudaDeviceMemoryAllocator fail to allocate",
         "PhysX found no GPU memory: use fewer environments."),
    _row("physx_buffer_too_small", _U, r"Px\w*DynamicsMemoryConfig::|buffer overflow detected, please increase",
         "Raise the matching `env.sim.physx.gpu_*` override to the printed value."),
    _row("contact_buffer_too_small", _U, r"nefc overflow|please increase n\w+max",
         "Raise the named limit (`njmax`, `nconmax`) of the physics configuration; NaN can follow when it is ignored."),
    _row("gpu_state_corrupt", _I, r"PhysX error.*700|illegal memory access",
         "The GPU's state is corrupt, and the process is restarted; if it repeats, check buffers and assets."),
    _row("render_out_of_memory", _R, r"ERROR_OUT_OF_DEVICE_MEMORY|A GPU crash occurred",
         "Rendering found no memory: use fewer environments or cameras, or no video."),
    _row("driver_unsupported", _I, r"graphics driver is unsupported|rtx driver verification failed",
         "Use driver 580.65.06 or newer; 595.x crashes Isaac Sim 5.1."),
    _row("no_vulkan", _I, r"vkCreateInstance failed|ERROR_INCOMPATIBLE_DRIVER|Failed to create any GPU devices",
         "Start the container with NVIDIA_DRIVER_CAPABILITIES=all."),
    _row("no_rt_cores", _U, r"createDLSSContext error|ERROR_DEVICE_LOST",
         "This GPU has no RT cores: leave out video and cameras, or use Newton physics."),
    _row("eula_not_accepted", _U, r"Do you accept the EULA\? \(Yes/No\):",
         "Accept NVIDIA's licence in the request (acceptNvidiaEula)."),
    _row("assets_unreachable", _I, r"Unable to find the file: https?://|FileNotFoundError: .*https?://.*\.usd",
         "There is no route to NVIDIA's asset store: stage the assets and set ISAACSIM_ASSET_ROOT."),
    _row("ranks_apart", _I, r"The ranks cannot talk to each other",
         "Let the machines of the pool reach each other on every port, name the interface in NCCL_SOCKET_IFNAME, and "
         "give containers shared memory (shm_size, or ipc: host); NCCL_DEBUG=INFO says more."),
    _row("rank_lost", _I, r"Watchdog caught collective operation timeout|DistBackendError|nccl(Remote|System)Error",
         "Find the first dead rank; check shared memory (--ipc=host) and the network interface."),
    _row("policy_std_invalid", _U, r"normal expects all elements of std >= 0\.0",
         "The policy's standard deviation is NaN or negative: take the last good checkpoint, lower the learning rate, "
         "or use the std type `log`."),
    _row("observation_nan", _U, r"contains? NaN values|NaN values? (detected|found)|Expected parameter .* to satisfy",
         "Physics, an asset or a reward gives NaN: look at the last good metrics and the physics configuration."),
    _row("isaac_sim_absent", _U, r"Isaac Sim is not installed or not found on PYTHONPATH",
         "PhysX or Kit video was asked for without Kit: use physics=newton_mjwarp."),
    _row("no_nvidia_driver", _I, r"Found no NVIDIA driver",
         "No GPU was given to the container; to train on the CPU set computeConfig.gpusPerNode to 0."),
    _row("wrong_arguments", _U, r"error: unrecognized arguments|DeprecatedEnv|NameNotFound",
         "A flag or task id of another Isaac Lab version: 3.0 dropped '-v0'."),
    _row("checkpoint_not_found", _U, r"No checkpoints in the directory|No runs present",
         "The run or checkpoint name is wrong."),
    _row("checkpoint_of_old_rsl_rl", _U, r"KeyError: 'actor_state_dict'",
         "The checkpoint was written by rsl_rl before 4, and this is 5 or newer: train anew or convert it."),
    _row("checkpoint_wrong_shape", _U, r"size mismatch for|Missing key\(s\) in state_dict",
         "The checkpoint belongs to another task or network: compare params/agent.yaml."),
    _row("not_writable", _I, r"PermissionError.*(\.local/share/ov|kit/cache)",
         "From 3.0.0-beta2 on the mounted folders must be writable by user 1000."),
    _row("kit_started_late", _U, r"No module named 'omni\.usd'|has no attribute 'get_context'",
         "The task package imports `pxr` before the app has started."),
    _row("git_absent", _I, r"ImportError: Bad git executable",
         "Install git in the image, or set GIT_PYTHON_REFRESH=quiet."),
    _row("disk_full", _I, r"No space left on device",
         "The machine's disk is full."),
)  # fmt: skip

SURVIVABLE = frozenset({"driver_unsupported", "no_vulkan", "no_rt_cores"})
"""Causes that runs without rendering live with: they count only where nothing else explains the end."""

END_MARKER = re.compile(r"^(?:Training|Evaluation|Export|Rollout) time: [\d.]+ seconds")
"""End marker: Isaac Lab prints it after the last iteration, in every version and for every library; simyard's own
evaluation, export and rollouts end alike."""


def match(line: str) -> Failure | None:
    """Return the known failure this line names, if any."""
    for signature in SIGNATURES:
        if signature.pattern.search(line):
            return Failure(
                code=signature.code, category=signature.category, message=line.strip()[:500], advice=signature.advice
            )
    return None
