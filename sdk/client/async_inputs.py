"""The client's methods about inputs: uploads, and the assets that they become."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from urllib.parse import urlsplit

from simyard.client.async_http import FILES_READ_S, AsyncHttp, one, segment
from simyard.client.concurrency import async_call, async_sleep
from simyard.client.errors import ConfigurationError, SimyardClientError
from simyard.client.files import content_type, file_name, local_file, put_object
from simyard.client.settings import Tries

_MAX_OBJECT_BYTES = 5 * 1024**3


class AssetRecord(TypedDict):
    """One uploaded file."""

    asset_id: str
    """Id by which jobs name it."""
    kind: str | None
    """Kind of asset, such as `robot`."""
    filename: str
    """Its name."""
    sha256: str
    """Its digest."""
    size_bytes: int
    """Its size."""
    content_type: str | None
    """Its media type."""
    metadata: dict[str, Any]
    """Metadata from the uploader."""
    created_at: str
    """ISO 8601, UTC."""


class UploadSlot(TypedDict):
    """Address to send a file to."""

    upload_url: str
    """The address, signed."""
    upload_method: str
    """`PUT`."""
    upload_headers: dict[str, str]
    """Headers that must be sent."""
    input_uri: str
    """URI of the file, once it is there."""
    expires_at: NotRequired[str | None]
    """End of the address's validity; ISO 8601, UTC."""
    asset_id: NotRequired[str | None]
    """The asset, where the file is one already."""


class AsyncInputs:
    """The methods about inputs."""

    _http: AsyncHttp

    async def upload_input(
        self,
        local_path: str,
        *,
        destination_uri: str | None = None,
        bucket: str | None = None,
        key_prefix: str | None = None,
        object_name: str | None = None,
        prefer_presigned: bool = True,
        register_asset: bool = False,
        asset_kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Send a file and return its URI. It is read piece by piece; an interrupted one is sent again.

        Args:
            local_path: The file.
            destination_uri: `s3://bucket/key`: straight into a bucket, with this machine's AWS credentials.
            bucket: The same, with a key of its own.
            key_prefix: What that key begins with; `simyard/inputs` unless it is said.
            object_name: What the file is called; left out it is its own name.
            prefer_presigned: Whether to send it through the service where no bucket is named.
            register_asset: Whether to make it an asset too.
            asset_kind: What it is: `robot`, `scene`, `isaac_lab_task_package`, …
            metadata: What to remember about it.
        """
        file = _planned(local_path, object_name, prefer_presigned, destination_uri, bucket, key_prefix)
        uri, _ = await self._upload(*file, register_asset, asset_kind, metadata)
        return uri

    async def upload_input_asset(
        self,
        local_path: str,
        *,
        destination_uri: str | None = None,
        bucket: str | None = None,
        key_prefix: str | None = None,
        object_name: str | None = None,
        prefer_presigned: bool = True,
        asset_kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Send a file, make it an asset and return the asset's id; the arguments are those of `upload_input`."""
        file = _planned(local_path, object_name, prefer_presigned, destination_uri, bucket, key_prefix)
        _, asset_id = await self._upload(*file, True, asset_kind, metadata)
        assert asset_id is not None
        return asset_id

    async def _upload(
        self,
        path: Path,
        name: str,
        place: tuple[str, str] | None,
        register_asset: bool,
        asset_kind: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> tuple[str, str | None]:
        """Send a file, through the service or into a bucket; return its URI, and its asset id if it has one."""
        asset_id: str | None = None
        if place is None:
            slot = await self._send(
                path,
                {
                    "filename": name,
                    "content_type": content_type(name),
                    "register_asset": register_asset,
                    "asset_kind": asset_kind,
                    "metadata": dict(metadata or {}),
                },
            )
            uri, asset_id = slot["input_uri"], slot.get("asset_id")
        else:
            if path.stat().st_size > _MAX_OBJECT_BYTES:
                raise ConfigurationError(
                    f"{str(path)!r} is larger than 5 GiB, which is the most that one request may put into a bucket: "
                    "upload it through the service, or with the bucket's own tools."
                )
            await async_call(put_object, path, *place, content_type(name))
            uri = f"s3://{'/'.join(place)}"
        if register_asset and not asset_id:
            asset = await self.register_input_asset(
                input_uri=uri,
                filename=name,
                content_type=content_type(name),
                size_bytes=path.stat().st_size,
                kind=asset_kind,
                metadata=metadata,
            )
            asset_id = asset["asset_id"]
        return uri, asset_id

    async def _send(self, path: Path, about: Mapping[str, Any]) -> UploadSlot:
        """Send a file to an address that the service gives; after an interruption to a new one, from the start."""
        tries = Tries(self._http.settings)
        while True:
            try:
                size_bytes = path.stat().st_size
            except OSError as error:
                raise ConfigurationError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
            slot = await self._http.send(
                "POST",
                "/v0/inputs/presign-upload",
                one(UploadSlot, "upload_url", "input_uri"),
                body={**about, "size_bytes": size_bytes},
            )
            method, headers = slot.get("upload_method") or "PUT", slot.get("upload_headers") or {}
            try:
                await self._http.send_file(path, about["filename"], method, slot["upload_url"], headers)
                return slot
            except SimyardClientError as error:
                pause_s = tries.pause_s(error)
            await async_sleep(pause_s)

    async def register_input_asset(
        self,
        *,
        input_uri: str,
        filename: str | None = None,
        content_type: str | None = None,
        size_bytes: int | None = None,
        kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AssetRecord:
        """Make a file that was sent an asset.

        Args:
            input_uri: What `upload_input` returned.
            filename: What it is called.
            content_type: Its media type.
            size_bytes: Its size.
            kind: What it is: `robot`, `scene`, `isaac_lab_task_package`, …
            metadata: What to remember about it.
        """
        given = {
            "input_uri": input_uri,
            "filename": filename,
            "content_type": content_type,
            "size_bytes": size_bytes,
            "kind": kind,
            "metadata": None if metadata is None else dict(metadata),
        }
        return await self._http.send(
            "POST",
            "/v0/assets/register",
            one(AssetRecord, "asset_id"),
            body={key: value for key, value in given.items() if value is not None},
            least_timeout_s=FILES_READ_S,
        )

    async def get_input_asset(self, asset_id: str) -> AssetRecord:
        """Return an asset."""
        path = f"/v0/assets/{segment('asset_id', asset_id)}"
        return await self._http.send("GET", path, one(AssetRecord, "asset_id"))

    async def list_input_assets(self, *, limit: int = 100) -> list[AssetRecord]:
        """Return the newest assets, newest first."""
        return await self._http.pages("/v0/assets", AssetRecord, "assets", limit)


def _planned(
    local_path: str,
    object_name: str | None,
    prefer_presigned: bool,
    destination_uri: str | None,
    bucket: str | None,
    key_prefix: str | None,
) -> tuple[Path, str, tuple[str, str] | None]:
    """Return a file, its name, and its bucket and key; None for these where it goes through the service."""
    path = local_file(local_path)
    name = file_name(path, object_name)
    if prefer_presigned and destination_uri is None and bucket is None:
        return path, name, None
    return path, name, bucket_place(destination_uri, bucket, key_prefix, name)


def bucket_place(destination_uri: str | None, bucket: str | None, key_prefix: str | None, name: str) -> tuple[str, str]:
    """Return bucket and key of a file that goes straight into a bucket.

    Raises:
        ConfigurationError: If neither a bucket nor an `s3://` URI with a key is given.
    """
    if destination_uri is not None:
        parts = urlsplit(destination_uri.strip())
        if parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/"):
            raise ConfigurationError(f"destination_uri is {destination_uri!r}: give s3://bucket/key.")
        return parts.netloc, parts.path.lstrip("/")
    if not bucket or not bucket.strip():
        raise ConfigurationError("prefer_presigned is off: give bucket or destination_uri, or leave it on.")
    prefix = (key_prefix or "simyard/inputs").strip().strip("/")
    # A part of its own, because uploads of the same name must not replace each other.
    return bucket.strip(), "/".join(part for part in (prefix, uuid.uuid4().hex, name) if part)
