"""A real service as a child process, and a real receiver of what it sends."""

import base64
import hashlib
import hmac
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from helpers import HANG_S, Server, end, free_port, wait_until

from simyard.store.store import Store
from simyard.tasks.shared import api_keys

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + base64.b64encode(b"of-this-test-and-no-other-0123456789").decode()
"""What every hook of a test is signed with."""


@dataclass(frozen=True)
class Answer:
    """What the service said."""

    status: int
    headers: dict[str, str]
    """Names in small letters."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """One site; `start` starts a copy of its service."""

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        self.home = home
        self.env = env
        self.store = Store.open(env["SIMYARD_STORE"])
        self._copies: list[tuple[str, subprocess.Popen[bytes]]] = []

    @property
    def url(self) -> str:
        """The address of the copy that was started first."""
        return self._copies[0][0]

    @property
    def pids(self) -> list[int]:
        """Processes of the copies that run."""
        return [process.pid for _, process in self._copies]

    def start(self, port: int | None = None) -> str:
        """Start a copy, by default on a port of its own, and wait until it answers; return its address."""
        asked = port
        while True:
            port = asked or free_port()
            log = self.home / f"service-{port}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "simyard.service", "--port", str(port)],
                    cwd=self.home, env=self.env, stdout=out, stderr=out, start_new_session=True,
                )  # fmt: skip
            url = f"http://127.0.0.1:{port}"
            self._copies.append((url, process))
            wait_until(lambda url=url, process=process: self._answers(url, process), HANG_S, "a service")
            if process.poll() is None:
                return url
            self._copies.pop()
            assert "address already in use" in log.read_text(), self.logs()  # somebody else took the port meanwhile

    def _answers(self, url: str, process: subprocess.Popen[bytes]) -> bool:
        """Return whether the service answers, or never will."""
        if process.poll() is not None:
            return True
        try:
            return self.call("GET", "/healthz", url=url).status == 200
        except OSError:
            return False

    def stop_first(self) -> None:
        """End the copy that was started first."""
        end(self._copies.pop(0)[1])

    def stop(self) -> None:
        """End all copies."""
        while self._copies:
            self.stop_first()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.home.glob("service-*.log")))

    def key(self, project: str = "default", *scopes: str, **limits: Any) -> str:
        """Make an API key."""
        return api_keys.create(self.store, project, scopes or ("admin",), "of a test", **limits)[0]

    def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, url: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """Send a request; a body that is no bytes goes as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        target = path if "://" in path else f"{url or self.url}{path}"
        request = urllib.request.Request(target, data, given | (headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


_NUMBERS = itertools.count()


def signed(
    body: bytes, *, delivery: str | None = None, at: float | None = None, secret: str = SECRET
) -> dict[str, str]:
    """Return the headers of a webhook; made by hand, as a sender would."""
    timestamp = str(int(time.time() if at is None else at))
    delivery = delivery or f"delivery-{os.getpid()}-{next(_NUMBERS)}"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": delivery, "webhook-timestamp": timestamp, "webhook-signature": signature}


def github(body: bytes, delivery: str, secret: str = SECRET) -> dict[str, str]:
    """Return the headers of a webhook as GitHub sends it."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": delivery, "X-GitHub-Event": "push"}


@dataclass(frozen=True)
class Received:
    """One request that reached the receiver."""

    headers: dict[str, str]
    """Names in small letters."""
    body: bytes


@dataclass
class Receiver:
    """An HTTP server on loopback, which answers as a test says and remembers what it got, by path."""

    port: int
    got: dict[str, list[Received]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    """By path, what comes next: a status, or a function that is given the handler. 204 when nothing is left."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class ReceiverServer:
    """Runs a receiver."""

    def __init__(self, port: int = 0) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver = outer.receiver
                receiver.got[self.path].append(Received({k.lower(): v for k, v in self.headers.items()}, body))
                answer = receiver.answers[self.path].pop(0) if receiver.answers[self.path] else 204
                if callable(answer):
                    answer(self)
                    return
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.receiver = Receiver(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def site(home: Path, server: Server, **env: str) -> Service:
    """Return a site with its own home and store, whose service is not started yet."""
    own = {"SIMYARD_HOME": str(home / "home"), "SIMYARD_STORE": str(home / "store")}
    return Service(home, {**os.environ, **server.env, **own, **env})
