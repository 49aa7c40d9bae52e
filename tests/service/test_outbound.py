"""Requests to addresses that users gave: what is refused, and what is never waited for."""

import ipaddress
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import HANG_S

from simyard.core.errors import RequestError
from simyard.service import outbound
from simyard.service.addresses import SPECIAL, why_not_public
from simyard.service.downloads import FIRST_S, MOST_S, download, seconds_for
from simyard.service.settings import Settings

NOBODY: frozenset[str] = frozenset()


def patience(whole_s: float = HANG_S, **limits: Any) -> outbound.Patience:
    return outbound.Patience(whole_s, **limits)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://127.0.0.1:8400/", "http://127.1/", "http://2130706433/", "http://0x7f000001/",
        "http://0177.0.0.1/", "http://localhost/", "http://LOCALHOST./", "http://0.0.0.0/",
        "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/",
        "http://100.64.0.1/", "http://224.0.0.1/", "http://255.255.255.255/", "http://[::1]/", "http://[::]/",
        "http://[::ffff:127.0.0.1]/", "http://[::ffff:a9fe:a9fe]/", "http://[::7f00:1]/", "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::a9fe:a9fe]/", "http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/",
        "http://[2002:a00:1::1]/", "http://[fe80::1]/", "http://[fd00::1]/", "http://[fec0::1]/", "http://[ff0e::1]/",
        "http://168.63.129.16/", "http://192.0.0.192/", "http://100.100.100.200/", "http://[fd00:ec2::254]/",
        "http://[::ffff:168.63.129.16]/", "http://[64:ff9b::192.0.0.192]/", "http://192.88.99.1/", "http://[3fff::1]/",
        "http://[5f00::1]/", "http://[2001:2::1]/", "http://[2001:4:112::1]/", "http://[2002:101:101::1]/",
    ],
)  # fmt: skip
def test_addresses_of_no_public_host_are_refused(url: str) -> None:
    with pytest.raises(RequestError) as refused:
        outbound.check_url(url, NOBODY, "notify_url")
    assert refused.value.failure.code == "refused_url"
    with (
        pytest.raises(RequestError) as refused,
        outbound.sent("POST", url, NOBODY, "notify_url", body=b"", patience=patience()),
    ):
        pass
    assert refused.value.failure.code == "refused_url", "the connection looks for itself"


@pytest.mark.parametrize("url", ["http://1.1.1.1/", "https://[2606:4700::1111]/", "http://[64:ff9b::101:101]/"])
def test_addresses_of_the_internet_are_taken(url: str) -> None:
    outbound.check_url(url, NOBODY, "notify_url")


@pytest.mark.parametrize("listed", SPECIAL)
def test_no_address_of_a_special_network_is_public(listed: str) -> None:
    """The table decides alone: Python's own knowledge of these networks changes from version to version."""
    network = ipaddress.ip_network(listed)
    for address in (network[0], network[-1]):
        assert why_not_public(str(address)) == SPECIAL[listed]
    if network.version == 4:
        assert why_not_public(f"::ffff:{network[0]}") == SPECIAL[listed]
        assert why_not_public(f"64:ff9b::{network[-1]}") == SPECIAL[listed]


IN_A_NETWORK_OF_ITS_OWN = """
import fcntl, json, os, socket, struct
os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
    for order, address in ((0x8916, "8.8.4.4"), (0x891C, "255.255.255.0")):  # SIOCSIFADDR, SIOCSIFNETMASK
        fcntl.ioctl(plug, order, struct.pack("16sH2x4s8x", b"lo", socket.AF_INET, socket.inet_aton(address)))
from simyard.service.addresses import why_not_public
print(json.dumps({text: why_not_public(text) for text in ("8.8.4.4", "8.8.4.9", "::ffff:8.8.4.4", "8.8.5.4")}))
"""


def test_this_machine_and_its_network_are_not_public_whatever_their_addresses() -> None:
    """A machine at a provider has an address of the internet, and so have its neighbours."""
    done = subprocess.run([sys.executable, "-c", IN_A_NETWORK_OF_ITS_OWN], capture_output=True, text=True)
    if "PermissionError" in done.stderr:
        pytest.skip("this machine lets nobody make a network of their own")
    own = "this machine's own network"
    assert json.loads(done.stdout) == {"8.8.4.4": own, "8.8.4.9": own, "::ffff:8.8.4.4": own, "8.8.5.4": None}


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1", "//1.1.1.1/", "ftp://1.1.1.1/", "file:///etc/passwd", "http://", "http:///path",
        "http://1.1.1.1:0/", "http://1.1.1.1:70000/", "http://1.1.1.1:http/", "http://user@1.1.1.1/",
        "http://@1.1.1.1/", "http://user:word@1.1.1.1/", "http://1.1.1.1\\@2.2.2.2/", "http://1.1.1.1/\r\nX-Other: 1",
        "http://1.1.1.1/ HTTP/1.1", "http://1.1.1.1/\x00", "http://1.1.1.1/ü", "http://①.1.1.1/", "http://[::1/",
        "http://no-such-host.invalid/", "http://" + "a" * 300 + "/",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(RequestError) as refused:
        outbound.check_url(url, NOBODY, "notify_url")
    assert refused.value.failure.code == "refused_url"
    assert refused.value.failure.message.startswith("notify_url ")


def test_a_host_is_allowed_with_its_port_alone() -> None:
    allowed = frozenset({"127.0.0.1:80", "localhost:443", "[::1]:8080"})
    for url in ("http://127.0.0.1/", "https://localhost/", "http://[::1]:8080/", "HTTP://LocalHost:443/"):
        outbound.check_url(url, allowed, "notify_url")
    for url in ("https://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://127.0.0.1:8080/"):
        with pytest.raises(RequestError):
            outbound.check_url(url, allowed, "notify_url")


@pytest.mark.parametrize(
    ("listed", "kept"),
    [("10.0.0.1:80", "10.0.0.1:80"), ("Intranet:443", "intranet:443"), ("[::1]:80", "[::1]:80")],
)
def test_private_hosts_are_listed_with_their_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str, kept: str
) -> None:
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path))
    monkeypatch.setenv("SIMYARD_PRIVATE_HOSTS", f"{listed}, ")
    assert Settings.from_env().private_hosts == {kept}


@pytest.mark.parametrize("listed", ["intranet", "10.0.0.1:", "::1:80", "http://a:80", "a:b", "u@a:80", "a:80/x"])
def test_a_private_host_that_would_never_match_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str
) -> None:
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path))
    monkeypatch.setenv("SIMYARD_PRIVATE_HOSTS", listed)
    with pytest.raises(RequestError) as refused:
        Settings.from_env()
    assert repr(listed) in str(refused.value)


# What the other side may do


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve one connection by hand."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                with suppress(OSError):  # the other side has gone, as it should
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(10)
        assert not thread.is_alive(), "the connection was let go"


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        connection.sendall(b"X-More: 1\r\n")
        time.sleep(0.1)


def flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"X-More: " + b"1" * 60_000 + b"\r\n")


def go_on(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)


@pytest.mark.parametrize("answer", [drip, flood, go_on, lambda connection: time.sleep(3)])
def test_no_answer_is_waited_for_beyond_the_limit(answer: Callable[[socket.socket], None]) -> None:
    began = time.monotonic()
    with answering(answer) as port:
        url, allowed = f"http://127.0.0.1:{port}/", frozenset({f"127.0.0.1:{port}"})
        with (
            pytest.raises(RequestError) as refused,
            outbound.sent("POST", url, allowed, "notify_url", body=b"x", patience=patience(0.7, silence_s=5)),
        ):
            pass
        assert time.monotonic() - began < 2
    assert refused.value.failure.code == "unreachable_url"


def test_the_content_of_a_giant_answer_is_not_read() -> None:
    def giant(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with answering(giant) as port:
        url, allowed = f"http://127.0.0.1:{port}/", frozenset({f"127.0.0.1:{port}"})
        with outbound.sent("GET", url, allowed, "notify_url", patience=patience()) as answer:
            assert answer.status == 200


def drip_a_body(connection: socket.socket) -> None:
    """Send a byte now and then, without end: each of them is a sign of life."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def stay_silent(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while connection.recv(1):
        pass


@pytest.mark.parametrize("answer", [drip_a_body, stay_silent])
@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"least_bytes_s": 64_000, "window_s": 0.5}, "fewer than 64,000 bytes a second"),
        ({"is_gone": lambda: True}, "nobody waits for it any more"),
    ],
    ids=["rate", "gone"],
)
def test_an_answer_that_comes_too_slowly_or_for_nobody_is_let_go(
    answer: Callable[[socket.socket], None], limits: dict[str, Any], says: str
) -> None:
    with answering(answer) as port:  # and it ends because the connection was closed
        url, allowed = f"http://127.0.0.1:{port}/", frozenset({f"127.0.0.1:{port}"})
        with (
            pytest.raises(RequestError, match=says),
            outbound.sent("GET", url, allowed, "input_uri", patience=patience(30, **limits)) as got,
        ):
            assert got.status == 200
            for _ in got.iter_stream():
                pass


def test_a_fast_answer_is_taken_to_its_end(tmp_path: Path) -> None:
    """The rate counts over a window: a pause in the middle is none of its business."""

    def pausing(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 1_500_000)
        time.sleep(1.2)
        connection.sendall(b"x" * 1_500_000)

    with answering(pausing) as port:
        url, allowed = f"http://127.0.0.1:{port}/", frozenset({f"127.0.0.1:{port}"})
        download(url, tmp_path / "file", allowed, 3_000_000, lambda: False, "input_uri")
    assert (tmp_path / "file").stat().st_size == 3_000_000


@pytest.mark.parametrize("size", [None, 3_000_001])
def test_a_file_that_is_too_large_is_not_fetched(tmp_path: Path, size: int | None) -> None:
    def answer(connection: socket.socket) -> None:
        length = f"Content-Length: {size}\r\n" if size else ""
        connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while True:
            connection.sendall(b"x" * 65536)

    with answering(answer) as port:
        url, allowed = f"http://127.0.0.1:{port}/", frozenset({f"127.0.0.1:{port}"})
        with pytest.raises(RequestError, match="input_uri: the file has more than 3,000,000 bytes"):
            download(url, tmp_path / "file", allowed, 3_000_000, lambda: False, "input_uri")


def test_the_time_of_a_download_follows_from_its_size() -> None:
    assert seconds_for(0) == FIRST_S
    assert seconds_for(200_000_000) == FIRST_S + 100
    assert seconds_for(10**12) == MOST_S


def test_an_error_of_the_one_who_reads_is_not_blamed_on_the_host() -> None:
    def small(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with answering(small) as port:
        url, allowed = f"http://127.0.0.1:{port}/", frozenset({f"127.0.0.1:{port}"})
        with pytest.raises(FileNotFoundError), outbound.sent("GET", url, allowed, "x", patience=patience()):
            Path("/no/such/file").read_text()
