"""Names of stores and objects: both come from users, so both are checked.

file:///data/simyard      a folder of this machine
/data/simyard, demo       the same, as a path; a relative one counts from the working folder
s3://bucket/prefix        a bucket, or a part of one
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from simyard.core.errors import RequestError

MAX_KEY_BYTES = 900
"""Longest key, in bytes of UTF-8. S3 allows 1024, and the store's own prefix counts."""
MAX_NAME_BYTES = 230
"""Longest name between two slashes. File systems allow 255, and names of files being written are longer."""

_ALLOWED_URLS = "Allowed: 's3://BUCKET/PREFIX', 'file:///FOLDER', or the path of a folder."
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# Control characters and lone surrogates; U+FFFE and U+FFFF cannot be written in XML, so S3 cannot list them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# What nearly every key looks like, seen at one glance: the checks one by one cost a tenth of a small read.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
# obstore calls the file it is writing NAME#1, NAME#2, … until it is whole, and a resumable upload NAME#00, NAME#01, …
_BEING_WRITTEN = re.compile(r"#[0-9]+$")


def is_being_written(key: str) -> bool:
    """Tell whether this is the name of a file that is not whole yet, or that a killed writer left."""
    return bool(_BEING_WRITTEN.search(key))


def check_key(key: str) -> str:
    """Return the key of one object, or raise `RequestError` when it is not a plain relative path.

    Args:
        key: Names joined with `/`, such as `jobs/job-01k…/job.json`.

    Raises:
        RequestError: The key is empty, absolute, too long, has an empty, `.` or `..` name, or a backslash or a
            control character, or ends in `#` and a number.
    """
    if isinstance(key, str) and len(key) <= MAX_NAME_BYTES and _PLAIN_KEY.fullmatch(key):
        return key
    problem = _problem(key)
    if problem:
        raise RequestError(
            f"{key!r} is not a key: it {problem}.",
            code="bad_key",
            advice="A key is a relative path with '/' between its names, such as 'jobs/run-1/model.pt'.",
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return a folder's key without its last slash; the empty one stands for the whole store.

    Raises:
        RequestError: As for `check_key`, but a folder's name may end in `#` and a number.
    """
    if prefix == "":
        return prefix
    folder = prefix[:-1] if isinstance(prefix, str) and prefix.endswith("/") else prefix
    problem = _problem(folder, of_folder=True)
    if problem:
        raise RequestError(
            f"{prefix!r} is not a folder's key: it {problem}.",
            code="bad_key",
            advice="Give a relative path with '/' between its names, such as 'jobs/run-1'.",
        )
    return folder


def _problem(key: str, *, of_folder: bool = False) -> str:
    """Return the fault of a key as the end of a sentence; empty for a good one."""
    if not isinstance(key, str):
        return f"is of type {type(key).__name__}"
    names = key.split("/")
    checks = {
        "is empty": not key,
        "is absolute": key.startswith("/"),
        "has an empty name": "" in names,
        "has a name that is '.' or '..'": "." in names or ".." in names,
        "has a backslash": "\\" in key,
        "has a control character": bool(_UNSAFE.search(key)),
        "ends in '#' and a number, as files being written do": not of_folder and is_being_written(key),
    }
    for problem, found in checks.items():
        if found:
            return problem
    if any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        return f"has a name longer than {MAX_NAME_BYTES} bytes"
    return f"is longer than {MAX_KEY_BYTES} bytes" if len(key.encode()) > MAX_KEY_BYTES else ""


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
    if url != url.strip() or _UNSAFE.search(url):
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
    return (_file_url if parts.scheme == "file" else _s3_url)(url, parts.netloc, parts.path)


def _file_url(url: str, host: str, path: str) -> Location:
    if host not in ("", "localhost"):
        raise _refused(url, f"{host!r} is another machine", "Three slashes follow 'file:'.")
    try:
        return _folder(url, Path("/" + unquote(path, errors="strict")))
    except UnicodeDecodeError:
        raise _refused(url, "its percent-encoding is not UTF-8") from None


def _folder(url: str, path: Path) -> Location:
    if ".." in path.parts:
        raise _refused(url, "it has a '..'", "Give the folder's full path.")
    if _UNSAFE.search(str(path)):
        raise _refused(url, "it has a control character")
    folder = Path("/", *(Path.cwd() / path).parts[1:])  # '//a' is a name of its own on POSIX
    if folder == Path("/"):
        raise _refused(url, "it is the root of the file system", "Give a folder of its own.")
    return Location(folder.as_uri(), folder=folder)


def _s3_url(url: str, bucket: str, path: str) -> Location:
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise _refused(url, f"{bucket!r} is not a bucket's name", "It has 3 to 63 of a-z, 0-9, '.' and '-'.")
    prefix = path.removeprefix("/").removesuffix("/")
    problem = _problem(prefix, of_folder=True) if prefix else ""
    if problem:
        raise _refused(url, f"its prefix {problem}")
    return Location(f"s3://{bucket}/{prefix}".removesuffix("/"), bucket=bucket, prefix=prefix)


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
