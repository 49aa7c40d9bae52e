"""Runs trainers in containers, over the Docker API: Docker's own, or the one that podman serves."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.tasks.managed.engines import docker_api
from simyard.tasks.managed.engines.base import INPUT, OUTPUT, STDERR, STDOUT, Exit, TrainerCall
from simyard.tasks.shared.heartbeat import PATIENCE

SEEN_INPUT, SEEN_OUTPUT = "/simyard/input", "/simyard/output"
"""Folders of a call, as its container sees them."""
_OVER = ("exited", "dead")
"""States of a container that has ended."""
_LAST_OUTPUT_S = 10.0
"""Seconds to wait for the last output of a trainer that was ended."""
_SIGNALS = {128 + number: number.name for number in signal.Signals if number < 32}
"""The exit code that a shell or a container's init gives for a program that a signal ended."""


class ContainerEngine:
    """Runs each call in a container of its own; the engine is the one that DOCKER_HOST names.

    The trainer runs as the user that simyard runs as, whatever the image's USER is, and without any capability: so it
    can write into its output and nowhere else of this machine, and what it leaves can be read and removed.
    """

    def __init__(self, silence_s: float = PATIENCE.engine.silence_s) -> None:
        """Reach for nothing yet.

        Args:
            silence_s: For how long the engine may not answer before a trainer is given up, seconds.
        """
        self._silence_s = silence_s

    def require(self, image: str, gpus: int) -> None:
        """Check that the engine answers, has the image or can pull it, and has GPUs where some are wanted."""
        import docker

        docker_api.require_image_name(image)
        try:
            docker.from_env().close()
        except docker.errors.DockerException as error:
            address = os.environ.get("DOCKER_HOST") or docker.constants.DEFAULT_UNIX_SOCKET
            raise RequestError(
                f"No container engine answers at {address!r}: {error}",
                code="no_container_engine",
                advice='Start Docker, or set DOCKER_HOST to podman\'s socket, or image_uri to "local".',
            ) from error
        with docker_api.connected() as client:
            docker_api.gpu_requests(client, gpus)
            docker_api.require_image(client, image)

    def seen(self, folder: Path) -> tuple[str, str]:
        """Return the paths in the container, the same in every one."""
        return SEEN_INPUT, SEEN_OUTPUT

    def start(self, call: TrainerCall) -> RunningContainer:
        """Start a container, or find the one of this name that runs or has ended.

        One that was made and never started is left of a start that was cut off, and is made again.
        """
        with docker_api.connected() as client:
            container = docker_api.find(client, call.name)
            if container and container.status == "created":
                container.remove(force=True, v=True)
                container = None
            if container is None:
                container = docker_api.create(client, **_wanted(client, call))
                try:
                    if not call.own_entrypoint:
                        docker_api.require_program(container, call.image, call.argv[0])
                    container.start()
                except BaseException:
                    container.remove(force=True, v=True)
                    raise
            return RunningContainer(call.name, call.folder, self._silence_s)

    def sweep(self, name: str) -> None:
        """End and remove the container of this name, if there is one."""
        with docker_api.connected() as client:
            docker_api.stop(client, name, 0.0)
            docker_api.remove(client, name)


class RunningContainer:
    """A trainer's container, and the two threads that copy what it prints."""

    def __init__(self, name: str, folder: Path, silence_s: float) -> None:
        """Begin to copy what it prints, from its beginning.

        Args:
            name: The container's.
            folder: The call's, for the logs.
            silence_s: For how long the engine may not answer.
        """
        self.name = name
        self._silence_s = silence_s
        self._silent_since: float | None = None
        self._removed = threading.Event()
        self._trouble = ""
        self._client = docker_api.connect(silence_s / 6)
        self._logs = []
        for stream in (STDOUT, STDERR):
            (folder / stream).write_bytes(b"")
            copy = threading.Thread(target=self._copy, args=(folder / stream, stream == STDOUT), daemon=True)
            copy.start()
            self._logs.append(copy)

    def poll(self) -> Exit | None:
        """Return its exit, once both logs are complete; None before that.

        Raises:
            WorkloadError: The container is gone, or the engine has not answered for too long.
        """
        import docker

        asked = time.monotonic()
        try:
            state = self._client.api.inspect_container(self.name)["State"]
        except docker.errors.NotFound as error:
            raise docker_api.failed("engine_failed", f"The trainer's container {self.name} was removed.") from error
        except (docker.errors.DockerException, OSError) as error:
            self._unanswered(asked, docker_api.words(error))
            return None
        if state["Status"] not in _OVER:
            self._silent_since = None
            return None
        if not self._logs_end(0.5):
            self._unanswered(asked, f"the output is not complete; {self._trouble}")
            return None
        code = state["ExitCode"]
        by = _SIGNALS.get(code)
        # A program that outlived the end of one it had started was not ended by the limit.
        return Exit(code=None if by else code, signal=by, out_of_memory=bool(state["OOMKilled"]) and code != 0)

    def end(self, grace_s: float) -> None:
        """Stop and remove it; everything in it ends with it."""
        with docker_api.connected() as client:
            docker_api.stop(client, self.name, grace_s)
            self._logs_end(_LAST_OUTPUT_S)
            docker_api.remove(client, self.name)
        self._removed.set()
        self._client.close()

    def _unanswered(self, asked: float, words: str) -> None:
        self._silent_since = self._silent_since or asked
        if time.monotonic() - self._silent_since >= self._silence_s:
            raise docker_api.failed(
                "engine_lost", f"The container engine did not answer for {self._silence_s:.0f} s: {words}"
            )

    def _logs_end(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        for log in self._logs:
            log.join(max(0.0, deadline - time.monotonic()))
        return not any(log.is_alive() for log in self._logs)

    def _copy(self, path: Path, stdout: bool) -> None:
        """Follow one stream while the container runs, and then have all of it.

        Podman's followers miss lines that are printed while they catch up, and are let go of before the last ones.
        """
        import docker

        whole = path.with_name(f".{path.name}")
        while not self._removed.is_set():
            try:
                with closing(docker_api.connect()) as client:
                    over = client.containers.get(self.name).status in _OVER
                    with (whole if over else path).open("wb", buffering=0) as log:
                        for piece in client.api.logs(
                            self.name, stdout=stdout, stderr=not stdout, stream=True, follow=not over
                        ):
                            log.write(piece)
                if over:
                    # An engine that rotates its logs has less by now than was followed.
                    longest = max(path, whole, key=lambda log: log.stat().st_size)
                    longest.replace(path)
                    whole.unlink(missing_ok=True)
                    return
            except docker.errors.NotFound:
                return
            except Exception as error:  # an engine that ends in the middle is met as many kinds of error
                self._trouble = docker_api.words(error)
            self._removed.wait(0.2)


def _wanted(client: Any, call: TrainerCall) -> dict[str, Any]:
    """Return the arguments from which the container of a call is made."""
    from docker.types import Mount

    info = client.info()
    # In a rootless engine root is who runs the engine.
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or [])
    user = "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"
    env = dict(call.env)
    if not user.startswith("0:"):
        env.setdefault("HOME", "/tmp")  # the image does not know the user
    if not call.gpus:
        env["NVIDIA_VISIBLE_DEVICES"] = "void"  # where the nvidia runtime is the default, an image could have them all
    return dict(
        image=call.image,
        name=call.name,
        entrypoint=None if call.own_entrypoint else list(call.argv[:1]),
        command=list(call.argv if call.own_entrypoint else call.argv[1:]),
        environment=env,
        labels={"simyard": "trainer", "simyard.call": call.name},
        user=user,
        mounts=[
            Mount(SEEN_INPUT, str(call.folder / INPUT), type="bind", read_only=True),
            Mount(SEEN_OUTPUT, str(call.folder / OUTPUT), type="bind"),
        ],
        mem_limit=call.memory_bytes,
        memswap_limit=call.memory_bytes,
        shm_size=call.memory_bytes,  # counted as memory; the 64 MB of default are too few for PyTorch's data loaders
        nano_cpus=round(min(call.cpus, info["NCPU"]) * 1e9),  # Docker refuses more than there are
        device_requests=docker_api.gpu_requests(client, call.gpus),
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
