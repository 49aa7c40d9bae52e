"""Connections of clients: how long each may take to say what it wants, and how many one peer may have.

uvicorn has a time-out for idle connections alone. Here the same clock also runs while headers arrive, and while a body
arrives that was answered already; the time of other bodies is `bodies.py`'s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

WAIT_S = 10
"""Seconds from a connection's beginning, or its last answer, until all headers of a request are there."""
STALL_S = 60.0
"""Seconds that an answer stands still before its reader is given up; at 64 kB of buffer that is 1 kB/s."""
UNREAD_BYTES = 4_000_000
"""Of a body that comes after its answer: most clients send all of it before they listen. More ends the connection."""
WAITING_OF_A_PEER = 256
"""Connections of one peer without a request; with one more, the one that has waited longest is closed. A client's own
headers take milliseconds, so that those of an attack are the oldest, also where both come from one proxy."""
OF_A_PEER = 4096
"""Connections of one peer, and at most half of the files that this process may open."""


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve an application until a signal ends it."""
    # Each connection is a file, and so is each thing that is read: the shell's usual limit of 1,024 is for people.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where `most` is infinite, some systems take no such number
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False, **options())


def options() -> dict[str, Any]:
    """Return uvicorn's options by which connections are bounded."""
    return {
        "http": Connection,
        "ws": "none",
        "timeout_keep_alive": WAIT_S,
        "timeout_graceful_shutdown": 10,
        "backlog": 128,  # one turn of the event loop takes no more new connections than half of what a peer may have
    }


@dataclass
class _Peer:
    """Connections of one address."""

    open: int = 0
    waiting: dict[Connection, None] = field(default_factory=dict)
    """Those without a request, longest first."""


class Connection(H11Protocol):
    """A connection that is closed when it wastes time, or when its peer has too many."""

    peers: ClassVar[dict[str, _Peer]] = {}
    """By address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a peer that has too many is not heard."""
        super().connection_made(_Transport(transport, self._linger))  # type: ignore[arg-type]
        self._unread = 0
        self._lingers = False
        self._stalled: asyncio.TimerHandle | None = None
        self._address = _network(self.client[0] if self.client else "")
        peer = self.peers.setdefault(self._address, _Peer())
        peer.open += 1
        if peer.open > min(OF_A_PEER, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2):
            transport.abort()
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.resume_writing()
        peer = self.peers[self._address]
        peer.open -= 1
        peer.waiting.pop(self, None)
        if not peer.open:
            del self.peers[self._address]

    def data_received(self, data: bytes) -> None:
        """Take what came. Unlike uvicorn's, the clock stops at a whole request and not at any byte."""
        if self._is_answered() and self.conn.their_state is h11.SEND_BODY:
            self._unread += len(data)
            if self._unread > UNREAD_BYTES:
                self.transport.close()
                return
        self.conn.receive_data(data)
        if self._lingers:
            self._pass_over()
        else:
            self.handle_events()
        self._note()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._unread = 0
        super().on_response_complete()
        self._note()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has waited too long, and tell a client whose headers are not whole."""
        begun, _ = self.conn.trailing_data
        if begun and self.conn.our_state is h11.IDLE and not self.transport.is_closing():
            detail = f"The request's headers were not all here in time: {WAIT_S} s, and less in a crowd."
            body = json.dumps({"detail": detail, "code": "too_slow"}).encode()
            head = b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
            self.transport.write(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
            self.transport.close()
        super().timeout_keep_alive_handler()
        self.pause_writing()  # what is left of an answer has its time too

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _linger(self) -> bool:
        """Return whether a connection that is to be closed still takes the rest of a body.

        One that is closed before loses its answer: the client's system is told that nobody takes what it sends, and
        drops what it has received.
        """
        if self._lingers or not self._is_answered() or self.conn.their_state is not h11.SEND_BODY:
            return False
        self._lingers = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        return True

    def _pass_over(self) -> None:
        """Drop what came of a body, and close the connection behind its end."""
        with suppress(h11.RemoteProtocolError):
            while self.conn.their_state is h11.SEND_BODY and self.conn.next_event() is not h11.NEED_DATA:
                pass
        if self.conn.their_state is not h11.SEND_BODY:
            self.transport.close()

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _note(self) -> None:
        """Note whether a request is worked on; close the connection of this peer that has waited longest."""
        waiting = self.peers[self._address].waiting
        if not self._is_answered():
            waiting.pop(self, None)
        elif not self.transport.is_closing():
            waiting.setdefault(self)
            if len(waiting) > WAITING_OF_A_PEER:
                oldest = next(iter(waiting))
                del waiting[oldest]
                oldest.timeout_keep_alive_handler()


class _Transport:
    """A connection's transport, which is closed once the body that is on its way is there.

    Args:
        transport: The event loop's own.
        linger: Return whether there is such a body; it is asked at each close.
    """

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], bool]) -> None:
        self._transport = transport
        self._linger = linger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close it, or have it closed later."""
        if not self._linger():
            self._transport.close()


def _network(address: str) -> str:
    """Return what stands for a peer: its address, or in IPv6 the network that it may choose addresses of."""
    with suppress(ValueError):
        if ipaddress.ip_address(address).version == 6:
            return str(ipaddress.ip_network((address, 64), strict=False))
    return address
