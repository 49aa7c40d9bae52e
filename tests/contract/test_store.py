import os
import re
import socket
import subprocess
import sys
import time
import traceback
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from faults import refusing
from helpers import HANG_S
from store_contract import StoreContract, unfinished

from simyard.core.errors import RequestError, StoreError
from simyard.store.store import KeyNotFound, Store, sha256_file

SECRET = "the-secret-key"


class TestLocalStore(StoreContract):
    @pytest.fixture
    def place(self, local_place):
        return local_place

    def leftovers(self, place):
        root = Path(urllib.parse.unquote(urllib.parse.urlsplit(place.url).path))
        return sorted(path.name for path in root.rglob("*") if re.search(r"#\d+$", path.name))

    def test_what_a_killed_writer_left_is_deleted_with_its_folder(self, store, place, tmp_path):
        store.put_bytes("jobs/1/a", b"")
        (tmp_path / "a store/jobs/1/big#1").write_bytes(b"half")
        (tmp_path / "a store/jobs/2").mkdir()
        (tmp_path / "a store/jobs/2/name#b#1").write_bytes(b"half")
        assert [entry.key for entry in store.list()] == ["jobs/1/a"]
        assert store.list_dirs("jobs") == ["1"]
        store.delete_prefix("jobs")
        assert self.leftovers(place) == []

    def test_a_copy_where_links_are_impossible(self, store, tmp_path):
        elsewhere = Path("/dev/shm") / f"simyard-test-{os.getpid()}"
        try:
            elsewhere.mkdir()
        except OSError:
            pytest.skip("needs a second file system")
        try:
            (tmp_path / "a store/other").symlink_to(elsewhere)
            store.put_bytes("other/src", b"one")
            store.copy("other/src", "dst")
            store.put_bytes("other/src", b"two")
            assert store.get_bytes("dst") == b"one"
        finally:
            (elsewhere / "src").unlink(missing_ok=True)
            elsewhere.rmdir()

    def test_a_name_cannot_be_a_file_and_a_folder(self, store):
        store.put_bytes("a", b"")
        store.put_bytes("b/c", b"")
        for key in ("a/b", "b"):
            for put in (store.put_bytes, store.put_new):
                with pytest.raises(StoreError, match="both a file and a folder"):
                    put(key, b"")

    def test_a_plain_path_is_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for given, folder in {
            "demo": "demo",
            "./run:1": "run:1",
            "ü b%41#?": "ü b%41#?",
            str(tmp_path / "x"): "x",
            f"/{tmp_path}/y": "y",
            "~/z": "home/z",
            (tmp_path / "a b%").as_uri(): "a b%",
            f"file://localhost{tmp_path}/w/": "w",
        }.items():
            store = Store.open(given)
            store.put_bytes("k", b"v")
            assert (tmp_path / folder / "k").read_bytes() == b"v"
            assert store.url("k") == (tmp_path / folder / "k").as_uri()
            assert Store.open(store.url()).get_bytes("k") == b"v"

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        for name in ("file", "file/below"):
            with pytest.raises(StoreError, match="Cannot open the folder"):
                Store.open(str(tmp_path / name))

    def test_a_folder_takes_no_options(self, tmp_path):
        with pytest.raises(RequestError, match="Unknown store option 'region'"):
            Store.open(str(tmp_path), options={"region": "eu-central-1"})


class TestS3Store(StoreContract):
    @pytest.fixture
    def place(self, s3_place):
        return s3_place

    def leftovers(self, place):
        return unfinished(place)

    def test_two_prefixes_of_a_bucket_are_two_stores(self, store, place):
        bucket = place.url.rpartition("/")[0]
        other = Store.open(f"{bucket}/some prefix 2/%41/", options=place.options)
        store.put_bytes("a", b"1")
        other.put_bytes("a", b"2")
        assert (store.get_bytes("a"), other.get_bytes("a")) == (b"1", b"2")
        whole = Store.open(bucket, options=place.options)
        assert [entry.key for entry in whole.list()] == ["some prefix 2/%41/a", "some prefix/a"]

    def test_a_folder_made_in_a_console_is_no_object(self, store, place):
        bucket = urllib.parse.urlsplit(place.url).netloc
        marker = f"{place.options['endpoint_url']}/{bucket}/some%20prefix/jobs/"
        urllib.request.urlopen(urllib.request.Request(marker, data=b"", method="PUT")).close()
        store.put_bytes("jobs/a", b"")
        assert [entry.key for entry in store.list("jobs")] == ["jobs/a"]

    def test_a_bucket_that_is_not_there_is_no_missing_key(self, place, tmp_path):
        store = Store.open("s3://no-such-bucket", options=place.options)
        (tmp_path / "big").write_bytes(b"x" * 9_000_000)
        for call in (
            lambda: store.get_bytes("a"),
            lambda: store.put_bytes("a", b""),
            lambda: store.put_file("a", tmp_path / "big"),
            lambda: store.list(),
            lambda: store.list_dirs(),
            lambda: store.delete("a"),
        ):
            with pytest.raises(StoreError, match="Make the bucket") as caught:
                call()
            assert not isinstance(caught.value, KeyNotFound)

    def test_everything_can_come_from_the_environment(self, place, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", place.options["endpoint_url"])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "robot")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        Store.open(place.url).put_bytes("a", b"v")
        assert place.open().get_bytes("a") == b"v"

    def test_options_go_before_the_environment(self, place, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://127.0.0.1:9")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
        place.open().put_bytes("a", b"v")

    def test_anothers_session_token_is_not_mixed_in(self, monkeypatch):
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of another account")
        with refusing(404, "NoSuchKey") as server, pytest.raises(KeyNotFound):
            Store.open("s3://bucket", options=dead(server.url)).get_bytes("a")
        (request,) = server.requests
        assert "Credential=robot/" in request.headers["authorization"]
        assert "x-amz-security-token" not in request.headers

    def test_no_credentials_anywhere(self, place, monkeypatch):
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # a machine that has no role
        options = {"endpoint_url": place.options["endpoint_url"], "timeout_s": "0.5"}
        with pytest.raises(StoreError, match="Set AWS_ACCESS_KEY_ID"):
            Store.open(place.url, options=options).get_bytes("a")

    def test_credentials_that_cannot_be_had(self, place):
        def fail():
            raise LookupError("the vault is closed")

        store = Store.open(place.url, options={"endpoint_url": place.options["endpoint_url"]}, credentials=fail)
        with pytest.raises(StoreError, match=r"the vault is closed.*Set AWS_ACCESS_KEY_ID"):
            store.get_bytes("a")


def dead(endpoint, timeout_s="0.5"):
    return {"endpoint_url": endpoint, "access_key_id": "robot", "secret_access_key": SECRET, "timeout_s": timeout_s}


class TestDeadServer:
    def check(self, endpoint, tmp_path):
        store = Store.open("s3://bucket/prefix", options=dead(endpoint))
        (tmp_path / "big").write_bytes(b"x" * 9_000_000)
        for call in (
            lambda: store.put_file("a", tmp_path / "big"),
            lambda: store.exists("a"),
            lambda: store.list(),
        ):
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"Cannot .* 's3://bucket/prefix.*AWS_ENDPOINT_URL") as caught:
                call()
            assert time.monotonic() - began < 2
            assert caught.value.failure.code == "store_unreachable"
            assert caught.value.__cause__ is not None
            assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(store)

    def test_nobody_listens(self, tmp_path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))  # bound but not listening: refused, and nobody else can take it
            self.check(f"http://127.0.0.1:{probe.getsockname()[1]}", tmp_path)

    def test_it_never_answers(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
            self.check(f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path)


HOSTILE_URLS = [
    "", " ", None, Path("/tmp"), " s3://bucket", "s3://bucket ", "s3://bucket\n", "/data/a\x00b", "/data/a\nb",
    "http://127.0.0.1/bucket", "https://bucket.s3.amazonaws.com", "gs://bucket", "az://account/container",
    "memory:///", "ftp://host/x", "javascript:alert(1)", "C:\\store", "s3:bucket", "s3:/bucket", "file:store",
    "s3://", "s3:///prefix", "s3://ab", "s3://Bucket", "s3://buck_et", "s3://bucket..x", "s3://-bucket",
    "s3://bucket:9000/x", "s3://[bucket/x", "s3://bücket/x", "s3://bucket?versionId=1", "s3://bucket/x#y",
    "s3://bucket//x", "s3://bucket/x//", "s3://bucket/../x", "s3://bucket/a/../../x", "s3://bucket/a\\b",
    "file://host/share", "file://", "file:///", "file:///a/../b", "file:///a/%2e%2e/b", "file:///a%2f..%2fb",
    "file:///a%00b", "file:///a%0ab", "file:///%ff", "file:///a?b", "/", "//", "..", "../x", "a/../../b", "/a/..",
]  # fmt: skip


@pytest.mark.parametrize("url", HOSTILE_URLS, ids=ascii)
def test_a_hostile_url_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"is not the address of a store: .* Allowed: 's3://BUCKET/PREFIX'"):
        Store.open(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAROBOT:hush/hush@bucket/x",
        "s3://AKIAROBOT:hush@bucket",
        "s3://AKIAROBOT:hush",
        "s3://bucket/x?X-Amz-Signature=hush",
        "s3://bucket/x#hush",
        "https://user:hush@host/bucket",
        "https://host/x?token=hush",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(RequestError) as caught:
        Store.open(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value)).replace(repr(url), "")
    with pytest.raises(RequestError) as caught:
        Store.open("s3://bucket", options={"endpoint_url": url})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"regoin": "x"}, "Unknown store option 'regoin'. Did you mean 'region'"),
        ({"endpoint_url": "127.0.0.1:9000"}, "'127.0.0.1:9000' is not an S3 endpoint"),
        ({"endpoint_url": "ftp://host"}, "is not an S3 endpoint"),
        ({"endpoint_url": "http://host:port"}, "is not an S3 endpoint"),
        ({"endpoint_url": "http://"}, "is not an S3 endpoint"),
        ({"endpoint_url": "http://ho st"}, "is not an S3 endpoint"),
        ({"timeout_s": "soon"}, "timeout_s is 'soon'"),
        ({"timeout_s": "-1"}, "timeout_s is '-1'"),
        ({"timeout_s": "nan"}, "timeout_s is 'nan'"),
        ({"access_key_id": "robot"}, "Half of the store's credentials is missing"),
        ({"secret_access_key": SECRET}, "Half of the store's credentials is missing"),
        ({"session_token": SECRET}, "Half of the store's credentials is missing"),
        ({"sse": "AES128"}, "Unknown value of sse 'AES128'. Did you mean 'AES256'"),
        ({"sse": "sse-c"}, "Allowed: 'AES256', 'aws:kms', 'aws:kms:dsse'"),
        ({"sse_kms_key_id": "key-1"}, "sse_kms_key_id (AWS_SSE_KMS_KEY_ID) is 'key-1', and sse"),
        ({"sse": "AES256", "sse_kms_key_id": "key-1"}, "It belongs to sse 'aws:kms' or 'aws:kms:dsse'"),
        ({"sse": "aws:kms:dsse", "sse_bucket_key": "true"}, "It belongs to sse 'aws:kms'"),
        ({"sse": "aws:kms", "sse_bucket_key": "yes"}, "Unknown value of sse_bucket_key 'yes'"),
        ({"addressing_style": "host"}, "Unknown value of addressing_style 'host'"),
        ({"checksum": "md5"}, "Unknown value of checksum 'md5'"),
        ({"ca_bundle": "/no/such/file"}, "Cannot read the certificate authorities in '/no/such/file'"),
        ({"ca_bundle": __file__}, "Cannot open 's3://bucket'"),
    ],
)
def test_a_bad_option_is_refused(options, problem):
    with pytest.raises(RequestError, match=re.escape(problem)) as caught:
        Store.open("s3://bucket", options=options)
    assert SECRET not in str(caught.value)


def test_a_bad_variable_is_refused_by_its_name(monkeypatch):
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "sse-c")
    with pytest.raises(RequestError, match="Unknown value of AWS_SERVER_SIDE_ENCRYPTION 'sse-c'"):
        Store.open("s3://bucket")


def test_sha256_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(StoreError, match=r"Cannot read '.*nothing'"):
        sha256_file(tmp_path / "nothing")


def test_importing_the_store_is_light():
    code = (
        "import sys\nimport simyard.store.store, simyard.blocks.reference\n"
        "heavy = {'prefect', 'boto3', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S)
