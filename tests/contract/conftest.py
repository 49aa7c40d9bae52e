import itertools
import os
import urllib.request

import pytest
from store_contract import Place

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server():
    """The address of a real S3 server, with its data in memory.

    Its port is ephemeral: the system gives one that is free. With a fixed port two test runs on one machine would
    meet in the same server, and the second to start would fail, or read what the first had written.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "100")  # short pages, so that a listing of a few hundred has several
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture(autouse=True)
def no_aws_variables(monkeypatch):
    """What this machine has for AWS must not change what is tested."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def s3_place(s3_server):
    """A prefix in a new, empty bucket."""
    bucket = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")).close()
    options = {
        "endpoint_url": s3_server,
        "access_key_id": "robot",
        "secret_access_key": "the-secret-key",
        "timeout_s": "20",
    }
    return Place(f"s3://{bucket}/some prefix", options)


@pytest.fixture
def local_place(tmp_path):
    """A new folder."""
    return Place((tmp_path / "a store").as_uri())
