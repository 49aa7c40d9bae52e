"""Memory of GPUs: the share of this process, and the reason that a job did not find enough.

The driver's own program says who holds the rest: it is there wherever a container may use a GPU, under any Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from simyard.core.errors import GPU_OUT_OF_MEMORY, Category, Failure, listed
from simyard.runner.workload import TOKEN, with_token

CONTEXT_BYTES = 600_000_000
"""What a process has on a GPU before it makes anything: the driver's context, kernels and libraries."""
DRIVER_BYTES = 1_000_000_000
"""The driver keeps so much for itself at most."""
TOO_LARGE = 0.8
"""Share of a GPU: a job that had and wanted more of it is too large by itself, whoever else is there."""
SPARE = 0.9
"""Share of what is free that an estimate fills."""
SMI_S = 20.0
MOST_HOLDERS = 5
_UNITS = {"": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_WANTED = re.compile(r"allocate (?:memory )?(\d+(?:\.\d+)?) ?([KMG]i?B)?\b")
_ORDINAL = re.compile(r"\bGPU (\d+)(?: has|;)|\bdevice '?cuda:(\d+)")


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """Use of one GPU at a moment, in bytes."""

    name: str
    total: int
    free: int
    holders: dict[int, int]
    """Memory of each process that the driver lists; in a container those of others may be hidden."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Demand of a job for the memory of a GPU."""

    held: int
    """Bytes that it had at its peak."""
    held_now: int
    """Bytes that it has still."""
    num_envs: int
    """Environments for which it had them."""


class Peak:
    """The most that this process has had of a GPU since a moment."""

    def __init__(self) -> None:
        torch = _torch()
        if torch is not None:
            torch.cuda.reset_peak_memory_stats()
        self._before = _warp_bytes("high")

    def demand(self, num_envs: int) -> Demand:
        """Return the demand of the job that ran since."""
        torch, high, now = _torch(), _warp_bytes("high"), held_bytes() or 0
        held = high if high > self._before else _warp_bytes("current")  # a process has one mark, of all its jobs
        if torch is not None:
            held += sum(torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count()))
        return Demand(held=max(now, held + CONTEXT_BYTES if held else 0), held_now=now, num_envs=num_envs)


def held_bytes() -> int | None:
    """Return the memory that this process holds on GPUs; None where it uses none, or the driver is in trouble."""
    with suppress(Exception):
        torch, pools = _torch(), _warp_bytes("current")
        if torch is not None or pools:
            if torch is not None:
                pools += sum(torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count()))
            return _listed_bytes() or pools + CONTEXT_BYTES
    return None


def visible_gpus() -> list[str] | None:
    """Return the GPUs that processes here may use, by index or UUID; None where the environment does not say."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if named is None else [name.strip() for name in named.split(",") if name.strip()]


def look(ordinal: int = 0) -> GpuUse | None:
    """Return the use of the GPU that a process here knows by a number; None where the driver does not say."""
    visible = visible_gpus() or []
    wanted = visible[ordinal] if ordinal < len(visible) else str(ordinal)
    for index, uuid, name, total, free in _smi("--query-gpu=index,uuid,name,memory.total,memory.free"):
        if wanted == index or uuid.startswith(wanted):
            holders = {
                int(pid): _mebibytes(used)
                for on, pid, used in _smi("--query-compute-apps=gpu_uuid,pid,used_memory")
                if on == uuid
            }
            return GpuUse(name=name, total=_mebibytes(total), free=_mebibytes(free), holders=holders)
    return None


def explained(failure: Failure, demand: Demand | None = None) -> Failure:
    """Return a failure for want of GPU memory with its figures; any other, and one without figures, as it is.

    Args:
        failure: The failure, with the line that names it.
        demand: Demand of the job, which is in this process; None where it has ended and nobody has measured it.
    """
    if failure.code != GPU_OUT_OF_MEMORY:
        return failure
    ordinal = _ORDINAL.search(failure.message)
    use = look(int(ordinal[1] or ordinal[2]) if ordinal else 0)
    if use is None:
        return failure
    token = os.environ.get(TOKEN)
    return judged(failure, use, demand, frozenset({os.getpid(), *(with_token(token) if token else ())}))


def judged(failure: Failure, use: GpuUse, demand: Demand | None, family: frozenset[int]) -> Failure:
    """Return the failure by the one who can mend it: the job is too large by itself, or others hold the memory.

    Args:
        failure: The failure, with the line that names it.
        use: Use of the GPU.
        demand: Demand of the job; None where nobody has measured it.
        family: Processes of the job.
    """
    # What the driver does not list is the difference, save what it keeps for itself.
    others = {pid: used for pid, used in use.holders.items() if pid not in family}
    held_now = sum(used for pid, used in use.holders.items() if pid in family) or (demand.held_now if demand else 0)
    unseen = use.total - use.free - held_now - sum(others.values())
    by_others = sum(others.values()) + (unseen if unseen > DRIVER_BYTES else 0)
    found = _WANTED.search(failure.message)  # the bytes that the allocation was for, where its message says them
    wanted = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    need = wanted + (demand.held if demand else 0)

    # Whose fault it is.
    if need > TOO_LARGE * use.total:
        category = Category.USER
    elif demand is not None or by_others > (1 - TOO_LARGE) * use.total:
        category = Category.INFRA
    else:
        category = failure.category

    # What it wanted, and who holds the rest.
    told = [f"had {_mb(demand.held)}" if demand else "", f"wanted {_mb(wanted)} more" if wanted else ""]
    said = " and ".join(filter(None, told)) or "got none"
    largest = sorted(others.items(), key=lambda item: -item[1])
    names = listed((f"process {pid} ({_mb(used)})" for pid, used in largest), MOST_HOLDERS)
    holders = f": {names}" if others else ", processes that are not seen from here" if by_others else ""
    line = failure.message.rstrip(".")
    message = f"{line}. Of {_mb(use.total)} on {use.name} the job {said}; others hold {_mb(by_others)}{holders}."

    # What would fit.
    fit = ""
    if demand is not None and need > CONTEXT_BYTES:
        room = SPARE * (use.total - CONTEXT_BYTES - (0 if category is Category.USER else by_others))
        number = _rounded(room / (need - CONTEXT_BYTES) * demand.num_envs)
        if number < demand.num_envs:  # else it failed before it had most of what it needs: nothing can be reckoned
            fit = f" By this estimate at most {number:,} environments fit, of the {demand.num_envs:,} asked for."
    if category is Category.INFRA:
        advice = f"End what holds the GPU (`simyard sessions list` has simulators that are kept), or use another.{fit}"
    else:
        advice = f"{failure.advice}{fit}"
    return replace(failure, category=category, message=message, advice=advice)


def _rounded(number: float) -> int:
    """Round a number down to two digits: it is an estimate."""
    whole = max(0, int(number))
    digit = int(10 ** max(0, len(str(whole)) - 2))
    return whole // digit * digit


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _mebibytes(text: str) -> int:
    return int(text) * 2**20 if text.isdigit() else 0  # `[N/A]` where it may not be told


def _smi(query: str) -> list[list[str]]:
    """Return the rows that the driver's own program prints."""
    with suppress(OSError, subprocess.TimeoutExpired, subprocess.CalledProcessError):
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SMI_S, check=True,
        )  # fmt: skip
        return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return []


def _torch() -> Any:
    """Return torch if this process computes on GPUs with it, else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _warp_bytes(which: str) -> int:
    """Return the memory that Warp's pools have in use now (`current`) or had at most (`high`)."""
    warp = sys.modules.get("warp")
    if warp is None or getattr(sys.modules.get("warp._src.context"), "runtime", None) is None:
        return 0
    used = getattr(warp, f"get_mempool_used_mem_{which}")
    devices = (device for device in warp.get_cuda_devices() if device.has_context and device.is_mempool_supported)
    return sum(int(used(device)) for device in devices)


def _listed_bytes() -> int:
    """Return what the driver lists for this process; 0 where it does not list it, as in containers."""
    with suppress(Exception):  # no pynvml under this Python, or no driver
        import pynvml

        pynvml.nvmlInit()
        gpus = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        found = [process for gpu in gpus for process in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)]
        return sum(process.usedGpuMemory or 0 for process in found if process.pid == os.getpid())
    return 0
