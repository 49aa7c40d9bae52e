"""Device of a job, and the packages that decide its result."""

from __future__ import annotations

import importlib.metadata
import sys

from simyard.core.errors import RequestError
from simyard.runner.rl import LIBRARIES

_PACKAGES = ("isaaclab", "isaacsim", "newton", "warp-lang", "mujoco-warp", "torch", "numpy", "gymnasium")
"""Besides those of the libraries."""


def device_of(gpus: int | None) -> str:
    """Return `cpu` or `cuda:0` for what a request says of GPUs; None takes one if there is one.

    Raises:
        RequestError: If it asks for more than there are.
    """
    import torch

    if gpus == 0:
        return "cpu"
    if gpus and gpus > 1 and torch.cuda.device_count() < gpus:
        raise RequestError(
            f"computeConfig.gpusPerNode is {gpus}, and this machine has {torch.cuda.device_count()} CUDA devices.",
            code="no_gpu",
            advice="Ask for fewer, or run through a pool whose machines have as many.",
        )
    if torch.cuda.is_available():
        return "cuda:0"
    if gpus:
        raise RequestError(
            f"computeConfig.gpusPerNode is {gpus}, but this machine has no usable CUDA device.",
            code="no_gpu",
            advice="Use 0 for the CPU, or run through a pool that has GPUs.",
        )
    return "cpu"


def versions(device: str) -> dict[str, str]:
    """Return the versions of what is installed and decides the result."""
    found = {"python": sys.version.split()[0]}
    for package in (*_PACKAGES, *(name for library in LIBRARIES.values() for name in library.packages)):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device != "cpu":
        import torch

        found["cuda"] = str(torch.version.cuda)
    return found
