"""Requests to a container engine in the Docker API, and the engine's failures as simyard's."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from simyard.core.errors import Category, Failure, RequestError, WorkloadError

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


def find(client: Any, name: str) -> Any:
    """Return the container of this name, or None."""
    import docker

    with suppress(docker.errors.NotFound):
        return client.containers.get(name)
    return None


def create(client: Any, **wanted: Any) -> Any:
    """Make a container, with an init where the engine has one: it reaps, and passes SIGTERM on.

    Without, the program itself is the first process of all, and deaf to SIGTERM unless it handles it.
    """
    import docker

    try:
        return client.containers.create(init=True, **wanted)
    except docker.errors.APIError as error:
        if "init binary not found" not in words(error):
            raise
        return client.containers.create(**wanted)


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

    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        _pull(client, image)


def _pull(client: Any, image: str) -> None:
    import docker

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
