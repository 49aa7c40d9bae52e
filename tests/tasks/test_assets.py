"""Assets: uploaded once, found by id, refused before anything is written."""

import json
import os
import urllib.request
import zipfile
from dataclasses import replace

import pytest

from simyard.core.errors import RequestError
from simyard.core.specs import InputFile
from simyard.store import keys
from simyard.store.store import PART_BYTES, Store, sha256_file
from simyard.tasks.shared import inputs

RECORD = {"asset_id", "kind", "filename", "sha256", "size_bytes", "content_type", "metadata", "created_at"}


@pytest.fixture(params=["folder", "bucket"])
def assets_store(request, tmp_path):
    if request.param == "folder":
        return Store.open(str(tmp_path / "assets store"))
    server = request.getfixturevalue("s3_server")
    bucket = f"assets-{tmp_path.name.lower().replace('_', '-')}"[:60].rstrip("-")
    urllib.request.urlopen(urllib.request.Request(f"{server}/{bucket}", method="PUT")).close()
    own = {"endpoint_url": server, "access_key_id": "robot", "secret_access_key": "secret"}
    return Store.open(f"s3://{bucket}/lab", options=own)


def nested(depth):
    value = "at last"
    for _ in range(depth):
        value = {"in": value}
    return value


def write(folder, name, data=b"content"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_an_upload_gives_a_record_by_which_jobs_find_the_file(assets_store, tmp_path):
    path = write(tmp_path, "policy.pt", os.urandom(PART_BYTES + 1))
    told = []
    record = inputs.upload(assets_store, path, "checkpoint", {"robot": "franka", "runs": [1, None]}, told.append)
    digest = sha256_file(path)
    assert set(record.to_json()) == RECORD
    assert record.to_json() | {"created_at": ""} == {
        "asset_id": f"asset-{digest}",
        "kind": "checkpoint",
        "filename": "policy.pt",
        "sha256": digest,
        "size_bytes": PART_BYTES + 1,
        "content_type": "application/octet-stream",
        "metadata": {"robot": "franka", "runs": [1, None]},
        "created_at": "",
    }
    assert sum(told) == PART_BYTES + 1
    assert inputs.find_asset(assets_store, record.asset_id) == record
    file = inputs.asset_file(record)
    assert file == InputFile(
        name="policy.pt", key=keys.asset(digest, "policy.pt"), sha256=digest, size_bytes=PART_BYTES + 1
    )
    assets_store.get_file(file.key, tmp_path / "back", sha256=digest)


def test_the_same_bytes_are_one_asset_and_the_newest_upload_says_what_it_is(assets_store, tmp_path):
    first = inputs.upload(assets_store, write(tmp_path, "a.pt"), "checkpoint", {"a": 1})
    told = []
    second = inputs.upload(assets_store, write(tmp_path / "other", "a.pt"), "checkpoint", {"b": 2}, told.append)
    assert told == []
    assert second == replace(first, metadata={"b": 2})
    third = inputs.upload(assets_store, write(tmp_path, "scene.USD"), "scene", {}, told.append)
    assert told == []
    assert third == replace(first, metadata={}, kind="scene", filename="scene.USD")
    assert inputs.list_assets(assets_store, 10).found == [third]
    for record in (first, third):
        assert assets_store.get_bytes(inputs.asset_file(record).key) == b"content"


def test_an_asset_whose_file_is_gone_is_uploaded_anew(assets_store, tmp_path):
    path = write(tmp_path, "a.pt")
    record = inputs.upload(assets_store, path, "checkpoint", {})
    assets_store.delete(inputs.asset_file(record).key)
    told = []
    again = inputs.upload(assets_store, write(tmp_path, "b.pt"), "checkpoint", {}, told.append)
    assert sum(told) == 7
    assert assets_store.get_bytes(inputs.asset_file(again).key) == b"content"


def test_assets_are_listed_newest_upload_first(assets_store, tmp_path):
    records = [inputs.upload(assets_store, write(tmp_path, f"{n}.pt", bytes([n])), "checkpoint", {}) for n in range(4)]
    assert inputs.list_assets(assets_store, 10).found == records[::-1]
    assert inputs.list_assets(assets_store, 2).found == [records[3], records[2]]
    assets_store.put_bytes(keys.asset("f" * 64, "input-of-a-job.pt"), b"no asset")
    assert len(inputs.list_assets(assets_store, 10).found) == 4


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_assets_are_listed_page_by_page(assets_store, tmp_path, size):
    """One of them was kept by an earlier version, which took anything for metadata."""
    records = [inputs.upload(assets_store, write(tmp_path, f"{n}.pt", bytes([n])), "checkpoint", {}) for n in range(5)]
    bad = keys.AssetKeys(records[2].sha256).record
    assets_store.put_bytes(bad, json.dumps(records[2].to_json() | {"metadata": {"a": "\ud800"}}).encode())
    found, unreadable, pages, after = [], [], 0, None
    while pages == 0 or after is not None:
        page = inputs.list_assets(assets_store, size, after)
        assert len(page.found) + len(page.unreadable) <= size
        found, unreadable, after, pages = found + page.found, unreadable + page.unreadable, page.more, pages + 1
    assert found == [records[n] for n in (4, 3, 1, 0)]
    assert [record.id for record in unreadable] == [records[2].asset_id]
    assert "half of a surrogate pair" in unreadable[0].error
    assert pages == -(-5 // size)


def test_an_unknown_asset_is_refused(assets_store):
    with pytest.raises(RequestError, match=r"There is no asset 'asset-0+'.*simyard assets list") as caught:
        inputs.find_asset(assets_store, f"asset-{'0' * 64}")
    assert caught.value.failure.code == "unknown_asset"
    with pytest.raises(RequestError) as caught:
        inputs.find_asset(assets_store, "../../etc/passwd")
    assert caught.value.failure.code == "bad_asset_id"


@pytest.mark.parametrize(
    ("kind", "name", "content_type"),
    [
        ("robot", "franka.urdf", "application/xml"),
        ("robot", "franka.usdz", "model/vnd.usdz+zip"),
        ("scene", "Warehouse.USDA", "model/vnd.usda"),
        ("scene", "kitchen.usdc", "application/octet-stream"),
        ("scene", "ant.mjcf", "application/xml"),
        ("checkpoint", "ppo.zip", "application/zip"),
        ("checkpoint", "agent.pth", "application/octet-stream"),
    ],
)
def test_what_is_no_archive_to_unpack_is_taken_as_it_is(tmp_path, store, kind, name, content_type):
    record = inputs.upload(Store.open(str(store)), write(tmp_path, name), kind, {})
    assert (record.kind, record.content_type) == (kind, content_type)


@pytest.mark.parametrize("kind", ["robot", "scene", "isaac_lab_task_package"])
def test_an_archive_is_looked_into(tmp_path, store, kind):
    good = write_zip(tmp_path / "good.zip", {"robot/robot.urdf": b"<robot/>", "robot/mesh.stl": b"solid"})
    record = inputs.upload(Store.open(str(store)), good, kind, {})
    assert (record.sha256, record.size_bytes) == (sha256_file(good), good.stat().st_size)
    bad = write_zip(tmp_path / "bad.zip", {"../robot.urdf": b"<robot/>"})
    with pytest.raises(RequestError, match=r"\.\./robot\.urdf"):
        inputs.upload(Store.open(str(store)), bad, kind, {})


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        pytest.param([1], "of type list", id="a list"),
        pytest.param("{}", "of type str", id="text"),
        pytest.param(None, "of type NoneType", id="null"),
        pytest.param({"a": float("nan")}, "cannot be JSON", id="NaN"),
        pytest.param({"a": [float("-inf")]}, "cannot be JSON", id="infinity inside"),
        pytest.param({"a": {1, 2}}, "set is no type that JSON knows", id="a set"),
        pytest.param({(1, 2): 3}, "cannot be JSON", id="a key that is none"),
        pytest.param({"a": "\ud800"}, "half of a surrogate pair", id="half a pair"),
        pytest.param({"\ud800": 1}, "half of a surrogate pair", id="half a pair as a key"),
        pytest.param({"trained_under": "ovphysx"}, "'ovphysx'.*'newton', 'physx'", id="no engine"),
        pytest.param({"trained_under": ["physx"]}, "trained_under of 'a.pt'", id="engines"),
        pytest.param(nested(21), "nested more than 20 deep", id="nested deep"),
        pytest.param(nested(900), "nested more than 20 deep", id="nested very deep"),
        pytest.param({"a": "x" * 65_536}, "has 65,545 bytes", id="too long"),
        pytest.param({"a": "é" * 32_768}, "has 65,545 bytes", id="too long in UTF-8"),
    ],
)
def test_bad_metadata_is_refused(tmp_path, store, metadata, problem):
    with pytest.raises(RequestError, match=problem) as caught:
        inputs.upload(Store.open(str(store)), write(tmp_path, "a.pt"), "checkpoint", metadata)
    assert caught.value.failure.code == "bad_metadata"
    assert list(store.iterdir()) == []


def test_metadata_of_the_largest_size_and_any_text_comes_back(tmp_path, store):
    metadata = {"odd": "\x00 ünïcødé", "deep": nested(18), "long": "x" * 65_000}
    assert len(json.dumps(metadata)) < inputs.MAX_METADATA_BYTES
    record = inputs.upload(Store.open(str(store)), write(tmp_path, "a.pt"), "checkpoint", metadata)
    assert inputs.find_asset(Store.open(str(store)), record.asset_id).metadata == metadata
