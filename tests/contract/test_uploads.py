"""Uploads that are killed, overtaken and lied to, into a real folder and a real S3 server."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.parse
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faults import refusing
from helpers import HANG_S
from store_contract import input_file

from simyard.core.errors import RequestError, StoreError
from simyard.core.files import held
from simyard.store import uploads
from simyard.store.multipart import ROUNDS, send_to_bucket
from simyard.store.store import PART_BYTES, Progress, Store

SIZE, LONG = PART_BYTES + 3, 5 * PART_BYTES + 3
"""The least that goes in parts, and what takes a while."""


@pytest.fixture(params=["folder", "bucket"])
def place(request):
    return request.getfixturevalue({"folder": "local_place", "bucket": "s3_place"}[request.param])


@pytest.fixture
def store(place):
    return place.open()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def long_source(source):
    source.write_bytes(os.urandom(LONG))
    return source


def hidden(place):
    """What lies in the place and is no object, with its bytes."""
    address = urllib.parse.urlsplit(place.url)
    if address.scheme == "file":
        root = Path(urllib.parse.unquote(address.path))
        return [path.stat().st_size for path in root.rglob("*#*")]
    bucket = f"{place.options['endpoint_url']}/{address.netloc}"
    with urllib.request.urlopen(f"{bucket}?uploads") as answer:
        found = answer.read().decode()
    sizes = []
    uploads_of_keys = zip(re.findall("<Key>(.*?)</Key>", found), re.findall("<UploadId>(.*?)</", found), strict=True)
    for key, upload_id in uploads_of_keys:
        with urllib.request.urlopen(f"{bucket}/{urllib.parse.quote(key)}?uploadId={upload_id}") as answer:
            sizes.append(sum(map(int, re.findall("<Size>(.*?)</Size>", answer.read().decode()))))
    return sizes


def soon_tired(place):
    """The place for those who lose patience: this S3 server fails, again and again, where an upload is gone."""
    return replace(place, options=place.options and place.options | {"timeout_s": "12"})


def check_whole(store, place, file, tmp_path):
    """One whole object is there, and nothing else."""
    assert [entry.key for entry in store.list()] == [file.key]
    store.get_file(file.key, tmp_path / "back", sha256=file.sha256)
    assert hidden(place) == []


CHILD = """
    import json, os, pathlib, signal, sys, time
    from simyard.core.specs import InputFile
    from simyard.store.store import Store
    from simyard.store.uploads import send
    url, options, file, source = json.loads(sys.argv[1])
    store, file = Store.open(url, options=options), InputFile.from_json(file)
"""


def start_child(place, code, file, source):
    script = textwrap.dedent(CHILD) + textwrap.dedent(code)
    arguments = json.dumps([place.url, place.options, file.to_json(), str(source)])
    return subprocess.Popen([sys.executable, "-c", script, arguments], stdout=subprocess.PIPE, text=True)


def send_and_die(place, file, source):
    """Upload in another process, which kills itself when two parts have arrived."""
    code = f"""
        seen = []
        def die(count):
            seen.append(count)
            if sum(seen) >= {2 * PART_BYTES}:
                os.kill(os.getpid(), signal.SIGKILL)
        send(store, file, source, on_bytes=die)
    """
    child = start_child(place, code, file, source)
    assert child.wait(HANG_S) == -signal.SIGKILL


@pytest.mark.parametrize("size", [1, PART_BYTES, PART_BYTES + 1, LONG])
def test_a_file_of_any_size_arrives_whole_and_is_sent_once(store, place, tmp_path, size):
    (tmp_path / "model.pt").write_bytes(os.urandom(size))
    file = input_file(tmp_path / "model.pt")
    told = []
    assert uploads.send(store, file, tmp_path / "model.pt", on_bytes=told.append) == size
    assert sum(told) == size
    check_whole(store, place, file, tmp_path)
    assert uploads.send(store, file, tmp_path / "model.pt", on_bytes=told.append) == 0
    assert sum(told) == size


def test_a_killed_upload_goes_on_where_it_stopped(store, place, long_source, tmp_path):
    file = input_file(long_source)
    send_and_die(place, file, long_source)
    assert store.list() == []
    assert store.list_dirs() == []
    (there,) = hidden(place)
    assert there >= 2 * PART_BYTES

    told = []
    moved = uploads.send(store, file, long_source, on_bytes=told.append)

    assert moved <= LONG - there + PART_BYTES  # a piece that was there in part is sent anew
    assert sum(told) == LONG
    check_whole(store, place, file, tmp_path)


def test_what_an_upload_of_changed_bytes_left_is_not_used(store, place, long_source, tmp_path):
    file = input_file(long_source)
    other = tmp_path / "other" / "model.pt"
    other.parent.mkdir()
    other.write_bytes(long_source.read_bytes())
    with other.open("r+b") as changed:
        changed.seek(PART_BYTES // 2)
        changed.write(b"another byte")
    send_and_die(place, file, other)
    assert hidden(place)[0] >= 2 * PART_BYTES
    uploads.send(store, file, long_source)
    check_whole(store, place, file, tmp_path)


@pytest.mark.parametrize("size", [100, SIZE])
@pytest.mark.parametrize("change", ["shorter", "other"])
def test_a_file_that_changed_since_it_was_hashed_is_refused(store, place, tmp_path, size, change):
    source = tmp_path / "model.pt"
    source.write_bytes(os.urandom(size))
    file = input_file(source)
    with source.open("r+b") as changed:
        if change == "shorter":
            changed.truncate(size - 1)
        else:
            changed.seek(size - 1)
            changed.write(bytes([source.read_bytes()[-1] ^ 1]))
    with pytest.raises(RequestError, match="changed while it was uploaded") as caught:
        uploads.send(store, file, source)
    assert caught.value.failure.code == "file_changed"
    assert store.list() == []
    assert hidden(place) == []


def test_a_file_that_only_grew_is_uploaded_as_it_was(store, place, source, tmp_path):
    file = input_file(source)
    with source.open("ab") as log:
        log.write(b"more")
    assert uploads.send(store, file, source) == SIZE
    check_whole(store, place, file, tmp_path)


def test_an_upload_that_its_caller_stops_goes_on_too(store, place, long_source, tmp_path):
    file = input_file(long_source)

    def stop(_count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uploads.send(store, file, long_source, on_bytes=stop)
    assert store.list() == []
    assert 0 < uploads.send(store, file, long_source) < LONG
    check_whole(store, place, file, tmp_path)


def test_an_upload_that_another_one_overtakes_succeeds(place, long_source, tmp_path):
    place = soon_tired(place)
    store, file, others = place.open(), input_file(long_source), []

    def overtake(_count):
        if not others:
            others.append(uploads.send(place.open(), file, long_source))

    assert uploads.send(store, file, long_source, on_bytes=overtake) > 0
    assert others[0] > 0
    check_whole(store, place, file, tmp_path)


def test_uploads_of_one_file_at_once_all_succeed(store, place, long_source, tmp_path):
    place = soon_tired(place)
    with long_source.open("r+b") as shorter:
        shorter.truncate(2 * PART_BYTES + 3)
    file = input_file(long_source)
    go = tmp_path / "go"
    code = f"""
        print("ready", flush=True)
        while not pathlib.Path({str(go)!r}).exists():
            time.sleep(0.001)
        send(store, file, source)
    """
    children = [start_child(place, code, file, long_source) for _ in range(3)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    go.touch()
    assert [child.wait(HANG_S) for child in children] == [0, 0, 0]
    check_whole(store, place, file, tmp_path)


def test_an_object_of_another_length_is_replaced(store, place, source, tmp_path):
    file = input_file(source)
    store.put_bytes(file.key, b"cut off")
    assert uploads.send(store, file, source) == SIZE
    check_whole(store, place, file, tmp_path)


def test_a_damaged_object_in_a_folder_is_replaced(local_place, source, tmp_path):
    store, file = local_place.open(), input_file(source)
    store.put_bytes(file.key, source.read_bytes()[::-1])
    assert uploads.send(store, file, source) == SIZE
    check_whole(store, local_place, file, tmp_path)


def test_a_large_file_does_not_fill_the_memory(place, tmp_path):
    source = tmp_path / "model.pt"
    with source.open("wb") as file:
        file.truncate(128 * 1024 * 1024)
    code = "send(store, file, source)\nprint(open('/proc/self/status').read())"
    child = start_child(place, code, input_file(source), source)
    out, _ = child.communicate(timeout=HANG_S)
    assert child.returncode == 0
    assert int(re.search(r"VmHWM:\s*(\d+) kB", out)[1]) < 120 * 1024


def test_a_file_one_holds_is_held_until_it_is_let_go_or_renamed(tmp_path):
    path = tmp_path / "lock"
    with held(path) as mine:
        mine.write(b"mine")
        with held(path) as second:
            assert second is None
        began = time.monotonic()
        with held(path, patience_s=0.3) as patient:
            assert patient is None
        assert 0.3 <= time.monotonic() - began < 2
        path.rename(tmp_path / "done")
        with held(path) as fresh:
            assert fresh.read() == b""
    with held(tmp_path / "done") as later:
        assert later.read() == b"mine"


# Buckets alone


def options(endpoint, **more):
    keys = {"access_key_id": "robot", "secret_access_key": "secret"}
    return {"endpoint_url": endpoint, "timeout_s": "0.5", **keys, **more}


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        pytest.param(404, "NoSuchBucket", "no_such_bucket", id="no bucket"),
        pytest.param(403, "AccessDenied", "store_denied", id="denied"),
        pytest.param(400, "AuthorizationHeaderMalformed", "wrong_region", id="wrong region"),
    ],
)
def test_what_a_bucket_refuses_is_explained(source, status, code, failure):
    with refusing(status, code) as server:
        store = Store.open("s3://bucket/prefix", options=options(server.url))
        with pytest.raises(StoreError, match=r"Cannot write 's3://bucket/prefix/assets/.*model\.pt'") as caught:
            uploads.send(store, input_file(source), source)
    assert caught.value.failure.code == failure
    assert "secret" not in str(caught.value)
    assert len(server.asked) == 1


def test_an_upload_that_is_aborted_again_and_again_is_given_up(source):
    with refusing(404, "NoSuchUpload") as server:
        store = Store.open("s3://bucket", options=options(server.url))
        with pytest.raises(StoreError, match="NoSuchUpload"):
            uploads.send(store, input_file(source), source)
    assert len(server.asked) == ROUNDS


def test_a_server_that_fails_for_a_moment_is_asked_again(source):
    with refusing(lambda count: 503 if count < 4 else 404, "NoSuchBucket") as server:
        store = Store.open("s3://bucket", options=options(server.url, timeout_s="10"))
        with pytest.raises(StoreError, match="Make the bucket"):
            uploads.send(store, input_file(source), source)
    assert len(server.asked) == 4


def test_a_server_that_does_not_come_back_is_given_up(source):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound but not listening: refused
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
        store = Store.open("s3://bucket", options=options(endpoint))
        began = time.monotonic()
        with pytest.raises(StoreError, match="Check that the endpoint") as caught:
            uploads.send(store, input_file(source), source)
    assert caught.value.failure.code == "store_unreachable"
    assert time.monotonic() - began < 4


@pytest.fixture
def another_account(tmp_path, monkeypatch):
    """A profile of another account, as the AWS tools would use it."""
    (tmp_path / "credentials").write_text("[other]\naws_access_key_id = other\naws_secret_access_key = other\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another account")


@pytest.mark.usefixtures("another_account")
@pytest.mark.parametrize("given", ["options", "environment", "function"])
def test_an_upload_has_the_credentials_of_the_store(source, monkeypatch, given):
    asked = []

    def credentials():
        asked.append(1)
        return {
            "access_key_id": "robot",
            "secret_access_key": "secret",
            "token": None,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }

    with refusing(404, "NoSuchBucket") as server, contextlib.suppress(StoreError):
        own = options(server.url) if given == "options" else {"endpoint_url": server.url, "timeout_s": "0.5"}
        if given == "environment":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "robot")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        store = Store.open("s3://bucket", options=own, credentials=credentials if given == "function" else None)
        uploads.send(store, input_file(source), source)
    (request,) = server.asked
    assert "Credential=robot/" in request.headers["authorization"]
    assert request.headers.get("x-amz-security-token") == ("of another account" if given == "environment" else None)
    assert bool(asked) == (given == "function")


@pytest.mark.usefixtures("another_account")
@pytest.mark.parametrize("is_closed", [False, True], ids=["none", "a function that fails"])
def test_no_credentials_anywhere(source, monkeypatch, is_closed):
    def closed():
        raise LookupError("the vault is closed")

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # a machine that has no role
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    nobody = {"endpoint_url": "http://127.0.0.1:9", "timeout_s": "0.5"}
    store = Store.open("s3://bucket", options=nobody, credentials=closed if is_closed else None)
    said = r"the vault is closed.*Set AWS_ACCESS_KEY_ID" if is_closed else "Set AWS_ACCESS_KEY_ID"
    with pytest.raises(StoreError, match=said):
        send_to_bucket(store, input_file(source), source, Progress(None))
