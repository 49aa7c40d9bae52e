import itertools
import os
import sys
import urllib.request

import pytest
from store_contract import Place

_numbers = itertools.count()


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


@pytest.fixture
def fair_server():
    """Have the S3 server look and write in one step, as real ones do: its threads take turns only where they wait."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(10)
    yield
    sys.setswitchinterval(before)
