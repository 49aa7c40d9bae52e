"""A bucket behind a bad network: what is throttled, cut, damaged or slow is neither lost nor done twice."""

import csv
import hashlib
import json
import os
import re
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults import (
    ERROR_IN_200,
    INTERNAL_ERROR,
    SLOW_DOWN,
    CutAnswer,
    CutRequest,
    Flip,
    LateRefusal,
    Proxy,
    Refuse,
    Trickle,
    at_random,
    first,
)
from helpers import last_json
from scenario.play import ENVIRONMENT, config
from store_contract import Place, input_file, unfinished

from simyard.core.errors import StoreError
from simyard.store import keys, uploads
from simyard.store.backend import Access
from simyard.store.multipart import _open_client
from simyard.store.store import PART_BYTES, READ_BYTES, Store, sha256_file

PATIENCE_S = 12.0
BIG = PART_BYTES + 3


@pytest.fixture
def place(s3_place):
    return Place(s3_place.url, s3_place.options | {"timeout_s": str(PATIENCE_S)})


@pytest.fixture
def plain(place):
    """The store without the network in between."""
    return place.open()


@pytest.fixture
def proxy(place):
    with Proxy(place.options["endpoint_url"]) as running:
        yield running


@pytest.fixture
def store(place, proxy):
    return Store.open(place.url, options=place.options | {"endpoint_url": proxy.url})


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(BIG))
    return path


def head(place, key):
    """What the real server says of an object."""
    bucket = urllib.parse.urlsplit(place.url).netloc
    client = _open_client(Access.decide(place.options, None), bucket)
    return client.head_object(Bucket=bucket, Key=f"some prefix/{key}")


# One fault after another, at every request of every method. Each function does its work through the bad network, and
# checks what is there without it.


def put_bytes(store, plain, _big):
    store.put_bytes("a", b"new" * 2000)
    assert plain.get_bytes("a") == b"new" * 2000


def put_json(store, plain, _big):
    store.put_json("a", {"reward": 1.5})
    assert plain.get_json("a") == {"reward": 1.5}


def put_new(store, plain, _big):
    assert store.put_new("new", b"mine" * 2000) is True
    assert plain.get_bytes("new") == b"mine" * 2000


def put_new_where_one_is(store, plain, _big):
    assert store.put_new("a", b"mine" * 2000) is False
    assert plain.get_bytes("a") == b"old" * 2000


def put_file(store, plain, big):
    told = []
    store.put_file("big", big, on_bytes=told.append)
    assert sum(told) == BIG
    assert plain.get_bytes("big") == big.read_bytes()


def send(store, plain, big):
    file, told = input_file(big), []
    uploads.send(store, file, big, on_bytes=told.append)
    assert sum(told) == BIG
    assert plain.get_bytes(file.key) == big.read_bytes()


def get_bytes(store, _plain, _big):
    assert store.get_bytes("a") == b"old" * 2000


def get_file(store, _plain, big):
    told = []
    store.get_file("a", big.with_name("down"), on_bytes=told.append)
    assert big.with_name("down").read_bytes() == b"old" * 2000
    assert sum(told) == 6000
    assert sorted(path.name for path in big.parent.iterdir() if path.is_file()) == ["big", "down"]


def stat(store, _plain, _big):
    assert store.stat("a").size_bytes == 6000
    assert store.exists("a")
    assert not store.exists("b")


def list_all(store, _plain, _big):
    assert [entry.key for entry in store.list()] == ["a", "folder/c"]
    assert store.list_dirs() == ["folder"]


def copy(store, plain, _big):
    store.copy("a", "copy")
    assert plain.get_bytes("copy") == b"old" * 2000


def delete(store, plain, _big):
    store.delete("a")
    assert [entry.key for entry in plain.list()] == ["folder/c"]


def delete_prefix(store, plain, _big):
    store.delete_prefix("folder")
    assert [entry.key for entry in plain.list()] == ["a"]


KINDS = {
    put_bytes: ["PutObject"],
    put_json: ["PutObject"],
    put_new: ["PutObject"],
    put_new_where_one_is: ["PutObject"],
    put_file: ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"],
    send: ["ListMultipartUploads", "CreateMultipartUpload", "ListParts", "UploadPart", "CompleteMultipartUpload"],
    get_bytes: ["GetObject"],
    get_file: ["GetObject"],
    stat: ["HeadObject"],
    list_all: ["ListObjects"],
    copy: ["HeadObject", "CopyObject"],
    delete: ["DeleteObjects"],
    delete_prefix: ["ListObjects", "DeleteObjects"],
}
FAULTS = {
    "slow down": SLOW_DOWN,
    "500": INTERNAL_ERROR,
    "500 after it was done": LateRefusal(),
    "no answer after it was done": CutAnswer(0),
    "half an answer": CutAnswer(),
    "half a request": CutRequest(),
    "an error in a 200": ERROR_IN_200,
}


OF_EVERY_KIND = (put_new, put_file, send, get_file, copy, delete_prefix)
"""They send every kind of request between them, so each kind meets each fault in a short run too."""


def matrix():
    for method, kinds in KINDS.items():
        for name, fault in FAULTS.items():
            hit = kinds
            if name == "half a request":
                hit = [kind for kind in kinds if not kind.startswith(("Get", "Head", "List"))]
            if name == "an error in a 200":
                hit = [kind for kind in kinds if kind in ("CompleteMultipartUpload", "CopyObject")]
            short = method in OF_EVERY_KIND or name == "no answer after it was done"
            if hit:
                marks = () if short else pytest.mark.long
                yield pytest.param(method, hit, fault, id=f"{method.__name__}, {name}", marks=marks)


@pytest.mark.parametrize(("method", "kinds", "fault"), matrix())
def test_nothing_is_lost_and_nothing_is_done_twice(store, plain, proxy, big, method, kinds, fault):
    plain.put_bytes("a", b"old" * 2000)
    plain.put_bytes("folder/c", b"")
    proxy.plan = first(2 if len(kinds) == 1 else 1, kinds, fault)
    began = time.monotonic()
    method(store, plain, big)
    assert time.monotonic() - began < 2 * PATIENCE_S
    assert {kind for kind, _ in proxy.faults} == set(kinds), "a fault did not happen"


# Many writers


def test_of_many_that_put_new_over_a_bad_network_exactly_one_hears_that_it_did(place, plain, proxy):
    proxy.plan = at_random(1, (0.15, LateRefusal()), (0.15, CutAnswer(0)), (0.15, CutAnswer()), (0.1, SLOW_DOWN))
    options = place.options | {"endpoint_url": proxy.url}

    def write(number):
        own = Store.open(place.url, options=options)
        return [own.put_new(f"locks/{turn}", b"the same of all") for turn in range(6)]

    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(write, range(4)))
    assert [sum(turn) for turn in zip(*created, strict=True)] == [1] * 6
    assert len(proxy.faults) > 10


def test_a_conflict_with_nothing_there_is_no_sign_of_another_writer(store, plain, proxy):
    conflict = Refuse(409, "ConditionalRequestConflict")  # as S3 says it where somebody deletes the same key
    proxy.plan = first(2, "PutObject", conflict)
    assert store.put_new("a", b"mine") is True
    assert plain.get_bytes("a") == b"mine"
    proxy.plan = first(1000, "PutObject", conflict)
    began = time.monotonic()
    with pytest.raises(StoreError, match="ConditionalRequestConflict"):
        store.put_new("b", b"mine")
    assert time.monotonic() - began < PATIENCE_S


# Bodies that arrive damaged


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param(put_bytes, "PutObject", id="put_bytes"),
        pytest.param(put_new, "PutObject", id="put_new"),
        pytest.param(put_file, "UploadPart", id="put_file"),
        pytest.param(send, "UploadPart", id="send"),
    ],
)
def test_a_body_that_arrives_damaged_is_refused_and_sent_again(place, plain, big, method, kind):
    plain.put_bytes("a", b"old" * 2000)
    with Proxy(place.options["endpoint_url"], first(2, kind, Flip()), checks_digests=True) as proxy:
        store = Store.open(place.url, options=place.options | {"endpoint_url": proxy.url})
        method(store, plain, big)
        assert len(proxy.faults) == 2
        sent = proxy.kinds(kind)[-1].headers
    # By which a server checks a body.
    assert re.fullmatch("[0-9a-f]{64}", sent["x-amz-content-sha256"])


def test_a_damaged_body_that_a_server_took_is_noticed_when_it_is_read(store, plain, proxy, tmp_path):
    proxy.plan = first(1, "PutObject", Flip())
    store.put_bytes("a", b"v" * 100)
    for read in (plain.get_bytes, lambda key: plain.get_file(key, tmp_path / "down")):
        with pytest.raises(StoreError, match="has the SHA-256 digest") as caught:
            read("a")
        assert caught.value.failure.code == "digest_mismatch"
    assert not (tmp_path / "down").exists()


def test_an_answer_that_arrives_damaged_is_read_again(store, plain, proxy):
    plain.put_json("a", {"reward": 1.5, "iteration": 7})
    proxy.plan = first(2, "GetObject", Flip(of_answer=True))
    assert store.get_json("a") == {"reward": 1.5, "iteration": 7}
    assert len(proxy.faults) == 2


def test_a_file_that_arrives_damaged_is_refused(store, plain, proxy, big, tmp_path):
    plain.put_file("big", big)
    proxy.plan = first(1, "GetObject", Flip(of_answer=True))
    with pytest.raises(StoreError, match="has the SHA-256 digest"):
        store.get_file("big", tmp_path / "down", sha256=sha256_file(big))
    assert not (tmp_path / "down").exists()


# Slow and long answers


def test_a_slow_answer_is_waited_for(place, plain, proxy, tmp_path):
    """It takes longer than a silent server is waited for."""
    store = Store.open(place.url, options=place.options | {"endpoint_url": proxy.url, "timeout_s": "1"})
    plain.put_bytes("a", b"x" * 800_000)
    plain.put_bytes("b", b"y")
    proxy.plan = first(3, "*", Trickle(8, 0.15))
    assert [entry.key for entry in store.list()] == ["a", "b"]
    store.get_file("a", tmp_path / "down")
    assert store.get_bytes("a") == (tmp_path / "down").read_bytes() == b"x" * 800_000
    assert len(proxy.faults) == len(proxy.requests) == 3, "each was asked for once"


def test_a_download_that_breaks_off_late_goes_on_where_it_was(place, plain, tmp_path):
    content = os.urandom(3 * READ_BYTES)
    plain.put_bytes("a", content)
    # Longer than obstore itself would ask for the rest: 0.7 of the 4 s.
    cut = Trickle(12, 0.4, breaks_off=True)
    with Proxy(place.options["endpoint_url"], first(1, "GetObject", cut)) as proxy:
        store = Store.open(place.url, options=place.options | {"endpoint_url": proxy.url, "timeout_s": "4"})
        told = []
        store.get_file("a", tmp_path / "down", on_bytes=told.append)
        again = proxy.kinds("GetObject")[1:]
    assert (tmp_path / "down").read_bytes() == content
    assert sum(told) == len(content)
    assert [request.headers["range"] for request in again] == [f"bytes={2 * READ_BYTES}-"]
    assert again[0].headers["if-match"]


def test_a_download_whose_object_is_replaced_meanwhile_is_no_mixture(place, plain, tmp_path):
    plain.put_bytes("a", b"1" * 3 * READ_BYTES)
    cut = Trickle(12, 0.4, breaks_off=True)
    with Proxy(place.options["endpoint_url"], first(1, "GetObject", cut)) as proxy:
        store = Store.open(place.url, options=place.options | {"endpoint_url": proxy.url, "timeout_s": "4"})
        replaced = []

        def replace(_count):
            if not replaced:
                replaced.append(plain.put_bytes("a", b"2" * 3 * READ_BYTES))

        with pytest.raises(StoreError, match="Cannot read"):
            store.get_file("a", tmp_path / "down", on_bytes=replace)
    assert not (tmp_path / "down").exists()


@pytest.mark.parametrize("fault", [SLOW_DOWN, CutAnswer(), CutRequest()], ids=["slow down", "half", "cut"])
def test_a_server_that_stays_bad_is_given_up_in_time(place, plain, tmp_path, fault):
    plain.put_bytes("a", b"v" * 1000)
    (tmp_path / "big").write_bytes(b"x" * (PART_BYTES + 1))
    with Proxy(place.options["endpoint_url"], lambda _request: fault) as proxy:
        store = Store.open(place.url, options=place.options | {"endpoint_url": proxy.url, "timeout_s": "0.5"})
        calls = [lambda: store.put_new("n", b"1" * 9), lambda: store.put_file("f", tmp_path / "big")]
        if not isinstance(fault, CutRequest):
            calls += [lambda: store.get_bytes("a"), lambda: store.list(), lambda: store.get_file("a", tmp_path / "d")]
        for call in calls:
            began = time.monotonic()
            with pytest.raises(StoreError) as caught:
                call()
            assert time.monotonic() - began < 2
            assert caught.value.failure.code in ("store_unreachable", "store_busy")


# Settings of what is written


@pytest.mark.parametrize(
    ("given", "sse", "key_id", "bucket_key"),
    [
        pytest.param("options", "AES256", None, None, id="AES256", marks=pytest.mark.long),
        pytest.param("options", "aws:kms", "key-1", "true", id="KMS"),
        pytest.param(
            "environment",
            "aws:kms",
            None,
            "false",
            id="KMS, the account's key, from the environment",
            marks=pytest.mark.long,
        ),
        pytest.param("environment", "aws:kms:dsse", "key-1", None, id="DSSE, from the environment"),
    ],
)
def test_everything_that_is_written_is_encrypted(place, proxy, big, monkeypatch, given, sse, key_id, bucket_key):
    options = place.options | {"endpoint_url": proxy.url}
    chosen = {"sse": sse, "sse_kms_key_id": key_id, "sse_bucket_key": bucket_key}
    chosen = {name: value for name, value in chosen.items() if value}
    if given == "options":
        options |= chosen
    else:
        for name, value in chosen.items():
            monkeypatch.setenv(VARIABLES[name], value)
    store = Store.open(place.url, options=options)
    file = input_file(big)

    store.put_bytes("bytes", b"v")
    store.put_new("new", b"v")
    store.put_file("parts", big)
    store.copy("bytes", "copy")
    store._copy_through_here("parts", "copied parts", BIG)
    uploads.send(store, file, big)

    writes = [
        request for request in proxy.requests if request.kind in ("PutObject", "CopyObject", "CreateMultipartUpload")
    ]
    assert len(writes) == 6
    for request in writes:
        assert request.headers["x-amz-server-side-encryption"] == sse, request.kind
        assert request.headers.get("x-amz-server-side-encryption-aws-kms-key-id") == key_id
        assert request.headers.get("x-amz-server-side-encryption-bucket-key-enabled") == bucket_key
    for entry in store.list():
        said = head(place, entry.key)
        assert said["ServerSideEncryption"] == sse, entry.key
        if sse == "aws:kms":  # moto forgets the key of a DSSE upload in parts
            assert said.get("SSEKMSKeyId") == key_id, entry.key


VARIABLES = {
    "sse": "AWS_SERVER_SIDE_ENCRYPTION",
    "sse_kms_key_id": "AWS_SSE_KMS_KEY_ID",
    "sse_bucket_key": "AWS_SSE_BUCKET_KEY_ENABLED",
}


def test_an_upload_that_was_begun_without_encryption_is_not_gone_on_with(place, big):
    file = input_file(big)

    def stop(_count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uploads.send(place.open(), file, big, on_bytes=stop)
    (left,) = unfinished(place)
    store = Store.open(place.url, options=place.options | {"sse": "AES256"})
    with pytest.raises(KeyboardInterrupt):
        uploads.send(store, file, big, on_bytes=stop)
    assert unfinished(place) == [left]  # what nobody may go on with is taken back
    assert uploads.send(store, file, big) == BIG
    assert head(place, file.key)["ServerSideEncryption"] == "AES256"


@pytest.mark.parametrize("sends", [put_file, send, put_bytes], ids=["obstore", "botocore", "one object"])
def test_a_server_that_is_not_aws_has_the_buckets_name_in_the_path(place, store, plain, proxy, big, sends):
    bucket = urllib.parse.urlsplit(place.url).netloc
    sends(store, plain, big)
    assert proxy.requests
    for request in proxy.requests:
        assert request.headers["host"] == proxy.url.removeprefix("http://")
        assert request.target.startswith((f"/{bucket}/some%20prefix/", f"/{bucket}?"))


@pytest.mark.parametrize(
    ("url", "options", "variable", "address"),
    [
        pytest.param("s3://robots", {}, None, "https://robots.s3.eu-central-1.amazonaws.com/a?", id="AWS"),
        pytest.param("s3://ro.bots", {}, None, "https://s3.eu-central-1.amazonaws.com/ro.bots/a?", id="a dot"),
        pytest.param(
            "s3://robots", {"addressing_style": "path"}, "true", "https://s3.eu-central-1.amazonaws.com/robots/a?",
            id="AWS, path",
        ),
        pytest.param("s3://robots", {}, "false", "https://s3.eu-central-1.amazonaws.com/robots/a?", id="AWS, variable"),
        pytest.param(
            "s3://robots", {"endpoint_url": "https://s3.lab:9000"}, None, "https://s3.lab:9000/robots/a?", id="other"
        ),
        pytest.param(
            "s3://robots", {"endpoint_url": "https://s3.lab", "addressing_style": "virtual"}, None,
            "https://robots.s3.lab/a?", id="other, virtual",
        ),
    ],
)  # fmt: skip
def test_where_the_buckets_name_is(monkeypatch, url, options, variable, address):
    if variable:
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", variable)
    options = {"region": "eu-central-1", "access_key_id": "robot", "secret_access_key": "secret", **options}
    store = Store.open(url, options=options)
    assert store.signed_url("a", 60).startswith(address)
    assert store.signed_upload("a", 60, 1, "text/plain").startswith(address)
    bucket = url.removeprefix("s3://")
    client = _open_client(Access.decide(options, None), bucket)
    assert client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a"}).startswith(address)


@pytest.mark.parametrize(
    ("options", "sends"),
    [
        pytest.param({}, False, id="a server of its own"),
        pytest.param({"checksum": "sha256"}, True, id="asked for"),
    ],
)
def test_a_checksum_is_sent_where_it_is_asked_for(place, proxy, options, sends):
    store = Store.open(place.url, options=place.options | {"endpoint_url": proxy.url} | options)
    store.put_bytes("a", b"v")
    assert ("x-amz-checksum-sha256" in proxy.kinds("PutObject")[0].headers) == sends


def test_on_aws_a_checksum_is_sent():
    assert Access.decide({}, None).checksum
    assert not Access.decide({"checksum": "none"}, None).checksum


def test_put_json_is_one_request(store, proxy):
    store.put_json("a", {"x": 1})
    assert json.loads(proxy.requests[0].body) == {"x": 1}
    assert [request.kind for request in proxy.requests] == ["PutObject"]


# A whole job


@pytest.mark.long  # the matrix above has each fault in each request
def test_a_job_whose_store_throttles_and_breaks_off_succeeds_and_nothing_of_it_is_missing(
    simyard, place, plain, tmp_path
):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config("", iterations=8)))
    bad = at_random(7, (0.3, SLOW_DOWN), (0.03, CutAnswer()), (0.03, CutAnswer(0)), (0.03, LateRefusal()))
    with Proxy(place.options["endpoint_url"], bad) as proxy:
        env = {
            **ENVIRONMENT,
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "robot",
            "AWS_SECRET_ACCESS_KEY": "the-secret-key",
        }
        done = simyard("train", path, "--store", place.url, "--json", **env)
        faults, requests = len(proxy.faults), len(proxy.requests)

    assert done.returncode == 0, done.stderr
    result = last_json(done)
    assert (result["status"], result["attempts"]) == ("succeeded", 1)
    assert faults > requests / 4
    artifacts = keys.JobKeys(result["job_id"]).artifacts
    for artifact in result["artifacts"]:
        content = plain.get_bytes(f"{artifacts}/{artifact['name']}")
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"], artifact["name"]
    rows = list(csv.DictReader(plain.get_bytes(f"{artifacts}/metrics.csv").decode().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(8))
