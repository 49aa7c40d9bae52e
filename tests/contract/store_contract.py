"""What every store does, whatever it is made of. A backend's test class inherits this and gives the `place` fixture."""

import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from helpers import HANG_S
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simyard.core.errors import RequestError, StoreError
from simyard.core.specs import InputFile
from simyard.store import keys
from simyard.store.keys import check_key
from simyard.store.store import PART_BYTES, KeyNotFound, Store, sha256_file

MIB = 1024 * 1024

AWKWARD_NAMES = [
    "a b", " leading and trailing ", "ünïcødé/日本語/😀.pt", "100%", "%41", "a%2Fb", "q?x=1&y=2", "*", "[x]", "a+b",
    "~", "{a}", "'\"`", "a#b", "c#/d", "dir#1/x", "..x", "x..", "a:b", "<&>", "-rf", ".hidden", "a;b=c,d@e!f$(g)^|",
    "line\u2028separator", "x" * 230, "/".join(["y" * 178] * 5),
]  # fmt: skip

HOSTILE_KEYS = [
    "", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", ".", "./a", "a/./b", "a//b", "a/", "a\\b", "..\\a",
    "a\nb", "a\x00b", "\x7f", "a\x85b", "\ud800", "\uffff", "a#1", "a/b#0", "a#b#12", "x" * 231, "ü" * 116,
    "/".join(["y" * 200] * 5), "A:", "x/a b|", None, 7, b"a",
]  # fmt: skip

# Of those, the keys of folders: the whole store, one with its slash, and those of names that only files may not have.
FOLDER_KEYS = ["", "a/", "a#1", "a/b#0", "a#b#12", "A:", "x/a b|"]

NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\\\ufffe\uffff"), min_size=1, max_size=20
)


@dataclass(frozen=True)
class Place:
    """Where a store of the test lies."""

    url: str
    options: dict = field(default_factory=dict)

    def open(self):
        return Store.open(self.url, options=self.options)


def unfinished(place):
    """The multipart uploads of a place in a bucket that nobody has ended."""
    bucket = urllib.parse.urlsplit(place.url).netloc
    with urllib.request.urlopen(f"{place.options['endpoint_url']}/{bucket}?uploads") as answer:
        return re.findall("<UploadId>.*?</UploadId>", answer.read().decode())


def input_file(path):
    """A local file as an input of a job."""
    digest = sha256_file(path)
    key = keys.asset(digest, path.name)
    return InputFile(name=path.name, key=key, sha256=digest, size_bytes=path.stat().st_size)


class StoreContract:
    @pytest.fixture
    def place(self):
        raise NotImplementedError

    @pytest.fixture
    def store(self, place):
        return place.open()

    def leftovers(self, place):
        """What lies in the place and is no object: half-written files, unfinished uploads."""
        raise NotImplementedError

    # Whole objects

    def test_bytes_come_back(self, store):
        store.put_bytes("a/b.bin", b"one")
        assert store.get_bytes("a/b.bin") == b"one"
        store.put_bytes("a/b.bin", b"")
        assert store.get_bytes("a/b.bin") == b""

    def test_a_part_comes_back(self, store):
        store.put_bytes("jobs/1/log", b"0123456789")
        parts = [
            store.get_range("jobs/1/log", first, size) for first, size in ((0, 3), (8, 5), (3, 0), (10, 4), (99, 1))
        ]
        assert parts == [b"012", b"89", b"", b"", b""]
        with pytest.raises(KeyNotFound):
            store.get_range("jobs/1/none", 0, 1)

    def test_json_comes_back(self, store):
        value = {"naïve": [1, 2.5, None, True], "odd": "\ud800", "nested": {"a": []}}
        store.put_json("a.json", value)
        assert store.get_json("a.json") == value
        assert store.get_bytes("a.json").endswith(b"}\n")

    def test_json_that_is_none_is_refused(self, store):
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.put_json("a.json", {"reward": float("nan")})
        assert not store.exists("a.json")
        store.put_bytes("a.json", b"{")
        with pytest.raises(StoreError, match=r"a\.json' is not JSON"):
            store.get_json("a.json")

    @pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 3])
    def test_a_file_of_any_size_comes_back(self, store, tmp_path, size):
        source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
        source.write_bytes(os.urandom(size))
        up, down = [], []
        store.put_file("big/file", source, on_bytes=up.append)
        store.get_file("big/file", target, sha256=sha256_file(source).upper(), on_bytes=down.append)
        assert sha256_file(target) == sha256_file(source) == hashlib.sha256(source.read_bytes()).hexdigest()
        assert sum(up) == sum(down) == size == store.stat("big/file").size_bytes
        assert all(n > 0 for n in up + down)
        assert os.listdir(target.parent) == ["target"]

    def test_a_file_that_grows_is_followed(self, store, tmp_path):
        source = tmp_path / "events"
        for data in (b"", b"a" * 5000, b"a" * 5000 + b"b", b"a" * 5000 + b"b", b"other", b"a" * 3):
            source.write_bytes(data)
            with source.open("rb") as file:
                store.put_growing("grows/events", file)
            assert store.get_bytes("grows/events") == data
            if path := store.path("grows/events"):
                with path.open("rb") as open_before:
                    source.write_bytes(data + b"more")
                    with source.open("rb") as file:
                        store.put_growing("grows/events", file)
                    if data:
                        assert open_before.read() == data + b"more", "whoever has it open sees it grow"

    def test_a_large_file_does_not_fill_the_memory(self, place, tmp_path):
        with (tmp_path / "source").open("wb") as file:
            file.truncate(112 * MIB)
        code = """
            store.put_file("big", source)
            store.get_file("big", source + ".back")
            print(open("/proc/self/status").read())
        """
        child = run_child(place, code, tmp_path / "source")
        assert child.returncode == 0, child.stderr
        # Not ru_maxrss, which a child inherits from its parent.
        assert int(re.search(r"VmHWM:\s*(\d+) kB", child.stdout)[1]) < 110 * 1024
        assert (tmp_path / "source.back").stat().st_size == 112 * MIB

    def test_a_log_that_grows_while_it_is_read_ends_where_it_was(self, store, tmp_path):
        log = tmp_path / "log"
        log.write_bytes(b"x" * (3 * PART_BYTES))
        growing = threading.Event()

        def grow():
            with log.open("ab") as file:
                while not growing.wait(0.001):
                    file.write(b"y" * 100_000)

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            store.put_file("log", log)
        finally:
            growing.set()
            thread.join()
        assert store.stat("log").size_bytes < log.stat().st_size

    def test_writing_replaces(self, store, tmp_path):
        (tmp_path / "source").write_bytes(b"x" * (PART_BYTES + 1))
        store.put_bytes("a", b"old")
        store.put_file("a", tmp_path / "source")
        assert store.stat("a").size_bytes == PART_BYTES + 1
        store.put_bytes("a", b"new")
        (tmp_path / "target").write_bytes(b"in the way")
        store.get_file("a", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"new"

    def test_put_new_leaves_what_is_there(self, store):
        assert store.put_new("a/b", b"one") is True
        assert store.put_new("a/b", b"two") is False
        assert store.get_bytes("a/b") == b"one"
        store.delete("a/b")
        assert store.put_new("a/b", b"three") is True
        assert store.get_bytes("a/b") == b"three"

    @pytest.mark.usefixtures("fair_server")
    def test_of_many_that_put_new_exactly_one_does(self, place):
        writers = 16
        stores = [place.open() for _ in range(writers)]
        start = threading.Barrier(writers)

        def write(number):
            start.wait()
            return [stores[number].put_new(f"locks/{turn}", f"{turn} {number}".encode()) for turn in range(5)]

        with ThreadPoolExecutor(writers) as pool:
            created = list(pool.map(write, range(writers)))
        for turn in range(5):
            (winner,) = [number for number in range(writers) if created[number][turn]]
            assert stores[0].get_bytes(f"locks/{turn}") == f"{turn} {winner}".encode()
        assert len(stores[0].list()) == 5
        assert self.leftovers(place) == []

    def test_stat(self, store):
        before = datetime.now(UTC) - timedelta(seconds=2)
        store.put_bytes("a", b"12345")
        stat = store.stat("a")
        assert stat.size_bytes == 5
        assert before <= stat.modified <= datetime.now(UTC) + timedelta(seconds=2)
        assert store.exists("a")

    # Names

    @pytest.mark.parametrize("key", AWKWARD_NAMES)
    def test_an_awkward_name_works_everywhere(self, store, tmp_path, key):
        store.put_bytes(key, b"v")
        assert store.get_bytes(key) == b"v"
        assert [entry.key for entry in store.list()] == [key]
        store.copy(key, "copy")
        store.get_file("copy", tmp_path / "file")
        store.delete("copy")
        assert store.exists(key)
        store.delete_prefix(key.split("/")[0]) if "/" in key else store.delete(key)
        assert store.list() == []

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(key=st.lists(NAMES, min_size=1, max_size=4).map("/".join), data=st.binary(max_size=100))
    def test_every_legal_key_comes_back(self, store, key, data):
        try:
            check_key(key)
        except RequestError:
            assume(False)
        store.put_bytes(key, data)
        assert [(entry.key, entry.size_bytes) for entry in store.list()] == [(key, len(data))]
        assert store.get_bytes(key) == data
        store.delete(key)
        assert store.list() == []
        assert store.list_dirs() == []

    @pytest.mark.parametrize("key", HOSTILE_KEYS, ids=ascii)
    def test_a_hostile_key_is_refused_by_every_method(self, store, tmp_path, key):
        store.put_bytes("good", b"v")
        (tmp_path / "source").write_bytes(b"v")
        calls = [
            lambda: store.put_bytes(key, b""),
            lambda: store.put_new(key, b""),
            lambda: store.put_json(key, {}),
            lambda: store.put_file(key, tmp_path / "source"),
            lambda: store.get_bytes(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.get_json(key),
            lambda: store.get_file(key, tmp_path / "target"),
            lambda: store.exists(key),
            lambda: store.stat(key),
            lambda: store.copy(key, "other"),
            lambda: store.copy("good", key),
            lambda: store.delete(key),
        ]
        if key != "":
            calls.append(lambda: store.url(key))
        if key not in FOLDER_KEYS:
            calls += [lambda: store.list(key), lambda: store.list_dirs(key), lambda: store.delete_prefix(key)]
        for call in calls:
            with pytest.raises(RequestError):
                call()
        assert [entry.key for entry in store.list()] == ["good"]
        assert not (tmp_path / "target").exists()

    def test_url(self, store, place):
        assert store.url() == place.url
        assert store.url("a/b.json") == f"{place.url}/a/b.json"
        assert repr(store) == f"Store({place.url!r})"

    # Listing

    def test_list_is_sorted_and_bounded_by_the_folder(self, store):
        keys = ["b/2", "b/10", "b/1/z", "b-c", "a", "B", "b.txt", "bb/1", "é"]
        for key in keys:
            store.put_bytes(key, key.encode())
        assert [entry.key for entry in store.list()] == sorted(keys)
        assert [entry.key for entry in store.list("b")] == ["b/1/z", "b/10", "b/2"]
        assert [entry.key for entry in store.list("b/")] == ["b/1/z", "b/10", "b/2"]
        assert store.list("a") == store.list("b/1/z") == store.list("nothing") == []
        entry = store.list("b/1")[0]
        assert (entry.key, entry.size_bytes) == ("b/1/z", 5)
        assert entry.modified == store.stat("b/1/z").modified

    def test_list_is_complete_when_it_is_long(self, store):
        keys = [f"many/{n:04d}" for n in range(250)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put_bytes(key, b""), keys))
        assert [entry.key for entry in store.list("many")] == keys

    def test_list_dirs(self, store):
        for key in ["jobs/j2/job.json", "jobs/j1/a/b", "jobs/j10/x", "jobs/file", "other/x"]:
            store.put_bytes(key, b"")
        assert store.list_dirs("jobs") == ["j1", "j10", "j2"]
        assert store.list_dirs("jobs/") == ["j1", "j10", "j2"]
        assert store.list_dirs() == ["jobs", "other"]
        assert store.list_dirs("jobs/j2") == store.list_dirs("nothing") == []
        store.delete("jobs/j1/a/b")
        assert store.list_dirs("jobs") == ["j10", "j2"]

    # What is not there

    def test_a_missing_key_has_its_own_error(self, store, tmp_path):
        store.put_bytes("folder/file", b"")
        for key in ("nothing", "folder", "folder/nothing"):
            for call in (store.get_bytes, store.get_json, store.stat, lambda key: store.copy(key, "dst")):
                with pytest.raises(KeyNotFound, match=r"There is no '.*" + key) as caught:
                    call(key)
                assert isinstance(caught.value.__cause__, FileNotFoundError)
            with pytest.raises(KeyNotFound):
                store.get_file(key, tmp_path / "new" / "target")
            assert not store.exists(key)
        assert not (tmp_path / "new").exists()
        assert not store.exists("dst")

    def test_a_local_file_that_cannot_be_read_or_written(self, store, tmp_path):
        with pytest.raises(StoreError, match=r"Cannot read '.*nothing'"):
            store.put_file("a", tmp_path / "nothing")
        with pytest.raises(StoreError, match="Cannot read"):
            store.put_file("a", tmp_path)
        assert not store.exists("a")
        store.put_bytes("a", b"v")
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError, match=r"Cannot write '.*file/below'"):
            store.get_file("a", tmp_path / "file" / "below")

    def test_delete(self, store):
        store.put_bytes("a/b", b"")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/there")
        assert store.list() == []

    def test_delete_prefix(self, store):
        for key in ["a/1", "a/b/2", "a/b/c/3", "ab", "b/a/1"]:
            store.put_bytes(key, b"")
        store.delete_prefix("a/")
        store.delete_prefix("a")
        store.delete_prefix("ab")  # an object, and no folder
        assert [entry.key for entry in store.list()] == ["ab", "b/a/1"]
        with pytest.raises(RequestError, match="prefix to delete is empty"):
            store.delete_prefix("")

    def test_several_may_delete_one_folder_at_once(self, store):
        for number in range(40):
            store.put_bytes(f"a/{number % 8}/{number}", b"")
        with ThreadPoolExecutor(6) as threads:
            assert list(threads.map(store.delete_prefix, ["a"] * 6)) == [None] * 6
        assert store.list() == []

    # Copies

    def test_a_copy_is_independent(self, store, place):
        store.put_bytes("src", b"one")
        store.copy("src", "deep/dst")
        store.put_bytes("src", b"two")
        assert store.get_bytes("deep/dst") == b"one"
        store.copy("src", "deep/dst")
        store.put_bytes("deep/dst", b"three")
        assert store.get_bytes("src") == b"two"
        store.copy("src", "deep/dst")
        store.delete("src")
        assert store.get_bytes("deep/dst") == b"two"
        assert self.leftovers(place) == []

    def test_copying_again_or_onto_itself_leaves_nothing_beside(self, store, place):
        store.put_bytes("src", b"one")
        for _ in range(3):
            store.copy("src", "dst")
            store.copy("src", "src")
            store.copy("dst", "src")
        assert [entry.key for entry in store.list()] == ["dst", "src"]
        assert store.get_bytes("dst") == store.get_bytes("src") == b"one"
        assert self.leftovers(place) == []

    def test_an_object_too_large_for_the_server_is_copied_through_here(self, store):
        data = os.urandom(3 * PART_BYTES + 1)
        store.put_bytes("src", data)
        store._copy_through_here("src", "dst", len(data))
        assert store.get_bytes("dst") == data

    # Transfers that do not end well

    def test_a_wrong_digest_leaves_nothing(self, store, tmp_path):
        store.put_bytes("a", b"one")
        (tmp_path / "kept").write_bytes(b"older")
        for name in ("kept", "new"):
            with pytest.raises(StoreError, match=r"has the SHA-256 digest '[0-9a-f]{64}', not 'beef'"):
                store.get_file("a", tmp_path / name, sha256="beef")
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["kept"]
        assert (tmp_path / "kept").read_bytes() == b"older"

    def test_a_callback_that_raises_stops_the_transfer(self, store, place, tmp_path):
        class Canceled(BaseException):
            pass

        def cancel(_count):
            raise Canceled

        with (tmp_path / "source").open("wb") as file:
            file.truncate(2048 * MIB)
        with pytest.raises(Canceled):
            store.put_file("big", tmp_path / "source", on_bytes=cancel)
        assert store.list() == []
        assert self.leftovers(place) == []
        store.put_bytes("small", b"v")
        with pytest.raises(Canceled):
            store.get_file("small", tmp_path / "target", on_bytes=cancel)
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["source"]

    def test_a_callback_may_use_the_store(self, store, tmp_path):
        with (tmp_path / "source").open("wb") as file:
            file.truncate(2 * PART_BYTES)
        threads = set()

        def report(count):
            threads.add(threading.current_thread())
            store.put_json("status.json", {"bytes": count})

        store.put_file("big", tmp_path / "source", on_bytes=report)
        store.get_file("big", tmp_path / "target", on_bytes=report)
        assert store.get_json("status.json")["bytes"] > 0
        assert threads == {threading.current_thread()}

    @pytest.mark.parametrize("old", [None, b"old"])
    def test_a_writer_killed_in_the_middle_leaves_no_part(self, store, place, tmp_path, old):
        with (tmp_path / "source").open("wb") as file:
            file.truncate(4096 * MIB)
        if old:
            store.put_bytes("files/big", old)
        code = """
            import os, signal
            store.put_file("files/big", source, on_bytes=lambda count: os.kill(os.getpid(), signal.SIGKILL))
        """
        for _ in range(2):
            child = run_child(place, code, tmp_path / "source")
            assert child.returncode == -signal.SIGKILL, child.stderr
        assert len(self.leftovers(place)) == 2  # or the writers were killed too early
        assert store.exists("files/big") == bool(old)
        assert [entry.key for entry in store.list()] == (["files/big"] if old else [])
        assert store.list_dirs() == (["files"] if old else [])
        store.put_bytes("files/big", b"new")
        assert store.get_bytes("files/big") == b"new"
        store.delete_prefix("files")
        assert store.list() == []

    def test_a_reader_sees_the_old_or_the_new(self, store, tmp_path):
        size = PART_BYTES + 1
        versions = [letter * size for letter in (b"a", b"b")]
        for number, data in enumerate(versions):
            (tmp_path / str(number)).write_bytes(data)
        store.put_bytes("a", versions[0])
        ended = threading.Event()

        def write():
            for turn in range(10):
                store.put_file("a", tmp_path / str(turn % 2))
            ended.set()

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            while not ended.is_set() and not writer.done():
                assert store.get_bytes("a") in versions
            writer.result()

    def test_many_writers_of_different_keys(self, store, tmp_path):
        (tmp_path / "source").write_bytes(b"s" * (PART_BYTES + 1))

        def write(number):
            for turn in range(5):
                store.put_json(f"writers/{number}/{turn}.json", [number, turn])
            if number < 4:
                store.put_file(f"writers/{number}/file", tmp_path / "source")

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(write, range(12)))
        assert len(store.list("writers")) == 12 * 5 + 4
        assert all(store.get_json(f"writers/{n}/{t}.json") == [n, t] for n in range(12) for t in range(5))
        assert {store.stat(f"writers/{n}/file").size_bytes for n in range(4)} == {PART_BYTES + 1}

    def test_a_store_can_be_sent_to_another_process(self, store):
        store.put_bytes("a", b"v")
        other = pickle.loads(pickle.dumps(store))
        assert other.get_bytes("a") == b"v"
        assert repr(other) == repr(store)


def run_child(place, code, source):
    """Run code in a new process that has the place's `store`, and `source`, the path of a file."""
    start = """
        import json, sys
        from simyard.store.store import Store
        url, options, source = json.loads(sys.argv[1])
        store = Store.open(url, options=options)
    """
    script = textwrap.dedent(start) + textwrap.dedent(code)
    arguments = json.dumps([place.url, place.options, str(source)])
    return subprocess.run([sys.executable, "-c", script, arguments], capture_output=True, text=True, timeout=HANG_S)
