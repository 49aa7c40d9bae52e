"""Uploads and downloads by URLs that need no key: the bucket's own, or the service's where the store is a folder."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from simyard.core.artifacts import INLINE, media_type_of
from simyard.core.errors import RequestError
from simyard.core.records import ApiKey
from simyard.service import bodies
from simyard.service.auth import Caller, Guard
from simyard.service.settings import Settings
from simyard.service.signatures import seal

router = APIRouter(tags=["files"])

# Nothing that a job left may run as a page of this service.
_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


@dataclass(frozen=True, kw_only=True)
class DownloadLink:
    """URL that an object is fetched by, without a key, for a while."""

    url: str
    name: str
    size_bytes: int
    sha256: str | None
    """Digest of the content; None where none is kept."""
    expires_at: str


@dataclass(frozen=True, kw_only=True)
class UploadLink:
    """URL that one file is uploaded by, without a key, for a while."""

    upload_url: str
    upload_method: str
    upload_headers: dict[str, str]
    expires_at: str
    input_uri: str
    """URI by which jobs and assets name the file afterwards."""
    asset_id: str | None = None
    """None: the file becomes an asset by `POST /v0/assets/register`."""


def download_link(caller: Caller, key: str, name: str, sha256: str | None) -> DownloadLink:
    """Return a URL that an object is fetched by, and until when.

    Raises:
        KeyNotFound: There is no such object.
    """
    size = caller.store.stat(key).size_bytes
    url = download_url(caller.settings, caller.base_url, caller.key, key, name)
    return DownloadLink(url=url, name=name, size_bytes=size, sha256=sha256, expires_at=_at(caller.settings.url_seconds))


def download_url(settings: Settings, base: str, api_key: ApiKey, key: str, name: str) -> str:
    """Return a URL that an object of an API key's project is fetched by, without a look whether there is one."""
    url = settings.open(api_key.project).signed_url(key, settings.url_seconds)
    if url is None:
        about = {"key_id": api_key.key_id, "key": key, "name": name}
        token = seal(settings.secret, "download", settings.url_seconds, **about)
        url = f"{base}/v0/files/{token}"
    return url


def upload_link(caller: Caller, key: str, size: int, content_type: str, input_uri: str) -> UploadLink:
    """Return a URL that one file is uploaded by, and until when."""
    settings = caller.settings
    url = caller.store.signed_upload(key, settings.url_seconds, size, content_type)
    if url is None:
        about = {"key_id": caller.key.key_id, "key": key, "size": size}
        url = f"{caller.base_url}/v0/files/{seal(settings.secret, 'upload', settings.url_seconds, **about)}"
    return UploadLink(
        upload_url=url,
        upload_method="PUT",
        upload_headers={"Content-Type": content_type},
        expires_at=_at(settings.url_seconds),
        input_uri=input_uri,
    )


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat(timespec="seconds")


@router.get("/v0/files/{token}", summary="Fetch what a download URL is for")
def fetch(token: str, request: Request) -> FileResponse:
    """Answer with the file; ranges of it are answered too."""
    settings: Settings = request.app.state.settings
    guard: Guard = request.app.state.guard
    about, api_key = guard.follow("download", token)
    path = settings.open(api_key.project).path(about["key"])
    assert path is not None  # a bucket signs its own
    media_type = media_type_of(about["name"])
    return FileResponse(
        path,
        filename=about["name"].rpartition("/")[2],
        headers=_SAFE,
        media_type=media_type,
        content_disposition_type="inline" if media_type in INLINE else "attachment",
    )


@router.put("/v0/files/{token}", status_code=204, summary="Send what an upload URL is for")
async def send(token: str, request: Request) -> Response:
    """Keep the file, once all of it is here."""
    settings: Settings = request.app.state.settings
    guard: Guard = request.app.state.guard
    about, api_key = await anyio.to_thread.run_sync(guard.follow, "upload", token)
    folder = settings.open(api_key.project).folder
    assert folder is not None
    bodies.allow(request, about["size"])
    await _receive(request, folder / about["key"], about["size"])
    return Response(status_code=204)


async def _receive(request: Request, target: Path, size: int) -> None:
    """Write a body beside its target, and rename it when it has the size that was announced."""
    beside = target.with_name(f"{target.name}#{secrets.randbits(60)}")  # no listing shows such names
    received = 0
    try:
        await anyio.Path(target.parent).mkdir(parents=True, exist_ok=True)
        async with await anyio.open_file(beside, "xb") as file:
            async for piece in request.stream():
                received += len(piece)
                await file.write(piece)
        if received != size:
            raise RequestError(
                f"The file was announced with {size:,} bytes; these are {received:,}.",
                code="wrong_size",
                advice="Ask for a new upload URL with the size that the file has.",
            )
        await anyio.Path(beside).replace(target)
    finally:
        await anyio.Path(beside).unlink(missing_ok=True)
