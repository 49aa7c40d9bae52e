"""The contract of everything that runs a trainer: a container engine, or this machine itself."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

INPUT, OUTPUT = "input", "output"
"""Folders of a call: what the trainer reads, and what it leaves."""
STDOUT, STDERR = "stdout.log", "stderr.log"
"""Logs of its output, beside these folders."""


@dataclass(frozen=True, kw_only=True)
class TrainerCall:
    """One call of a trainer, everything filled in."""

    name: str
    """Unique, and the same again for the same call: by it what is left of one is found."""
    image: str
    """The container's image, or `local`."""
    argv: tuple[str, ...]
    """The program and its arguments; of an image's own entrypoint the arguments alone."""
    own_entrypoint: bool = False
    """Whether the image's entrypoint is the program."""
    env: Mapping[str, str] = field(repr=False)
    """Environment variables in addition to the image's own."""
    folder: Path
    """Absolute: `input/` is there, `output/` is empty, and the two logs are written here."""
    work: Path
    """Working directory of a child process; a container starts in its image's."""
    gpus: int
    """Number of GPUs it may see; 0 for none."""
    cpus: float
    """Number of cores it may keep busy."""
    memory_bytes: int
    """Memory it may take, in bytes."""

    @property
    def threads(self) -> dict[str, str]:
        """Variables that keep numerical libraries to the cores it may keep busy: they count those of the machine."""
        cores = str(math.ceil(min(self.cpus, os.cpu_count() or 1)))
        return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), cores)


@dataclass(frozen=True, kw_only=True)
class Exit:
    """Exit code or signal of a trainer that has ended."""

    code: int | None
    """The exit code; None after a signal."""
    signal: str | None = None
    """`SIGKILL`, say."""
    out_of_memory: bool = False
    """Whether it was ended because it took more memory than it may."""


class RunningTrainer(Protocol):
    """A trainer that was started."""

    def poll(self) -> Exit | None:
        """Return its exit, with its whole output in the logs; None while it runs."""

    def end(self, grace_s: float) -> None:
        """End it with everything it started: SIGTERM, a grace, SIGKILL. Nothing of it is left after that."""


class Engine(Protocol):
    """Runs trainers."""

    def require(self, image: str, gpus: int) -> None:
        """Check that it could run this image with so many GPUs.

        Raises:
            RequestError: The engine does not answer, the image is not there and cannot be had, or the GPUs are not.
        """

    def seen(self, folder: Path) -> tuple[str, str]:
        """Return the paths of `input/` and `output/` of this call's folder, as the trainer sees them."""

    def start(self, call: TrainerCall) -> RunningTrainer:
        """Start it; what is left of a call of this name is ended first, and this one ends when this process is gone.

        Raises:
            RequestError: The program is not there.
            WorkloadError: The engine failed.
        """

    def sweep(self, name: str) -> None:
        """End and remove what is left of the call of this name, if anything is."""
