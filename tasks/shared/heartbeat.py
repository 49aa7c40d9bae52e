"""A heartbeat: which process wrote it, and whether that one is gone."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil


def own_beat() -> dict[str, Any]:
    """Return what a heartbeat of this process begins with."""
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "pid_space": _pid_space(),
        "process_began": _began(os.getpid()),
        "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_own(beat: dict[str, Any]) -> bool:
    """Return whether this process wrote it."""
    return _is_seen(beat) and beat["pid"] == os.getpid()


def is_gone(beat: dict[str, Any], silence_s: float) -> bool:
    """Return whether the process that wrote it has died: seen at once where it ran, by its silence from elsewhere."""
    if _is_seen(beat):
        return not _is_alive(beat["pid"], beat["process_began"])
    heard = beat.get("updated_at")
    return heard is not None and (datetime.now(UTC) - datetime.fromisoformat(heard)).total_seconds() > silence_s


def _is_seen(beat: dict[str, Any]) -> bool:
    return bool(beat.get("pid_space") == _pid_space())


@cache
def _pid_space() -> str:
    """Return where numbers of processes mean the same as here: this start of this machine, and this container of it.

    A host name tells neither: a container on the machine's network has the machine's.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def _began(pid: int) -> float:
    """Return when a process began; with its number, that tells it from every other one."""
    return float(psutil.Process(pid).create_time())


def _is_alive(pid: int, began: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(_began(pid) - began) < 1.0
    except psutil.NoSuchProcess:
        return False
