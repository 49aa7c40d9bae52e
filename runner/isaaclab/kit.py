"""Kit, the app in which Isaac Sim runs: whether it is here, whether a job needs it, and how one process bears both.

Installed is not used: a job without Kit, Newton's say, neither starts it nor needs NVIDIA's licence for it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.imported import when_imported


def is_installed() -> bool:
    """Return whether Isaac Sim is; Isaac Lab's importers of robots make a namespace of the same name."""
    return is_regular("isaacsim")


def is_regular(package: str) -> bool:
    """Return whether a package is installed that is no mere namespace of others."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def has_started() -> bool:
    """Return whether an app runs in this process."""
    app = sys.modules.get("omni.kit.app")
    return app is not None and app.get_app() is not None


def parts_on_it(env_cfg: Any) -> tuple[str, ...]:
    """Return the parts of an environment's configuration that need Kit, in Isaac Lab's words; it may be changed.

    Raises:
        ValueError: If parts of it cannot be in one process.
    """
    from isaaclab.app.sim_launcher import validate_launch

    return tuple(validate_launch(env_cfg, {"visualizer": []})[1])


def require(task: str, parts: Sequence[str]) -> None:
    """Refuse a task on a machine that lacks what parts of its configuration need.

    Args:
        task: Its id.
        parts: What `parts_on_it` says; none need nothing.

    Raises:
        RequestError: Isaac Sim is not here, or nobody has accepted its licence.
    """
    if parts and not is_installed():
        raise RequestError(
            f"Task {task!r} needs Isaac Sim, which {sys.executable!r} does not have, for {' and '.join(parts)}.",
            code="engine_absent",
            advice="Use a machine or an image with Kit, or a task that has 'newton' or 'physx' without it.",
        )
    if parts:
        require_licence()


def require_licence() -> None:
    """Raise `RequestError` where nobody has accepted NVIDIA's licence for Isaac Sim: it would ask, and wait."""
    if os.environ.get("OMNI_KIT_ACCEPT_EULA") == "YES":
        return
    raise RequestError(
        "This job runs on Isaac Sim, whose licence nobody has accepted.",
        code="eula_not_accepted",
        advice="Read NVIDIA's licence, then accept it for the job with computeConfig.acceptNvidiaEula: true, or for "
        "the site with SIMYARD_ACCEPT_NVIDIA_EULA=on; physics that runs without Kit, Newton's say, needs neither.",
    )


@contextmanager
def only_if(needed: bool) -> Iterator[None]:
    """Let the body import Isaac Sim where it is needed; elsewhere it is as if it were not installed.

    Isaac Lab's entry points import it to see whether it is there, which asks for the licence.
    """
    if needed or not is_installed() or "isaacsim" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["isaacsim"] = None  # the import of such a name finds no module
    try:
        yield
    finally:
        del modules["isaacsim"]


def stay_open() -> None:
    """Have Isaac Lab leave its app open, from now on: to close it ends the process, with exit code 0.

    Results may be yet to be written then, or an exception to be told. The app ends with its process, which serves one
    job.
    """
    when_imported("isaaclab_physx.app.kit_launcher", _replace_close)


def _replace_close() -> None:
    from isaaclab_physx.app.kit_launcher import KitLauncher

    KitLauncher.close = lambda self, exit_code=0: None
