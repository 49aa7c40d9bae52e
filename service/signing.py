"""URLs that are good for one thing, until they expire: whoever has one needs no key."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Literal

from itsdangerous import BadData, URLSafeSerializer

from simyard.core.errors import RequestError

Purpose = Literal["download", "upload", "page"]


def seal(secret: bytes, purpose: Purpose, seconds: float, **about: Any) -> str:
    """Return a token for a URL.

    Args:
        secret: The key it is signed with.
        purpose: The one thing that it is good for.
        seconds: How long.
        about: The content as JSON types; whoever has the token can read it.
    """
    return str(_serializer(secret, purpose).dumps({"until": int(time.time() + seconds), **about}))


def unseal(secret: bytes, purpose: Purpose, token: str) -> dict[str, Any]:
    """Return the content of a token.

    Raises:
        RequestError: It is none of ours, for something else, or expired.
    """
    try:
        about: dict[str, Any] = _serializer(secret, purpose).loads(token)
    except BadData:
        raise RequestError(
            "This URL is none of this service's, or is for something else.",
            code="bad_url",
            advice="Ask the API for another.",
        ) from None
    if about.pop("until") < time.time():
        raise RequestError("This URL has expired.", code="url_expired", advice="Ask the API for another.")
    return about


def _serializer(secret: bytes, purpose: Purpose) -> URLSafeSerializer:
    # The token carries its own end, as each use has a length of its own; itsdangerous would sign the time of making.
    return URLSafeSerializer(
        secret,
        salt=f"simyard-{purpose}",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
