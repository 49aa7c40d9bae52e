"""Clients that waste a real server's time, and what others notice of them. Its times are short here."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from helpers import HANG_S, wait_until
from lazy import lazy

bodies = lazy("simyard.service.bodies")
connections = lazy("simyard.service.connections")

WHOLE = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /quick HTTP/1.1\r\nHost:"
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Served:
    """An application on a port of its own."""

    def __init__(self, app: FastAPI) -> None:
        import uvicorn

        self.app = app
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", **connections.options()))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, HANG_S, "the server")
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._open = ExitStack()

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = self._open.enter_context(socket.create_connection(("127.0.0.1", self.port), HANG_S))
        connection.sendall(sent)
        return connection

    def stop(self) -> None:
        self._open.close()
        self._server.should_exit = True
        self._thread.join(HANG_S)


def toy() -> FastAPI:
    """An application that answers at once, with what a body has, or for ever."""
    from simyard.service.errors import answer_errors

    app = FastAPI()
    app.state.endless = "not asked for"
    answer_errors(app)
    app.add_middleware(bodies.BoundedBodies)

    @app.api_route("/quick", methods=["GET", "POST"])
    async def quick() -> str:
        return "quick"

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.put("/file/{size}")
    async def file(request: Request, size: int) -> int:
        bodies.allow(request, size)
        return len(await request.body())

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def pieces():
            app.state.endless = "goes on"
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                app.state.endless = "ended"

        return StreamingResponse(pieces())

    return app


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Serve the toy, with other constants than the site's."""
    servers = []

    def start(**constants: Any) -> Served:
        for name, value in constants.items():
            monkeypatch.setattr(f"simyard.service.{name.replace('__', '.')}", value)
        servers.append(Served(toy()))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def answer(connection: socket.socket) -> tuple[int, Any]:
    """Return the status of one answer, and its JSON."""
    said = b""
    while b"\r\n\r\n" not in said:
        piece = connection.recv(65536)
        assert piece, f"the connection ended: {said!r}"
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body[:length])


def is_closed(connection: socket.socket) -> bool:
    """Wait for the end of a connection, whatever comes before."""
    with suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def test_half_sent_headers_have_their_time(serve: Callable[..., Served]) -> None:
    server = serve(connections__WAIT_S=1)
    silent, half = server.connect(), server.connect(HALF)
    status, said = answer(half)
    assert (status, said["code"]) == (408, "too_slow")
    assert "headers" in said["detail"]
    assert is_closed(half)
    assert silent.recv(100) == b"", "nothing is said to a client that said nothing"


def test_no_byte_now_and_then_buys_more_time(serve: Callable[..., Served]) -> None:
    server = serve(connections__WAIT_S=1)
    connection = server.connect(b"GET / HTTP/1.1\r\n")
    connection.settimeout(0.1)
    said = b""

    def is_told() -> bool:
        nonlocal said
        with suppress(TimeoutError, ConnectionError):
            connection.sendall(b"X-A: b\r\n")
            said += connection.recv(4096)
        return b"\r\n\r\n" in said

    wait_until(is_told, HANG_S, "the end of its time")
    assert said.startswith(b"HTTP/1.1 408 ")


def test_a_connection_serves_request_after_request(serve: Callable[..., Served]) -> None:
    server = serve()
    connection = server.connect()
    for _ in range(3):
        connection.sendall(WHOLE)
        assert answer(connection) == (200, "quick")
    connection.sendall(POST % (b"/quick", 10) + b"x" * 5)  # answered before its body is whole
    assert answer(connection) == (200, "quick")
    connection.sendall(b"x" * 5 + WHOLE)
    assert answer(connection) == (200, "quick")


def test_a_peer_with_too_many_loses_those_that_wait_longest(serve: Callable[..., Served]) -> None:
    server = serve(connections__WAITING_OF_A_PEER=8)
    halves = [server.connect(HALF) for _ in range(20)]
    assert all(is_closed(half) for half in halves[:12])
    halves[-1].sendall(b" x\r\n\r\n")
    assert answer(halves[-1]) == (200, "quick"), "the newest are heard"
    assert answer(server.connect(WHOLE)) == (200, "quick")


def test_a_peer_has_so_many_connections_whatever_they_do(serve: Callable[..., Served]) -> None:
    server = serve(connections__OF_A_PEER=4)
    busy = [server.connect(POST % (b"/body", 10)) for _ in range(4)]
    wait_until(lambda: sum(peer.open for peer in connections.Connection.peers.values()) == 4, HANG_S, "four")
    assert is_closed(server.connect(WHOLE))
    busy[0].sendall(b"x" * 10)
    assert answer(busy[0]) == (200, 10)
    busy[0].close()
    wait_until(lambda: sum(peer.open for peer in connections.Connection.peers.values()) == 3, HANG_S, "three")
    assert answer(server.connect(WHOLE)) == (200, "quick")


def test_an_endless_body_ends_with_its_answer(serve: Callable[..., Served]) -> None:
    server = serve(connections__WAIT_S=1, connections__UNREAD_BYTES=100_000)
    connection = server.connect(POST % (b"/quick", 10**12))
    assert answer(connection) == (200, "quick")
    with pytest.raises(ConnectionError):
        for _ in range(10**6):
            connection.sendall(b"x" * 65536)


def test_a_client_that_ends_with_its_answer_gets_it_whenever_it_has_sent_its_body(serve: Callable[..., Served]) -> None:
    """Most clients send all of a body before they listen, and `Connection: close` is what urllib says."""
    server = serve()
    for path, size, status in ((b"/body", 1_000_001, 413), (b"/quick", 1_000_000, 200)):
        connection = server.connect()
        head = POST % (path, size)
        connection.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert connection.recv(1, socket.MSG_PEEK), "it is answered before a byte of the body was sent"
        for _ in range(size // 1000):
            connection.sendall(b"x" * 1000)
        connection.sendall(b"x" * (size % 1000))
        assert answer(connection)[0] == status
        assert connection.recv(1) == b""


@pytest.mark.parametrize("more", [b"", b"x" * 200_000], ids=["of time", "of bytes"])
def test_a_body_after_its_answer_has_its_bounds_at_the_end_too(serve: Callable[..., Served], more: bytes) -> None:
    server = serve(connections__WAIT_S=1, connections__UNREAD_BYTES=100_000)
    connection = server.connect(b"POST /quick HTTP/1.0\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
    assert answer(connection) == (200, "quick")
    assert connection.recv(1) == b"", "nothing more is said"
    with suppress(ConnectionError):
        connection.sendall(more)
    wait_until(lambda: not connections.Connection.peers, HANG_S, "the connection's end")


def test_an_answer_that_nobody_reads_ends(serve: Callable[..., Served]) -> None:
    server = serve(connections__STALL_S=0.5)
    server.connect(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: server.app.state.endless == "ended", HANG_S, "the end of the answer")


@pytest.mark.parametrize(
    ("path", "announced", "sent", "status", "said"),
    [
        (b"/body", 1_000_001, b"", 413, "The body has 1,000,001 bytes; allowed are 1,000,000."),
        (b"/body", None, b"x" * 1_000_001, 413, "or more; allowed are 1,000,000."),
        (b"/body", 1_000_000, b"x" * 1_000_000, 200, 1_000_000),
        (b"/file/2000000", 2_000_000, b"x" * 2_000_000, 200, 2_000_000),
        (b"/file/5", 6, b"", 413, "The body has 6 bytes; allowed are 5."),
        (b"/file/5", None, b"x" * 6, 413, "or more; allowed are 5."),
        (b"/body", 20, b"x", 408, "The body comes too slowly: 1 bytes in 1 s."),
        (b"/body", 1_000_000, b"x" * 20_000, 408, "The body comes too slowly"),
    ],
    ids=["announced", "counted", "the most", "larger where it may be", "smaller, announced", "smaller, counted", "slow",
         "slow later"],
)  # fmt: skip
def test_a_body_has_its_size_and_its_time(
    serve: Callable[..., Served], path: bytes, announced: int | None, sent: bytes, status: int, said: Any
) -> None:
    server = serve(bodies__STRETCH_S=1.0 if status == 408 else HANG_S)
    method = b"PUT" if b"file" in path else b"POST"
    how = b"Transfer-Encoding: chunked" if announced is None else b"Content-Length: %d" % announced
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(sent), sent) if announced is None else sent
    connection = server.connect(b"%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % (method, path, how))
    connection.sendall(body)
    got, answered = answer(connection)
    assert got == status, answered
    if status != 200:
        assert said in answered["detail"]
        assert answered["code"] == ("too_large" if status == 413 else "too_slow")
    else:
        assert answered == said


def test_a_body_takes_longer_where_its_reader_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the time counts in which the sender is waited for."""
    monkeypatch.setattr("simyard.service.bodies.STRETCH_S", 0.2)

    async def read() -> list[int]:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x", "more_body": True}

        body = bodies._Body({"headers": []}, receive)
        sizes = []
        for _ in range(3):
            await asyncio.sleep(0.2)  # of the reader
            sizes.append(len((await body.receive())["body"]))
        return sizes

    assert asyncio.run(read()) == [1, 1, 1]
