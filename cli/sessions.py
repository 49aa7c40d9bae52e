"""`simyard sessions`: simulators that this machine keeps warm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simyard.blocks.reference import absolute, open_store
from simyard.cli.live import LiveLine
from simyard.core.specs import Bounds
from simyard.requests.config import check_config, model_of, read_config
from simyard.requests.jobs import TrainRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions import kept as kept_sessions

_IMPORT_ONLY = {"trainingConfig": {"task": "Isaac-Cartpole-Direct"}, "overrides": []}
"""What stands for all jobs of Isaac Lab where no config is named: nothing of it is run."""


def start(
    config: Path | None, settings: Sequence[str], reference: str | None, bounds: Bounds, *, quiet: bool
) -> dict[str, Any]:
    """Start a session for the jobs of a config, and wait until it is ready.

    Args:
        config: A JSON file of a training or a rollout, a moment of which is run to load its kernels; None only imports.
        settings: Changes to it, `key=value`.
        reference: The store whose jobs it serves, as the user named it.
        bounds: When it has served enough.
        quiet: Whether to print nothing.

    Raises:
        RequestError: If the config is bad; nothing was started then.
        WorkloadError: If the simulator cannot be kept.
    """
    site = Site.from_env()
    store = open_store(absolute(reference or site.store))
    model = TrainRequest if config is None else model_of(read_config(config, TrainRequest))
    given = read_config(config, model, settings)
    request = check_config(given if config else _IMPORT_ONLY | given, model)
    resolved = resolve(request, store, keys.new_job_id(), config.resolve().parent if config else Path.cwd())
    live = LiveLine()
    state = kept_sessions.start(
        resolved.spec, resolved if config else None, store, site, bounds,
        lambda stage: None if quiet else live({"stage": stage, "done": 0, "total": 0}),
    )  # fmt: skip
    if not quiet:
        live.say(f"{state['session_id']} is ready for jobs of {store.url()}")
    return state


def list_sessions() -> list[dict[str, Any]]:
    """Return how the sessions of this machine stand, oldest first."""
    return [state for _, state in kept_sessions.alive_sessions(Site.from_env())]


def stop(session_id: str | None, *, quiet: bool) -> list[str]:
    """End a session, or all; return their ids.

    Raises:
        RequestError: If there is no such session.
    """
    live = LiveLine()
    return kept_sessions.stop(
        Site.from_env(), session_id,
        lambda stage: None if quiet else live({"stage": stage, "done": 0, "total": 0}),
    )  # fmt: skip


def table(states: list[dict[str, Any]]) -> str:
    """Return the list as text."""
    if not states:
        return "This machine keeps no simulator warm."
    lines = [f"{'SESSION':34} {'STATE':10} {'SIMULATOR':10} {'JOBS':>5} {'MEMORY':>8} {'IDLE':>8}  PROJECT"]
    for state in states:
        memory = "" if state["memory_bytes"] is None else f"{state['memory_bytes'] / 1e9:.1f} GB"
        since = state["used_at"] or state["started_at"]
        idle = f"{time.time() - since:.0f} s" if state["state"] == "ready" else ""
        lines.append(
            f"{state['session_id']:34} {state['state']:10} {state['needs']['simulator']:10} {state['jobs']:>5} "
            f"{memory:>8} {idle:>8}  {state['needs']['project']}"
        )
    return "\n".join(lines)
