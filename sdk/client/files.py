"""Files on this side: what is sent, and what is kept of what comes."""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
import os
import threading
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

from simyard.client.errors import (
    ConfigurationError,
    IntegrityError,
    SimyardClientError,
    TransportError,
    UnsafeNameError,
)

Config = Mapping[str, Any] | str | os.PathLike[str]
"""A job's config: the object itself, or the path of a JSON file."""

MAX_CONFIG_BYTES = 1_000_000


class DownloadStoppedError(SimyardClientError):
    """Raised inside a download when another one of the same job has failed."""


class Download:
    """A file that comes: unseen until it is whole. Use it as a context."""

    def __init__(self, target: Path | None, stop: threading.Event | None = None) -> None:
        """Set the target of the file.

        Args:
            target: The file; None keeps the bytes in memory.
            stop: Ends the download when it is set.
        """
        self.target = target
        self.received = 0
        """Bytes so far."""
        self.sha256: str | None = None
        """What the service says the digest is."""
        self.size_bytes: int | None = None
        """What it says the size is."""
        self._stop = stop or threading.Event()
        self._digest = hashlib.sha256()
        self._file: IO[bytes] = io.BytesIO()
        # A name of its own: another process may fetch the same artifact into the same folder.
        self._beside = target and target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.partial")

    def __enter__(self) -> Self:
        if self._beside:
            self._beside.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._beside.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()
        if self._beside:
            self._beside.unlink(missing_ok=True)

    def headers(self) -> dict[str, str]:
        """Return the headers of the next try: it fetches the rest alone where a digest will tell if that fits."""
        headers = {"Accept-Encoding": "identity"}  # bytes as they are: sizes, digests and ranges count them
        if self.received and self.sha256 is not None:
            headers["Range"] = f"bytes={self.received}-"
        return headers

    def begin(self, status: int, content_range: str | None) -> None:
        """Take the head of an answer that is a success, or 416.

        Raises:
            TransportError: If it is not the part that was asked for; the next try begins from the start.
        """
        if status == HTTPStatus.PARTIAL_CONTENT and (content_range or "").startswith(f"bytes {self.received}-"):
            return
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.received = 0
        if status in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            raise TransportError("the rest of the file is not to be had")

    def take(self, chunk: bytes) -> None:
        """Keep the next bytes."""
        if self._stop.is_set():
            raise DownloadStoppedError("another download failed")
        self._file.write(chunk)
        self._digest.update(chunk)
        self.received += len(chunk)

    def finish(self) -> bytes:
        """Check the received file and show it under its name; return its bytes if it is in memory, else none.

        Raises:
            IntegrityError: If it has another size or digest than the service says.
        """
        name = self.target.name if self.target else "the file"
        if self.size_bytes is not None and self.received != self.size_bytes:
            raise IntegrityError(f"{name}: {self.received:,} bytes came, the service says {self.size_bytes:,}.")
        digest = self._digest.hexdigest()
        if self.sha256 is not None and digest != self.sha256.lower():
            raise IntegrityError(f"{name}: the SHA-256 of what came is {digest}, the service says {self.sha256}.")
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()
        self._file.close()
        assert self._beside and self.target
        os.replace(self._beside, self.target)
        return b""


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of an artifact's name, each good as the name of a file.

    Raises:
        UnsafeNameError: If the name is absolute, or would lead out of a folder on any system.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    bad = any(part in ("", ".", "..") or set(part) & {"\\", ":"} or not part.isprintable() for part in parts)
    if bad or PurePosixPath(name).is_absolute():
        raise UnsafeNameError(
            f"Artifact name {name!r} cannot be the name of a file: give relative names with '/' between folders, "
            "without '..', ':' or a backslash."
        )
    return tuple(parts)


def local_file(path: str | os.PathLike[str]) -> Path:
    """Return an existing file.

    Raises:
        ConfigurationError: If it is not there, or is a folder.
    """
    found = Path(path).expanduser().resolve()
    if not found.is_file():
        what = "a folder; pack it into a .zip" if found.is_dir() else "not there"
        raise ConfigurationError(f"{str(path)!r} is {what}: name a file (looked for {str(found)!r}).")
    return found


def file_name(path: Path, name: str | None) -> str:
    """Return the name of a file at the service.

    Raises:
        ConfigurationError: If the name that is given has nothing in it.
    """
    short = (name or path.name).replace("\\", "/").rpartition("/")[2].strip()
    if not short:
        raise ConfigurationError(f"object_name is {name!r}: give the name of a file.")
    return short


def content_type(name: str) -> str:
    """Return the media type that the name tells."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def put_object(path: Path, bucket: str, key: str, media_type: str) -> None:
    """Put a file into a bucket, with the credentials and the `AWS_ENDPOINT_URL` of the environment.

    Raises:
        TransportError: If the bucket does not take it.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import get_session

    try:
        with path.open("rb") as file:
            client = get_session().create_client("s3")
            client.put_object(Bucket=bucket, Key=key, Body=file, ContentType=media_type)
    except (BotoCoreError, ClientError) as error:
        raise TransportError(f"{path.name!r} could not be put into s3://{bucket}/{key}: {error}") from error


def read_config(config: Config) -> Mapping[str, Any]:
    """Return a config that is given as it is, or as the path of a JSON file.

    Raises:
        ConfigurationError: If the file cannot be read or holds no object.
    """
    if isinstance(config, Mapping):
        return config
    path = local_file(config)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigurationError(f"{str(path)!r} is too large for a config: {MAX_CONFIG_BYTES:,} bytes are allowed.")
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{str(path)!r} cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{str(path)!r} holds {type(data).__name__}, not an object.")
    return data
