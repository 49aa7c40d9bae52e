"""Samples of the workload's costs: its processes' CPU and memory, and the GPU's."""

from __future__ import annotations

import contextlib
import csv
import threading
import time
from pathlib import Path
from typing import Any

import psutil

INTERVAL_S = 2.0
FIRST_S = 0.3
"""Until the first row: a job in a warm simulator may be over in a second."""
COLUMNS = (
    "time_s", "cpu_percent", "memory_bytes", "processes",
    "gpu_percent", "gpu_memory_bytes", "gpu_power_watts", "gpu_temperature_c",
)  # fmt: skip


class Telemetry:
    """Writes a row every two seconds until closed; a GPU's columns stay empty where there is none."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self._path = path
        self._pid = pid
        self._began = time.monotonic()
        self._known: dict[int, psutil.Process] = {}
        self._gpu = _gpu()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="telemetry", daemon=True)

    def __enter__(self) -> Telemetry:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        with self._path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            self._processes()  # the first look at a process has no CPU load: it counts from here
            wait_s = FIRST_S
            while not self._stop.wait(wait_s):
                wait_s = INTERVAL_S
                processes = self._processes()
                if processes[-1]:  # none is left once it has ended, and nothing was measured then
                    rows.writerow([round(time.monotonic() - self._began, 1), *processes, *self._gpu_sample()])
                    file.flush()

    def _processes(self) -> tuple[float, int, int]:
        cpu, memory, measured, alive = 0.0, 0, 0, {}
        if self._pid is None:  # it runs in another container
            return 0.0, 0, 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._pid)
            for process in [root, *root.children(recursive=True)]:
                # cpu_percent counts since its last call on the same object, so the objects are kept.
                known = alive[process.pid] = self._known.get(process.pid, process)
                with contextlib.suppress(psutil.Error):
                    cpu += known.cpu_percent()
                    resident = known.memory_info().rss
                    memory += resident
                    measured += resident > 0  # one that has ended and is still listed has none
        self._known = alive
        return round(cpu, 1), memory, measured

    def _gpu_sample(self) -> tuple[Any, ...]:
        if self._gpu is None:
            return ("", "", "", "")
        import pynvml

        try:
            return (
                pynvml.nvmlDeviceGetUtilizationRates(self._gpu).gpu,
                pynvml.nvmlDeviceGetMemoryInfo(self._gpu).used,
                round(pynvml.nvmlDeviceGetPowerUsage(self._gpu) / 1000, 1),
                pynvml.nvmlDeviceGetTemperature(self._gpu, pynvml.NVML_TEMPERATURE_GPU),
            )
        except pynvml.NVMLError:
            return ("", "", "", "")


def gpu_and_driver() -> dict[str, str] | None:
    """Return the first GPU's name and its driver's version, or None where there is no GPU."""
    import pynvml

    handle = _gpu()
    if handle is None:
        return None
    return {"name": str(pynvml.nvmlDeviceGetName(handle)), "driver": str(pynvml.nvmlSystemGetDriverVersion())}


def gpu_count() -> int:
    """Return the number of GPUs of this machine; 0 too where their driver does not answer."""
    import pynvml

    if _gpu() is None:
        return 0
    return int(pynvml.nvmlDeviceGetCount())


def _gpu() -> Any:
    """Return the first GPU's handle, or None."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None
