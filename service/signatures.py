"""Signatures: of URLs that are good for one thing, and of webhooks both ways, as standardwebhooks.com and GitHub do.

Whoever has a signed URL needs no key, until it expires.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from itsdangerous import BadData, URLSafeSerializer
from standardwebhooks import Webhook, WebhookVerificationError

from simyard.core.errors import RequestError

Purpose = Literal["download", "upload", "page"]

ID = "webhook-id"
"""An id of its own for each delivery, the same when it is repeated."""
TIMESTAMP = "webhook-timestamp"
"""The moment of sending, in whole seconds since 1970."""
SIGNATURE = "webhook-signature"
"""`v1,` and the HMAC-SHA256, in base64, of `ID.TIMESTAMP.BODY`; several stand with spaces between them."""
WINDOW_S = 300
"""Seconds that the sender's clock may be off, either way."""
GITHUB_SIGNATURE = "X-Hub-Signature-256"
"""Of GitHub's webhooks: `sha256=` and the digest of the body alone."""
GITHUB_ID = "X-GitHub-Delivery"
"""Their id, the same when one is delivered again."""
SECRET_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)
_ID = re.compile(r"[ -~]{1,200}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


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


def is_secret(text: str) -> bool:
    """Return whether a text is a secret of the standard: `whsec_` and the base64 of 24 to 64 bytes."""
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(SECRET_PREFIX) and len(key) in _SECRET_BYTES


def signed(secret: str, delivery: str, body: str) -> dict[str, str]:
    """Return the headers of a webhook that is sent now.

    Args:
        secret: The secret that sender and receiver share.
        delivery: Its id.
        body: The body, which is sent as UTF-8.
    """
    now = datetime.now(UTC)
    signature = Webhook(secret).sign(delivery, now, body)
    return {ID: delivery, TIMESTAMP: str(int(now.timestamp())), SIGNATURE: signature}


def announced(headers: Mapping[str, str]) -> str:
    """Refuse a webhook that is not signed, or that was not signed just now; return its id. Its body is not needed.

    Raises:
        RequestError: It is refused.
    """
    timestamp, signature = headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, "")
    if not signature or not _TIMESTAMP.fullmatch(timestamp):
        raise RequestError(
            "The webhook is not signed.",
            code="bad_signature",
            advice=f"Send {ID}, {TIMESTAMP} and {SIGNATURE}; docs/webhooks.md says how they are made.",
        )
    delivery = _id(headers, ID)
    age_s = time.time() - int(timestamp)
    if abs(age_s) > WINDOW_S:
        raise RequestError(
            f"The webhook was signed {abs(age_s):.0f} s {'ago' if age_s > 0 else 'ahead'}; allowed are {WINDOW_S}.",
            code="stale_signature",
            advice="Sign it anew; check the clock.",
        )
    return delivery


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    """Refuse a webhook that was announced and that nobody with the secret sent.

    Raises:
        RequestError: It is refused.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"The payload is not UTF-8: {error}.", code="bad_config", advice="Send JSON.") from None
    given = {name: headers[name] for name in (ID, TIMESTAMP, SIGNATURE)}
    try:
        Webhook(secret).verify(text, given, json_parse=False)
    except (WebhookVerificationError, ValueError):  # of a signature that is no base64
        raise _wrong() from None


def announced_by_github(headers: Mapping[str, str]) -> str:
    """Refuse a webhook of GitHub that is not signed; return its id. Its body is not needed.

    Raises:
        RequestError: It is refused.
    """
    if not headers.get(GITHUB_SIGNATURE):
        raise RequestError(
            "The webhook is not signed.",
            code="bad_signature",
            advice=f"Set a secret in the repository's webhook, so that GitHub sends {GITHUB_SIGNATURE}.",
        )
    return _id(headers, GITHUB_ID)


def verify_github(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    """Refuse a webhook that was announced and that GitHub did not sign with this secret, at whatever time.

    Raises:
        RequestError: It is refused.
    """
    right = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    if not hmac.compare_digest(right.encode(), headers[GITHUB_SIGNATURE].encode()):
        raise _wrong()


def _id(headers: Mapping[str, str], name: str) -> str:
    delivery = headers.get(name, "")
    if not _ID.fullmatch(delivery):
        raise RequestError(
            f"{name} is {delivery[:250]!r}.",
            code="bad_delivery_id",
            advice="Send an id of 1 to 200 printable characters, the same when you repeat the delivery.",
        )
    return delivery


def _wrong() -> RequestError:
    return RequestError(
        "The webhook's signature is wrong.", code="bad_signature", advice="Check the secret, and sign the raw body."
    )
