"""A small HTTP server that plays the service's contract for the client's tests.

It stands at a seam that simyard owns, the wire. The real service cannot be made to answer 503 twice, to cut a download
in the middle, to name a wrong digest or a hostile artifact, or to be away for a moment, and the client must bear all of
that. A whole session of the client with the real service is tested elsewhere. The connections are real ones.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

KEY = "sy_live_abc-123_SECRET"
both = pytest.mark.parametrize("connect", ["sync", "async"], indirect=True)
"""Marks a test that plays the asynchronous client too."""


@dataclass
class Request:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    """JSON; of an upload its length and SHA-256."""


@dataclass
class Trouble:
    """What happens to a request instead of its answer."""

    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"detail": "Not now.", "code": "busy"}'
    hang_up: bool = False
    """Close the connection without an answer."""
    cut_at: int | None = None
    """Send so many bytes of the real answer, then close."""
    delay_s: float | None = None
    """Give the real answer late."""


@dataclass
class Played:
    """The service's state; tests set it."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    troubles: list[tuple[str, Trouble]] = field(default_factory=list)
    """`METHOD path-pattern` and what happens; each happens once, in order."""
    jobs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What each look at a job shows; the last stays."""
    largest_page: int = 1000
    """Of the list of jobs."""
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sweeps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Where the service names another digest than the file has."""
    logs: list[str] = field(default_factory=list)
    by_key: dict[str, str] = field(default_factory=dict)
    knows_ranges: bool = True
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def trouble(self, where: str, times: int = 1, **what: Any) -> None:
        self.troubles += [(where, Trouble(**what))] * times

    def job(self, *states: dict[str, Any], job_id: str = "job-1") -> None:
        self.jobs[job_id] = [{"job_id": job_id, "status": "succeeded", "artifacts": [], **state} for state in states]

    def run(self, *states: dict[str, Any]) -> None:
        self.runs["run-1"] = [{"run_id": "run-1", "status": "succeeded", **state} for state in states]

    def sweep(self, *states: dict[str, Any]) -> None:
        self.sweeps["sweep-1"] = [{"sweep_id": "sweep-1", "status": "succeeded", **state} for state in states]

    def files(self, **contents: bytes) -> None:
        """Make a succeeded job with these artifacts."""
        self.artifacts = dict(contents)
        listed = [
            {"name": name, "kind": "file", "size_bytes": len(data), "sha256": self.digest(name)}
            for name, data in contents.items()
        ]
        self.job({"artifacts": listed})

    def digest(self, name: str) -> str:
        return self.digests.get(name) or hashlib.sha256(self.artifacts[name]).hexdigest()

    def sent(self, where: str) -> list[Request]:
        """The requests that match `METHOD path-pattern`."""
        return [request for request in self.requests if re.fullmatch(where, f"{request.method} {request.path}")]


def _now(states: list[dict[str, Any]]) -> dict[str, Any]:
    return states.pop(0) if len(states) > 1 else states[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    played: Played
    _cut_at: int | None = None

    def log_message(self, *arguments: Any) -> None:
        pass

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        body = self._body()
        request = Request(self.command, path, query, {k.lower(): v for k, v in self.headers.items()}, body)
        trouble, self._cut_at = None, None
        with self.played.lock:
            self.played.requests.append(request)
            self.played.in_flight += path.startswith("/files/")
            self.played.most_in_flight = max(self.played.most_in_flight, self.played.in_flight)
            for index, (where, what) in enumerate(self.played.troubles):
                if re.fullmatch(where, f"{self.command} {path}"):
                    trouble = what
                    del self.played.troubles[index]
                    break
        try:
            if trouble and trouble.hang_up:
                self.close_connection = True
            elif trouble and trouble.delay_s is not None:
                time.sleep(trouble.delay_s)
                self._play(request)
            elif trouble and trouble.cut_at is None:
                self._answer(trouble.status, trouble.body, trouble.headers)
            else:
                self._cut_at = trouble.cut_at if trouble else None
                self._play(request)
        finally:
            with self.played.lock:
                self.played.in_flight -= path.startswith("/files/")

    do_GET = do_POST = do_PUT = _handle  # noqa: N815

    def _body(self) -> Any:
        length = self.headers.get("content-length")
        if length is None:
            return None
        if self.command == "PUT":
            digest, left = hashlib.sha256(), int(length)
            while left and (chunk := self.rfile.read(min(left, 1 << 20))):
                digest.update(chunk)
                left -= len(chunk)
            return {"size": int(length) - left, "sha256": digest.hexdigest()}
        data = self.rfile.read(int(length))
        return json.loads(data) if data else None

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self._cut_at])
        if self._cut_at is not None:
            self.close_connection = True

    def _json(self, data: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(data).encode())

    def _play(self, request: Request) -> None:
        played, path, body = self.played, request.path, request.body
        is_signed = path.startswith(("/files/", "/uploads/"))
        if not is_signed and request.headers.get("authorization") != f"Bearer {KEY}":
            return self._json({"detail": "The key is unknown.", "code": "no_such_key"}, 401)
        match [request.method, *path.strip("/").split("/")]:
            case ["POST", "v0", "jobs"]:
                with played.lock:
                    job_id = played.by_key.setdefault(request.headers["idempotency-key"], f"job-{len(played.by_key)}")
                return self._json({"job_id": job_id, "status": "queued", "estimated_usd": 0.0}, 201)
            case ["GET", "v0", "jobs"]:
                begin = int(request.query.get("cursor", 0))
                rest = list(played.jobs.values())[begin:]
                page = rest[: min(int(request.query["limit"]), played.largest_page)]
                following = str(begin + len(page)) if len(page) < len(rest) else None
                return self._json({"jobs": [_now(states) for states in page], "next_cursor": following})
            case ["GET", "v0", "jobs", job_id, "logs"]:
                return self._log(request)
            case ["GET", "v0", "jobs", job_id] if job_id in played.jobs:
                with played.lock:
                    return self._json(_now(played.jobs[job_id]))
            case ["POST", "v0", "jobs", job_id, "cancel"] if job_id in played.jobs:
                return self._json({**played.jobs[job_id][-1], "status": "canceled"})
            case ["GET", "v0", "jobs", _, "artifacts", *parts, "download-url"]:
                name = "/".join(parts)
                size = len(played.artifacts[name])
                link = {"url": f"{played.url}/files/{name}?signature=s3cret", "name": name, "size_bytes": size}
                return self._json({**link, "sha256": played.digest(name)})
            case ["GET", "files", *parts]:
                return self._file("/".join(parts), request)
            case ["POST", "v0", "inputs", "presign-upload"]:
                number = len(played.sent("POST /v0/inputs/presign-upload"))
                return self._json({
                    "upload_url": f"{played.url}/uploads/{number}?signature=s3cret", "upload_method": "PUT",
                    "upload_headers": {"Content-Type": body["content_type"], "X-Kept": "yes"},
                    "input_uri": f"simyard://inputs/{number}/{body['filename']}", "asset_id": None,
                })  # fmt: skip
            case ["PUT", "uploads", _]:
                return self._answer(204, b"")
            case ["POST", "v0", "assets", "register"]:
                return self._json({"asset_id": "asset-" + body["input_uri"].rpartition("/")[2], **body}, 201)
            case ["GET", "v0", "assets"]:
                return self._json({"assets": [{"asset_id": "asset-1"}]})
            case ["GET", "v0", "assets", asset_id]:
                return self._json({"asset_id": asset_id})
            case ["GET", "v1", "tasks"]:
                return self._json({"tasks": [{"task": "T"}]})
            case ["GET", "v1", "tasks", task]:
                return self._json({"task": task})
            case ["POST", "v1", "training-runs"]:
                return self._json({"run_id": "run-1", "status": "queued"}, 201)
            case ["GET", "v1", "training-runs"]:
                return self._json({"runs": [{"run_id": "run-1", "status": "queued"}]})
            case ["GET", "v1", "training-runs", run_id] if run_id in played.runs:
                return self._json(_now(played.runs[run_id]))
            case ["POST", "v1", "training-runs", run_id, wish]:
                return self._json(
                    {"run_id": run_id, "status": {"pause": "paused", "resume": "running"}.get(wish, wish)}
                )
            case ["GET", "v1", "training-runs", _, "iterations"]:
                return self._json({"iterations": [{"iteration": 1}]})
            case ["GET", "v1", "training-runs", _, "checkpoints"]:
                return self._json({"checkpoints": played.checkpoints[: int(request.query["limit"])]})
            case ["GET", "v1", "training-runs", _, "events"]:
                return self._json({"events": played.events[-int(request.query["limit"]) :]})
            case ["GET", "v1", "training-runs", _, "checkpoints", name, "download-url"]:
                return self._json({"url": f"{played.url}/files/{name}", "sha256": played.digest(name)})
            case ["POST", "v1", "sweeps"]:
                return self._json({"sweep_id": "sweep-1", "status": "queued"}, 201)
            case ["GET", "v1", "sweeps"]:
                return self._json({"sweeps": [{"sweep_id": "sweep-1", "status": "queued"}]})
            case ["GET", "v1", "sweeps", sweep_id] if sweep_id in played.sweeps:
                return self._json(_now(played.sweeps[sweep_id]))
            case ["POST", "v1", "sweeps", sweep_id, wish]:
                return self._json({"sweep_id": sweep_id, "status": {"pause": "paused"}.get(wish, "running")})
            case ["GET", "v1", "sweeps", _, "settings" | "events" as what]:
                return self._json({what: []})
            case ["GET", "v1", "sweeps", _, "best"]:
                return self._json({"number": 1, "job_id": "job-1", "sentence": "It leads.", "config": {}})
            case ["GET", "v1", "sweeps", _, "artifacts", name, "download-url"]:
                return self._json({"url": f"{played.url}/files/{name}", "sha256": played.digest(name)})
        return self._json({"detail": f"There is nothing at {path}.", "code": "no_such_thing"}, 404)

    def _file(self, name: str, request: Request) -> None:
        data = self.played.artifacts[name]
        time.sleep(0.02)  # long enough for several to be on their way at once
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if asked and self.played.knows_ranges:
            start = int(asked[1])
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return self._answer(206, data[start:], headers)
        return self._answer(200, data)

    def _log(self, request: Request) -> None:
        played = self.played
        lines = played.logs[-int(request.query["tail"]) :]
        text = "".join(f"{line}\n" for line in lines)
        if request.query.get("follow") != "true":
            return self._answer(200, text.encode())
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = text.encode()[: self._cut_at]
        self.wfile.write(f"{len(sent):x}\r\n".encode() + sent + b"\r\n")
        if self._cut_at is None:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


@contextmanager
def serve() -> Iterator[Played]:
    """Run the server on a free port of the loopback."""
    played = Played()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"played": played}))
    played.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield played
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
