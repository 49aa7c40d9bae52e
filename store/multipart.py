"""Uploads to a bucket that obstore has not: resumable ones, and signed addresses that fix size and type; by botocore.

An upload goes on with an unfinished multipart upload of the key, whoever began it. A part that is there is kept when
its ETag is the MD5 digest of the same piece of the local file. That is so on AWS, MinIO, Ceph, R2 and their like, but
not in a bucket that encrypts with SSE-KMS or SSE-C: there an upload works, and begins anew each time. So it does where
the store's options ask for encryption: no server tells how an unfinished upload will be encrypted.

An upload that nobody goes on with stays in the bucket, unseen: give it a lifecycle rule that aborts those.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.configprovider import ConstantProvider
from botocore.credentials import RefreshableCredentials

from simyard.core.errors import RequestError
from simyard.core.specs import InputFile
from simyard.store.backend import Access, Credentials, failure
from simyard.store.store import UPLOADS_AT_ONCE, Progress, Store, part_bytes
from simyard.store.uploads import is_there, read

ROUNDS = 5
"""Times an upload is begun: a process whose copy of the file has changed aborts the upload of both."""
REFRESH_S = 60
"""Credentials are renewed this long before they expire."""

_CAUGHT = (exceptions.BotoCoreError, exceptions.ClientError)
_UNREACHABLE = (exceptions.ConnectionError, exceptions.HTTPClientError)
_GARBLED = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "OperationAborted")

T = TypeVar("T")


def send_to_bucket(store: Store, file: InputFile, path: str | os.PathLike[str], progress: Progress) -> None:
    """Send a local file, going on with what is there of it.

    Args:
        store: A bucket.
        file: The key, the digest and the size.
        path: The local file.
        progress: Counts the bytes.

    Raises:
        RequestError: The local file is not what `file` says.
        StoreError: The bucket cannot be written.
    """
    for _ in range(ROUNDS):
        try:
            return _Upload(store, file).send(path, progress)
        except _CAUGHT as error:
            failed = error
        # When another process sends the same file and is faster, this upload is gone, and the object is there.
        if isinstance(failed, exceptions.ClientError) and is_there(store, file):
            return None
        if _code(failed) not in ("NoSuchUpload", "InvalidPart"):
            break
    raise failure("write", store.url(file.key), failed, absent_is_missing=False) from failed


def sign_upload(store: Store, key: str, seconds: float, size: int, content_type: str) -> str:
    """Return an address that one object of this size and type is written at; see `Store.signed_upload`.

    Raises:
        StoreError: There are no credentials to sign with.
    """
    location, options, credentials = store.opened_with
    about = {
        "Bucket": location.bucket,
        "Key": f"{location.prefix}/{key}".removeprefix("/"),
        "ContentLength": size,
        "ContentType": content_type,
    }
    client = _signing_client(Access.decide(options, credentials), location.bucket)
    try:
        return str(client.generate_presigned_url("put_object", Params=about, ExpiresIn=int(seconds)))
    except _CAUGHT as error:
        raise failure("sign", store.url(key), error, absent_is_missing=False) from error


class _Upload:
    """One multipart upload, to its end."""

    def __init__(self, store: Store, file: InputFile) -> None:
        location, options, credentials = store.opened_with
        self._file = file
        self._access = Access.decide(options, credentials)
        self._bucket = location.bucket
        self._client = _open_client(self._access, self._bucket)
        self._key = f"{location.prefix}/{file.key}".removeprefix("/")
        self._stopped = threading.Event()

    def send(self, path: str | os.PathLike[str], progress: Progress) -> None:
        """Send the missing parts, then make the object visible."""
        upload = {"Bucket": self._bucket, "Key": self._key, "UploadId": self._find() or self._begin()}
        try:
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                try:
                    etags = self._send_parts(upload, path, progress, pool)
                except BaseException:
                    self._stopped.set()
                    pool.shutdown(cancel_futures=True)
                    raise
        except BaseException as error:
            # The parts of another content, or parts that no later upload may go on with.
            if isinstance(error, RequestError) or self._access.encryption.algorithm:
                with suppress(*_CAUGHT):
                    self._client.abort_multipart_upload(**upload)
            raise
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._patiently(lambda: self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}))

    def _find(self) -> str | None:
        if self._access.encryption.algorithm:
            return None
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._key)
        found = self._patiently(pages.build_full_result).get("Uploads", [])
        return next((entry["UploadId"] for entry in found if entry["Key"] == self._key), None)

    def _begin(self) -> str:
        encryption = self._access.encryption
        asked = {
            "ServerSideEncryption": encryption.algorithm,
            "SSEKMSKeyId": encryption.kms_key_id,
            "BucketKeyEnabled": encryption.bucket_key and encryption.bucket_key == "true",
        }
        given = {name: value for name, value in asked.items() if value is not None}
        begin = self._client.create_multipart_upload
        return str(self._patiently(lambda: begin(Bucket=self._bucket, Key=self._key, **given))["UploadId"])

    def _send_parts(
        self, upload: dict[str, str], path: str | os.PathLike[str], progress: Progress, pool: ThreadPoolExecutor
    ) -> list[str]:
        """Have every part in the bucket; return their ETags."""
        pages = self._client.get_paginator("list_parts").paginate(**upload)
        found = self._patiently(pages.build_full_result).get("Parts", [])
        there = {part["PartNumber"]: part["ETag"] for part in found}
        etags: list[str] = []
        waiting: deque[tuple[int, Future[str]]] = deque()
        position = 0
        for number, piece in enumerate(read(path, self._file, part_bytes(self._file.size_bytes)), 1):
            digest = hashlib.md5(piece, usedforsecurity=False)
            position += len(piece)
            if there.get(number, "").strip('"') == digest.hexdigest():
                done: Future[str] = Future()
                done.set_result(there[number])
            else:
                done = pool.submit(self._send_part, upload, number, piece, digest.digest())
                progress.moved += len(piece)
            waiting.append((position, done))
            while len(waiting) > UPLOADS_AT_ONCE:
                etags.append(_await(waiting, progress))
        while waiting:
            etags.append(_await(waiting, progress))
        return etags

    def _send_part(self, upload: dict[str, str], number: int, piece: bytes, md5: bytes) -> str:
        # The server compares the digest; botocore's own newer checksums are unknown to many servers.
        content_md5 = base64.b64encode(md5).decode()
        send = self._client.upload_part
        answer = self._patiently(lambda: send(**upload, PartNumber=number, Body=piece, ContentMD5=content_md5))
        return str(answer["ETag"])

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call the server, and again while it cannot be reached, for as long as the store itself would."""
        deadline = time.monotonic() + self._access.retry_s
        pause_s, longest_pause_s = self._access.pauses_s
        while True:
            try:
                return call()
            except _CAUGHT as error:
                if not _may_pass(error) or time.monotonic() > deadline or self._stopped.wait(pause_s):
                    raise
            pause_s = min(2 * pause_s, longest_pause_s)


def _await(waiting: deque[tuple[int, Future[str]]], progress: Progress) -> str:
    position, done = waiting.popleft()
    etag = done.result()
    progress.reach(position)
    return etag


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, exceptions.ClientError) else ""


def _may_pass(error: Exception) -> bool:
    """Tell whether the same request may succeed later."""
    if not isinstance(error, exceptions.ClientError):
        return isinstance(error, _UNREACHABLE)
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status >= 500 or status == 429 or _code(error) in _GARBLED


def _open_client(access: Access, bucket: str) -> Any:
    session = botocore.session.Session()
    # obstore reads neither ~/.aws nor a profile, and the two must not be two accounts.
    for name, value in {"config_file": os.devnull, "credentials_file": os.devnull, "profile": None}.items():
        session.get_component("config_store").set_config_provider(name, ConstantProvider(value))
    if access.credentials:
        session.register_component("credential_provider", _Given(access.credentials))
    return session.create_client(
        "s3",
        region_name=access.region,
        endpoint_url=access.endpoint,
        verify=access.ca_bundle,
        config=Config(
            connect_timeout=access.connect_s,
            read_timeout=access.silence_s,
            retries={"total_max_attempts": 1},
            signature_version="s3v4",  # the older one, of some presigned URLs, signs no headers
            s3={"addressing_style": "virtual" if access.is_virtual(bucket) else "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@cache  # it takes a tenth of a second to make
def _signing_client(access: Access, bucket: str) -> Any:
    return _open_client(access, bucket)


@dataclass(frozen=True)
class _Given:
    """Credentials provider for botocore, from the store's own options."""

    credentials: Credentials

    def load_credentials(self) -> Any:
        return RefreshableCredentials.create_from_metadata(
            self._ask(), self._ask, "store", advisory_timeout=REFRESH_S, mandatory_timeout=REFRESH_S // 2
        )

    def _ask(self) -> dict[str, str | None]:
        try:
            found = self.credentials()
        except Exception as error:
            raise exceptions.CredentialRetrievalError(provider="the store", error_msg=str(error)) from error
        expires_at = found["expires_at"] or datetime.max.replace(tzinfo=UTC)
        return {
            "access_key": found["access_key_id"],
            "secret_key": found["secret_access_key"],
            "token": found["token"],
            "expiry_time": expires_at.isoformat(),
        }
