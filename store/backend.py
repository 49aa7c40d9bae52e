"""The object store behind a `Store`: its address, how a bucket is reached, and failures in words a user can act on.

    file:///data/simyard      a folder of this machine
    /data/simyard, demo       the same, as a path; a relative one counts from the working folder
    s3://bucket/prefix        a bucket, or a part of one

Access to a bucket is decided by `Access` alone; options that are not given come from the AWS_* variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from simyard.core.errors import DISK_FULL, NO_ROOM, ROOM_ADVICE, RequestError, StoreError, unknown
from simyard.store.keys import UNSAFE, problem_of

Credentials = Callable[[], Mapping[str, Any]]
"""Returns `access_key_id`, `secret_access_key`, `token` (or None) and `expires_at` (a UTC datetime, or None).

The store calls it again shortly before `expires_at`, from any thread.
"""

OPTIONS = {
    "endpoint_url": "the server, such as 'http://127.0.0.1:9000'; for AWS, leave it out",
    "region": "the bucket's region, such as 'eu-central-1'",
    "access_key_id": "together with secret_access_key",
    "secret_access_key": "together with access_key_id",
    "session_token": "for temporary credentials",
    "ca_bundle": "path of a PEM file with further certificate authorities",
    "timeout_s": "seconds after which a dead server is given up",
    "addressing_style": "'path' or 'virtual': whether the bucket's name is in the path or in the host's name",
    "checksum": "'sha256' or 'none': whether a checksum is sent, and kept by the server, with each object",
    "sse": "how the server encrypts objects: 'AES256', 'aws:kms' or 'aws:kms:dsse'",
    "sse_kms_key_id": "the KMS key, for the two that have one",
    "sse_bucket_key": "'true' or 'false', for 'aws:kms'",
}
"""Options of `Store.open` for a bucket, each with its meaning."""

ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
"""Server-side encryptions on offer. A customer's own key (SSE-C) is not among them: every reader needs it too."""

DEFAULT_TIMEOUT_S = 60.0
"""Seconds until a dead server is an error: long enough for a load balancer to be replaced, short enough to notice."""

_ALLOWED_URLS = "Allowed: 's3://BUCKET/PREFIX', 'file:///FOLDER', or the path of a folder."
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")

CAUGHT = (BaseError, OSError)
"""Exceptions of obstore and the file system."""

_S3_ANSWER = re.compile(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", re.DOTALL)

# Looked for in order in the whole text of an error; codes and advice.
_KNOWN = (
    (NO_ROOM, DISK_FULL, ROOM_ADVICE),
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


# --- address ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Location:
    """Location of a store: a folder, or a bucket and a prefix."""

    url: str
    """The full address, without a slash at its end."""
    folder: Path | None = None
    """The folder of a `file://` store."""
    bucket: str = ""
    """The bucket of an `s3://` store."""
    prefix: str = ""
    """Everything of an `s3://` store lies below this."""

    def join(self, key: str) -> str:
        """Return the address of an object, or of the store when the key is empty."""
        if not key:
            return self.url
        return (self.folder / key).as_uri() if self.folder else f"{self.url}/{key}"


def parse_url(url: str) -> Location:
    """Read a store's address; nothing is opened.

    Args:
        url: `s3://BUCKET/PREFIX` (taken literally, as the AWS tools do), `file:///FOLDER` (percent-encoded), or the
            path of a folder, where a leading `~/` is the home folder.

    Raises:
        RequestError: The address is malformed, of another scheme, or carries credentials, a query or `..`.
    """
    if not isinstance(url, str) or not url.strip():
        raise _refused(url, "it is empty" if isinstance(url, str) else f"it is of type {type(url).__name__}")
    if url != url.strip() or UNSAFE.search(url):
        raise _refused(url, "it has a control character, or a space at one end")
    scheme = _SCHEME.match(url)
    if not scheme:
        return _folder(url, Path(url).expanduser() if url.startswith("~/") else Path(url))
    if not url.lower().startswith(("s3://", "file://")):
        raise _refused(url, f"{scheme[0]!r} is no kind of store", "Write './' before a path with a colon.")
    if "?" in url or "#" in url:
        raise _refused(url, "it has a query or a fragment")
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote a secret
        raise _refused(url, "it is not a URL") from None
    if "@" in parts.netloc or ":" in parts.netloc:
        raise _refused(url, "it has credentials or a port", "Credentials come from AWS_ACCESS_KEY_ID or a block.")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise _refused(url, f"{parts.netloc!r} is another machine", "Three slashes follow 'file:'.")
        try:
            return _folder(url, Path("/" + unquote(parts.path, errors="strict")))
        except UnicodeDecodeError:
            raise _refused(url, "its percent-encoding is not UTF-8") from None
    bucket, prefix = parts.netloc, parts.path.removeprefix("/").removesuffix("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise _refused(url, f"{bucket!r} is not a bucket's name", "It has 3 to 63 of a-z, 0-9, '.' and '-'.")
    if prefix and (problem := problem_of(prefix, of_folder=True)):
        raise _refused(url, f"its prefix {problem}")
    return Location(f"s3://{bucket}/{prefix}".removesuffix("/"), bucket=bucket, prefix=prefix)


def _folder(url: str, path: Path) -> Location:
    if ".." in path.parts:
        raise _refused(url, "it has a '..'", "Give the folder's full path.")
    if UNSAFE.search(str(path)):
        raise _refused(url, "it has a control character")
    folder = Path("/", *(Path.cwd() / path).parts[1:])  # '//a' is a name of its own on POSIX
    if folder == Path("/"):
        raise _refused(url, "it is the root of the file system", "Give a folder of its own.")
    return Location(folder.as_uri(), folder=folder)


def _refused(url: object, problem: str, advice: str = "") -> RequestError:
    return RequestError(
        f"{without_secrets(url)!r} is not the address of a store: {problem}.",
        code="bad_store_url",
        advice=f"{advice} {_ALLOWED_URLS}".lstrip(),
    )


def without_secrets(url: object) -> object:
    """Return a URL without the parts that may hold a secret, for an error message."""
    if not isinstance(url, str):
        return url
    # An AWS secret may contain a slash, so everything up to the last '@' goes; so does what follows a colon.
    return re.sub(r"//(.*@|[^/]*:.*)", "//***", re.split("[?#]", url, maxsplit=1)[0])


# --- access -----------------------------------------------------------------------------------------------------------


def open_backend(
    location: Location, options: Mapping[str, str], credentials: Credentials | None
) -> tuple[Any, Access | None]:
    """Return the obstore store for a location, and how its bucket is reached; None for a folder.

    Raises:
        RequestError: An option is unknown or malformed.
        StoreError: The folder cannot be made.
    """
    allowed = {} if location.folder else OPTIONS
    for name in options:
        if name not in allowed:
            raise unknown("store option", name, allowed, code="bad_store_option")
    if location.folder:
        try:
            return LocalStore(location.folder, mkdir=True, automatic_cleanup=True), None
        except (BaseError, OSError) as error:
            raise StoreError(
                f"Cannot open the folder {str(location.folder)!r} as a store: {str(error).splitlines()[0]}",
                advice="Give the path of a folder you may write in.",
            ) from error
    access = Access.decide(options, credentials)
    return _open_bucket(location, access), access


@dataclass(frozen=True, kw_only=True)
class Encryption:
    """Server-side encryption of every object written; the server's own default where nothing is set."""

    algorithm: str | None
    """One of `ENCRYPTIONS`."""
    kms_key_id: str | None
    """None for the account's own key."""
    bucket_key: str | None
    """`true` or `false`; None for the bucket's own setting."""

    @classmethod
    def decide(cls, options: Mapping[str, str]) -> Encryption:
        """Decide from the options, then the environment, field by field, as obstore does.

        Raises:
            RequestError: A value is not allowed, or two of them do not fit.
        """
        chosen = cls(
            algorithm=_setting(options, "sse", "AWS_SERVER_SIDE_ENCRYPTION", ENCRYPTIONS),
            kms_key_id=_setting(options, "sse_kms_key_id", "AWS_SSE_KMS_KEY_ID"),
            bucket_key=_setting(options, "sse_bucket_key", "AWS_SSE_BUCKET_KEY_ENABLED", ("true", "false")),
        )
        for what, value, fitting in (
            ("sse_kms_key_id (AWS_SSE_KMS_KEY_ID)", chosen.kms_key_id, ("aws:kms", "aws:kms:dsse")),
            ("sse_bucket_key (AWS_SSE_BUCKET_KEY_ENABLED)", chosen.bucket_key, ("aws:kms",)),
        ):
            if value and chosen.algorithm not in fitting:
                raise _bad_option(
                    f"{what} is {value!r}, and sse (AWS_SERVER_SIDE_ENCRYPTION) is {chosen.algorithm!r}.",
                    f"It belongs to sse {' or '.join(map(repr, fitting))}: set that, or leave it out.",
                )
        return chosen


@dataclass(frozen=True, kw_only=True)
class Access:
    """Access to a bucket, decided once for both libraries that reach it."""

    endpoint: str | None
    """None for AWS."""
    region: str
    """The bucket's; where nothing says, what AWS takes then."""
    ca_bundle: str | None
    """A PEM file with further certificate authorities."""
    patience_s: float
    """Seconds after which a dead server is given up."""
    credentials: Credentials | None
    """None for those in the AWS_* variables, or of the machine's role."""
    virtual_hosted: bool
    """Whether the bucket's name is in the host's name; else it is in the path, which servers other than AWS expect."""
    checksum: bool
    """Whether the server gets a SHA-256 checksum to keep; that a body arrives as it was sent is checked anyway."""
    encryption: Encryption
    """Encryption of new objects."""

    @classmethod
    def decide(cls, options: Mapping[str, str], credentials: Credentials | None) -> Access:
        """Decide from the options, then the environment.

        Raises:
            RequestError: An option is malformed.
        """
        regions = (options.get("region"), os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION"))
        endpoint = _endpoint(options)
        given_s = options.get("timeout_s") or DEFAULT_TIMEOUT_S
        try:
            timeout_s = float(given_s)
        except ValueError:
            timeout_s = 0.0
        if not 0 < timeout_s <= 3600:
            raise _bad_option(
                f"The store option timeout_s is {given_s!r}.", "Give seconds, more than 0 and at most 3600."
            )
        style = _setting(options, "addressing_style", None, ("path", "virtual"))
        if not style:
            flag = _setting({}, "", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", ("true", "false"))
            style = "virtual" if flag == "true" or (flag is None and endpoint is None) else "path"
        checksum = _setting(options, "checksum", None, ("sha256", "none")) or ("none" if endpoint else "sha256")
        return cls(
            endpoint=endpoint,
            region=next(filter(None, regions), "us-east-1"),
            ca_bundle=options.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE"),
            patience_s=timeout_s,
            credentials=credentials or _given_keys(options),
            virtual_hosted=style == "virtual",
            checksum=checksum == "sha256",
            encryption=Encryption.decide(options),
        )

    def is_virtual(self, bucket: str) -> bool:
        """Tell whether this bucket's name is in the host's name: no certificate covers one with a dot."""
        return self.virtual_hosted and "." not in bucket

    @property
    def connect_s(self) -> float:
        """Seconds for a connection."""
        return min(5.0, self.patience_s / 4)

    @property
    def silence_s(self) -> float:
        """Seconds of silence after which a request is given up."""
        return self.patience_s / 2

    @property
    def retry_s(self) -> float:
        """Seconds in which a try may begin: a silent one takes `silence_s`, so two silent tries fill the time."""
        return self.patience_s * 0.7

    @property
    def repeat_s(self) -> float:
        """Seconds in which a call that failed is made again: fewer than a call takes that nobody answers."""
        return self.patience_s * 0.55

    @property
    def pauses_s(self) -> tuple[float, float]:
        """The first and the longest pause between two tries."""
        return self.patience_s / 300, self.patience_s / 12


def _open_bucket(location: Location, access: Access) -> Any:
    is_virtual, endpoint = access.is_virtual(location.bucket), access.endpoint
    if endpoint and is_virtual:
        endpoint = endpoint.replace("://", f"://{location.bucket}.", 1)
    config = {
        "aws_endpoint_url_s3": endpoint,
        "region": access.region,
        "virtual_hosted_style_request": str(is_virtual).lower(),
        "checksum_algorithm": "sha256" if access.checksum else None,
        "server_side_encryption": access.encryption.algorithm,
        "sse_kms_key_id": access.encryption.kms_key_id,
        "sse_bucket_key_enabled": access.encryption.bucket_key,
    }
    client = {
        "allow_http": bool(access.endpoint and access.endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=access.connect_s),
        # Silence ends a request, its length does not: obstore's own limit, 30 s in all, would cut a large download.
        "read_timeout": timedelta(seconds=access.silence_s),
        "timeout": timedelta(days=1),
    }
    if access.ca_bundle:
        try:
            client["root_certificate"] = Path(access.ca_bundle).read_bytes()
        except OSError as error:
            raise _bad_option(
                f"Cannot read the certificate authorities in {access.ca_bundle!r}: {error.strerror}.",
                "Give the path of a PEM file in AWS_CA_BUNDLE or the option ca_bundle.",
            ) from error
    first_pause_s, longest_pause_s = access.pauses_s
    try:
        return S3Store(
            location.bucket,
            prefix=location.prefix or None,
            config={name: value for name, value in config.items() if value},
            client_options=client,
            retry_config={
                "max_retries": 100,
                "retry_timeout": timedelta(seconds=access.retry_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=first_pause_s),
                    "max_backoff": timedelta(seconds=longest_pause_s),
                },
            },
            credential_provider=access.credentials,
        )
    except (BaseError, ValueError) as error:
        advice = "Check the AWS_* variables and the store's options."
        raise _bad_option(f"Cannot open {location.url!r}: {str(error).splitlines()[0]}", advice) from error


def _bad_option(message: str, advice: str) -> RequestError:
    return RequestError(message, code="bad_store_option", advice=advice)


def _setting(
    options: Mapping[str, str], option: str, variable: str | None, allowed: tuple[str, ...] = ()
) -> str | None:
    """Return an option, or the variable that stands for it.

    Raises:
        RequestError: It is none of those allowed.
    """
    given = options.get(option) or (variable and os.environ.get(variable))
    if not given:
        return None
    if allowed and given not in allowed:
        source = option if options.get(option) else variable
        raise unknown(f"value of {source}", given, allowed, code="bad_store_option")
    return given


def _endpoint(options: Mapping[str, str]) -> str | None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = options.get("endpoint_url") or next((os.environ[name] for name in names if os.environ.get(name)), None)
    if endpoint and not _is_endpoint(endpoint):
        raise _bad_option(
            f"{without_secrets(endpoint)!r} is not an S3 endpoint.",
            "Give 'https://HOST' or 'http://HOST:PORT', without credentials, a query or a path.",
        )
    return endpoint.rstrip("/") if endpoint else None


def _is_endpoint(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        _ = parts.port  # raises when it is not a number
    except ValueError:
        return False
    plain = "@" not in parts.netloc and not parts.query and not parts.fragment and endpoint.isprintable()
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and " " not in endpoint


@dataclass(frozen=True)
class _Keys:
    """Fixed credentials, kept out of every repr.

    As a provider they replace what the environment has altogether; as plain options they would be mixed with another
    account's AWS_SESSION_TOKEN.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)

    def __call__(self) -> Mapping[str, Any]:
        return {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "token": self.session_token,
            "expires_at": None,
        }


def _given_keys(options: Mapping[str, str]) -> _Keys | None:
    key, secret, token = (options.get(name) for name in ("access_key_id", "secret_access_key", "session_token"))
    if key and secret:
        return _Keys(key, secret, token)
    if key or secret or token:
        raise _bad_option(
            "Half of the store's credentials is missing.",
            "Give access_key_id and secret_access_key together, or neither to use the AWS_* variables.",
        )
    return None


# --- failures ---------------------------------------------------------------------------------------------------------


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
    whole = f"{type(error).__name__} {text} {inner}"
    unknown_cause = ("", "store", "Try again; if it stays so, check the store with its own tools.")
    _, code, advice = next((known for known in _KNOWN if re.search(known[0], whole)), unknown_cause)
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
