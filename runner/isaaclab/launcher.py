"""Isaac Lab on several GPUs: its own multi-GPU launcher, with a rank of ours that proves the connection first."""

from __future__ import annotations

import socket
from typing import Any, NoReturn

from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, JobSpec, World
from simyard.runner.isaaclab.ranks import first_failure


def train_together(request: Any, attempt: AttemptSpec, world: World, paths: AttemptPaths) -> None:
    """Train on all GPUs of this machine, together with the attempt's other machines; wait for the end.

    Args:
        request: Isaac Lab's `TrainingRequest`.
        attempt: The attempt.
        world: Where its ranks meet.
        paths: The attempt's folder on this machine.

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
    told = first_failure(paths)
    if told is not None:
        raise RuntimeError(told)
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
    if request.checkpoint is not None:
        arguments += ["--checkpoint", request.checkpoint]
    return [*arguments, *request.backend_args, *request.hydra_args]


def meeting_point(job: JobSpec, world: World) -> list[str]:
    """Return torchrun's options: how many, which of them this machine is, and where they meet."""
    return [
        "--nproc_per_node", str(job.gpus), "--nnodes", str(job.nodes), "--node_rank", str(world.node),
        "--master_addr", world.address, "--master_port", str(world.port),
    ]  # fmt: skip
