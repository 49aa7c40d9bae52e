"""Runs trainers in containers, over the Docker API: Docker's own, or the one that podman serves."""

from __future__ import annotations

import math
import os
import posixpath
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from simyard.core.errors import Category, Failure, RequestError, WorkloadError
from simyard.tasks.managed.engines.base import INPUT, OUTPUT, STDERR, STDOUT, Exit, TrainerCall
from simyard.tasks.shared.heartbeat import PATIENCE
from simyard.tasks.shared.logs import begin_log, shorten

SEEN_INPUT, SEEN_OUTPUT = "/simyard/input", "/simyard/output"
"""Folders of a call, as its container sees them."""
_OVER = ("exited", "dead")
"""States of a container that has ended."""
_LAST_OUTPUT_S = 10.0
"""Seconds to wait for the last output of a trainer that was ended."""
_SIGNALS = {128 + number: number.name for number in signal.Signals if number < 32}
"""The exit code that a shell or a container's init gives for a program that a signal ended."""
_TIMEOUT_S = 120.0
"""Making a container of a large image takes an engine a while."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Default PATH of an engine, for images without one."""
_agreed: dict[str, str] = {}
"""The API's version that each engine speaks: podman takes half a second to tell."""
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?:localhost|{_LABEL}(?:\.{_LABEL})+|{_LABEL}(?=:))(?::[0-9]{{1,5}})?/)?"
    rf"{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?",
    re.ASCII,
)


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

        require_image_name(image)
        try:
            docker.from_env().close()
        except docker.errors.DockerException as error:
            address = os.environ.get("DOCKER_HOST") or docker.constants.DEFAULT_UNIX_SOCKET
            raise RequestError(
                f"No container engine answers at {address!r}: {error}",
                code="no_container_engine",
                advice='Start Docker, or set DOCKER_HOST to podman\'s socket, or image_uri to "local".',
            ) from error
        with connected() as client:
            gpu_requests(client, gpus)
            require_image(client, image)

    def seen(self, folder: Path) -> tuple[str, str]:
        """Return the paths in the container, the same in every one."""
        return SEEN_INPUT, SEEN_OUTPUT

    def start(self, call: TrainerCall) -> RunningContainer:
        """Start a container; what is left of a call of this name is ended first."""
        with connected() as client:
            remove(client, call.name)
            container = _create(client, **_options(client, call))
            guard = _guard(call.name)
            try:
                if not call.own_entrypoint:
                    require_program(container, call.image, call.argv[0])
                container.start()
            except BaseException:
                container.remove(force=True, v=True)
                _dismiss(guard)
                raise
            return RunningContainer(call.name, call.folder, self._silence_s, guard)

    def sweep(self, name: str) -> None:
        """End and remove the container of this name, if there is one."""
        with connected() as client:
            stop(client, name, 0.0)
            remove(client, name)


class RunningContainer:
    """A trainer's container, and the two threads that copy what it prints."""

    def __init__(self, name: str, folder: Path, silence_s: float, guard: subprocess.Popen[bytes]) -> None:
        """Begin to copy what it prints, from its beginning.

        Args:
            name: The container's.
            folder: The call's, for the logs.
            silence_s: For how long the engine may not answer.
            guard: Ends the container when this process is gone.
        """
        self.name = name
        self._guard = guard
        self._silence_s = silence_s
        self._silent_since: float | None = None
        self._removed = threading.Event()
        self._trouble = ""
        self._client = connect(silence_s / 6)
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
            raise failed("engine_failed", f"The trainer's container {self.name} was removed.") from error
        except (docker.errors.DockerException, OSError) as error:
            self._unanswered(asked, words(error))
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
        with connected() as client:
            stop(client, self.name, grace_s)
            self._logs_end(_LAST_OUTPUT_S)
            remove(client, self.name)
        _dismiss(self._guard)
        self._removed.set()
        self._client.close()

    def _unanswered(self, asked: float, words: str) -> None:
        self._silent_since = self._silent_since or asked
        if time.monotonic() - self._silent_since >= self._silence_s:
            raise failed("engine_lost", f"The container engine did not answer for {self._silence_s:.0f} s: {words}")

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
                with closing(connect()) as client:
                    over = client.containers.get(self.name).status in _OVER
                    with begin_log(whole if over else path) as log:
                        for piece in client.api.logs(
                            self.name, stdout=stdout, stderr=not stdout, stream=True, follow=not over
                        ):
                            log.write(piece)
                            shorten(whole.parent, whole.name)  # the other one is shortened by its reader
                if over:
                    # An engine that rotates its logs has less by now than was followed.
                    longest = max(path, whole, key=lambda log: log.stat().st_size)
                    longest.replace(path)
                    whole.unlink(missing_ok=True)
                    return
            except docker.errors.NotFound:
                return
            except Exception as error:  # an engine that ends in the middle is met as many kinds of error
                self._trouble = words(error)
            self._removed.wait(0.2)


# A container outlives the process that started it, and nobody would enforce its time limit any more. A pipe tells the
# guard that this process is gone, however it went; a byte before that says that its container has ended.
_GUARD = """
import os, sys, time
if os.read(0, 1):
    sys.exit()
from simyard.tasks.managed.engines.container import ContainerEngine, WorkloadError
for pause_s in (1, 5, 30, 60, 300):
    try:
        sys.exit(ContainerEngine().sweep(sys.argv[1]))
    except WorkloadError:
        time.sleep(pause_s)
"""


def _guard(name: str) -> subprocess.Popen[bytes]:
    """Start the process that ends a container when this one is gone."""
    return subprocess.Popen(
        [sys.executable, "-c", _GUARD, name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    if guard.poll() is None:
        guard.communicate(b".")


def _options(client: Any, call: TrainerCall) -> dict[str, Any]:
    """Return the arguments from which the container of a call is made."""
    from docker.types import Mount

    info = client.info()
    # In a rootless engine root is who runs the engine.
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or [])
    user = "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"
    env = call.threads | dict(call.env)
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
        device_requests=gpu_requests(client, call.gpus),
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )


# The engine's API, and its failures as simyard's


def connect(timeout_s: float = _TIMEOUT_S) -> Any:
    """Return a client of the engine that DOCKER_HOST names; any request of it is given up after the timeout."""
    import docker

    address = os.environ.get("DOCKER_HOST", "")
    client = docker.from_env(timeout=timeout_s, version=_agreed.get(address, "auto"))
    _agreed[address] = client.api.api_version
    return client


@contextmanager
def connected() -> Iterator[Any]:
    """Yield a client; what goes wrong with it is the engine's failure."""
    import docker

    try:
        with closing(connect()) as client:
            yield client
    except (docker.errors.DockerException, OSError) as error:
        raise failed("engine_failed", f"The container engine failed: {words(error)}") from error


def failed(code: str, message: str) -> WorkloadError:
    """Return the error for an engine that failed."""
    advice = "Look at the container engine and its log, then go on with the run."
    return WorkloadError(Failure(code=code, category=Category.INFRA, message=message, advice=advice))


def words(error: Exception) -> str:
    """Return the message of the engine, or else that of the connection to it."""
    return str(getattr(error, "explanation", None) or error)


def _create(client: Any, **options: Any) -> Any:
    """Make a container, with an init where the engine has one: it reaps, and passes SIGTERM on.

    Without, the program itself is the first process of all, and deaf to SIGTERM unless it handles it.
    """
    import docker

    try:
        return client.containers.create(init=True, **options)
    except docker.errors.APIError as error:
        if "init binary not found" not in words(error):
            raise
        return client.containers.create(**options)


def stop(client: Any, name: str, grace_s: float) -> None:
    """Stop the container of this name, if there is one: SIGTERM, a grace, SIGKILL."""
    import docker

    with suppress(docker.errors.NotFound):
        client.api.stop(name, timeout=math.ceil(grace_s))


def remove(client: Any, name: str) -> None:
    """Remove the container of this name, if there is one."""
    import docker

    with suppress(docker.errors.NotFound):
        client.api.remove_container(name, force=True, v=True)


def require_image_name(image: str) -> None:
    """Raise `RequestError` unless it can be an image's name: an engine or a registry never sees another."""
    if len(image) > 255 or not _IMAGE.fullmatch(image):
        raise RequestError(
            f"{image!r} is not the name of a container image.",
            code="bad_image",
            advice="Allowed: [registry[:port]/]repository[:tag][@sha256:digest], the repository in lower case.",
        )


def require_image(client: Any, image: str) -> None:
    """Pull the image unless the engine has it.

    Raises:
        RequestError: It cannot be pulled.
    """
    import docker

    with suppress(docker.errors.ImageNotFound):
        client.images.get(image)
        return
    try:
        # Without a tag or a digest the API would pull every tag there is.
        tag = None if ":" in image.rpartition("/")[2] else "latest"
        said = [line["error"] for line in client.api.pull(image, tag, stream=True, decode=True) if "error" in line]
    except docker.errors.APIError as error:
        said = [words(error)]
    if said:
        raise RequestError(
            f"The image {image!r} is not there and cannot be pulled: {said[-1]}",
            code="image_missing",
            advice="Build it or pull it on this machine, or correct image_uri.",
        )


def require_program(container: Any, image: str, program: str) -> None:
    """Check that the program is in a container's image: the engine starts an init, and would say nothing.

    Raises:
        RequestError: It is not.
    """
    import docker

    container.reload()
    config = container.attrs["Config"]
    env = dict(line.partition("=")[::2] for line in config["Env"] or [])
    for folder in [""] if "/" in program else env.get("PATH", _PATH).split(":"):
        with suppress(docker.errors.NotFound):
            container.get_archive(posixpath.join(config["WorkingDir"] or "/", folder, program))
            return
    raise RequestError(
        f"The image {image!r} has no program {program!r}.",
        code="no_program",
        advice="Correct the entrypoint: the image's own ENTRYPOINT is not used.",
    )


def gpu_requests(client: Any, gpus: int) -> list[Any]:
    """Return the device requests for so many GPUs.

    Raises:
        RequestError: The engine has none to give, as far as it says.
    """
    from docker.types import DeviceRequest

    if not gpus:
        return []
    if any(part["Name"] == "Podman Engine" for part in client.version().get("Components") or []):
        # Many versions of podman accept the request, and start the container without a GPU.
        raise _no_gpu("podman does not reliably give GPUs to containers that are started over its Docker API")
    info = client.info()
    if "nvidia" in (info.get("Runtimes") or {}):
        return [DeviceRequest(count=gpus, capabilities=[["gpu"]])]
    found = [device["ID"] for device in info.get("DiscoveredDevices") or []]
    numbered = sorted((name for name in found if re.fullmatch(r"nvidia\.com/gpu=\d+", name)), key=lambda n: (len(n), n))
    if len(numbered) < gpus:
        raise _no_gpu(f"the engine has no nvidia runtime, and CDI names {len(numbered)}")
    return [DeviceRequest(driver="cdi", device_ids=numbered[:gpus])]


def _no_gpu(why: str) -> RequestError:
    return RequestError(
        f"The trainer wants GPUs, and this container engine cannot give them: {why}.",
        code="no_gpu",
        advice='Use Docker with the NVIDIA Container Toolkit, or set image_uri to "local", or gpus to 0.',
    )
