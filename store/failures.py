"""Failures of a store, in words a user can act on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError

from simyard.core.errors import StoreError

CAUGHT = (BaseError, OSError)
"""Exceptions of obstore and the file system."""

_S3_ANSWER = re.compile(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", re.DOTALL)

# Looked for in order in the whole text of an error; codes and advice.
_KNOWN = (
    ("NoSuchBucket", "no_such_bucket", "Make the bucket, or correct its name in the store's URL."),
    (
        # With no credentials anywhere, obstore asks the machine's metadata service.
        r"/latest/api/token|169\.254\.|External AWS credential provider|NoCredentials|CredentialRetrieval",
        "no_credentials",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a job-store block. Profiles (AWS_PROFILE) are read "
        "only by a block with a bucket.",
    ),
    (
        "ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|40[13] |PermissionDenied|Unauthenticated",
        "store_denied",
        "Check the credentials. They need s3:GetObject, PutObject, DeleteObject, ListBucket, AbortMultipartUpload, "
        "ListMultipartUploadParts and ListBucketMultipartUploads.",
    ),
    (
        "[Rr]edirect|AuthorizationHeaderMalformed",
        "wrong_region",
        "Set AWS_REGION to the bucket's region, and check the endpoint.",
    ),
    (
        "error sending request|builder error|body error|InvalidUri|ConnectionError|ConnectTimeout|ReadTimeout"
        "|ConnectionClosed|ProxyConnection|SSLError",
        "store_unreachable",
        "Check that the endpoint (AWS_ENDPOINT_URL) is right and can be reached from here, then try again.",
    ),
    (
        "SlowDown|ServiceUnavailable|InternalError|TooManyRequests|5[0-9][0-9] ",
        "store_busy",
        "The server was asked again for a while. Try again later; with less at a time if it is throttled.",
    ),
    (r"os error 28\b|Errno 28\b", "store_full", "Free some disk space, then try again."),
    (
        r"os error (20|21)\b|Errno (20|21)\b",
        "key_conflict",
        "On a disk one name cannot be both a file and a folder. Choose another key, or delete what is there.",
    ),
    (r"os error (1|13)\b|Errno (1|13)\b", "store_denied", "Check who owns the store's folder."),
    ("InvalidPath", "foreign_object", "Another program wrote there: give simyard a prefix of its own in the bucket."),
)


# What may be gone at the next try, and obstore does not try again: an answer that breaks off, a body that arrives
# damaged or too slowly, a multipart upload whose end was not heard of.
_PASSING = re.compile(
    "error sending request|body error|InternalError|SlowDown|ServiceUnavailable|RequestTimeout|IncompleteBody|BadDigest"
    "|XAmzContentSHA256Mismatch|NoSuchUpload|OperationAborted|ConditionalRequestConflict"
)


class KeyNotFound(StoreError):  # noqa: N818 - named as what happened, like FileNotFound
    """No object stands under a key."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"There is no {address!r}.",
            code="key_not_found",
            advice="Check the key and the store; a job's files appear when it has written them.",
        )


def failure(action: str, address: str, error: BaseException, *, absent_is_missing: bool = True) -> StoreError:
    """Return the error to raise, from the original one, for an action on an address.

    Args:
        action: A verb, such as `read`.
        address: The URL of the object or folder.
        error: What obstore or the file system raised.
        absent_is_missing: Whether "not found" means the object, not the bucket.
    """
    # obstore appends a dump of its inner state, which is for its own authors.
    text, _, inner = str(error).partition("\n\nDebug source:")
    if absent_is_missing and isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
        return KeyNotFound(address)
    answer = _S3_ANSWER.search(text)
    reason = f"{answer[1]}: {answer[2]}" if answer else " ".join(text.split())[:300]
    code, advice = _explain(f"{type(error).__name__} {text} {inner}")
    return StoreError(f"Cannot {action} {address!r}: {reason.rstrip('.')}.", code=code, advice=advice)


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call of a bucket may succeed when it is made again."""
    return bool(_PASSING.search(str(error)))


@contextmanager
def on_disk(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Translate the file system's exceptions in a `with` block into an error that names the file of this machine."""
    try:
        yield
    except OSError as error:
        raise failure(action, os.fspath(path), error, absent_is_missing=False) from error


def _explain(text: str) -> tuple[str, str]:
    for pattern, code, advice in _KNOWN:
        if re.search(pattern, text):
            return code, advice
    return "store", "Try again; if it stays so, check the store with its own tools."
