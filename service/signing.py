"""URLs that are good for one thing, until they expire: whoever has one needs no key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any, Literal

from simyard.core.errors import RequestError

Purpose = Literal["download", "upload", "page"]
_DIGEST_BYTES = 32


def seal(secret: bytes, purpose: Purpose, seconds: float, **about: Any) -> str:
    """Return a token for a URL.

    Args:
        secret: What it is signed with.
        purpose: The one thing that it is good for.
        seconds: How long.
        about: What it is about, as JSON types; whoever has the token can read it.
    """
    body = json.dumps({"for": purpose, "until": int(time.time() + seconds), **about}, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(secret, body) + body).decode().rstrip("=")


def unseal(secret: bytes, purpose: Purpose, token: str) -> dict[str, Any]:
    """Return what a token is about.

    Raises:
        RequestError: It is none of ours, for something else, or expired.
    """
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if not body or not hmac.compare_digest(digest, _digest(secret, body)):
        raise _refused("is none of this service's")
    about: dict[str, Any] = json.loads(body)
    if about.pop("for") != purpose:
        raise _refused("is for something else")
    if about.pop("until") < time.time():
        raise RequestError("This URL has expired.", code="url_expired", advice="Ask the API for another.")
    return about


def _digest(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, b"simyard-url\0" + body, hashlib.sha256).digest()


def _refused(problem: str) -> RequestError:
    return RequestError(f"This URL {problem}.", code="bad_url", advice="Ask the API for another.")
