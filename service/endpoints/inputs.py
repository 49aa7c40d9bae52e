"""Inputs: upload URLs for files, and assets, which are files that jobs name by id."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import ConfigDict, Field, JsonValue

from simyard.core.errors import RequestError
from simyard.core.files import scratch
from simyard.core.records import AssetRecord
from simyard.requests.config import MAX_CONFIG_BYTES
from simyard.requests.jobs import Body
from simyard.service import bodies, submission
from simyard.service.auth import AssetsCaller, Caller
from simyard.service.cursors import DEFAULT_LIMIT, Cursor, Limit, answer_of, place_of
from simyard.service.endpoints.files import UploadLink, upload_link
from simyard.service.endpoints.jobs import JOB
from simyard.service.references import Source, input_path
from simyard.store import keys
from simyard.tasks.shared import inputs
from simyard.tasks.shared.inputs import check_name
from simyard.tasks.shared.listing import shown

router = APIRouter(prefix="/v0", tags=["inputs"])

_OTHER_CONTENT = "application/octet-stream"


class _Named(Body):
    model_config = ConfigDict(alias_generator=None)  # the clients of this contract write names in snake_case


class UploadRequest(_Named):
    """A file that is to be uploaded."""

    filename: str = Field(max_length=255)
    """Its name, without a folder."""
    content_type: str = Field(_OTHER_CONTENT, max_length=200, pattern=r"^[\w.+-]+/[\w.+-]+(; ?[\w.+=\"-]+)*$")
    """Value of the upload's `Content-Type` header."""
    size_bytes: int = Field(strict=True, ge=1)
    """Its length, in bytes."""
    register_asset: bool = False
    """Whether it is to become an asset. An asset's id is made from its bytes, so `POST /v0/assets/register` follows."""
    asset_kind: str | None = Field(None, max_length=100)
    """Kind of that asset."""
    metadata: dict[str, Any] | None = None
    """Metadata of that asset."""


class RegisterRequest(_Named):
    """A file that is to become an asset."""

    input_uri: str = Field(min_length=1, max_length=4000)
    """URI of the file: the one that came with an upload URL, or one on a store or host that the service may read."""
    filename: str | None = Field(None, max_length=255)
    """Its name; left out it is that of the URI."""
    content_type: str | None = Field(None, max_length=200)
    """Kept by nobody: the file's name says it."""
    size_bytes: int | None = Field(None, strict=True, ge=0)
    """Length that the file must have, in bytes; left out it is not checked."""
    kind: str | None = Field(None, max_length=100)
    """`robot`, `scene`, `isaac_lab_task_package`, `checkpoint` or `config`, whose job is started; left out the file's
    name decides."""
    metadata: dict[str, Any] | None = None
    """Metadata to keep with the asset."""


@router.post(
    "/inputs/presign-upload", openapi_extra=bodies.described(UploadRequest), summary="Get a URL to upload a file by"
)
def presign_upload(
    body: Annotated[UploadRequest, Depends(bodies.model_from("assets", UploadRequest))], caller: AssetsCaller
) -> UploadLink:
    """Return a URL to send a file to, and the URI by which jobs and assets name the file afterwards."""
    check_name(body.filename, "filename")
    allowed = caller.settings.max_upload_bytes
    if body.size_bytes > allowed:
        raise RequestError(
            f"{body.filename!r} has {body.size_bytes:,} bytes; allowed are {allowed:,}.",
            code="too_large",
            advice="The owner sets the limit: SIMYARD_MAX_UPLOAD_GB.",
        )
    if body.asset_kind is not None:
        inputs.check_kind(body.filename, body.asset_kind)
    upload_id = secrets.token_hex(16)
    key = keys.upload(upload_id, body.filename)
    input_uri = f"{caller.base_url}{input_path(upload_id, body.filename)}"
    return upload_link(caller, key, body.size_bytes, body.content_type, input_uri)


@dataclass(frozen=True, kw_only=True)
class StartedConfig(AssetRecord):
    """An asset of the kind `config`, whose job was started."""

    job_id: str
    """Id of the job, the same for the same bytes."""


@router.post("/assets/register", openapi_extra=bodies.described(RegisterRequest), summary="Make a file an asset")
def register(
    body: Annotated[RegisterRequest, Depends(bodies.model_from("assets", RegisterRequest))],
    caller: AssetsCaller,
    response: Response,
) -> StartedConfig | AssetRecord:
    """Read the file, and keep it under the digest of its bytes. A config's job is started as `POST /v0/jobs` does."""
    allowed = caller.settings.max_upload_bytes
    with scratch("register") as folder:
        path = Source(caller).fetch(body.input_uri, folder / "0", "input_uri")
        if body.filename is not None and body.filename != path.name:
            check_name(body.filename, "filename")
            path = path.rename(path.with_name(body.filename))
        size = path.stat().st_size
        if size > allowed or body.size_bytes not in (None, size):
            raise RequestError(
                f"input_uri: the file has {size:,} bytes; announced were {body.size_bytes}, allowed are {allowed:,}.",
                code="wrong_size",
                advice="Upload it again.",
            )
        kind = body.kind or inputs.kind_by_name(path.name)
        if kind != inputs.CONFIG:
            return inputs.upload(caller.store, path, kind, body.metadata or {})
        config = _config(path, caller)  # what is wrong with it is said before it is kept
        record = inputs.upload(caller.store, path, kind, body.metadata or {})
        job_id = submission.submit(JOB, config, caller, response, f"config:{record.asset_id}")
        return StartedConfig(**vars(record), job_id=job_id)


def _config(path: Path, caller: Caller) -> dict[str, JsonValue]:
    """Return the body that a config's job is submitted by, checked as far as it can be without its files."""
    inputs.check_file(path, inputs.CONFIG)
    if not caller.key.allows("jobs"):
        raise RequestError(
            f"{path.name!r} is a config, whose job is started: that needs the scope jobs; this API key has "
            f"{', '.join(caller.key.scopes)}.",
            code="missing_scope",
            advice="The owner makes one with it: simyard keys create --scope assets --scope jobs.",
        )
    with path.open("rb") as file:
        config = bodies.parse_json(file.read(MAX_CONFIG_BYTES + 1), f"The config {path.name!r}")
    bodies.check(config, bodies.job_model(config))
    return config


@router.get("/assets", summary="List assets, the newest upload first")
def list_assets(caller: AssetsCaller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    """Return the records of the assets that were uploaded last, or the next page of them."""
    page = inputs.list_assets(caller.store, limit, place_of(cursor))
    return answer_of("assets", page, [record.to_json() for record in page.found])


@router.get("/assets/{asset_id}", summary="Show an asset")
def show_asset(asset_id: str, caller: AssetsCaller) -> AssetRecord:
    """Return an asset's record."""
    return shown(inputs.find_asset(caller.store, asset_id))
