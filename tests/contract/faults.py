"""A bad network in front of a real S3 server: a proxy that does to a request what a plan says, and remembers it.

It is a seam of the wire: real sockets, whole HTTP messages, and nothing of the client is replaced. It also checks the
digests of bodies as S3 does, where it is told to; the server behind it takes any.
"""

import base64
import hashlib
import http.client
import random
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    kind: str
    """S3's name of the operation."""
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Refuse:
    """Answer with an error; the server behind does not hear of the request."""

    status: int
    code: str


SLOW_DOWN = Refuse(503, "SlowDown")
INTERNAL_ERROR = Refuse(500, "InternalError")
ERROR_IN_200 = Refuse(200, "InternalError")
"""What S3 answers where it has begun to answer before it fails: to CompleteMultipartUpload and CopyObject."""


@dataclass(frozen=True)
class CutRequest:
    """Take half of the body, then reset the connection; the server behind does not hear of the request."""


@dataclass(frozen=True)
class CutAnswer:
    """Have the request carried out, and reset the connection in the middle of the answer, or before its first byte."""

    share: float = 0.5


@dataclass(frozen=True)
class LateRefusal:
    """Have the request carried out, and answer 500 all the same."""


@dataclass(frozen=True)
class Trickle:
    """Send the answer in small pieces with a pause after each; one that breaks off lacks the last."""

    pieces: int
    pause_s: float
    breaks_off: bool = False


@dataclass(frozen=True)
class Flip:
    """Change one byte of the request's body, or of the answer's."""

    of_answer: bool = False


Fault = Refuse | CutRequest | CutAnswer | LateRefusal | Trickle | Flip
Plan = Callable[[Request], Fault | None]
"""Says what is done to a request; asked for one at a time."""


def first(number: int, kinds: str | Sequence[str], fault: Fault) -> Plan:
    """Do it to the first so many requests of each of these kinds, or of all requests where the kind is `*`."""
    seen: Counter[str] = Counter()

    def plan(request: Request) -> Fault | None:
        kind = "*" if kinds == "*" else request.kind
        if kind not in kinds:
            return None
        seen[kind] += 1
        return fault if seen[kind] <= number else None

    return plan


def at_random(seed: int, *shares: tuple[float, Fault]) -> Plan:
    """Do each to its share of all requests."""
    dice = random.Random(seed)
    return lambda _request: dice.choices([fault for _, fault in shares] + [None], _weights(shares))[0]


def _weights(shares: tuple[tuple[float, Fault], ...]) -> list[float]:
    weights = [share for share, _ in shares]
    return [*weights, 1 - sum(weights)]


class Proxy:
    """Stands between a client and an S3 server while its `with` block runs."""

    def __init__(self, server: str, plan: Plan = lambda _request: None, *, checks_digests: bool = False) -> None:
        self.plan = plan
        self.requests: list[Request] = []
        self.faults: list[tuple[str, Fault]] = []
        """What was done, and to what kind of request."""
        self._server = urllib.parse.urlsplit(server).netloc
        self._checks_digests = checks_digests
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # `accept` returns
        self._listener.close()

    @property
    def asked(self) -> list[Request]:
        """The requests that were more than a look whether an object is there."""
        return [request for request in self.requests if request.kind != "HeadObject"]

    def kinds(self, kind: str) -> list[Request]:
        """Return the requests of a kind that came."""
        return [request for request in self.requests if request.kind == kind]

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, client.makefile("rb") as reader, suppress(OSError):
            while line := reader.readline():
                self._one(client, reader, line)

    def _one(self, client: socket.socket, reader, line: bytes) -> None:  # type: ignore[no-untyped-def]
        method, target, _ = line.decode("latin-1").split()
        message = http.client.parse_headers(reader)
        headers = {name.lower(): value for name, value in message.items()}
        request = Request(_kind(method, target, headers), target, headers, b"")
        with self._lock:
            fault = self.plan(request)
            if fault:
                self.faults.append((request.kind, fault))
        if headers.get("expect") == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(headers.get("content-length", 0))
        if isinstance(fault, CutRequest):
            reader.read(length // 2)
            _reset(client)
        body = reader.read(length)
        with self._lock:
            self.requests.append(Request(request.kind, target, headers, body))
        if isinstance(fault, Flip) and not fault.of_answer:
            body = _flipped(body)
        refusal = fault if isinstance(fault, Refuse) else None
        if self._checks_digests and not refusal:
            refusal = _wrong_digest(headers, body)
        if refusal:
            head, content = _refusal(refusal)
            answer = head, b"" if method == "HEAD" else content
        else:
            answer = self._forward(method, target, message, body)
            if isinstance(fault, LateRefusal):
                answer = _refusal(INTERNAL_ERROR)
        self._answer(client, fault, *answer)

    def _forward(self, method: str, target: str, message: http.client.HTTPMessage, body: bytes) -> tuple[bytes, bytes]:
        server = http.client.HTTPConnection(self._server, timeout=60)
        try:
            server.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in message.items():
                if name.lower() not in ("expect", "connection"):
                    server.putheader(name, value)
            server.endheaders(body or None)
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        kept = [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in _OF_THE_HOP]
        length = answer.getheader("content-length", "0") if method == "HEAD" else str(len(content))
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *kept, f"Content-Length: {length}", "", ""]
        return "\r\n".join(lines).encode("latin-1"), content

    @staticmethod
    def _answer(client: socket.socket, fault: Fault | None, head: bytes, content: bytes) -> None:
        match fault:
            case CutAnswer(share):
                whole = head + content
                # Where there is a body it is cut there, and the head arrives.
                client.sendall(whole[: int(share * len(whole)) if not content or not share else len(head)])
                if content and share:
                    client.sendall(content[: int(share * len(content))])
                _reset(client)
            case Trickle(pieces, pause_s, breaks_off):
                client.sendall(head)
                step = -(-len(content) // pieces) or 1
                for start in range(0, len(content), step):
                    if breaks_off and start + step >= len(content):
                        _reset(client)
                    client.sendall(content[start : start + step])
                    time.sleep(pause_s)
            case Flip(of_answer=True):
                client.sendall(head + _flipped(content))
            case _:
                client.sendall(head + content)


def refusing(status: int | Callable[[int], int], code: str) -> Proxy:
    """Return an S3 server that has nothing, and refuses every other request the same way, or by its number."""
    numbers = count(1)

    def plan(request: Request) -> Fault:
        if request.kind == "HeadObject":
            return Refuse(404, "NoSuchKey")
        return Refuse(status(next(numbers)) if callable(status) else status, code)

    return Proxy("http://127.0.0.1:9", plan)


_OF_THE_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")
_BY_QUERY = {
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("POST", "delete"): "DeleteObjects",
    ("PUT", "partNumber"): "UploadPart",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "uploadId"): "ListParts",
    ("GET", "list-type"): "ListObjects",
}


def _kind(method: str, target: str, headers: dict[str, str]) -> str:
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(target).query, keep_blank_values=True)
    for (its_method, name), kind in _BY_QUERY.items():
        if method == its_method and name in query:
            return kind
    if "x-amz-copy-source" in headers:
        return "CopyObject"
    return f"{method.capitalize()}Object"


def _refusal(refusal: Refuse) -> tuple[bytes, bytes]:
    content = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{refusal.code}</Code><Message>as the test says</Message><RequestId>1</RequestId></Error>"
    ).encode()
    head = f"HTTP/1.1 {refusal.status} -\r\nContent-Type: application/xml\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode(), content


def _wrong_digest(headers: dict[str, str], body: bytes) -> Refuse | None:
    """Return what S3 answers to a body that is not what its headers say."""
    signed = headers.get("x-amz-content-sha256", "")
    if re.fullmatch("[0-9a-f]{64}", signed) and signed != hashlib.sha256(body).hexdigest():
        return Refuse(400, "XAmzContentSHA256Mismatch")
    for name, digest in (("x-amz-checksum-sha256", hashlib.sha256), ("content-md5", hashlib.md5)):
        if name in headers and base64.b64decode(headers[name]) != digest(body).digest():
            return Refuse(400, "BadDigest")
    return None


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def _reset(client: socket.socket) -> None:
    """End a connection at once; what was sent is sent."""
    time.sleep(0.02)  # the other end reads what it got before it hears of the reset
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    raise ConnectionResetError
