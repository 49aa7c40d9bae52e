"""A fresh Isaac Lab environment: made for one piece of work, closed after it."""

from __future__ import annotations

import importlib
import site
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.progress import say_activity
from simyard.runner.rl import Library


def use_overlay(overlay: Path | None) -> None:
    """Make the job's own packages importable, if it has any."""
    if overlay is not None:
        site.addsitedir(str(overlay))
        importlib.invalidate_caches()


def register_tasks(overlay: Path | None, import_callback: str | None = None) -> None:
    """Make the task registry whole: Isaac Lab's tasks, installed entry points, the job's package and callback.

    Args:
        overlay: Folder of the job's own packages, if it has any.
        import_callback: `package.module` or `package.module:function`, called besides.

    Raises:
        RequestError: If one of them does not import.
    """
    use_overlay(overlay)
    try:
        _load_tasks(overlay)
        if import_callback:
            module, _, function = import_callback.partition(":")
            loaded = importlib.import_module(module)
            if function:
                getattr(loaded, function)()
    except Exception as error:
        raise RequestError(
            f"The task package does not import: {type(error).__name__}: {error}",
            code="task_package_import",
            advice="Mend the package; the traceback is in command.stderr.log.",
        ) from error


def _load_tasks(overlay: Path | None) -> None:
    """Import Isaac Lab's tasks and those of installed packages; looking for the latter takes 50 ms each time."""
    global _loaded
    if overlay is None and _loaded:
        return
    import isaaclab_tasks  # noqa: F401
    from isaaclab.cli import load_external_tasks

    load_external_tasks()
    _loaded = True


def tasks_are_registered() -> bool:
    """Return whether the registry has what is installed."""
    return _loaded


_loaded = False
"""Whether that has happened in this process."""


@contextmanager
def fresh_environment(
    task: str,
    library: Library | None,
    overrides: Sequence[str],
    *,
    num_envs: int,
    seed: int,
    device: str,
    change: Callable[[Any], None] = lambda env_cfg: None,
) -> Iterator[tuple[Any, Any]]:
    """Make the environment of a task as training makes it, without rendering, and close it in the end.

    Args:
        task: The task's registered id.
        library: Whose agent configuration goes with it; None for no agent.
        overrides: Hydra arguments.
        num_envs: Environments side by side.
        seed: Of the environment; the same seed gives the same episodes on a CPU.
        device: `cpu` or `cuda:0`.
        change: Called with the environment's configuration, to change what no override can.

    Yields:
        The gymnasium environment and the agent's configuration, None without a library.
    """
    import gymnasium
    from isaaclab.app import launch_simulation
    from isaaclab_tasks.utils import resolve_task_config

    agent_key = library.agent_key if library else None
    env_cfg, agent_cfg = resolve_task_config(task, agent_key, overrides=list(overrides))
    env_cfg.scene.num_envs = num_envs
    env_cfg.seed = seed
    env_cfg.sim.device = device
    change(env_cfg)
    say_activity("making the environment")
    with launch_simulation(env_cfg, {"device": device, "visualizer": []}):
        env = gymnasium.make(task, cfg=env_cfg)
        try:
            yield env, agent_cfg
        finally:
            env.close()


def settle(env: Any, seed: int) -> None:
    """Bring a fresh environment to where every policy begins, whatever its library did to it before: then reset it.

    Libraries reset a different number of times when they are built. And the very first reset of an environment may
    differ from all others: Isaac Lab's cartpole clamps its velocities to limits that are not known yet, so to 0.
    """
    env.reset()
    env.unwrapped.seed(seed)
