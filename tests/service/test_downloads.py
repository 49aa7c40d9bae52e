"""Files that requests have fetched from slow sources: a share a key, and an end when the client goes."""

import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from helpers import HANG_S, wait_until
from serving import Service
from test_jobs_api import TRAINING

from simyard.service.downloads import OF_A_KEY


class Drip:
    """A source on loopback: `/fast` is there at once, every other path comes a byte at a time and never ends."""

    def __init__(self) -> None:
        self.open = 0
        """Downloads that go on."""
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._listener.accept()[0],), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            if b"/fast" in connection.recv(65536):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                return
            self._count(1)
            with suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.1)
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.open += change


@pytest.fixture
def drip() -> Iterator[Drip]:
    source = Drip()
    yield source
    source.close()


def test_slow_sources_take_a_share_of_one_key_alone(make_site: Callable[..., Service], drip: Drip) -> None:
    service = make_site(SIMYARD_PRIVATE_HOSTS=drip.place)
    service.start()
    greedy, other = service.key("greedy"), service.key("other")
    slow = f"http://{drip.place}/model.pt"
    bodies = [
        ("/v0/assets/register", {"input_uri": slow}),
        ("/v0/jobs", {**TRAINING, "resume": {"checkpoint": slow}}),
    ]

    # More are asked for than the key may have: the others are refused at once, and are told when to come again.
    clients = []
    for number in range(OF_A_KEY + 4):
        path, body = bodies[number % 2]
        client = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=HANG_S)
        headers = {"Authorization": f"Bearer {greedy}", "Content-Type": "application/json"}
        client.request("POST", path, json.dumps(body), headers)
        clients.append(client)

    def answered() -> list[http.client.HTTPConnection]:
        readable = select.select([client.sock for client in clients], [], [], 0)[0]
        return [client for client in clients if client.sock in readable]

    wait_until(lambda: len(answered()) == 4 and drip.open == OF_A_KEY, HANG_S, "a share, and no more")
    for client in answered():
        answer = client.getresponse()
        said = json.loads(answer.read())
        assert (answer.status, answer.headers["Retry-After"], said["code"]) == (429, "10", "too_many_downloads"), said
        assert f"{OF_A_KEY} files are being fetched for this API key" in said["detail"]

    # Everybody else goes on, and so does the key once its clients have hung up.
    fast = {"input_uri": f"http://{drip.place}/fast/scene.usda"}
    assert service.call("POST", "/v0/assets/register", fast, key=other).status == 200
    for client in clients:
        client.close()
    wait_until(lambda: drip.open == 0, HANG_S, "the downloads to end with their clients")
    assert service.call("POST", "/v0/assets/register", fast, key=greedy).status == 200
