"""Checks of `simyard doctor` where jobs run: Python, Isaac Lab, GPU, physics, licence, assets, disk, caches."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit
from xml.parsers import expat

from simyard.core.errors import RequestError
from simyard.core.wire import Wire
from simyard.requests.settings import MachineSettings
from simyard.runner.assets.safe_xml import SAFE_EXPAT
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.lookup import reachable

State = Literal["ok", "warning", "skipped", "failed"]
W = TypeVar("W", bound=Wire)

DRIVER = "580.65.06"
"""The oldest of NVIDIA's drivers that Isaac Sim 5 and later run on."""
PYTHON_S = 30.0
"""For the first answer of the simulator's Python; Isaac Sim's is a script that looks around first."""
TORCH_S = 20.0
SHARED_BYTES = 2**30
FREE_BYTES = 10 * 10**9
_NVIDIA_ASSETS = "https://omniverse-content-production.s3-us-west-2.amazonaws.com"
_SIMULATOR = """
import json
from simyard.runner.adapter import versions
from simyard.runner.isaaclab import kit, lookup
root = lookup.scripts_folder()
print(json.dumps({
    "scripts": root and str(root), "kit": kit.is_installed(), "versions": versions("cpu"),
}))
"""
"""Run by the simulator's Python; it imports no simulator."""
_CUDA = """
import json, torch
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda,
    "devices": torch.cuda.device_count() if torch.cuda.is_available() else 0,
}))
"""


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    """Subject of the check."""
    state: State
    """`skipped` where nothing was measured, `warning` where jobs run and somebody should know."""
    text: str
    """Finding, or the reason for having none; one line, without secrets."""
    fix: str = ""
    """Advice on the finding; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Simulator(Wire):
    """The simulator's Python, by its own account."""

    scripts: str | None
    """The folder of Isaac Lab 2.3, where it is that."""
    kit: bool
    """Whether Isaac Sim is installed."""
    versions: dict[str, str]
    """Of Python and the packages that matter."""

    @property
    def asks_for_licence(self) -> bool:
        """Whether some of its jobs need NVIDIA's licence."""
        return self.kit or self.scripts is not None


@dataclass(frozen=True, kw_only=True)
class Cuda(Wire):
    """CUDA, as the simulator's torch sees it."""

    torch: str
    """Version of torch."""
    cuda: str | None
    """Version that it is built for; None for a torch without CUDA."""
    devices: int
    """GPUs that it sees."""


def read_settings() -> tuple[Check, MachineSettings]:
    """Read the site's settings; where one is bad, those that cannot be bad."""
    name = "settings"
    try:
        machine = MachineSettings.from_env()
    except RequestError as error:
        return Check(name, "failed", error.failure.message, error.failure.advice), MachineSettings.from_env_in_part()
    return Check(name, "ok", f"SIMYARD_HOME is {str(machine.home)!r}"), machine


def check_expat() -> Check:
    """Look at the version of what reads XML in this process: old ones take longer over hostile files."""
    name, text = "expat", f"{'.'.join(map(str, expat.version_info))}, of Python {platform.python_version()}"
    if expat.version_info >= SAFE_EXPAT:
        return Check(name, "ok", text)
    wanted = ".".join(map(str, SAFE_EXPAT))
    fix = f"Run simyard under a Python with expat {wanted} or later: 3.12.3 brings it; or with your system's patches."
    return Check(name, "warning", f"{text}, is older than {wanted}", fix)


def machine_checks(machine: MachineSettings) -> Iterator[Check]:
    """Look at this machine; each check comes when it ends, and all of them within two minutes."""
    python, simulator = _python(machine)
    yield python
    yield _isaaclab(machine, simulator)
    gpu, gpus = _gpu(simulator)
    yield gpu
    yield _physics(simulator, gpus)
    yield _cuda(machine, simulator, gpus)
    yield _licence(machine, simulator)
    yield _assets(machine)
    yield _shared_memory(gpus)
    yield _disk(machine)
    yield _kernels(machine, simulator)


def _python(machine: MachineSettings) -> tuple[Check, Simulator | None]:
    name = "Python"
    advice = "Name a Python 3.11 or 3.12 that has Isaac Lab and simyard (`pip install --no-deps`) in SIMYARD_PYTHON."
    try:
        said = ask(machine, _SIMULATOR, PYTHON_S, Simulator)
    except (OSError, ValueError) as error:
        return Check(name, "failed", f"{machine.python!r} does not do: {_line(error)}", advice), None
    return Check(name, "ok", f"{said.versions['python']}, {machine.python!r}"), said


def _isaaclab(machine: MachineSettings, simulator: Simulator | None) -> Check:
    name = "Isaac Lab"
    if simulator is None:
        return _no_python(name)
    versions = simulator.versions
    if simulator.scripts is not None:
        version = isaaclab_scripts.version_of(Path(simulator.scripts))
        return Check(name, "ok", f"{version} in {simulator.scripts!r}: trains by its scripts, and does nothing else")
    if "isaaclab" not in versions:
        advice = "Install 'isaaclab==3.0.0' there, set ISAACLAB_PATH to a 2.3 checkout, or set SIMYARD_PYTHON."
        if "newton" in versions:
            return Check(name, "warning", f"not installed; Newton {versions['newton']} alone does rollouts", advice)
        return Check(name, "failed", f"not installed for {machine.python!r}", advice)
    if not simulator.kit:
        return Check(
            name, "ok", f"{versions['isaaclab']} without Kit, Newton {versions.get('newton', 'not installed')}"
        )
    return Check(name, "ok", f"{versions['isaaclab']} with Kit, Isaac Sim {versions.get('isaacsim', 'of this image')}")


def _physics(simulator: Simulator | None, gpus: int | None) -> Check:
    """Name the engines that jobs have here, and what each of them needs that is missing."""
    name = "physics"
    if simulator is None:
        return _no_python(name)
    versions, engines, advice = simulator.versions, list[str](), list[str]()
    if simulator.scripts is None and "newton" in versions:
        engines.append(f"newton {versions['newton']}")
    if simulator.scripts is None and "ovphysx" in versions:
        engines.append(f"physx without Kit, {versions['ovphysx']}")
    elif simulator.scripts is None and "isaaclab" in versions:
        advice.append("docs/training.md says how to get physx without Kit.")
    if simulator.asks_for_licence:
        engines.append(f"physx in Isaac Sim {versions.get('isaacsim', 'of this image')}")
    if not engines:
        return Check(name, "failed", "no engine is installed", " ".join(advice))
    if simulator.asks_for_licence and gpus == 0:
        text = f"{', '.join(engines)}; Isaac Sim needs a GPU, and there is none"
        return Check(name, "warning", text, "Use another engine here, or a machine with an RTX GPU (docs/images.md).")
    slow = "; kamino is refused without a GPU: some 60 times slower" if gpus == 0 else ""
    return Check(name, "ok", f"{', '.join(engines)}{slow}", " ".join(advice))


def _gpu(simulator: Simulator | None) -> tuple[Check, int | None]:
    """Return also how many GPUs there are; None where that is not known."""
    import pynvml

    name = "GPU"
    try:
        pynvml.nvmlInit()
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        names = sorted({str(pynvml.nvmlDeviceGetName(handle)) for handle in handles})
        free = [pynvml.nvmlDeviceGetMemoryInfo(handle).free / 1e9 for handle in handles]
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return _without_gpu(), 0
        advice = "`nvidia-smi` says more; after an upgrade of the driver the machine needs a restart."
        return Check(name, "failed", f"NVIDIA's driver does not answer: {error}", advice), None
    if not handles:
        return _without_gpu(), 0
    text = f"{len(handles)} x {', '.join(names)}, driver {driver}, free {', '.join(f'{gb:.1f}' for gb in free)} GB"
    if _numbers(driver) < _numbers(DRIVER):
        state: State = "failed" if simulator is None or simulator.asks_for_licence else "warning"
        return Check(name, state, f"{text}: older than {DRIVER}", f"Install driver {DRIVER} or newer."), len(handles)
    return Check(name, "ok", text), len(handles)


def _without_gpu() -> Check:
    advice = "Where there should be one: `nvidia-smi`; in a container, NVIDIA's container toolkit (docs/gpu-box.md)."
    return Check("GPU", "warning", "none: jobs run on the CPU, and those that ask for a GPU fail", advice)


def _cuda(machine: MachineSettings, simulator: Simulator | None, gpus: int | None) -> Check:
    name = "CUDA"
    if simulator is None:
        return _no_python(name)
    if "torch" not in simulator.versions:
        return Check(name, "skipped", f"{machine.python!r} has no torch")
    if not gpus:
        return Check(name, "skipped", "needs a GPU")
    try:
        said = ask(machine, _CUDA, TORCH_S, Cuda)
    except (OSError, ValueError) as error:
        return Check(name, "failed", f"torch does not do: {_line(error)}", f"Run {machine.python} -c 'import torch'.")
    text = f"torch {said.torch} for CUDA {said.cuda} sees {said.devices} of {gpus} GPUs"
    if not said.devices:
        advice = "Install a torch that is built for CUDA, and a driver that is new enough for it."
        return Check(name, "failed", text, advice)
    return Check(name, "ok", text)


def _licence(machine: MachineSettings, simulator: Simulator | None) -> Check:
    name = "licence"
    if simulator is None:
        return _no_python(name)
    if not simulator.asks_for_licence:
        return Check(name, "ok", "none is needed: Isaac Sim is not installed")
    if machine.accepts_eula:
        return Check(name, "ok", "NVIDIA's is accepted for all jobs of the site")
    return Check(
        name, "warning", "NVIDIA's for Isaac Sim is not accepted: jobs on its physics fail if they do not accept it",
        "Read it, then set SIMYARD_ACCEPT_NVIDIA_EULA=on, or deploy the pool with --accept-nvidia-eula.",
    )  # fmt: skip


def _assets(machine: MachineSettings) -> Check:
    name = "assets"
    try:
        given = machine.workload_env().get("ISAACSIM_ASSET_ROOT")
    except OSError as error:
        return Check(
            name, "failed", f"cannot be laid out in {str(machine.home)!r}: {_line(error)}", "Make it writable."
        )
    root = given or _NVIDIA_ASSETS
    if "://" in root:
        host = urlsplit(root).hostname
        if reachable(urlsplit(root)):
            return Check(name, "ok", f"{host} can be reached")
        advice = "Let the machine reach it, or set ISAACSIM_ASSET_ROOT to a folder with a copy of the asset store."
        return Check(name, "failed" if given else "warning", f"{host} cannot be reached", advice)
    if not machine.has_own_assets:
        return Check(name, "ok", "embedded: cartpole, ant, humanoid and what was built; NVIDIA's for other tasks")
    if not Path(root).is_dir():
        return Check(name, "failed", f"ISAACSIM_ASSET_ROOT is {root!r}, no folder", "Mount it, or correct its path.")
    return Check(name, "ok", f"in {root!r}")


def _shared_memory(gpus: int | None) -> Check:
    name = "shared memory"
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError as error:
        return Check(name, "skipped", f"/dev/shm: {_line(error)}")
    text = f"/dev/shm has {size / 2**30:.1f} GiB"
    if size >= SHARED_BYTES:
        return Check(name, "ok", text)
    advice = "Give the container more: `docker run --shm-size 16g`, `simyard deploy … --set shm_size=16g`."
    # GPUs of one job meet there.
    return Check(name, "failed" if gpus and gpus > 1 else "warning", f"{text}, and should have 1", advice)


def _disk(machine: MachineSettings) -> Check:
    name = "disk"
    folder = _existing(machine.home)
    text = f"{shutil.disk_usage(folder).free / 1e9:.0f} GB free in {str(machine.home)!r}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check(name, "failed", f"{str(machine.home)!r} is not writable", "Set SIMYARD_HOME, or change its owner.")
    if shutil.disk_usage(folder).free < FREE_BYTES:
        return Check(name, "failed", text, "Free 10 GB, or set SIMYARD_HOME to a larger disk.")
    return Check(name, "ok", text)


def _kernels(machine: MachineSettings, simulator: Simulator | None) -> Check:
    name = "kernel cache"
    if given := os.environ.get("WARP_CACHE_PATH"):
        folder = Path(given)
    elif simulator is None:
        return _no_python(name)
    elif version := simulator.versions.get("warp-lang"):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "warp" / version
    else:
        return Check(name, "skipped", "the simulator's Python has no warp-lang; Kit has its own")
    if not os.access(_existing(folder), os.W_OK | os.X_OK):
        advice = "Change its owner, or set WARP_CACHE_PATH to a folder that stays."
        return Check(name, "failed", f"{str(folder)!r} is not writable", advice)
    try:
        machine.require_own_caches("default")
    except RequestError as error:
        return Check(name, "failed", error.failure.message, error.failure.advice)
    count = sum(path.is_dir() for path in folder.glob("wp_*"))
    warmth = f"warm, {count} modules" if count else "cold, the first job compiles for minutes"
    return Check(name, "ok", f"{warmth}, in {str(folder)!r}")


def _no_python(name: str) -> Check:
    return Check(name, "skipped", "needs SIMYARD_PYTHON to run")


def ask(machine: MachineSettings, code: str, timeout_s: float, kind: type[W]) -> W:
    """Return the document that code prints in the simulator's Python.

    Raises:
        OSError: It does not start, or does not end in time.
        ValueError: It fails, or prints something else.
    """
    process = subprocess.Popen(
        [machine.python, "-c", code],
        cwd="/", env=machine.workload_env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no answer within {timeout_s:.0f} s") from None
    finally:
        if process.poll() is None:  # it may be a script, whose child would keep the pipes
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise ValueError((err.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    answer = json.loads((out.strip().splitlines() or [""])[-1])
    if not isinstance(answer, dict):
        raise ValueError(f"it printed {answer!r}")
    return kind.from_json(answer)


def _existing(path: Path) -> Path:
    """Return the folder, or the nearest one above that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
