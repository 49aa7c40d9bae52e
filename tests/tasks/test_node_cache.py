"""The cache of downloads: hits, damage, eviction, and processes that share it and are killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from helpers import HANG_S

from simyard.core.errors import StoreError
from simyard.core.files import held
from simyard.core.specs import InputFile
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store, sha256_file
from simyard.tasks.attempt.transfer import NodeCache

LARGE_BYTES = 60_000_000


@pytest.fixture
def jobs_store(store):
    return Store.open(str(store))


@pytest.fixture
def cache(tmp_path):
    return NodeCache(tmp_path / "cache", 1_000_000_000)


def put(store, data, name="robot.zip"):
    """Put an input into the store."""
    digest = hashlib.sha256(data).hexdigest()
    file = InputFile(name=name, key=keys.asset(digest, name), sha256=digest, size_bytes=len(data))
    store.put_bytes(file.key, data)
    return file


def put_large(store, tmp_path):
    """Put an input whose download takes a moment."""
    source = tmp_path / "large.zip"
    with source.open("wb") as sparse:
        sparse.truncate(LARGE_BYTES)
    digest = sha256_file(source)
    file = InputFile(name="large.zip", key=keys.asset(digest, "large.zip"), sha256=digest, size_bytes=LARGE_BYTES)
    store.put_file(file.key, source)
    return file


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


CHILD = """
    import json, os, pathlib, signal, sys, threading, time
    from simyard.core.specs import InputFile
    from simyard.store.store import Store
    from simyard.tasks.attempt.transfer import NodeCache
    url, folder, max_bytes, files, target, go, deadly = json.loads(sys.argv[1])
    store, cache = Store.open(url), NodeCache(pathlib.Path(folder), max_bytes)
    def die():
        while not list(pathlib.Path(deadly).glob("*.partial")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    if deadly:
        threading.Thread(target=die, daemon=True).start()
    print("ready", flush=True)
    while not pathlib.Path(go).exists():
        time.sleep(0.001)
    for number, file in enumerate(files):
        print(cache.fetch(store, InputFile.from_json(file), pathlib.Path(target) / str(number)), flush=True)
"""


def start(store, cache, files, target, deadly=None):
    """Fetch files one after the other in another process, once `go` is there beside the targets.

    It kills itself when there is a partial file in the folder `deadly`.
    """
    arguments = [store.url(), str(cache.folder), cache.max_bytes, [file.to_json() for file in files]]
    arguments += [str(target), str(target.parent / "go"), str(deadly) if deadly else None]
    command = [sys.executable, "-c", textwrap.dedent(CHILD), json.dumps(arguments)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


def test_what_was_fetched_once_is_copied_the_next_time(jobs_store, cache, tmp_path):
    file = put(jobs_store, b"meshes")
    assert cache.fetch(jobs_store, file, tmp_path / "one" / "robot.zip") == "store"
    jobs_store.delete(file.key)
    assert cache.fetch(jobs_store, file, tmp_path / "two" / "robot.zip") == "cache"
    assert (tmp_path / "one" / "robot.zip").read_bytes() == (tmp_path / "two" / "robot.zip").read_bytes() == b"meshes"
    assert names(cache.folder) == [file.sha256]
    assert names(tmp_path / "two") == ["robot.zip"]


def test_a_job_may_alter_its_copy(jobs_store, cache, tmp_path):
    file = put(jobs_store, b"meshes")
    for number in range(3):
        target = tmp_path / str(number)
        cache.fetch(jobs_store, file, target)
        assert target.read_bytes() == b"meshes"
        with target.open("r+b") as own:
            own.write(b"M")


@pytest.mark.parametrize(
    "damage", [b"mashes", b"mes", b"", b"meshes and more"], ids=["changed", "cut", "empty", "longer"]
)
def test_a_damaged_entry_is_fetched_anew(jobs_store, cache, tmp_path, damage):
    file = put(jobs_store, b"meshes")
    cache.fetch(jobs_store, file, tmp_path / "target")
    (cache.folder / file.sha256).write_bytes(damage)
    assert cache.fetch(jobs_store, file, tmp_path / "target") == "store"
    assert (tmp_path / "target").read_bytes() == (cache.folder / file.sha256).read_bytes() == b"meshes"


def test_a_damaged_entry_is_dropped_also_when_the_store_has_it_no_more(jobs_store, cache, tmp_path):
    file = put(jobs_store, b"meshes")
    cache.fetch(jobs_store, file, tmp_path / "one")
    (cache.folder / file.sha256).write_bytes(b"mashes")
    jobs_store.delete(file.key)
    with pytest.raises(KeyNotFound):
        cache.fetch(jobs_store, file, tmp_path / "two")
    assert names(cache.folder) == []
    assert not (tmp_path / "two").exists()


def test_what_is_damaged_in_the_store_comes_nowhere(jobs_store, cache, tmp_path):
    file = put(jobs_store, b"meshes")
    jobs_store.put_bytes(file.key, b"mashes")
    with pytest.raises(StoreError, match="digest"):
        cache.fetch(jobs_store, file, tmp_path / "target")
    assert names(cache.folder) == []
    assert not (tmp_path / "target").exists()


def test_the_least_recently_used_goes_first(jobs_store, tmp_path):
    cache = NodeCache(tmp_path / "cache", 250)
    first, second, third = (put(jobs_store, bytes([number]) * 100) for number in range(3))
    for age, file in ((300, first), (200, second)):
        cache.fetch(jobs_store, file, tmp_path / "target")
        os.utime(cache.folder / file.sha256, (0, 1_000_000_000 - age))
    assert cache.fetch(jobs_store, first, tmp_path / "target") == "cache"  # now the second is the oldest
    assert cache.fetch(jobs_store, third, tmp_path / "target") == "store"
    assert names(cache.folder) == sorted([first.sha256, third.sha256])
    assert cache.fetch(jobs_store, second, tmp_path / "target") == "store"
    assert (tmp_path / "target").read_bytes() == bytes([1]) * 100


def test_only_what_is_the_caches_own_is_evicted(jobs_store, tmp_path):
    cache = NodeCache(tmp_path / "cache", 10)
    cache.folder.mkdir()
    (cache.folder / "notes.txt").write_bytes(b"x" * 100)
    for data in (b"a" * 8, b"b" * 8):
        cache.fetch(jobs_store, put(jobs_store, data), tmp_path / "target")
    assert names(cache.folder) == sorted(["notes.txt", hashlib.sha256(b"b" * 8).hexdigest()])


@pytest.mark.parametrize("max_bytes", [0, 5])
def test_a_file_larger_than_the_cache_passes_it_by(jobs_store, tmp_path, max_bytes):
    cache = NodeCache(tmp_path / "cache", max_bytes)
    file = put(jobs_store, b"meshes")
    for _ in range(2):
        assert cache.fetch(jobs_store, file, tmp_path / "target") == "store"
        assert (tmp_path / "target").read_bytes() == b"meshes"
    assert names(cache.folder) == []


def test_a_digest_that_is_none_reaches_no_other_file(jobs_store, cache, tmp_path):
    cache.folder.mkdir()
    (tmp_path / "victim").write_bytes(b"mine")
    file = put(jobs_store, b"meshes")
    hostile = InputFile(name="a.zip", key=file.key, sha256="../victim", size_bytes=6)
    with pytest.raises(StoreError, match="digest"):
        cache.fetch(jobs_store, hostile, tmp_path / "target")
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_processes_that_want_one_file_at_once_download_it_once(jobs_store, cache, tmp_path):
    file = put_large(jobs_store, tmp_path)
    (tmp_path / "targets").mkdir()
    children = [start(jobs_store, cache, [file], tmp_path / "targets" / str(number)) for number in range(4)]
    (tmp_path / "targets" / "go").touch()
    said = [child.communicate(timeout=HANG_S)[0].strip() for child in children]
    assert sorted(said) == ["cache", "cache", "cache", "store"]
    for number in range(4):
        assert sha256_file(tmp_path / "targets" / str(number) / "0") == file.sha256
    assert names(cache.folder) == [file.sha256]


def test_processes_that_evict_each_others_entries_get_the_right_bytes(jobs_store, tmp_path):
    cache = NodeCache(tmp_path / "cache", 2_500_000)
    files = [put(jobs_store, os.urandom(1_000_000), f"{number}.zip") for number in range(5)]
    (tmp_path / "targets").mkdir()
    wanted = [[files[(first + step) % 5] for step in range(15)] for first in range(4)]
    children = [start(jobs_store, cache, of, tmp_path / "targets" / str(n)) for n, of in enumerate(wanted)]
    (tmp_path / "targets" / "go").touch()
    assert [child.wait(HANG_S) for child in children] == [0] * 4
    for number, of in enumerate(wanted):
        for step, file in enumerate(of):
            assert sha256_file(tmp_path / "targets" / str(number) / str(step)) == file.sha256
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 2_500_000
    assert all(path.suffix == "" for path in cache.folder.iterdir())


@pytest.mark.parametrize("killed_at", ["download", "copy"])
def test_a_killed_process_leaves_no_wrong_entry(jobs_store, cache, tmp_path, killed_at):
    file, other = put_large(jobs_store, tmp_path), put(jobs_store, b"other")
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "go").touch()
    if killed_at == "copy":
        cache.fetch(jobs_store, file, tmp_path / "before")
    where = cache.folder if killed_at == "download" else folder / "0"
    child = start(jobs_store, cache, [file], folder / "0", deadly=where)
    assert child.wait(HANG_S) == -signal.SIGKILL
    assert not (folder / "0" / "0").exists()
    assert len(list(where.glob("*.partial"))) == 1
    assert (cache.folder / file.sha256).exists() == (killed_at == "copy")

    cache.fetch(jobs_store, other, tmp_path / "other")
    assert not list(cache.folder.glob("*.partial"))
    assert cache.fetch(jobs_store, file, tmp_path / "after") == ("store" if killed_at == "download" else "cache")
    assert sha256_file(tmp_path / "after") == file.sha256
    assert {file.sha256, other.sha256} <= set(names(cache.folder)) <= {file.sha256, other.sha256, f"{file.sha256}.lock"}


def test_who_waits_too_long_for_another_download_does_it_for_itself(jobs_store, tmp_path):
    cache = NodeCache(tmp_path / "cache", 1_000_000, wait_s=0.2)
    cache.folder.mkdir()
    file = put(jobs_store, b"meshes")
    with held(cache.folder / f"{file.sha256}.lock") as stopped:
        assert stopped is not None
        assert cache.fetch(jobs_store, file, tmp_path / "target") == "store"
        assert (tmp_path / "target").read_bytes() == b"meshes"
        assert names(cache.folder) == [f"{file.sha256}.lock"]


def test_a_cache_that_cannot_be_written_says_so(jobs_store, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(StoreError, match=r"Cannot use '.*cache'"):
        NodeCache(tmp_path / "cache", 1000).fetch(jobs_store, put(jobs_store, b"meshes"), tmp_path / "target")
