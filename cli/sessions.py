"""`simyard sessions`: simulators that this machine keeps warm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.live import LiveLine
from simyard.cli.shared import (
    ARGUMENTS_OR_NONE,
    JSON,
    SETTINGS,
    STORE,
    Columns,
    Finite,
    Group,
    config_and_settings,
    emit,
    emit_rows,
    open_site,
)
from simyard.core.errors import RequestError

if TYPE_CHECKING:
    from simyard.runner.session_server import SessionState

_IMPORT_ONLY = {"trainingConfig": {"task": "Isaac-Cartpole-Direct"}, "overrides": []}
"""Config that stands for all jobs of Isaac Lab if none is named: nothing of it is run."""


@click.group(cls=Group)
def sessions() -> None:
    """Keep simulators warm on this machine, for jobs that come later."""


@sessions.command()
@ARGUMENTS_OR_NONE
@STORE
@SETTINGS
@click.option("--idle-minutes", type=Finite(min=0.1, max=100_000), default=60.0, show_default=True,
              help="It ends when it has had no job for so long.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=200, show_default=True,
              help="Its process is replaced after so many.")  # fmt: skip
@click.option("--memory-gb", type=Finite(min=0.5, max=10_000), default=16.0, show_default=True,
              help="Its process is replaced when a job leaves it larger.")  # fmt: skip
@click.option("--video", is_flag=True, help="Draw CONFIG's task too, so that the first film is no slower than others.")
@click.option("--gpu-memory-gb", type=Finite(min=0.5, max=10_000), default=4.0, show_default=True,
              help="Likewise, of the memory of GPUs.")  # fmt: skip
@JSON
def start(
    arguments: tuple[str, ...],
    store: str | None,
    settings: tuple[str, ...],
    idle_minutes: float,
    jobs: int,
    memory_gb: float,
    video: bool,
    gpu_memory_gb: float,
    as_json: bool,
) -> None:
    """Start a simulator and leave it ready for jobs of the store; exit when it is ready.

    With CONFIG, of a training or a rollout, it also loads the kernels of that task, by a moment of that very job.
    Jobs use it that have its device, its packages, its environment variables and its store.
    """
    from simyard.core.specs import Bounds
    from simyard.requests.config import check_config, model_of, read_config
    from simyard.requests.jobs import TrainRequest
    from simyard.store import keys
    from simyard.tasks.resolve import resolve
    from simyard.tasks.sessions import kept

    config, more = config_and_settings(arguments)
    if video and config is None:
        raise RequestError("--video needs CONFIG.", code="bad_command", advice="Name the task's config, to be drawn.")
    bounds = Bounds(
        jobs=jobs,
        memory_bytes=int(memory_gb * 1e9),
        gpu_memory_bytes=int(gpu_memory_gb * 1e9),
        idle_s=idle_minutes * 60,
    )
    machine, _, opened = open_site(store)
    model = TrainRequest if config is None else model_of(read_config(config, TrainRequest))
    given = read_config(config, model, (*settings, *more))
    request = check_config(given if config else {**_IMPORT_ONLY, **given}, model)
    resolved = resolve(request, opened, keys.new_job_id(), config.resolve().parent if config else Path.cwd())
    live = LiveLine(quiet=as_json)
    state = kept.start(resolved.spec, resolved if config else None, opened, machine, bounds, live.stage, video=video)
    live.say(f"{state.session_id} is ready for jobs of {opened.url()}")
    emit(state, as_json, lambda state: state.session_id)


@sessions.command("list")
@JSON
def list_sessions(as_json: bool) -> None:
    """List the warm simulators of this machine."""
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.sessions import kept

    def idle(state: SessionState) -> str:
        return f"{time.time() - (state.used_at or state.started_at):.0f} s" if state.state == "ready" else ""

    def gigabytes(size: int | None) -> str:
        return "" if size is None else f"{size / 1e9:.1f} GB"

    columns: Columns = {
        "SESSION": "session_id",
        "STATE": "state",
        "SIMULATOR": lambda state: state.fingerprint.simulator,
        ">JOBS": "jobs",
        ">MEMORY": lambda state: gigabytes(state.memory_bytes),
        ">GPU": lambda state: gigabytes(state.gpu_memory_bytes),
        ">IDLE": idle,
        "PROJECT": lambda state: state.fingerprint.project,
    }
    states = [state for _, state in kept.alive_sessions(MachineSettings.from_env())]
    emit_rows(states, as_json, "This machine keeps no simulator warm.", columns)


@sessions.command()
@click.argument("session_id", required=False)
@click.option("--all", "every", is_flag=True, help="All of them.")
@JSON
def stop(session_id: str | None, every: bool, as_json: bool) -> None:
    """End a session; one in the middle of a job ends after it."""
    if (session_id is None) != every:
        raise RequestError("Name a session, or --all.", code="bad_command", advice="See `simyard sessions list`.")
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.sessions import kept

    live = LiveLine(quiet=as_json)
    ended = kept.stop(MachineSettings.from_env(), session_id, live.stage)
    emit(ended, as_json, lambda ended: "\n".join(f"{name} has ended." for name in ended))
