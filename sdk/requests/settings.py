"""Settings of a machine, given once by its owner, through the environment."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.core.files import others_may_write
from simyard.core.specs import SAFE_GLOBALS
from simyard.runner.assets.asset_root import embedded_root

_KEPT_FROM_WORKLOADS = ("AWS_", "PREFECT_", "SIMYARD_")
_GIVEN_TO_WORKLOADS = (SAFE_GLOBALS,)
_CODE_CACHES = {
    "WARP_CACHE_PATH": "warp", "CUDA_CACHE_PATH": "cuda", "TRITON_CACHE_DIR": "triton", "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "torch-extensions",
}  # fmt: skip
"""Variables that say where compiled code is kept, with the folder that each project but `default` has for it."""
_LICENCES = {"ACCEPT_EULA": "Y", "OMNI_KIT_ACCEPT_EULA": "YES"}
"""Variables that tell Isaac Sim its licence is accepted. An image may have these too: that is nobody's word."""
TRACKERS = ("mlflow", "wandb")
"""Trackers of experiments that jobs can be mirrored to, each an extra of simyard."""
_CACHE_GB = 20.0
_USD_PER_GPU_HOUR = 2.99
_FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Variable that a worker sets for the process of a flow run."""


@dataclass(frozen=True)
class KernelArchive:
    """An archive that `simyard cache export` wrote, by the owner's word."""

    file: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """One machine's settings."""

    home: Path
    """`SIMYARD_HOME`, default `~/.simyard`: scratch space and the default store."""
    store: str
    """`SIMYARD_STORE`, default the folder `store` in the home."""
    python: str
    """`SIMYARD_PYTHON`: the Python that has the simulator; default this one."""
    pool: str | None = None
    """`SIMYARD_POOL`: the work pool where attempts of jobs run that name none; default this process."""
    accepts_eula: bool = False
    """`SIMYARD_ACCEPT_NVIDIA_EULA`, `on` or `off`: whether NVIDIA's licence for Isaac Sim is accepted for all jobs."""
    cache_bytes: int = int(_CACHE_GB * 1e9)
    """`SIMYARD_CACHE_GB`, in gigabytes: how large the cache of inputs may become; 0 keeps none."""
    sessions: bool = True
    """`SIMYARD_SESSIONS`, `on` or `off`: whether a simulator may serve one job after another."""
    allow_cpu_trainers: bool = True
    """`SIMYARD_ALLOW_CPU_TRAINERS`, `on` or `off`: whether trainers of managed runs may do without a GPU; where nobody
    says, the HTTP API does not allow it."""
    workers_contained: bool = False
    """`SIMYARD_WORKERS_CONTAINED`, `on` or `off`: whether code of one project cannot reach another's where it runs."""
    trainer_variables: frozenset[str] = frozenset()
    """`SIMYARD_TRAINER_VARIABLES`, `NAME,…`: variables of this environment that trainers may have, and no workload."""
    kernels: KernelArchive | None = None
    """`SIMYARD_KERNELS`, `FILE@sha256:DIGEST`: compiled kernels that each project's caches get here, once."""
    trackers: tuple[str, ...] = ()
    """`SIMYARD_TRACKERS`, `mlflow`, `wandb` or both: trackers that jobs are mirrored to."""
    robot_sensors: tuple[str, ...] | None = None
    """`SIMYARD_ROBOT_SENSORS`, such as `joint_encoders,imu`: sensors of this site's robots, by which exports that name
    none themselves are judged."""
    usd_per_gpu_hour: float | None = _USD_PER_GPU_HOUR
    """`SIMYARD_USD_PER_GPU_HOUR`, in USD: price of an hour of one GPU, by which estimates, costs and budgets are
    reckoned; `none` names no price, and then nothing has one."""

    @classmethod
    def from_env(cls) -> MachineSettings:
        """Read the settings.

        Raises:
            RequestError: One has a bad value.
        """
        return replace(
            cls.from_env_in_part(),
            accepts_eula=on_or_off("SIMYARD_ACCEPT_NVIDIA_EULA", default="off"),
            cache_bytes=int(number_from_env("SIMYARD_CACHE_GB", _CACHE_GB, "gigabytes; 0 keeps no inputs here") * 1e9),
            sessions=on_or_off("SIMYARD_SESSIONS", default="on"),
            allow_cpu_trainers=on_or_off("SIMYARD_ALLOW_CPU_TRAINERS", default="on"),
            workers_contained=on_or_off("SIMYARD_WORKERS_CONTAINED", default="off"),
            kernels=_kernels_from_env(),
            trackers=trackers_from_env(),
            robot_sensors=robot_sensors(),
            usd_per_gpu_hour=usd_per_gpu_hour(),
        )

    @classmethod
    def from_env_in_part(cls) -> MachineSettings:
        """Read the settings that cannot be bad; the others have their defaults."""
        home = Path(os.environ.get("SIMYARD_HOME") or Path.home() / ".simyard").resolve()
        return cls(
            home=home,
            store=os.environ.get("SIMYARD_STORE") or str(home / "store"),
            python=os.environ.get("SIMYARD_PYTHON") or sys.executable,
            pool=os.environ.get("SIMYARD_POOL") or None,
            trainer_variables=frozenset(re.findall(r"[^\s,]+", os.environ.get("SIMYARD_TRAINER_VARIABLES", ""))),
        )

    @property
    def cache(self) -> Path:
        """Inputs that jobs fetched, for the next one."""
        return self.home / "cache" / "assets"

    @property
    def sessions_folder(self) -> Path:
        """Sessions that this machine keeps, a folder each; containers that may use them mount the home."""
        return self.home / "sessions"

    def attempt_folder(self, job_id: str, number: int, node: int = 0) -> Path:
        """The scratch folder of an attempt; several of its machines may share a home."""
        own = job_id if node == 0 else f"{job_id}.{node}"
        return self.home / "work" / own / f"{number:03d}-{os.getpid()}"

    @property
    def has_own_assets(self) -> bool:
        """Whether `ISAACSIM_ASSET_ROOT` is set: then nothing else is looked at."""
        return "ISAACSIM_ASSET_ROOT" in os.environ

    def code_caches(self, project: str) -> dict[str, str]:
        """The folders of compiled code for a project's jobs, by variable: it runs in the next job that finds it.

        Those of the project `default` are where the machine has them.
        """
        if project == "default":
            return {name: os.environ[name] for name in _CODE_CACHES if name in os.environ}
        return {name: str(self.home / "cache" / "code" / project / folder) for name, folder in _CODE_CACHES.items()}

    def code_folders(self, project: str) -> dict[str, Path]:
        """All folders of compiled code for a project's jobs, by short names: where nothing is set, the libraries'."""
        xdg = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        chosen = {
            "WARP_CACHE_PATH": str(xdg / "warp"), "CUDA_CACHE_PATH": str(Path.home() / ".nv" / "ComputeCache"),
            "TRITON_CACHE_DIR": str(Path.home() / ".triton" / "cache"),
        }  # fmt: skip
        return {_CODE_CACHES[name]: Path(folder) for name, folder in (chosen | self.code_caches(project)).items()}

    def require_own_caches(self, project: str) -> None:
        """Refuse a cache of compiled code in which another user of this machine may put something.

        Raises:
            RequestError: There is such a cache.
        """
        for folder in self.code_folders(project).values():
            if (found := others_may_write(folder)) is not None:
                raise RequestError(
                    f"{str(found)!r}, where compiled code is kept, belongs to another user or may be written by one.",
                    code="unsafe_cache",
                    advice=f"Remove it; or, if you trust what is in it: chown -R $(id -u) {folder}; "
                    f"chmod -R go-w {folder}.",
                )

    def workload_env(
        self, *, embedded_assets: bool = True, accepts_eula: bool = False, project: str = "default"
    ) -> dict[str, str]:
        """The environment of a workload: this one without our credentials, and what simulation needs.

        Args:
            embedded_assets: Whether the assets of installed packages serve where no others are set.
            accepts_eula: Whether who sent the job accepts NVIDIA's licence; the site may do so for all.
            project: Whose job it is.
        """
        env = {
            key: value
            for key, value in os.environ.items()
            if (not key.startswith(_KEPT_FROM_WORKLOADS) or key in _GIVEN_TO_WORKLOADS)
            and key not in _LICENCES
            and key not in self.trainer_variables
        }
        if accepts_eula or self.accepts_eula:
            env |= _LICENCES
        env |= self.code_caches(project)
        # One thread: on a CPU the solver's small kernels spend ten times longer in thread hand-over than in work.
        env.setdefault("OMP_NUM_THREADS", "1")
        env.setdefault("GIT_PYTHON_REFRESH", "quiet")  # git may be absent; only the code diff needs it
        env["PYTHONUNBUFFERED"] = "1"
        if _FLOW_RUN in os.environ and "PYTHONPATH" in env:
            # Prefect puts the folder in which it runs a flow there, a new one each time.
            entries = [entry for entry in env.pop("PYTHONPATH").split(os.pathsep) if entry and entry != os.getcwd()]
            env |= {"PYTHONPATH": os.pathsep.join(entries)} if entries else {}
        if embedded_assets and not self.has_own_assets and (root := embedded_root(self.home / "assets")):
            env["ISAACSIM_ASSET_ROOT"] = str(root)
        return env


def _kernels_from_env() -> KernelArchive | None:
    """Read where the site has compiled kernels.

    Raises:
        RequestError: It names no archive, or not by its digest.
    """
    text = os.environ.get("SIMYARD_KERNELS")
    if not text:
        return None
    if (found := re.fullmatch(r"(/.+)@sha256:([0-9a-f]{64})", text)) is None:
        raise RequestError(
            f"SIMYARD_KERNELS is {text!r}.",
            code="bad_setting",
            advice="Allowed: /PATH/OF/kernels.tar.gz@sha256:DIGEST, as `simyard cache export` printed it.",
        )
    return KernelArchive(Path(found.group(1)), found.group(2))


def usd_per_gpu_hour() -> float | None:
    """Read the price of a GPU hour; None where the site names none.

    Raises:
        RequestError: It is neither a number nor `none`.
    """
    if os.environ.get("SIMYARD_USD_PER_GPU_HOUR") == "none":
        return None
    return number_from_env("SIMYARD_USD_PER_GPU_HOUR", _USD_PER_GPU_HOUR, "USD; or 'none' for no price")


def on_or_off(name: str, *, default: str) -> bool:
    """Read a setting that is on or off.

    Raises:
        RequestError: It is neither.
    """
    value = os.environ.get(name) or default
    if value not in ("on", "off"):
        raise RequestError(f"{name} is {value!r}.", code="bad_setting", advice="Allowed: 'on', 'off'.")
    return value == "on"


def number_from_env(name: str, default: float, unit: str) -> float:
    """Read a setting that is no less than 0; NaN is within no bounds.

    Raises:
        RequestError: It is no such number.
    """
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise RequestError(
            f"{name} is {text!r}.", code="bad_setting", advice=f"Give a number from 0 to 1,000,000, in {unit}."
        )
    return value


def robot_sensors() -> tuple[str, ...] | None:
    """Return the sensors of this site's robots: `SIMYARD_ROBOT_SENSORS`, names with commas between; None for no word.

    Raises:
        RequestError: It has a name that is no sensor's.
    """
    if not (text := os.environ.get("SIMYARD_ROBOT_SENSORS")):
        return None
    from simyard.runner.exporting.observing import SENSORS

    names = tuple(dict.fromkeys(re.findall(r"[^\s,]+", text)))
    if not names or (wrong := [name for name in names if name not in SENSORS]):
        raise RequestError(
            f"SIMYARD_ROBOT_SENSORS has {wrong[0]!r}." if names else f"SIMYARD_ROBOT_SENSORS is {text!r}.",
            code="bad_setting",
            advice=f"Allowed: {', '.join(SENSORS)}; an observation of one task is named in its exportConfig.robot.",
        )
    return names


def trackers_from_env() -> tuple[str, ...]:
    """Return the trackers that jobs are mirrored to: `SIMYARD_TRACKERS`, names with commas between; default none.

    Raises:
        RequestError: It has a name that is none of them.
    """
    names = tuple(dict.fromkeys(re.findall(r"[^\s,]+", os.environ.get("SIMYARD_TRACKERS", ""))))
    for name in names:
        if name not in TRACKERS:
            raise RequestError(
                f"SIMYARD_TRACKERS has {name!r}.", code="bad_setting", advice=f"Allowed: {', '.join(TRACKERS)}."
            )
    return names
