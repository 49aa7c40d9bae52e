import asyncio
import os
import pickle
import urllib.request

import pytest
from lazy import lazy
from pydantic import ValidationError

from simyard.blocks.reference import open_store
from simyard.core.errors import RequestError
from simyard.store.store import Store

blocks = lazy("simyard.blocks.job_store")
prefect_settings = lazy("prefect.settings")

SECRET = "the-secret-key"


@pytest.fixture(autouse=True)
def connected(prefect_server):
    """Have this process use the tests' Prefect server."""
    with prefect_settings.temporary_settings({prefect_settings.PREFECT_API_URL: prefect_server.url}):
        yield


@pytest.fixture(scope="session")
def s3_server():
    """The address of a real S3 server with one bucket. Its port is ephemeral, so that test runs do not meet."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{address}/robots", method="PUT")).close()
    yield address
    server.stop()


@pytest.fixture(autouse=True)
def no_aws_variables(monkeypatch):
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


def reader(s3_server, prefix):
    options = {"endpoint_url": s3_server, "access_key_id": "other", "secret_access_key": "other"}
    return Store.open(f"s3://robots/{prefix}", options=options)


def block(s3_server, **fields):
    keys = {"access_key_id": "robot", "secret_access_key": SECRET}
    return blocks.JobStore(url="s3://robots/lab", endpoint_url=s3_server, **keys, **fields)


def bucket_block(endpoint, folder="", s3=None, credentials=None, **parameters):
    from prefect_aws import AwsCredentials, S3Bucket
    from prefect_aws.client_parameters import AwsClientParameters

    client = AwsClientParameters(endpoint_url=endpoint, config={"s3": s3} if s3 else None, **parameters)
    robot = {"aws_access_key_id": "robot", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    own = AwsCredentials(**robot | (credentials or {}), aws_client_parameters=client)
    return S3Bucket(bucket_name="robots", bucket_folder=folder, credentials=own)


def test_a_block_with_a_url_is_saved_loaded_and_used(s3_server):
    block(s3_server, region="eu-west-1").save("lab")
    loaded = blocks.JobStore.load("lab")
    store = loaded.open()
    store.put_json("jobs/j1/job.json", {"a": 1})
    assert reader(s3_server, "lab").get_json("jobs/j1/job.json") == {"a": 1}
    assert open_store("job-store/lab").list_dirs("jobs") == ["j1"]
    assert open_store("job-store/lab/projects/robots").url() == f"{store.url()}/projects/robots"
    assert SECRET not in repr(loaded) + str(loaded) + repr(store) + str(store)


@pytest.mark.long  # a block more
def test_a_block_opens_from_async_code_too(s3_server):
    block(s3_server).save("async")

    async def main():
        return open_store("job-store/async").url()

    assert asyncio.run(main()) == "s3://robots/lab"


@pytest.mark.parametrize("saved", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_block_around_a_bucket_block(s3_server, saved):
    from prefect_aws import AwsCredentials, S3Bucket

    bucket = bucket_block(s3_server, "from/bucket/", credentials={"region_name": "eu-west-1"})
    if saved:
        bucket.credentials.save("lab-credentials")
        bucket = S3Bucket(**dict(bucket) | {"credentials": AwsCredentials.load("lab-credentials")})
        bucket.save("lab-bucket")
        bucket = S3Bucket.load("lab-bucket")
    blocks.JobStore(bucket=bucket).save(f"wrapped-{saved}".lower())
    store = open_store(f"job-store/wrapped-{saved}".lower())
    store.put_bytes("a", b"v")
    assert store.url() == "s3://robots/from/bucket"
    assert reader(s3_server, "from/bucket").get_bytes("a") == b"v"
    assert pickle.loads(pickle.dumps(store)).get_bytes("a") == b"v"
    assert bucket.read_path("from/bucket/a") == b"v"  # what the bucket block itself sees
    assert SECRET not in repr(store)


@pytest.mark.long  # a block more; test_a_block_around_a_bucket_block has one of a bucket
def test_a_bucket_block_with_minio_credentials(s3_server):
    from prefect_aws import MinIOCredentials, S3Bucket
    from prefect_aws.client_parameters import AwsClientParameters

    credentials = MinIOCredentials(
        minio_root_user="robot",
        minio_root_password=SECRET,
        aws_client_parameters=AwsClientParameters(endpoint_url=s3_server),
    )
    blocks.JobStore(bucket=S3Bucket(bucket_name="robots", credentials=credentials)).save("minio")
    store = open_store("job-store/minio")
    store.put_bytes("minio/a", b"v")
    assert store.url() == "s3://robots"
    assert reader(s3_server, "minio").get_bytes("a") == b"v"


def test_a_bucket_block_that_assumes_a_role(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3_server)
    role = {"assume_role_arn": "arn:aws:iam::123456789012:role/simyard"}
    store = blocks.JobStore(bucket=bucket_block(s3_server, "role", credentials=role)).open()
    store.put_bytes("a", b"v")
    assert reader(s3_server, "role").get_bytes("a") == b"v"


ENCRYPTED = {"sse": "aws:kms", "sse_kms_key_id": "key-1", "sse_bucket_key": True}


@pytest.mark.parametrize("around_a_bucket", [pytest.param(False, marks=pytest.mark.long), True], ids=["url", "bucket"])
def test_a_block_says_how_objects_are_encrypted(s3_server, around_a_bucket):
    if around_a_bucket:
        made = blocks.JobStore(bucket=bucket_block(s3_server, folder="sse"), **ENCRYPTED)
    else:
        made = block(s3_server, **ENCRYPTED)
    name = f"encrypted-{around_a_bucket}".lower()
    made.save(name)
    store = blocks.JobStore.load(name).open()
    store.put_bytes("a", b"v")
    client = bucket_block(s3_server).credentials.get_s3_client()
    key = store.url("a").removeprefix("s3://robots/")
    said = client.head_object(Bucket="robots", Key=key)
    assert (said["ServerSideEncryption"], said["SSEKMSKeyId"], said["BucketKeyEnabled"]) == ("aws:kms", "key-1", True)


def test_a_key_without_its_encryption_is_refused(s3_server):
    with pytest.raises(RequestError, match=r"sse_kms_key_id .* is 'key-1'.*belongs to sse 'aws:kms' or 'aws:kms:dsse'"):
        block(s3_server, sse_kms_key_id="key-1").open()


@pytest.mark.parametrize(
    ("style", "own", "address"),
    [
        pytest.param("virtual", None, "https://robots.s3.lab/a?", id="of the bucket block"),
        pytest.param("virtual", "path", "https://s3.lab/robots/a?", id="its own goes before"),
        pytest.param("auto", None, "https://s3.lab/robots/a?", id="auto"),
    ],
)
def test_a_bucket_block_says_where_the_buckets_name_is(style, own, address):
    made = blocks.JobStore(bucket=bucket_block("https://s3.lab", s3={"addressing_style": style}), addressing_style=own)
    assert made.open().signed_url("a", 60).startswith(address)


def test_a_bucket_block_that_names_its_authorities_the_old_way(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.warns(DeprecationWarning, match="verify_cert_path"):
        made = blocks.JobStore(bucket=bucket_block("https://s3.lab", verify=tmp_path / "ca.pem"))
    with pytest.raises(RequestError, match=r"Cannot open 's3://robots'"):  # it was read
        made.open()


def test_a_bucket_block_that_trusts_anyone_is_refused():
    with pytest.raises(RequestError, match=r"verify=False.* Name the server's certificate authority"):
        blocks.JobStore(bucket=bucket_block(None, verify=False)).open()


def test_a_block_of_a_folder(tmp_path):
    blocks.JobStore(url=str(tmp_path / "store")).save("folder")
    open_store("job-store/folder").put_bytes("a", b"v")
    assert (tmp_path / "store" / "a").read_bytes() == b"v"


def test_what_is_no_block_is_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_store("demo").url() == (tmp_path / "demo").as_uri()
    assert open_store("./job-store/x").url() == (tmp_path / "job-store/x").as_uri()
    assert open_store("s3://robots/x").url() == "s3://robots/x"
    with pytest.raises(RequestError, match="is not the address of a store"):
        open_store("gs://robots")


@pytest.mark.parametrize("name", ["nothing", "", "a/b", "../x"])
def test_a_block_that_is_not_there(name):
    block = name.partition("/")[0]  # what follows is a part of its store
    with pytest.raises(RequestError, match=f"There is no block 'job-store/{block}'.*See `prefect block ls`"):
        open_store(f"job-store/{name}")


def test_a_part_of_a_blocks_store_is_a_store_of_its_own(tmp_path):
    block = blocks.JobStore(url=str(tmp_path))
    part = block.open("projects/robots")
    part.put_bytes("a", b"1")
    assert block.open().get_bytes("projects/robots/a") == b"1"
    with pytest.raises(RequestError):
        block.open("../elsewhere")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "neither a url nor a bucket"),
        ({"endpoint_url": "http://127.0.0.1:9000"}, "neither a url nor a bucket"),
        ({"url": "s3://robots", "bucket": {"bucket_name": "robots"}}, "a bucket and also 'url'"),
        ({"bucket": {"bucket_name": "robots"}, "region": "x"}, "a bucket and also 'region'"),
        ({"url": "s3://robots", "sse": "AES128"}, "'AES256', 'aws:kms' or 'aws:kms:dsse'"),
        ({"url": "gs://robots"}, "'gs:' is no kind of store"),
        ({"url": f"s3://robot:{SECRET}@robots"}, "it has credentials"),
    ],
)
def test_a_malformed_block_is_refused(fields, problem):
    with pytest.raises((RequestError, ValidationError), match=problem) as caught:
        blocks.JobStore(**fields)
    assert SECRET not in str(caught.value)


def test_every_field_is_explained_in_the_form():
    fields = blocks.JobStore.model_json_schema()["properties"]
    assert list(fields) == [
        "url", "endpoint_url", "region", "access_key_id", "secret_access_key", "bucket", "addressing_style", "checksum",
        "sse", "sse_kms_key_id", "sse_bucket_key",
    ]  # fmt: skip
    assert all(field["title"] and field["description"] for field in fields.values())
    assert blocks.JobStore.model_json_schema()["secret_fields"][0] == "secret_access_key"
    assert blocks.JobStore.get_block_type_slug() == "job-store"
    assert "JobStore(" in blocks.JobStore.get_code_example()
