"""Signed webhooks, both ways: HMAC-SHA256 over the time and the body, so that neither can be changed or sent again."""

from __future__ import annotations

import hashlib
import hmac
import re
import time

from simyard.core.errors import RequestError

SIGNATURE = "X-Simyard-Signature"
"""`sha256=` and the digest, in hexadecimal digits, of `TIMESTAMP.BODY`."""
TIMESTAMP = "X-Simyard-Timestamp"
"""When it was sent, in whole seconds since 1970."""
DELIVERY = "X-Simyard-Delivery"
"""An id of its own for each delivery, the same when it is repeated."""
WINDOW_S = 300
"""How far the sender's clock may be off, either way."""
GITHUB_SIGNATURE = "X-Hub-Signature-256"
"""Of GitHub's webhooks: `sha256=` and the digest of the body alone."""
GITHUB_DELIVERY = "X-GitHub-Delivery"
"""Their id, the same when one is delivered again."""
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a body that is sent at this time."""
    return _sign(secret, timestamp.encode() + b"." + body)


def _sign(secret: str, data: bytes) -> str:
    return f"sha256={hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()}"


def verify(secret: str, timestamp: str | None, signature: str | None, body: bytes) -> None:
    """Refuse a body that nobody with the secret sent just now.

    Raises:
        RequestError: It is refused.
    """
    if not timestamp or not signature or not _TIMESTAMP.fullmatch(timestamp):
        raise RequestError(
            "The webhook is not signed.",
            code="bad_signature",
            advice=f"Send {TIMESTAMP} and {SIGNATURE}; docs/webhooks.md says how they are made.",
        )
    _compare(sign(secret, timestamp, body), signature)
    age_s = time.time() - int(timestamp)
    if abs(age_s) > WINDOW_S:
        raise RequestError(
            f"The webhook was signed {abs(age_s):.0f} s {'ago' if age_s > 0 else 'ahead'}; allowed are {WINDOW_S}.",
            code="stale_signature",
            advice="Sign it anew; check the clock.",
        )


def verify_github(secret: str, signature: str | None, body: bytes) -> None:
    """Refuse a body that GitHub did not sign with this secret; it may have done so at any time.

    Raises:
        RequestError: It is refused.
    """
    if not signature:
        raise RequestError(
            "The webhook is not signed.",
            code="bad_signature",
            advice=f"Set a secret in the repository's webhook, so that GitHub sends {GITHUB_SIGNATURE}.",
        )
    _compare(_sign(secret, body), signature)


def _compare(right: str, given: str) -> None:
    if not hmac.compare_digest(right.encode(), given.encode()):
        raise RequestError(
            "The webhook's signature is wrong.", code="bad_signature", advice="Check the secret, and sign the raw body."
        )
