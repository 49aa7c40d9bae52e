"""Opening the object store behind a `Store`: a folder, or a bucket with its endpoint, credentials and patience.

How a bucket is reached is decided by `Access` alone; what is not given comes from the AWS_* variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from simyard.core.errors import RequestError, StoreError, unknown
from simyard.store.names import Location, without_secrets

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
        return _open_folder(location.folder), None
    access = Access.decide(options, credentials)
    return _open_bucket(location, access), access


def _open_folder(folder: Path) -> Any:
    try:
        return LocalStore(folder, mkdir=True, automatic_cleanup=True)
    except (BaseError, OSError) as error:
        raise StoreError(
            f"Cannot open the folder {str(folder)!r} as a store: {str(error).splitlines()[0]}",
            advice="Give the path of a folder you may write in.",
        ) from error


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
        kms = ENCRYPTIONS[1:]
        if chosen.kms_key_id and chosen.algorithm not in kms:
            raise _misfit("sse_kms_key_id (AWS_SSE_KMS_KEY_ID)", chosen.kms_key_id, chosen.algorithm, kms)
        if chosen.bucket_key and chosen.algorithm != "aws:kms":
            raise _misfit("sse_bucket_key (AWS_SSE_BUCKET_KEY_ENABLED)", chosen.bucket_key, chosen.algorithm, kms[:1])
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
        return cls(
            endpoint=endpoint,
            region=next(filter(None, regions), "us-east-1"),
            ca_bundle=options.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE"),
            patience_s=_timeout_s(options),
            credentials=credentials or _given_keys(options),
            virtual_hosted=_is_virtual_hosted(options, endpoint),
            checksum=_setting(options, "checksum", None, ("sha256", "none"), "none" if endpoint else "sha256")
            == "sha256",
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
    is_virtual = access.is_virtual(location.bucket)
    config = {
        "aws_endpoint_url_s3": _host_of_bucket(access.endpoint, location.bucket) if is_virtual else access.endpoint,
        "region": access.region,
        "virtual_hosted_style_request": str(is_virtual).lower(),
        "checksum_algorithm": "sha256" if access.checksum else None,
        "server_side_encryption": access.encryption.algorithm,
        "sse_kms_key_id": access.encryption.kms_key_id,
        "sse_bucket_key_enabled": access.encryption.bucket_key,
    }
    client: dict[str, Any] = {
        "allow_http": bool(access.endpoint and access.endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=access.connect_s),
        # Silence ends a request, its length does not: obstore's own limit, 30 s in all, would cut a large download.
        "read_timeout": timedelta(seconds=access.silence_s),
        "timeout": timedelta(days=1),
    }
    if access.ca_bundle:
        client["root_certificate"] = _read_ca_bundle(access.ca_bundle)
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
        raise RequestError(
            f"Cannot open {location.url!r}: {str(error).splitlines()[0]}",
            code="bad_store_option",
            advice="Check the AWS_* variables and the store's options.",
        ) from error


def _host_of_bucket(endpoint: str | None, bucket: str) -> str | None:
    return endpoint and endpoint.replace("://", f"://{bucket}.", 1)


def _setting(
    options: Mapping[str, str],
    option: str,
    variable: str | None,
    allowed: tuple[str, ...] = (),
    default: str | None = None,
) -> str | None:
    """Return an option, or the variable that stands for it.

    Raises:
        RequestError: It is none of those allowed.
    """
    given = options.get(option) or (variable and os.environ.get(variable))
    if not given:
        return default
    if allowed and given not in allowed:
        source = option if options.get(option) else variable
        raise unknown(f"value of {source}", given, allowed, code="bad_store_option")
    return given


def _misfit(what: str, value: str, algorithm: str | None, fitting: tuple[str, ...]) -> RequestError:
    return RequestError(
        f"{what} is {value!r}, and sse (AWS_SERVER_SIDE_ENCRYPTION) is {algorithm!r}.",
        code="bad_store_option",
        advice=f"It belongs to sse {' or '.join(map(repr, fitting))}: set that, or leave it out.",
    )


def _is_virtual_hosted(options: Mapping[str, str], endpoint: str | None) -> bool:
    style = _setting(options, "addressing_style", None, ("path", "virtual"))
    if style:
        return style == "virtual"
    flag = _setting({}, "", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", ("true", "false"))
    return flag == "true" if flag else endpoint is None


def _endpoint(options: Mapping[str, str]) -> str | None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = options.get("endpoint_url") or next((os.environ[name] for name in names if os.environ.get(name)), None)
    if endpoint and not _is_endpoint(endpoint):
        raise RequestError(
            f"{without_secrets(endpoint)!r} is not an S3 endpoint.",
            code="bad_store_option",
            advice="Give 'https://HOST' or 'http://HOST:PORT', without credentials, a query or a path.",
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


def _timeout_s(options: Mapping[str, str]) -> float:
    given = options.get("timeout_s") or DEFAULT_TIMEOUT_S
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise RequestError(
            f"The store option timeout_s is {given!r}.",
            code="bad_store_option",
            advice="Give seconds, more than 0 and at most 3600.",
        )
    return seconds


def _read_ca_bundle(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(
            f"Cannot read the certificate authorities in {path!r}: {error.strerror}.",
            code="bad_store_option",
            advice="Give the path of a PEM file in AWS_CA_BUNDLE or the option ca_bundle.",
        ) from error


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
        raise RequestError(
            "Half of the store's credentials is missing.",
            code="bad_store_option",
            advice="Give access_key_id and secret_access_key together, or neither to use the AWS_* variables.",
        )
    return None
