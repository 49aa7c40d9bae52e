"""Opening the object store behind a `Store`: a folder, or a bucket with its endpoint, credentials and patience.

How a bucket is reached is decided by `Access` alone; what is not given, obstore takes from the AWS_* variables.
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

from simyard.runner.errors import RequestError, StoreError, unknown
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
}
"""What `Store.open` takes in `options` for a bucket."""

DEFAULT_TIMEOUT_S = 60.0
"""Seconds until a dead server is an error: long enough for a load balancer to be replaced, short enough to notice."""


def open_backend(location: Location, options: Mapping[str, str], credentials: Credentials | None) -> Any:
    """Return the obstore store for a location.

    Raises:
        RequestError: An option is unknown or malformed.
        StoreError: The folder cannot be made.
    """
    allowed = {} if location.folder else OPTIONS
    for name in options:
        if name not in allowed:
            raise unknown("store option", name, allowed, code="bad_store_option")
    if location.folder:
        return _open_folder(location.folder)
    return _open_bucket(location, Access.decide(options, credentials))


def _open_folder(folder: Path) -> Any:
    try:
        return LocalStore(folder, mkdir=True, automatic_cleanup=True)
    except (BaseError, OSError) as error:
        raise StoreError(
            f"Cannot open the folder {str(folder)!r} as a store: {str(error).splitlines()[0]}",
            advice="Give the path of a folder you may write in.",
        ) from error


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a bucket is reached: decided once, whatever the library that reaches it."""

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

    @classmethod
    def decide(cls, options: Mapping[str, str], credentials: Credentials | None) -> Access:
        """Take what is given, then what the environment says.

        Raises:
            RequestError: An option is malformed.
        """
        regions = (options.get("region"), os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION"))
        return cls(
            endpoint=_endpoint(options),
            region=next(filter(None, regions), "us-east-1"),
            ca_bundle=options.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE"),
            patience_s=_timeout_s(options),
            credentials=credentials or _given_keys(options),
        )

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
    def pauses_s(self) -> tuple[float, float]:
        """The first and the longest pause between two tries."""
        return self.patience_s / 300, self.patience_s / 12


def _open_bucket(location: Location, access: Access) -> Any:
    config = {"aws_endpoint_url_s3": access.endpoint, "region": access.region}
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
