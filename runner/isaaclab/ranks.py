"""One rank of a training on several GPUs: proves that it can talk to the others, then trains.

Isaac Lab's own launcher starts this once for each GPU, as `python -m simyard.runner.isaaclab.ranks FOLDER ARGUMENTS…`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from simyard.core.files import AttemptPaths, read_json, write_json
from simyard.core.specs import AttemptSpec

PROVE_S = 120.0
"""Seconds the ranks may take to connect: long enough for NCCL's first connection on a slow file system."""
APART = "The ranks cannot talk to each other"
"""Beginning of the line that reports it."""
_PROBE_BYTES = 16 * 1024**2


def main() -> int:
    """Prove, then train as the rest of the command line says; return an exit code."""
    folder, *arguments = sys.argv[1:]
    paths = AttemptPaths(Path(folder))
    try:
        return _train(paths, arguments)
    except Exception as error:
        write_json(
            _account(paths, os.environ["RANK"]), {"at": time.time(), "error": f"{type(error).__name__}: {error}"}
        )
        raise


def first_failure(paths: AttemptPaths) -> str | None:
    """Return the failure that the first rank of this machine reported; None if none did: it was killed then."""
    accounts = [read_json(path) for path in paths.root.glob(_account(paths, "*").name)]
    return min(accounts, key=lambda account: float(account["at"]))["error"] if accounts else None


def _account(paths: AttemptPaths, rank: str) -> Path:
    return paths.root / f"rank-{rank}.failure.json"


def _train(paths: AttemptPaths, arguments: list[str]) -> int:
    job = AttemptSpec.from_json(read_json(paths.spec)).job
    world = prove(job.ranks, on_gpu=True)
    if world["rank"] == 0:
        write_json(paths.world, world)
    if not arguments:
        return 0
    # First of all: it has Warp leave out what only differentiable simulation needs, as each rank of theirs does.
    from isaaclab_rl.entrypoints.multigpu import run_train_cli

    from simyard.runner.isaaclab.environment import register_tasks

    register_tasks(paths.overlay if job.packages else None, job.import_callback)
    return int(run_train_cli(arguments))


def prove(expected: int, *, on_gpu: bool, patience_s: float = PROVE_S) -> dict[str, Any]:
    """Gather the identity of every rank on every other one, through the very library that training uses.

    Args:
        expected: How many ranks there must be.
        on_gpu: Whether they talk through NCCL, each on the GPU of its local rank; else through Gloo.
        patience_s: Seconds for all of it.

    Returns:
        `rank` (this one), `size`, `backend`, `seconds` (to gather all), `all_reduce_gb_s` (16 MiB each, bytes a rank
        over seconds) and `ranks`: for each its `rank`, `local_rank`, `host`, `pid` and `device`.

    Raises:
        RuntimeError: They are not as many, or do not answer, or two of them have one GPU.
    """
    import torch
    import torch.distributed as dist

    began = time.monotonic()
    own, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    try:
        timeout = timedelta(seconds=patience_s)
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        if on_gpu:
            torch.cuda.set_device(local)
        backend = "nccl" if on_gpu else "gloo"
        # Keys of its own: the library forms its group in the same store afterwards, under the names that this one had.
        own_store = dist.PrefixStore("simyard", store)
        dist.init_process_group(backend, store=own_store, rank=rank, world_size=size, timeout=timeout)
        device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
        total = torch.tensor([rank + 1.0], device=device)
        dist.all_reduce(total)
        ranks: list[Any] = [None] * size
        dist.all_gather_object(ranks, _who(rank, local, device))
        heard_s = time.monotonic() - began
        speed = _all_reduce_gb_s(device)
        dist.destroy_process_group()
    except Exception as error:
        message = f"{APART}: rank {own} of {expected} on {socket.gethostname()!r}: {type(error).__name__}: {error}"
        print(message, file=sys.stderr, flush=True)
        raise RuntimeError(message) from error
    if size != expected or int(total) != size * (size + 1) // 2:
        raise RuntimeError(
            f"{APART}: {expected} were started, and rank {own} counts {size}, whose sum is {int(total)}."
        )
    devices = [(entry["host"], entry["device"]) for entry in ranks]
    if on_gpu and len(set(devices)) != size:
        raise RuntimeError(f"{APART}: two of them have one GPU: {devices}.")
    return {
        "rank": rank, "size": size, "backend": backend, "seconds": round(heard_s, 3), "all_reduce_gb_s": speed,
        "ranks": ranks,
    }  # fmt: skip


def _who(rank: int, local: int, device: Any) -> dict[str, Any]:
    import torch

    name = "cpu"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name} {properties.uuid}"
    return {"rank": rank, "local_rank": local, "host": socket.gethostname(), "pid": os.getpid(), "device": name}


def _all_reduce_gb_s(device: Any, times: int = 5) -> float:
    import torch
    import torch.distributed as dist

    probe = torch.ones(_PROBE_BYTES // 4, device=device)
    dist.all_reduce(probe)  # the first one connects
    began = time.monotonic()
    for _ in range(times):
        dist.all_reduce(probe)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return round(times * _PROBE_BYTES / (time.monotonic() - began) / 1e9, 3)


def _recorded() -> int:
    """Run, and have torchrun told what it fails of."""
    from torch.distributed.elastic.multiprocessing.errors import record

    return int(record(main)())


if __name__ == "__main__":
    sys.exit(_recorded())
