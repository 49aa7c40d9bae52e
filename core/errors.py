"""Failures, their errors with advice for the caller, and the table of known causes.

    SimyardError
    ├── RequestError     the request is bad: nothing was started (exit 2, HTTP 4xx)
    ├── StoreError       the store cannot be read or written
    └── WorkloadError    the workload ended, and not with a success

Every error carries a `Failure`: what the user is shown, stored and billed by. Sources of the table: issue threads of
IsaacLab, IsaacSim, rsl_rl and newton, and runs of 3.0.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

EXIT_SUCCEEDED = 0
EXIT_JOB_FAILED = 1
EXIT_BAD_REQUEST = 2
EXIT_CANCELED = 130

LONGEST_NAME = 100
"""Characters of a name that is looked for among those allowed, and quoted in full."""


class Category(StrEnum):
    """Category of a failure, by the one who can mend it; it decides whether an attempt is repeated."""

    USER = "user"
    """The request, the task or the package is wrong: never retried."""
    RESOURCE = "resource"
    """The job did not fit the machine: never retried as it is."""
    INFRA = "infra"
    """The machine, the driver or the network: retried."""
    CANCELED = "canceled"
    """Somebody stopped the job: never retried."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure, in the words a user needs."""

    code: str
    """Stable machine-readable name, such as `gpu_out_of_memory`."""
    category: Category
    """Category, by the one who can mend it."""
    message: str
    """Message; the original line if there is one."""
    advice: str = ""
    """Next step."""

    def to_json(self) -> dict[str, str]:
        """Return the failure as plain JSON types."""
        return asdict(self) | {"category": str(self.category)}

    @classmethod
    def from_json(cls, data: dict[str, str]) -> Failure:
        """Read the JSON of `to_json`."""
        return cls(
            code=data["code"],
            category=Category(data["category"]),
            message=data["message"],
            advice=data.get("advice", ""),
        )


class SimyardError(Exception):
    """Base of every error simyard raises on purpose."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.is_told = False
        """Whether a log has it."""

    def __str__(self) -> str:
        advice = f" {self.failure.advice}" if self.failure.advice else ""
        return f"{self.failure.message}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        # Prefect stores exceptions by pickling them; the default would call cls(message).
        return _rebuild, (type(self), self.failure)


def _rebuild(cls: type[SimyardError], failure: Failure) -> SimyardError:
    error = cls.__new__(cls)
    SimyardError.__init__(error, failure)
    return error


class RequestError(SimyardError):
    """A request is bad; nothing was started."""

    def __init__(self, message: str, *, code: str = "bad_request", advice: str = "") -> None:
        super().__init__(Failure(code=code, category=Category.USER, message=message, advice=advice))


class StoreError(SimyardError):
    """The store cannot be read or written."""

    def __init__(self, message: str, *, code: str = "store", advice: str = "") -> None:
        super().__init__(Failure(code=code, category=Category.INFRA, message=message, advice=advice))


class WorkloadError(SimyardError):
    """A workload ended, and not with a success."""


class Stopped(BaseException):
    """Raised in the middle of a simulation when the supervisor asks for its end; no `except Exception` of a task's."""


def listed(items: Iterable[str], most: int, between: str = ", ") -> str:
    """Join texts for a message; of many only the first, and how many there are."""
    found = list(items)
    more = f"{between}… ({len(found)} in all)" if len(found) > most else ""
    return between.join(found[:most]) + more


def unknown(
    what: str, given: object, allowed: Iterable[str], *, code: str = "unknown_name", most: int = 12
) -> RequestError:
    """Return the error for a name that is not one of those allowed, with the nearest match.

    Args:
        what: The kind of name, such as `task`.
        given: What the user wrote.
        allowed: Every name that would have been accepted.
        code: The failure's code.
        most: How many allowed names to print.
    """
    import difflib  # most processes never need it

    names, text, said = sorted(set(allowed)), str(given), repr(given)
    is_name = len(text) <= LONGEST_NAME  # what is longer resembles no name, and takes long to compare
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5) if is_name else []
    guess = f" Did you mean {near[0]!r}?" if near else ""
    ranked = (
        sorted(names, key=lambda n: -difflib.SequenceMatcher(None, n, text).ratio())
        if len(names) > most and is_name
        else names
    )
    shown = listed(map(repr, ranked), most)
    said = said if is_name else f"{said[:LONGEST_NAME]}…"
    return RequestError(f"Unknown {what} {said}.{guess}", code=code, advice=f"Allowed: {shown}.")


NOT_STARTED = "kit_not_started"
"""Code of an end that has a cause which is not known yet."""
DISK_FULL = "disk_full"
"""Code of whatever found no room on a disk; it is repeated."""
NO_ROOM = r"No space left on device|Disk quota exceeded"
"""The words of a system that has none, as a pattern."""
ROOM_ADVICE = "Make room on that disk; then run or resume it again."
GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
"""The code, whichever library found no memory; `runner/gpu_memory.py` says why."""

_U, _R, _I = Category.USER, Category.RESOURCE, Category.INFRA


@dataclass(frozen=True)
class Cause:
    """One known cause: the line that names it, the one who can mend it, and the advice to print."""

    code: str
    category: Category
    pattern: str
    advice: str


SIGNATURES: tuple[Cause, ...] = (
    Cause(GPU_OUT_OF_MEMORY, _R,
        r"CUDA out of memory|CUDA error: out of memory|CUDA error 2[: ]|Cuda failure (2 )?'out of memory|"
        r"torch.*OutOfMemoryError|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CU(BLAS|DNN)_STATUS_ALLOC_FAILED|"
        r"[Ff]ailed to allocate [0-9]+ bytes.* on device 'cuda:[0-9]+'(?!:)|Failed to acquire primary context|"
        r"PxgCudaDeviceMemoryAllocator fail to allocate|RESOURCE_EXHAUSTED: Out of memory|ERROR_OUT_OF_DEVICE_MEMORY",
        "Use fewer environments (trainingConfig.numEnvs) or cameras; `nvidia-smi` names others that hold the GPU."),
    Cause("physx_buffer_too_small", _U, r"Px\w*DynamicsMemoryConfig::|buffer overflow detected, please increase",
        "Raise the matching `env.sim.physx.gpu_*` override to the printed value."),
    Cause("contact_buffer_too_small", _U, r"nefc overflow|please increase n\w+max",
        "Raise the named limit (`njmax`, `nconmax`) of the physics configuration; NaN can follow when it is ignored."),
    Cause("gpu_state_corrupt", _I, r"PhysX error.*700|illegal memory access",
        "The GPU's state is corrupt, and the process is restarted; if it repeats, check buffers and assets."),
    Cause("render_out_of_memory", _R, r"A GPU crash occurred",
        "Rendering found no memory: use fewer environments or cameras, or no video."),
    Cause("driver_unsupported", _I, r"graphics driver is unsupported|rtx driver verification failed",
        "Use driver 580.65.06 or newer; 595.x crashes Isaac Sim 5.1."),
    Cause("no_vulkan", _I, r"vkCreateInstance failed|ERROR_INCOMPATIBLE_DRIVER|Failed to create any GPU devices",
        "Start the container with NVIDIA_DRIVER_CAPABILITIES=all."),
    Cause("no_rt_cores", _U, r"createDLSSContext error|ERROR_DEVICE_LOST",
        "This GPU has no RT cores: leave out video and cameras, or use Newton physics."),
    Cause("eula_not_accepted", _U, r"Do you accept the EULA\? \(Yes/No\):|EULA not accepted\.",
        "Accept NVIDIA's licence in the request (acceptNvidiaEula)."),
    Cause(NOT_STARTED, _I, r"dependency solver failure|SimulationApp\._start_app: Application failed to start",
        "Isaac Sim is not whole on this machine, or lacks a GPU that it can draw with: the lines before say which. "
        "Physics without Kit, Newton's say, needs neither."),
    Cause("terminal_unknown", _I, r"': unknown terminal type\.|cannot reset tabs",
        "Isaac Lab 2.3's isaaclab.sh sets tabs: install the terminal descriptions of ncurses in the image."),
    Cause("isaac_sim_not_linked", _I, r"Unable to find any Python executable at path",
        "Isaac Lab 2.3 looks for Isaac Sim in its folder _isaac_sim: link it there, or name a Python that has Isaac "
        "Sim in SIMYARD_PYTHON."),
    Cause("assets_unreachable", _I, r"Unable to find the file: https?://|FileNotFoundError: .*https?://.*\.usd",
        "There is no route to NVIDIA's asset store: stage the assets and set ISAACSIM_ASSET_ROOT."),
    Cause("ranks_apart", _I, r"The ranks cannot talk to each other",
        "Let the machines of the pool reach each other on every port, name the interface in NCCL_SOCKET_IFNAME, and "
        "give containers shared memory (shm_size, or ipc: host); NCCL_DEBUG=INFO says more."),
    Cause("rank_lost", _I, r"Watchdog caught collective operation timeout|DistBackendError|nccl(Remote|System)Error",
        "Find the first dead rank; check shared memory (--ipc=host) and the network interface."),
    Cause("policy_std_invalid", _U, r"normal expects all elements of std >= 0\.0",
        "The policy's standard deviation is NaN or negative: take the last good checkpoint, lower the learning rate, "
        "or use the std type `log`."),
    Cause("observation_nan", _U, r"contains? NaN values|NaN values? (detected|found)|Expected parameter .* to satisfy",
        "Physics, an asset or a reward gives NaN: look at the last good metrics and the physics configuration."),
    Cause("isaac_sim_absent", _U, r"Isaac Sim is not installed or not found on PYTHONPATH",
        "PhysX or Kit video was asked for without Kit: use physics=newton_mjwarp."),
    Cause("no_nvidia_driver", _I, r"Found no NVIDIA driver",
        "No GPU was given to the container; to train on the CPU set computeConfig.gpusPerNode to 0."),
    Cause("wrong_arguments", _U, r"error: unrecognized arguments|DeprecatedEnv|NameNotFound",
        "A flag or task id of another Isaac Lab version: 3.0 dropped '-v0'."),
    Cause("checkpoint_not_found", _U, r"No checkpoints in the directory|No runs present",
        "The run or checkpoint name is wrong."),
    Cause("checkpoint_of_old_rsl_rl", _U, r"KeyError: 'actor_state_dict'",
        "The checkpoint was written by rsl_rl before 4, and this is 5 or newer: train anew or convert it."),
    Cause("checkpoint_wrong_shape", _U, r"size mismatch for|Missing key\(s\) in state_dict",
        "The checkpoint belongs to another task or network: compare params/agent.yaml."),
    Cause("not_writable", _I, r"PermissionError.*(\.local/share/ov|kit/cache)",
        "From 3.0.0-beta2 on the mounted folders must be writable by user 1000."),
    Cause("kit_started_late", _U, r"No module named 'omni\.usd'|has no attribute 'get_context'",
        "The task package imports `pxr` before the app has started."),
    Cause("git_absent", _I, r"ImportError: Bad git executable",
        "Install git in the image, or set GIT_PYTHON_REFRESH=quiet."),
    Cause(DISK_FULL, _I, NO_ROOM, ROOM_ADVICE),
)  # fmt: skip

SURVIVABLE = frozenset({"driver_unsupported", "no_vulkan", "no_rt_cores"})
"""Causes that runs without rendering live with: they count only where nothing else explains the end."""

END_MARKER = re.compile(r"^(?:Training|Evaluation|Export|Rollout) time: [\d.]+ seconds")
"""End marker: Isaac Lab prints it after the last iteration, in every version and for every library; simyard's own
evaluation, export and rollouts end alike."""


def known_failure(line: str) -> Failure | None:
    """Return the known failure that a line of a log names, if any."""
    for known in SIGNATURES:
        if re.search(known.pattern, line):  # which compiles each pattern once, when the first line comes
            return Failure(code=known.code, category=known.category, message=line.strip()[:500], advice=known.advice)
    return None
