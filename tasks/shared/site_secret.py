"""The secret of a site: what its service signs URLs and outgoing webhooks with."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from simyard.core.errors import RequestError

_GIVEN = re.compile(r"[!-~]{32,512}")


def site_secret(home: Path) -> bytes:
    """Return `SIMYARD_SECRET`, else what the file `secret` in the home has, which is made when it is not there.

    Raises:
        RequestError: The variable is too short, or no printable text.
    """
    if given := os.environ.get("SIMYARD_SECRET"):
        if not _GIVEN.fullmatch(given):
            raise RequestError(
                f"SIMYARD_SECRET has {len(given)} characters, or some that are not printable.",
                code="bad_setting",
                advice="Give 32 to 512 printable ASCII characters: openssl rand -hex 32.",
            )
        return given.encode()
    file = home / "secret"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        beside = home / f".secret.{secrets.token_hex(4)}"
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(beside, file)  # of several copies that start at once, one decides
        beside.unlink()
    return file.read_bytes()


def webhook_secret(secret: bytes, key_id: str) -> str:
    """Return the secret that webhooks about the jobs of an API key are signed with."""
    return f"whsec_{hmac.new(secret, b'simyard-webhook' + key_id.encode(), hashlib.sha256).hexdigest()}"
