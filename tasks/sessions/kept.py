"""Sessions that a machine keeps for jobs to come: started, listed, stopped."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from simyard.core.errors import Category, Failure, RequestError, WorkloadError, unknown
from simyard.core.files import lines_inside, write_json
from simyard.core.specs import Bounds, JobSpec, Rollout
from simyard.requests.settings import MachineSettings
from simyard.runner.messages import StopSession
from simyard.runner.session_server import SessionFolder, SessionSpec, SessionState, kept_sessions
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.kinds import kind_of
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.packages.install import install
from simyard.tasks.sessions.fingerprint import fingerprint
from simyard.tasks.shared.inputs import gather
from simyard.tasks.shared.kernels import prepare_caches

POLL_S = 0.2


def start(
    job: JobSpec,
    warm_up: Resolved | None,
    store: Store,
    machine: MachineSettings,
    bounds: Bounds,
    watch: Callable[[str], None],
    *,
    video: bool = False,
) -> SessionState:
    """Start a session and wait until it is ready.

    Args:
        job: Whose fingerprint the session has: simulator, device, packages.
        warm_up: That job with its inputs, to run a moment of it first; None only imports.
        store: Whose jobs it serves.
        machine: Settings of this machine.
        bounds: When it has served enough: a process is replaced, an idle session ends.
        watch: Called several times a second with its status.
        video: Whether the warm-up draws too.

    Returns:
        Its status.

    Raises:
        RequestError: If the job is bad.
        WorkloadError: If the simulator does not start, or cannot serve several jobs.
    """
    project = keys.project_of(store.url())
    prepare_caches(machine, project, lambda note: None)
    folder = SessionFolder(root=machine.sessions_folder / f"session-{keys.new_job_id().removeprefix('job-')}")
    folder.root.mkdir(parents=True, mode=0o700)
    try:
        spec = SessionSpec(
            session_id=folder.root.name,
            python=machine.python,
            simulator=job.simulator,
            library=job.library or None,
            fingerprint=fingerprint(machine, job, store.url()),
            bounds=bounds,
            warm_up=_moments(job, video=video) if warm_up else (),
            inputs=_prepare(folder, warm_up, store, machine) if warm_up else {},
        )
        write_json(folder.spec, spec.to_json())
        with folder.log.open("ab") as log:
            server = subprocess.Popen(
                [machine.python, "-m", "simyard.runner", "--session", str(folder.root)],
                cwd=folder.root, env=machine.workload_env(accepts_eula=job.accepts_eula, project=project),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return _await_ready(folder, server, watch)
    except BaseException:
        shutil.rmtree(folder.root, ignore_errors=True)  # a server that still runs ends when its files are gone
        raise


def keep_one(
    warm_up: Resolved, store: Store, machine: MachineSettings, bounds: Bounds, log: Callable[[str], None],
    *, video: bool = False,
) -> SessionState:  # fmt: skip
    """Return a session of this machine that is for jobs like this one, a new one where it keeps none.

    Args:
        warm_up: The job, with its inputs.
        store: Whose jobs it serves.
        machine: Settings of this machine.
        bounds: Of a new session.
        log: Called once for each stage of its start.
        video: Whether the warm-up of a new session draws too.
    """
    wanted = fingerprint(machine, warm_up.spec, store.url())
    for _, state in alive_sessions(machine):
        if state.fingerprint == wanted and state.state != "failed":
            return state
    stages: set[str] = set()

    def watch(stage: str) -> None:
        if stage not in stages:
            stages.add(stage)
            log(stage)

    return start(warm_up.spec, warm_up, store, machine, bounds, watch, video=video)


def alive_sessions(machine: MachineSettings) -> list[tuple[SessionFolder, SessionState]]:
    """Return the sessions of this machine whose server answers, oldest first; what is left of others is removed."""
    alive = []
    for folder, state in kept_sessions(machine.sessions_folder):
        if _is_alive(folder):
            alive.append((folder, state))
        else:
            shutil.rmtree(folder.root, ignore_errors=True)
    return alive


def stop(machine: MachineSettings, session_id: str | None, watch: Callable[[str], None]) -> list[str]:
    """End a session, or all of them; one in the middle of a job ends after it.

    Args:
        machine: Settings of this machine.
        session_id: Which; None for all.
        watch: Called with the thing that is waited for.

    Returns:
        The ids of those that ended.

    Raises:
        RequestError: If there is no such session.
    """
    sessions = {state.session_id: folder for folder, state in alive_sessions(machine)}
    if session_id is not None and session_id not in sessions:
        if sessions:
            raise unknown("session", session_id, sessions, code="unknown_session")
        raise RequestError(
            f"There is no session {session_id!r}: this machine keeps none.",
            code="unknown_session",
            advice="Start one with `simyard sessions start`.",
        )
    chosen = {session_id: sessions[session_id]} if session_id else sessions
    not_asked = {name for name, folder in chosen.items() if not _ask_to_stop(folder)}
    for name, folder in chosen.items():
        while _is_alive(folder):
            if name in not_asked and _ask_to_stop(folder):
                not_asked.remove(name)
            watch(f"waiting for {name}")
            time.sleep(POLL_S)
    return list(chosen)


def _ask_to_stop(folder: SessionFolder) -> bool:
    """Return False for a session that takes no connection now: it is starting, and others are waiting already."""
    with suppress(OSError):  # it has ended by itself
        try:
            caller = folder.connect()
        except BlockingIOError:
            return False
        caller.send(StopSession())
        caller.close()
    return True


def _is_alive(folder: SessionFolder) -> bool:
    try:
        folder.connect().close()
    except BlockingIOError:  # so many wait for it that no more may: it is starting
        return True
    except OSError:
        return False
    return True


def _moments(job: JobSpec, *, video: bool) -> tuple[JobSpec, ...]:
    """Return the smallest jobs that load what the whole one loads, and with `video` what draws its films."""
    if job.rollout is not None:
        return (replace(job, rollout=replace(job.rollout, steps=2, video=job.rollout.video or video)),)
    if job.kind == "train":
        moments: tuple[JobSpec, ...] = (replace(job, max_iterations=1),)
        if video:  # a training draws nothing itself: its task does, when nobody drives it
            film = Rollout(profile="isaac_lab_rollout", steps=2, dt=0.005, substeps=2, video=True)
            overrides = tuple(override for override in job.overrides if not override.startswith("agent."))
            shown = replace(job, kind="rollout", library="", resume=None, overrides=overrides, rollout=film)
            moments += (shown,)
        return moments
    raise RequestError(
        f"A session cannot be warmed up by a job of kind {job.kind!r}.",
        code="bad_command",
        advice="Name a training or a rollout; evaluations and exports of the same task use the session too.",
    )


def _prepare(folder: SessionFolder, warm_up: Resolved, store: Store, machine: MachineSettings) -> dict[str, str]:
    """Put the inputs of the job where it looks for them; return their names by digest."""
    spec, paths = warm_up.spec, folder.warm_up
    paths.make()
    inputs = kind_of(spec).inputs(spec, None)
    here = gather((*inputs, *spec.packages), warm_up.inputs, store, folder.root / "fetched")
    for file in (*inputs, *spec.packages):
        shutil.copyfile(here[file.sha256], paths.inputs / file.name)
    for package in spec.packages:
        module = spec.rollout.task_module if spec.rollout else None
        archive = paths.inputs / package.name
        install(archive, paths.overlay, python=machine.python, scratch=paths.root / "build", module=module)
    return {file.sha256: file.name for file in inputs}


def _await_ready(folder: SessionFolder, server: subprocess.Popen[bytes], watch: Callable[[str], None]) -> SessionState:
    try:
        while True:
            ended = server.poll() is not None
            state = folder.read_state()
            if state is not None and state.failure is not None:
                raise WorkloadError(state.failure)
            if state is not None and state.state == "ready":
                return state
            if ended:
                last = (lines_inside(folder.log) or ["it printed nothing"])[-1]
                raise WorkloadError(
                    Failure(
                        code="session_died",
                        category=Category.INFRA,
                        message=f"The session's process ended with exit code {server.returncode}: {last}",
                        advice="Run a job with the same config to see more.",
                    )
                )
            watch("importing the simulator" if state is None or state.state == "starting" else state.state)
            time.sleep(POLL_S)
    except BaseException:
        server.terminate()
        server.wait()
        raise
