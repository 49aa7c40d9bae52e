"""Uploads and downloads of both clients: whole or not there, and never in memory."""

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import HANG_S, wait_until
from played_service import KEY, both

import simyard as hs

DATA = bytes(range(256)) * 4096  # 1 MiB: more than one chunk with what follows it
PRESIGN, PUT = "POST /v0/inputs/presign-upload", "PUT /uploads/.*"
MANY = {"policy.pt": b"p", "checkpoints/model_0.pt": b"0", "checkpoints/deep/model_1.pt": DATA + b"tail", "empty": b""}
LARGE_BYTES = 200 * 1024 * 1024
MEMORY = """
import asyncio, resource, sys
import simyard as hs
url, key, path, folder = sys.argv[1:]

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

async def use():
    async with hs.AsyncClient(key, url) as client:
        await client.upload_input(path)
        await client.download("job-1", folder + "/async")

client = hs.Client(key, url)
asyncio.run(asyncio.sleep(0))
before = peak_mib()
client.upload_input(path)
client.download("job-1", folder + "/sync")
asyncio.run(use())
print(peak_mib() - before)
"""


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    path = tmp_path / "my robot.usdz"
    path.write_bytes(DATA)
    return path


# Uploads


@both
def test_an_upload_sends_the_file_as_it_is_asked_to(service, client, robot):
    metadata = {"gripper": "panda"}
    asset_id = client.upload_input_asset(str(robot), asset_kind="robot", metadata=metadata)
    assert asset_id == "asset-my robot.usdz"
    presign, put, register = service.requests
    about = {"filename": "my robot.usdz", "content_type": presign.body["content_type"], "size_bytes": len(DATA)}
    assert presign.body == {**about, "register_asset": True, "asset_kind": "robot", "metadata": metadata}
    assert put.body == {"size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
    assert (put.headers["x-kept"], put.headers["content-type"]) == ("yes", about["content_type"])
    assert put.headers["content-length"] == str(len(DATA))
    assert "authorization" not in put.headers
    assert "transfer-encoding" not in put.headers
    uri = "simyard://inputs/1/my robot.usdz"
    assert register.body == {**about, "input_uri": uri, "kind": "robot", "metadata": metadata}
    # It may also stay a file.
    assert client.upload_input(str(robot), object_name="folder/arm.usdz") == "simyard://inputs/2/arm.usdz"
    assert [request.method for request in service.requests[3:]] == ["POST", "PUT"]


def test_a_slot_that_is_an_asset_already_is_not_registered_again(service, client, robot):
    slot = b'{"upload_url": "/uploads/7", "input_uri": "u", "asset_id": "asset-7"}'
    service.trouble(PRESIGN, status=200, body=slot)
    assert client.upload_input_asset(str(robot)) == "asset-7"
    assert [request.path for request in service.requests] == ["/v0/inputs/presign-upload", "/uploads/7"]


@both
@pytest.mark.parametrize("trouble", [{"hang_up": True}, {"status": 503}], ids=["hang up", "503"])
def test_an_interrupted_upload_is_sent_again_to_a_new_address(service, client, robot, trouble):
    service.trouble(PUT, 2, **trouble)
    assert client.upload_input(str(robot)) == "simyard://inputs/3/my robot.usdz"
    assert [request.path for request in service.sent(PUT)] == ["/uploads/1", "/uploads/2", "/uploads/3"]
    assert {request.body["size"] for request in service.sent(PUT)} == {len(DATA)}


@pytest.mark.parametrize(
    ("trouble", "error", "said", "times"),
    [
        ({"hang_up": True}, hs.TransportError, "no whole answer", 4),
        ({"status": 403, "body": b"<Error>SignatureDoesNotMatch</Error>"}, hs.AuthenticationError,
         r"upload of 'my robot.usdz'.*SignatureDoesNotMatch", 1),
    ],
    ids=["given up in the end", "refused"],
)  # fmt: skip
def test_an_upload_fails_without_showing_its_address(service, client, robot, trouble, error, said, times):
    service.trouble(PUT, 9, **trouble)
    with pytest.raises(error, match=said) as caught:
        client.upload_input(str(robot))
    assert len(service.sent(PUT)) == times
    assert "s3cret" not in str(caught.value)


def test_local_files_of_a_submission_are_sent_first(service, client, robot, tmp_path):
    scene = tmp_path / "table.usda"
    scene.write_text("#usda 1.0\n")
    size = {"num_envs": 1, "steps": 1}
    client.submit_assets(robot_asset=str(robot), scene_usd=scene.as_uri(), **size)
    (job,) = service.sent("POST /v0/jobs")
    assert job.body["robot"] == {"usd_asset_id": "asset-my robot.usdz"}
    assert job.body["scene"] == {"usd_asset_id": "asset-table.usda"}
    assert [request.body["asset_kind"] for request in service.sent(PRESIGN)] == ["scene", "robot"]


def test_the_seeds_submission(service, client, robot, tmp_path):
    package = tmp_path / "task.zip"
    package.write_bytes(b"PK")
    ids = [client.upload_input_asset(str(robot), asset_kind=kind) for kind in ("robot", "scene")]
    task = client.upload_input_asset(str(package), asset_kind="isaac_lab_task_package")
    isaac_lab = {"task_module": "m.t", "task_class_or_name": "T", "task_package_asset_id": task, "task_args": {"x": 1}}
    job = client.submit_assets(
        robot_asset_id=ids[0],
        scene_asset_id=ids[1],
        robot_asset_type="usd",
        num_envs=1,
        steps=1024,
        physics_dt=0.005,
        substeps=2,
        runtime_profile="isaac_lab_rollout",
        isaac_lab=isaac_lab,
    )
    service.job({}, job_id=job.job_id)
    result = client.wait(job.job_id, poll_interval_s=2.0, timeout_s=1800.0, raise_on_error=False)
    assert (job.job_id, result["status"]) == ("job-0", "succeeded")
    (sent,) = service.sent("POST /v0/jobs")
    assert sent.body == {
        "job_type": "rollout",
        "robot": {"usd_asset_id": ids[0]},
        "scene": {"usd_asset_id": ids[1]},
        "physics": {"dt": 0.005, "substeps": 2},
        "execution": {"num_envs": 1, "steps": 1024, "seed": 42},
        "outputs": {"log_format": "zarr"},
        "runtime_profile": "isaac_lab_rollout",
        "isaac_lab": isaac_lab,
    }


@both
def test_a_file_may_go_straight_into_a_bucket(client, service, robot, s3_server, monkeypatch):
    import boto3

    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="inputs")
    uris = [
        client.upload_input(str(robot), destination_uri="s3://inputs/a/b.usdz"),
        client.upload_input(str(robot), bucket="inputs", key_prefix="mine/"),
    ]
    assert uris[0] == "s3://inputs/a/b.usdz"
    assert uris[1].startswith("s3://inputs/mine/")
    assert uris[1].endswith("/my robot.usdz")
    for uri in uris:
        key = uri.removeprefix("s3://inputs/")
        assert s3.get_object(Bucket="inputs", Key=key)["Body"].read() == DATA
    assert not service.requests
    with pytest.raises(hs.TransportError, match="NoSuchBucket"):
        client.upload_input(str(robot), bucket="no-such-bucket")


# Downloads


def test_a_download_brings_every_artifact(service, client, tmp_path):
    service.job({"status": "running"})
    folder = tmp_path / "new" / "folder"
    assert client.download("job-1", str(folder)) == [], "there is none yet"
    (folder / "policy.pt").write_bytes(b"old")
    service.files(**MANY)
    paths = client.download("job-1", str(folder))
    assert paths == [str(folder / name) for name in MANY]
    assert [Path(path).read_bytes() for path in paths] == list(MANY.values())
    assert files_in(folder) == sorted(MANY)
    fetched = service.sent("GET /files/.*")
    assert len(fetched) == len(MANY)
    assert not [request for request in fetched if "authorization" in request.headers]


def test_a_download_can_be_a_part(service, client, tmp_path):
    service.files(**MANY)
    client.download("job-1", str(tmp_path), only=["checkpoints/*"])
    assert files_in(tmp_path) == ["checkpoints/deep/model_1.pt", "checkpoints/model_0.pt"]
    with pytest.raises(hs.ConfigurationError, match="render"):
        client.download("job-1", str(tmp_path), only="render.mp4")


def test_a_failed_job_is_downloaded_if_wished(service, client, tmp_path):
    service.files(**{"runner.log": b"log"})
    service.jobs["job-1"][0]["status"] = "failed"
    with pytest.raises(hs.JobFailedError):
        client.download("job-1", str(tmp_path))
    assert files_in(tmp_path) == []
    client.download("job-1", str(tmp_path), raise_on_error=False)
    assert files_in(tmp_path) == ["runner.log"]


@both
@pytest.mark.parametrize("at_once", [1, 3])
def test_as_many_files_come_at_once_as_wished(service, client, tmp_path, at_once):
    service.files(**{f"{n}.pt": b"x" for n in range(9)})
    client.download("job-1", str(tmp_path), at_once=at_once)
    assert service.most_in_flight <= at_once
    assert (service.most_in_flight > 1) == (at_once > 1)


@both
@pytest.mark.parametrize("knows_ranges", [True, False], ids=["ranges", "no ranges"])
def test_an_interrupted_download_goes_on(service, client, tmp_path, knows_ranges):
    data = DATA * 3
    service.knows_ranges = knows_ranges
    service.files(**{"rollout.zarr": data})
    service.trouble("GET /files/.*", cut_at=len(data) - 100)
    service.trouble("GET /files/.*", hang_up=True)
    client.download("job-1", str(tmp_path))
    assert (tmp_path / "rollout.zarr").read_bytes() == data
    first, *others = service.sent("GET /files/.*")
    assert "range" not in first.headers
    assert [request.headers["range"] for request in others] == [f"bytes={len(DATA) * 2}-"] * 2
    assert len(service.sent("GET .*/download-url")) == 3


def test_a_download_that_does_not_end_leaves_what_was_there(service, client, tmp_path):
    (tmp_path / "rollout.zarr").write_bytes(b"old")
    service.files(**{"rollout.zarr": DATA * 2, "report.md": b"r"})
    service.trouble("GET /files/rollout.zarr", 9, cut_at=1000)
    with pytest.raises(hs.TransportError) as caught:
        client.download("job-1", str(tmp_path), only="rollout.zarr")
    assert (tmp_path / "rollout.zarr").read_bytes() == b"old"
    assert files_in(tmp_path) == ["rollout.zarr"]
    assert "s3cret" not in str(caught.value)


@both
@pytest.mark.parametrize("status", [403, 404])
def test_a_refused_download_is_told(service, client, tmp_path, status):
    service.files(**{"a.pt": b"a"})
    service.trouble("GET /files/.*", status=status, body=b"expired")
    with pytest.raises(hs.ApiError, match=r"download of 'a.pt': expired"):
        client.download("job-1", str(tmp_path))
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("named", "said"),
    [({"sha256": "0" * 64}, "SHA-256"), ({"size_bytes": 4}, "3 bytes came")],
    ids=["digest", "length"],
)
def test_other_bytes_than_named_are_not_kept(service, client, tmp_path, named, said):
    service.files(**{"a.pt": b"abc"})
    link = json.dumps({"url": f"{service.url}/files/a.pt", **named}).encode()
    service.trouble("GET .*/download-url", 2, status=200, body=link)
    for fetch in (lambda: client.download("job-1", str(tmp_path)), lambda: client.download_artifact("job-1", "a.pt")):
        with pytest.raises(hs.IntegrityError, match=said):
            fetch()
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "a//b", "./a", "a/", "", "..", "c:x", "..\\x", "a\nb", "a\x00b"]
)
def test_a_hostile_name_is_refused(service, client, tmp_path, name):
    service.files(**{"good.pt": b"g", name: b"bad"})
    with pytest.raises(hs.UnsafeNameError):
        client.download("job-1", str(tmp_path / "out"))
    with pytest.raises(hs.UnsafeNameError):
        client.download_artifact("job-1", name)
    assert files_in(tmp_path) == []
    assert not service.sent("GET /files/.*")


def test_an_artifact_comes_as_bytes(service, client):
    service.files(**{"checkpoints/model_0.pt": DATA})
    service.trouble("GET /files/.*", cut_at=1000)
    assert client.download_artifact("job-1", "checkpoints/model_0.pt") == DATA


def test_a_checkpoint_comes_as_a_file(service, client, tmp_path):
    service.artifacts = {"ckpt-1": DATA}
    path = tmp_path / "new" / "policy.pt"
    assert client.download_checkpoint("run-1", "ckpt-1", path) == str(path)
    assert path.read_bytes() == DATA
    assert files_in(tmp_path) == ["new/policy.pt"]


@both
def test_one_failure_ends_the_other_downloads(service, client, tmp_path):
    service.digests = {"bad.pt": "0" * 64}
    service.files(**{"bad.pt": b"x", **{f"{n}.pt": b"x" for n in range(40)}})
    with pytest.raises(hs.IntegrityError):
        client.download("job-1", str(tmp_path), at_once=2)
    assert len(service.sent("GET /files/.*")) < 40
    assert not [name for name in files_in(tmp_path) if name.endswith(".partial")]


def test_a_canceled_task_leaves_nothing_half_written(service, tmp_path):
    service.files(**{f"{n}.pt": DATA * 8 for n in range(30)})

    async def begin_and_cancel() -> None:
        async with hs.AsyncClient(KEY, service.url) as client:
            task = asyncio.create_task(client.download("job-1", str(tmp_path)))
            await asyncio.to_thread(wait_until, lambda: service.sent("GET /files/.*"), 10, "a download")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(begin_and_cancel())
    assert not [name for name in files_in(tmp_path) if name.endswith(".partial")]


def test_threads_share_a_client(service, tmp_path):
    service.files(**MANY)
    with hs.Client(KEY, service.url) as client:
        threads = [threading.Thread(target=client.download, args=("job-1", str(tmp_path / str(n)))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(files_in(tmp_path / str(n)) == sorted(MANY) for n in range(4))


def test_a_large_file_is_never_in_memory(service, tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
    service.files(**{"large": bytes(LARGE_BYTES // 2)})
    command = [sys.executable, "-c", MEMORY, service.url, KEY, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    assert float(done.stdout) < 60
    assert [request.body["size"] for request in service.sent(PUT)] == [LARGE_BYTES] * 2
    assert [(tmp_path / kind / "large").stat().st_size for kind in ("sync", "async")] == [LARGE_BYTES // 2] * 2
