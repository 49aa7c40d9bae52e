"""Isaac Lab on several GPUs: its own launcher starts a rank of ours for each, which proves the connection, then trains.

A rank is `python -m simyard.runner.isaaclab.ranks FOLDER ARGUMENTS…`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.files import AttemptPaths, read_json, write_json
from simyard.core.specs import AttemptSpec, Facts, JobSpec, World
from simyard.core.wire import Wire

PROVE_S = 120.0
"""Seconds the ranks may take to connect: long enough for NCCL's first connection on a slow file system."""
APART = "The ranks cannot talk to each other"
"""Beginning of the line that reports it."""
_PROBE_BYTES = 16 * 1024**2
_PROBES = 5


@dataclass(frozen=True, kw_only=True)
class Rank(Wire):
    """One rank, as it describes itself to the others."""

    rank: int
    """Its number among all."""
    local_rank: int
    """Its number on its machine, which chooses its GPU."""
    host: str
    """The machine's name."""
    pid: int
    """Its process there."""
    device: str
    """Name and UUID of its GPU; `cpu` without one."""


@dataclass(frozen=True, kw_only=True)
class Connection(Wire):
    """The proof that all ranks hear each other, as `world.json` keeps it."""

    rank: int
    """The rank that writes it."""
    size: int
    """Number of ranks."""
    backend: str
    """`nccl` or `gloo`."""
    seconds: float
    """Time to gather all of them."""
    all_reduce_gb_s: float
    """Bytes a rank over seconds, 16 MiB each."""
    ranks: tuple[Rank, ...]
    """Every rank, in order."""


@dataclass(frozen=True, kw_only=True)
class RankFailure(Wire):
    """The failure that a rank leaves in the attempt's folder."""

    at: float
    """Unix time in seconds."""
    error: str
    """Type and message."""


# --- the launcher's side --------------------------------------------------------------------------------------------


def train_together(request: Any, attempt: AttemptSpec, world: World, paths: AttemptPaths) -> None:
    """Train on all GPUs of this machine, together with the attempt's other machines; wait for the end.

    Raises:
        RuntimeError: A rank fails, which ends all of them.
        WorkloadError: A rank is killed, or its process ends without reporting a failure.
    """
    from isaaclab.cli.multigpu import run_multigpu_cli

    code = run_multigpu_cli(launcher_arguments(request, attempt.job, world), launcher_of(paths))
    if code:
        raise_failure_of_ranks(paths, code)


def raise_failure_of_ranks(paths: AttemptPaths, code: int) -> NoReturn:
    """Raise the failure of the first rank of this machine that reported one.

    Args:
        paths: The attempt's folder on this machine.
        code: The launcher's exit code.

    Raises:
        RuntimeError: A rank failed.
        WorkloadError: None reported a failure: it was killed, or crashed in native code.
    """
    failures = [RankFailure.from_json(read_json(path)) for path in paths.root.glob(_failure_file(paths, "*").name)]
    if failures:
        raise RuntimeError(min(failures, key=lambda failure: failure.at).error)
    raise WorkloadError(
        Failure(
            code="rank_killed",
            category=Category.INFRA,
            message=f"A rank on {socket.gethostname()!r} reported no failure; the launcher's exit code is {code}.",
            advice="See its stderr and the machine's memory; the next attempt goes on from the last checkpoint.",
        )
    )


def launcher_of(paths: AttemptPaths) -> Any:
    """Return the configuration with which Isaac Lab's launcher starts our ranks for an attempt."""
    from isaaclab.cli.multigpu import MultiGpuLauncherCfg
    from isaaclab_rl.entrypoints.api import MULTI_GPU_BACKENDS

    return MultiGpuLauncherCfg(
        prog="train_multigpu",
        description="Train on several GPUs.",
        worker_script="-m",  # torchrun's own switch: what follows is a module
        worker_prefix_args=("simyard.runner.isaaclab.ranks", str(paths.root)),
        rl_libraries=MULTI_GPU_BACKENDS,
    )


def launcher_arguments(request: Any, job: JobSpec, world: World) -> list[str]:
    """Return the launcher's arguments: the rendezvous, then the arguments of every rank.

    No `--device`: each rank takes the GPU of its own number.
    """
    arguments = ["--rl_library", request.backend, *meeting_point(job, world)]
    arguments += ["--task", request.task, "--num_envs", str(request.num_envs), "--seed", str(request.seed)]
    arguments += ["--max_iterations", str(request.max_iterations), f"--run_timestamp={world.timestamp}"]
    arguments += ["--checkpoint", request.checkpoint] if request.checkpoint is not None else []
    arguments += ["--agent", request.agent] if request.agent is not None else []
    return [*arguments, *request.backend_args, *request.hydra_args]


def meeting_point(job: JobSpec, world: World) -> list[str]:
    """Return torchrun's options: how many, which of them this machine is, and where they meet."""
    return [
        "--nproc_per_node", str(job.gpus), "--nnodes", str(job.nodes), "--node_rank", str(world.node),
        "--master_addr", world.address, "--master_port", str(world.port),
    ]  # fmt: skip


# --- the rank's side ------------------------------------------------------------------------------------------------


def main() -> int:
    """Prove the connection, then train as the rest of the command line says; return an exit code."""
    folder, *arguments = sys.argv[1:]
    paths = AttemptPaths(Path(folder))
    try:
        attempt = AttemptSpec.from_json(read_json(paths.spec))
        job = attempt.job
        connection = prove(job.ranks, on_gpu=True)
        if connection.rank == 0:
            write_json(paths.world, connection.to_json())
        if not arguments:  # Isaac Lab 2.3 trains in a process of its own
            return 0
        run_train_cli = trainer()
        from simyard.runner.isaaclab import kit
        from simyard.runner.isaaclab.agent_files import used
        from simyard.runner.isaaclab.environment import stepped
        from simyard.runner.isaaclab.lookup import register_tasks
        from simyard.runner.rl import get_library

        kit.stay_open()
        facts = Facts.from_json(read_json(paths.facts))
        register_tasks(paths.overlay if job.packages else None, job.import_callback)
        get_library(job.library).begin_training()
        with (
            used(job, lambda file: paths.inputs / file.name),
            kit.only_if(facts.kit),
            stepped(attempt.start_iteration * facts.rollout, order=job.order),
        ):
            return int(run_train_cli(arguments))
    except Exception as error:
        failure = RankFailure(at=time.time(), error=f"{type(error).__name__}: {error}")
        write_json(_failure_file(paths, os.environ["RANK"]), failure.to_json())
        raise


def trainer() -> Any:
    """Return Isaac Lab's training, as a process on one GPU has it.

    Each rank of theirs imports `entrypoints.multigpu`, which has Warp leave out the backward pass. Kernels without it
    are others: the ranks would compile their own for up to a minute, where jobs on one GPU, `prewarm` or an imported
    cache have left all of them.
    """
    from isaaclab_rl.entrypoints.dispatch import run_train_cli

    return run_train_cli


def _failure_file(paths: AttemptPaths, rank: str) -> Path:
    return paths.root / f"rank-{rank}.failure.json"


def prove(expected: int, *, on_gpu: bool, patience_s: float = PROVE_S) -> Connection:
    """Gather the identity of every rank on every other one, through the very library that training uses.

    Args:
        expected: How many ranks there must be.
        on_gpu: Whether they talk through NCCL, each on the GPU of its local rank; else through Gloo.
        patience_s: Seconds for all of it.

    Raises:
        RuntimeError: They are not as many, or do not answer, or two of them have one GPU.
    """
    import torch
    import torch.distributed as dist

    began = time.monotonic()
    own, local, host = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), socket.gethostname()
    backend = "nccl" if on_gpu else "gloo"
    device, name = torch.device("cpu"), "cpu"
    try:
        # Meet, under keys of our own: the library forms its group in the same store afterwards, under the names that
        # this one had.
        timeout = timedelta(seconds=patience_s)
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        if on_gpu:
            torch.cuda.set_device(local)
            properties = torch.cuda.get_device_properties(local)
            device, name = torch.device("cuda", local), f"{properties.name} {properties.uuid}"
        own_store = dist.PrefixStore("simyard", store)
        dist.init_process_group(backend, store=own_store, rank=rank, world_size=size, timeout=timeout)

        # Hear every rank: a sum that only all of them make, and the identity of each.
        total = torch.tensor([rank + 1.0], device=device)
        dist.all_reduce(total)
        identities: list[Any] = [None] * size
        me = Rank(rank=rank, local_rank=local, host=host, pid=os.getpid(), device=name)
        dist.all_gather_object(identities, me.to_json())
        heard_s = time.monotonic() - began

        # Measure the connection; the first one connects.
        probe = torch.ones(_PROBE_BYTES // 4, device=device)
        dist.all_reduce(probe)
        probing = time.monotonic()
        for _ in range(_PROBES):
            dist.all_reduce(probe)
        if on_gpu:
            torch.cuda.synchronize(device)
        speed = _PROBES * _PROBE_BYTES / (time.monotonic() - probing) / 1e9
        dist.destroy_process_group()
    except Exception as error:
        message = f"{APART}: rank {own} of {expected} on {host!r}: {type(error).__name__}: {error}"
        print(message, file=sys.stderr, flush=True)
        raise RuntimeError(message) from error

    # Judge.
    if size != expected or int(total) != size * (size + 1) // 2:
        raise RuntimeError(
            f"{APART}: {expected} were started, and rank {own} counts {size}, whose sum is {int(total)}."
        )
    ranks = tuple(map(Rank.from_json, identities))
    devices = [(one.host, one.device) for one in ranks]
    if on_gpu and len(set(devices)) != size:
        raise RuntimeError(f"{APART}: two of them have one GPU: {devices}.")
    return Connection(
        rank=rank, size=size, backend=backend, seconds=round(heard_s, 3), all_reduce_gb_s=round(speed, 3), ranks=ranks
    )


def _recorded() -> int:
    """Run, and have torchrun told of a failure."""
    from torch.distributed.elastic.multiprocessing.errors import record

    return int(record(main)())


if __name__ == "__main__":
    sys.exit(_recorded())
