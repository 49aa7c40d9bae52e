"""Isaac Lab on several GPUs: its own multi-GPU launcher, with a rank of ours that proves the connection first."""

from __future__ import annotations

from typing import Any

from simyard.runner.paths import AttemptPaths
from simyard.runner.spec import AttemptSpec, JobSpec, World


def train_together(request: Any, attempt: AttemptSpec, world: World, paths: AttemptPaths) -> None:
    """Train on all GPUs of this machine, together with the attempt's other machines; wait for the end.

    Args:
        request: Isaac Lab's `TrainingRequest`.
        attempt: The attempt.
        world: Where its ranks meet.
        paths: The attempt's folder on this machine.

    Raises:
        RuntimeError: The launcher ends with another exit code than 0: one rank that fails ends all of them.
    """
    from isaaclab.cli.multigpu import MultiGpuLauncherCfg, run_multigpu_cli
    from isaaclab_rl.entrypoints.api import MULTI_GPU_BACKENDS

    launcher = MultiGpuLauncherCfg(
        prog="train_multigpu",
        description="Train on several GPUs.",
        worker_script="-m",  # torchrun's own switch: what follows is a module
        worker_prefix_args=("simyard.runner.ranks", str(paths.root)),
        rl_libraries=MULTI_GPU_BACKENDS,
    )
    code = run_multigpu_cli(launcher_arguments(request, attempt.job, world), launcher)
    if code:
        raise RuntimeError(f"Isaac Lab's multi-GPU launcher ended with exit code {code}")


def launcher_arguments(request: Any, job: JobSpec, world: World) -> list[str]:
    """Return what the launcher is called with: the meeting point, then what every rank is told.

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
