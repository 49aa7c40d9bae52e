"""Rollouts hold what every environment went through, whatever ends when, and whatever is killed."""

import itertools
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from helpers import HANG_S, wait_until
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lazy import lazy

from simyard.runner.recording.arrays import CUT_OFF, TERMINATED, TIME_LIMIT, pack
from simyard.runner.recording.episodes import Counts
from simyard.runner.recording.quantities import DTYPES
from simyard.runner.recording.reading import open_rollout
from simyard.runner.recording.recorder import BLOCK_BYTES, SHARD_BYTES, RolloutRecorder

torch = lazy("torch")
warp = lazy("warp")
zarr = lazy("zarr")

Episode = namedtuple("Episode", "rows success termination env start_step")


def recorder(folder, num_envs=2, longest=100, **options):
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    given = {"control_period_s": 0.02, "scratch": scratch, **options}
    return RolloutRecorder(folder / "rollout.zarr", num_envs=num_envs, longest=longest, **given)


def read(path):
    """Return the episodes of a rollout, with stock zarr alone."""
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
    root = zarr.open(store, mode="r")
    data = dict(root["data"].members(max_depth=None))
    arrays = {key: array[:] for key, array in data.items() if isinstance(array, zarr.Array)}
    meta = {name: array[:] for name, array in root["meta"].members()}
    ends = meta["episode_ends"].tolist()
    return [
        Episode({key: array[start:end] for key, array in arrays.items()}, *rest)
        for start, end, *rest in zip(
            [0, *ends], ends, *(meta[name].tolist() for name in Episode._fields[1:]), strict=False
        )
    ]


def same(found, expected):
    """Compare episodes to the bit."""
    assert [episode[1:] for episode in found] == [episode[1:] for episode in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.rows.keys() == other.rows.keys()
        for key, rows in other.rows.items():
            assert one.rows[key].dtype == rows.dtype
            assert one.rows[key].shape == rows.shape
            assert one.rows[key].tobytes() == rows.tobytes()


class Model:
    """What a rollout must hold, kept in lists."""

    def __init__(self, num_envs):
        self.running = [[] for _ in range(num_envs)]
        self.starts = [0] * num_envs
        self.ended = []

    def record(self, quantities):
        for env, rows in enumerate(self.running):
            rows.append({key: np.array(values[env]) for key, values in quantities.items()})

    def end(self, step, env, success, termination):
        rows = self.running[env]
        stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        self.ended.append(Episode(stacked, success, termination, env, self.starts[env]))
        self.running[env], self.starts[env] = [], step + 1

    def close(self, steps):
        for env, rows in enumerate(self.running):
            if rows:
                self.end(steps - 1, env, -1, CUT_OFF)


KEYS = st.lists(
    st.tuples(
        st.sampled_from(["action", "reward", "obs/policy", "obs/critic", "camera/rgb", "a/b/c.d-e_0"]),
        st.sampled_from(DTYPES),
        st.lists(st.integers(1, 4), max_size=3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda quantity: quantity[0],
)
FLAG = st.sampled_from([0, 0, 0, 1])


@st.composite
def runs(draw):
    """Draw what is recorded, and which episodes end with each step: None, or (terminated, success) of each env."""
    num_envs = draw(st.integers(1, 4))
    flags = st.lists(st.tuples(FLAG, FLAG, st.sampled_from([1, 0, -1])), min_size=num_envs, max_size=num_envs)
    steps = draw(st.lists(st.none() | flags, max_size=40))
    return num_envs, draw(KEYS), steps, draw(st.integers(1, 2000)), draw(st.integers(1, 2000))


def longest(num_envs, steps):
    """Return the true bound: the steps of the longest episode."""
    lengths, most = [0] * num_envs, 1
    for flags in steps:
        for env in range(num_envs):
            lengths[env] += 1
            most = max(most, lengths[env])
            if flags is not None and flags[env][0]:
                lengths[env] = 0
    return most


@settings(max_examples=40, deadline=None)
@given(runs())
@example((1, [("action", "float32", [])], [], 1, 1))
def test_it_holds_what_a_list_of_everything_holds(tmp_path_factory, run):
    num_envs, keys, steps, block_bytes, shard_bytes = run
    folder, model = tmp_path_factory.mktemp("run"), Model(num_envs)
    sizes = {"block_bytes": block_bytes, "shard_bytes": shard_bytes}
    random = np.random.default_rng(0)
    with recorder(folder, num_envs, longest(num_envs, steps), **sizes) as written:
        for step, flags in enumerate(steps):
            quantities = {}
            for key, dtype, shape in keys:
                size = (num_envs, *shape)
                values = random.integers(0, 2, size) if dtype == "bool" else random.integers(0, 100, size)
                quantities[key] = values.astype(dtype)
            model.record(quantities)
            written.record(quantities)
            if flags is None:
                continue
            ended, terminated, success = np.array(flags).T
            written.end(ended.astype(bool), terminated=terminated.astype(bool), success=success)
            for env in np.flatnonzero(ended):
                model.end(step, env, success[env], TERMINATED if terminated[env] else TIME_LIMIT)
    model.close(len(steps))
    same(read(folder / "rollout.zarr"), model.ended)

    figures = open_rollout(folder / "rollout.zarr")
    assert figures == written.close()
    assert figures.finished
    measured = [episode.success for episode in model.ended if episode.success != -1]
    rows = num_envs * len(steps)
    expected = Counts(episodes=len(model.ended), steps=rows, measured=len(measured), succeeded=sum(measured))
    assert figures.counts == expected
    assert figures.keys == {key: {"shape": shape, "dtype": dtype} for key, dtype, shape in keys if steps}


def small(folder, **changes):
    """Record a small rollout of two keys, whose values tell environment and step."""
    with recorder(folder, **changes) as written:
        written.describe("obs/policy", unit="rad", names=["env", "step", "both"], about="Where a value comes from.")
        for step in range(50):
            envs = np.arange(2, dtype=np.float32)
            written.record(reward=envs + step, **{"obs/policy": np.stack([envs, envs * 0 + step, envs + step], 1)})
            written.end(np.array([step % 10 == 9, step % 7 == 6]), success=np.array([True, False]))
    return folder / "rollout.zarr"


def test_it_says_what_things_are(tmp_path):
    path = small(tmp_path, attributes={"task": "Isaac-Ant", "versions": {"newton": "1.6.1"}, "seed": 3})
    root = zarr.open(path, mode="r")
    assert dict(root.attrs) == {
        "format": "simyard.rollout", "format_version": 1, "control_period_s": 0.02, "num_envs": 2, "finished": True,
        "task": "Isaac-Ant", "versions": {"newton": "1.6.1"}, "seed": 3,
    }  # fmt: skip
    assert dict(root["data/obs/policy"].attrs) == {
        "unit": "rad", "names": ["env", "step", "both"], "about": "Where a value comes from.",
    }  # fmt: skip
    assert dict(root["data/reward"].attrs) == {}
    axes = {key: root[key].metadata.dimension_names for key in ("data/obs/policy", "data/reward", "meta/success")}
    assert axes == {
        "data/obs/policy": ("step", "obs:policy:1"), "data/reward": ("step",), "meta/success": ("episode",),
    }  # fmt: skip
    assert root["meta/termination"].attrs["legend"]["2"] == "cut off because the run ended"
    assert {name: str(array.dtype) for name, array in root["meta"].members()} == {
        "episode_ends": "int64", "success": "int8", "termination": "int8", "env": "int32", "start_step": "int64",
    }  # fmt: skip


def test_a_picture_that_is_held_takes_no_further_room(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 1, 240, 320, 3)).astype(np.uint8)
    with recorder(tmp_path, num_envs=1) as written:
        for step in range(40):
            written.record(image=pictures[step // 10])
    assert (zarr.open(tmp_path / "rollout.zarr", mode="r")["data/image"][:] == pictures.repeat(10, axis=0)[:, 0]).all()
    assert open_rollout(tmp_path / "rollout.zarr").size_bytes < 5 * pictures[0].nbytes


def test_one_file_holds_the_same_and_has_the_same_bytes_every_time(tmp_path):
    paths = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        path = small(tmp_path / name)
        (path / ".zarr.json.partial").write_text("what a killed process left")
        pack(path, tmp_path / f"{name}.zip")
        paths.append(path)
    same(read(tmp_path / "one.zip"), read(paths[0]))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    figures = open_rollout(tmp_path / "one.zip")
    assert figures.size_bytes == (tmp_path / "one.zip").stat().st_size
    assert figures.counts.episodes == 5 + 8
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert "zarr.json" in archive.namelist()
        assert not [name for name in archive.namelist() if "partial" in name]


def test_a_pack_that_fails_leaves_nothing(tmp_path):
    path = small(tmp_path)
    with pytest.raises(OSError):
        pack(path, tmp_path)  # a folder is there already
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rollout.zarr", "scratch"]


def awkward(values):
    """Return the same, backwards in memory, of the other byte order and not to be written to."""
    backwards = np.ascontiguousarray(values[::-1])[::-1].astype(">f4")
    backwards.flags.writeable = False
    return backwards


INPUTS = {
    "torch": (lambda values: torch.from_numpy(values), lambda flag: torch.from_numpy(flag)),
    "gradients": (lambda values: torch.from_numpy(values).requires_grad_() * 1, lambda flag: torch.from_numpy(flag)),
    "strided": (
        lambda values: torch.from_numpy(np.ascontiguousarray(values.T)).T,
        lambda flag: torch.from_numpy(np.stack([flag, flag], 1))[:, 0],
    ),
    "numpy": (lambda values: values, lambda flag: flag),
    "awkward": (awkward, lambda flag: flag),
    "warp": (
        lambda values: warp.array(values, dtype=warp.vec3, device="cpu"),
        lambda flag: warp.array(flag, device="cpu"),
    ),
}


@pytest.mark.parametrize(("array", "flags"), INPUTS.values(), ids=INPUTS)
def test_every_kind_of_array_is_recorded(tmp_path, array, flags):
    steps = np.random.default_rng(0).normal(size=(30, 4, 3)).astype(np.float32)
    steps[5, 1] = np.nan
    with recorder(tmp_path, 4) as written:
        for number, step in enumerate(steps):
            values = step.copy()
            with torch.inference_mode(number % 2 == 0):
                flag = flags(values[:, 0] > 0)
                written.record(obs=array(values), flag=flag)
                written.end(flag, terminated=flag, success=flag)
            values[:] = 7  # the recorder has its own copy
    seen = set()
    for episode in read(tmp_path / "rollout.zarr"):
        length, env = len(episode.rows["obs"]), episode.env
        lived = steps[episode.start_step : episode.start_step + length, env]
        assert episode.rows["obs"].tobytes() == lived.tobytes()
        seen |= {(env, episode.start_step + offset) for offset in range(length)}
        ended = bool(lived[-1, 0] > 0)
        assert (episode.success, episode.termination) == ((1, TERMINATED) if ended else (-1, CUT_OFF))
        assert episode.rows["flag"].tolist() == [False] * (length - 1) + [ended]
    assert len(seen) == 4 * 30


@pytest.mark.parametrize("missing", [-1, float("nan")], ids=["-1", "nan"])
def test_success_may_be_unknown_for_each(tmp_path, missing):
    with recorder(tmp_path, 3) as written:
        for success in (None, torch.tensor([1.0, 0.0, missing])):
            written.record(reward=np.zeros(3))
            written.end(np.ones(3, bool), success=success)
        counts = written.close().counts
    assert zarr.open(tmp_path / "rollout.zarr", mode="r")["meta/success"][:].tolist() == [-1, -1, -1, 1, 0, -1]
    assert (counts.measured, counts.succeeded) == (2, 1)


def test_episodes_that_are_not_kept_are_forgotten_with_their_rows(tmp_path):
    with recorder(tmp_path, 2, whole_alone=True) as written:
        for step in range(6):
            written.record(step=np.full(2, step))
            ended = np.array([step % 2 == 1, step == 2])
            written.end(ended, success=np.zeros(2), kept=ended & np.array([step == 3, True]))
        counts = written.close().counts
    store = zarr.open(tmp_path / "rollout.zarr", mode="r")
    assert store["data/step"][:].ravel().tolist() == [0, 1, 2, 2, 3], "and those that still run"
    assert store["meta/env"][:].tolist() == [1, 0]
    assert store["meta/start_step"][:].tolist() == [0, 2]
    assert (counts.episodes, counts.steps, counts.succeeded) == (2, 5, 0)


def test_long_episodes_and_many_of_them_fill_many_shards(tmp_path):
    with recorder(tmp_path, 16, 5000, block_bytes=1 << 14, shard_bytes=1 << 14) as written:
        random = np.random.default_rng(0)
        for step in range(5000):
            written.record(where=np.stack([np.arange(16), np.full(16, step)], 1))
            written.end(random.random(16) < 0.3 * (np.arange(16) > 3))
    root = zarr.open(tmp_path / "rollout.zarr", mode="r")
    episodes = read(tmp_path / "rollout.zarr")
    assert len(episodes) > 1 << 14, "meta has more than one chunk"
    assert root["data/where"].shards[0] * 50 < 16 * 5000
    for episode in episodes:
        assert (episode.rows["where"][:, 0] == episode.env).all()
        assert (np.diff(episode.rows["where"][:, 1]) == 1).all()
        assert episode.rows["where"][0, 1] == episode.start_step
    lasts = [episode.start_step + len(episode.rows["where"]) for episode in episodes]
    order = [(last, each.termination, each.env) for last, each in zip(lasts, episodes, strict=True)]
    assert order == sorted(order)
    assert {len(episode.rows["where"]) for episode in episodes if episode.env < 4} == {5000}


def test_images_are_stored_row_by_row(tmp_path):
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (20, 2, 64, 64, 3)).astype(np.uint8)
    with recorder(tmp_path) as written:
        for frame in frames:
            written.record(rgb=frame)
    found = zarr.open(tmp_path / "rollout.zarr", mode="r")["data/rgb"]
    assert found.chunks == (8, 64, 64, 3)
    np.testing.assert_array_equal(found[:], np.concatenate([frames[:, 0], frames[:, 1]]))


ROW = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("quantities", "said"),
    [
        ({}, "Nothing to record"),
        ({"": ROW}, "'' cannot name a quantity"),
        ({"../x": ROW}, "'../x' cannot name"),
        ({"a/../b": ROW}, "cannot name"),
        ({"/a": ROW}, "'/a' cannot name"),
        ({"a/": ROW}, "cannot name"),
        ({"a//b": ROW}, "cannot name"),
        ({"a\nb": ROW}, r"'a\\nb' cannot name"),
        ({"a\0": ROW}, "cannot name"),
        ({"ä": ROW}, "letters, digits"),
        ({"__a": ROW}, "'__'"),
        ({"zarr.json": ROW}, "zarr.json"),
        ({"x" * 201: ROW}, "up to 200"),
        ({3: ROW}, "3 cannot name"),
        ({"obs": ROW, "obs/policy": ROW}, "'obs' cannot be a quantity while 'obs/policy' is one"),
        ({"a": [[0.0], [1.0]]}, "'a' is a list. Allowed: torch tensors"),
        ({"a": None}, "'a' is a NoneType"),
        ({"a": np.array([object(), None])}, "'a' has the type 'object'. Allowed: bool, int8"),
        ({"a": np.zeros((2, 3), complex)}, "'complex128'"),
        ({"a": lambda: torch.zeros(2, 3, dtype=torch.bfloat16)}, "'a' is a tensor that cannot be recorded"),
        ({"a": lambda: torch.zeros(2, 3).to_sparse()}, "'a' is a tensor that cannot be recorded"),
        ({"a": np.array(["x", "y"])}, "'<U1'"),
        ({"a": np.zeros((3, 3))}, r"'a' has the shape \(3, 3\). Its first axis must be the 2 environments"),
        ({"a": np.zeros(())}, r"'a' has the shape \(\)"),
        ({"a": np.zeros((2, 0))}, "holds no value"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused(tmp_path, quantities, said):
    made = {key: value() if callable(value) else value for key, value in quantities.items()}
    with recorder(tmp_path) as written:
        with pytest.raises(ValueError, match=said):
            written.record(made)
        written.record(good=ROW)
    assert open_rollout(tmp_path / "rollout.zarr").counts.steps == 2


@pytest.mark.parametrize(
    ("quantities", "said"),
    [
        ({"a": ROW}, r"quantities changed \(missing: 'b'\)"),
        ({"a": ROW, "b": ROW, "c": ROW}, r"\(new: 'c'\)"),
        ({"a": ROW, "c": ROW}, r"\(missing: 'b'; new: 'c'\)"),
        ({"a": ROW, "b": ROW[:, :2]}, r"'b' was float32 \(2, 3\) on the host and is now float32 \(2, 2\)"),
        ({"a": ROW, "b": ROW.astype(np.float64)}, r"is now float64 \(2, 3\)"),
        ({"a": ROW, "b": 3.0}, "'b' is a float"),
    ],
    ids=itertools.count(),
)
def test_what_changes_between_steps_is_refused_and_not_recorded(tmp_path, quantities, said):
    with recorder(tmp_path) as written:
        written.record(a=ROW, b=ROW + 1)
        with pytest.raises(ValueError, match=said):
            written.record(quantities)
        written.record({"b": ROW + 3, "a": ROW + 2})
    root = zarr.open(tmp_path / "rollout.zarr", mode="r")
    assert root["data/a"][:, 0].tolist() == [0, 2, 0, 2]
    assert root["data/b"][:, 0].tolist() == [1, 3, 1, 3]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"ended": None}, "'ended' is None"),
        ({"ended": np.zeros(3, bool)}, r"'ended' has the shape \(3,\); it must be \(2,\)"),
        ({"ended": np.zeros((2, 1), bool)}, "'ended' has the shape"),
        ({"ended": np.zeros(2)}, "'ended' has the type float64. Allowed: bool, integers"),
        ({"ended": [True, False]}, "'ended' is a list"),
        ({"ended": np.ones(2, bool), "terminated": np.zeros(2)}, "'terminated' has the type"),
        ({"ended": np.ones(2, bool), "success": np.array(["a", "b"])}, "'success' has the type"),
    ],
    ids=itertools.count(),
)
def test_a_bad_flag_is_refused_and_not_recorded(tmp_path, flags, said):
    with recorder(tmp_path) as written:
        written.record(a=ROW)
        with pytest.raises(ValueError, match=said):
            written.end(**flags)
        written.end(np.array([True, False]))
    assert [episode.termination for episode in read(tmp_path / "rollout.zarr")] == [TIME_LIMIT, CUT_OFF]


DONE = np.ones(2, bool)


@pytest.mark.parametrize(
    ("before", "call", "said"),
    [
        ("", lambda written: written.record({"a": ROW, "b": ROW}, a=ROW), "'a' given in the mapping and by name"),
        ("", lambda written: written.end(DONE), "without a step before it"),
        ("record end", lambda written: written.end(DONE), "at most once after each"),
        ("", lambda written: written.describe("../a"), "cannot name"),
        ("record", lambda written: written.describe("a", unit="m"), "after the first step"),
        ("record close", lambda written: written.record(a=ROW), "closed"),
        ("record close", lambda written: written.end(DONE), "closed"),
    ],
    ids=itertools.count(),
)
def test_a_call_out_of_place_is_refused(tmp_path, before, call, said):
    written = recorder(tmp_path)
    known = {"record": lambda: written.record(a=ROW), "end": lambda: written.end(DONE), "close": written.close}
    for name in before.split():
        known[name]()
    with pytest.raises(ValueError, match=said):
        call(written)
    written.close()


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"names": "abc"}, "Give a list of names"),
        ({"names": [1, 2, 3]}, "described by 1, which is not text"),
        ({"unit": 3}, "described by 3"),
        ({"names": ["a", "b"]}, "'a' has 3 values in its last axis and 2 names"),
    ],
)
def test_a_bad_description_is_refused(tmp_path, described, said):
    with recorder(tmp_path) as written, pytest.raises(ValueError, match=said):
        written.describe("a", **described)
        written.record(a=ROW)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"longest": 2.5}, "longest is 2.5"),
        ({"control_period_s": 0}, "control_period_s is 0"),
        ({"attributes": {"num_envs": 3}}, "'num_envs' are the recorder's own"),
        ({"attributes": {"a": float("nan")}}, "cannot be stored as JSON"),
        ({"attributes": {"a": Path()}}, "cannot be stored as JSON"),
    ],
    ids=itertools.count(),
)
def test_bad_arguments_are_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        recorder(tmp_path, **options)
    assert not (tmp_path / "rollout.zarr").exists()


def test_it_never_writes_into_what_is_there(tmp_path):
    small(tmp_path)
    with pytest.raises(FileExistsError, match="not empty"):
        recorder(tmp_path)


def test_a_recording_too_large_for_the_disk_is_an_error_at_the_first_step(tmp_path):
    written = recorder(tmp_path, longest=10**14)  # more than a file of any common file system can have
    with pytest.raises(OSError, match=r"no room for .* MB of running episodes"):
        written.record(a=ROW)


def test_an_episode_longer_than_the_bound_is_an_error(tmp_path):
    written = recorder(tmp_path, longest=20, block_bytes=1)
    for step in range(20):
        written.record(a=ROW)
        written.end(np.array([True, False]) & (step % 5 == 4))
    with pytest.raises(ValueError, match="environment 1 that began at step 0 is longer than the 20 steps"):
        for _ in range(10):
            written.record(a=ROW)
            written.end(np.array([False, False]))
    with pytest.raises(ValueError, match="is longer than"):
        written.close()


def test_a_success_that_is_neither_is_an_error(tmp_path):
    written = recorder(tmp_path)
    written.record(a=ROW)
    written.end(DONE, success=np.array([1.0, 0.5]))
    with pytest.raises(ValueError, match=r"environment 1 was 0\.5"):
        written.close()


def test_what_the_writer_cannot_write_is_an_error_of_the_next_call(tmp_path):
    written = recorder(tmp_path, block_bytes=1, shard_bytes=1)
    written.record(a=ROW)
    shutil.rmtree(tmp_path / "rollout.zarr" / "data")
    with pytest.raises(FileNotFoundError):
        for _ in range(100):
            written.record(a=ROW)
            written.end(DONE)
    with pytest.raises(FileNotFoundError):
        written.close()
    wait_until(
        lambda: "simyard-rollout-writer" not in [thread.name for thread in threading.enumerate()], HANG_S, "its end"
    )


def test_what_stops_the_simulation_is_what_is_raised_and_the_rollout_is_kept(tmp_path):
    with pytest.raises(ZeroDivisionError), recorder(tmp_path) as written:
        written.record(a=ROW)
        written.end(np.array([True, False]))
        written.record(a=ROW)
        1 / 0  # noqa: B018
    assert [episode.termination for episode in read(tmp_path / "rollout.zarr")] == [TIME_LIMIT, CUT_OFF, CUT_OFF]
    assert open_rollout(tmp_path / "rollout.zarr").finished


def test_the_first_of_two_errors_comes_first(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught, recorder(tmp_path) as written:
        written.record(a=ROW)
        written.end(DONE, success=np.full(2, 0.5))
        1 / 0  # noqa: B018
    assert "could not be completed either: The success of an episode" in caught.value.__notes__[0]


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(path, new):
    path.write_bytes(new(path.read_bytes()))


def replace_by_a_file(path):
    shutil.rmtree(path)
    path.write_text("hello")


A_SHARD, REWARDS = "data/obs/policy/c.0.0", "data/reward/c.0"
OTHER_VERSION = {"format": "simyard.rollout", "format_version": 2}
DAMAGE = {
    "a shard lost": (
        lambda path: (path / "data/obs/policy/c.2.0").unlink(),
        "data/obs/policy has lost data/obs/policy/c.2.0",
    ),
    "a shard cut": (
        lambda path: rewrite(path / REWARDS, lambda data: data[:-10]),
        "data/reward cannot be read from row 0",
    ),
    "a chunk broken": (
        lambda path: rewrite(path / A_SHARD, lambda data: bytes(100) + data[100:]),
        "data/obs/policy cannot be read from row 0",
    ),
    "shortened": (
        lambda path: change(path / "data/reward/zarr.json", shape=[99]),
        r"data/reward has the shape \(99,\); its episodes take 100 rows",
    ),
    "lengthened": (
        lambda path: change(path / "data/reward/zarr.json", shape=[101]),
        r"data/reward has the shape \(101,\)",
    ),
    "ends lost": (lambda path: shutil.rmtree(path / "meta/episode_ends"), "meta/episode_ends is missing"),
    "a chunk of ends lost": (lambda path: (path / "meta/episode_ends/c.0").unlink(), "meta/episode_ends has lost"),
    "meta shortened": (lambda path: change(path / "meta/env/zarr.json", shape=[3]), "meta/env has the shape"),
    "data lost": (lambda path: shutil.rmtree(path / "data"), "'data' is missing"),
    "another group": (lambda path: change(path / "zarr.json", attributes={}), "no rollout"),
    "another version": (
        lambda path: change(path / "zarr.json", attributes=OTHER_VERSION),
        "format version 2. Allowed: 1",
    ),
    "no group": (lambda path: (path / "zarr.json").unlink(), "no Zarr v3 group"),
    "no JSON": (lambda path: (path / "zarr.json").write_text("{"), "no Zarr v3 group"),
    "not there": (shutil.rmtree, "not there"),
    "a file": (replace_by_a_file, "neither a folder nor a zip file"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_broken_rollout_does_not_open(tmp_path, damage, said, zipped):
    path = small(tmp_path, shard_bytes=256)
    assert open_rollout(path).counts.episodes == 13
    damage(path)
    if zipped and path.is_dir():
        pack(path, tmp_path / "rollout.zip")
        path = tmp_path / "rollout.zip"
    with pytest.raises(ValueError, match=said):
        open_rollout(path)


def test_rows_that_a_killed_recorder_did_not_list_count_for_nothing(tmp_path):
    path = small(tmp_path)
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    change(path / "zarr.json", attributes=attributes | {"finished": False})
    change(path / "meta/episode_ends/zarr.json", shape=[4])
    figures = open_rollout(path)
    assert (figures.counts.episodes, figures.finished) == (4, False)
    assert figures.counts.steps == sum(len(episode.rows["reward"]) for episode in read(path)[:4]) < 100


ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from simyard.runner.recording.recorder import RolloutRecorder

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(seed)
envs = np.arange(32)
with RolloutRecorder(folder / "rollout.zarr", num_envs=32, longest=400, control_period_s=1, scratch=folder,
                     block_bytes=1 << 16, shard_bytes=1 << 18) as recorder:
    lengths = np.zeros(32, int)
    step = 0
    while True:
        where = np.stack([envs, np.full(32, step)], 1)
        recorder.record({"where": where, "obs/wide": np.repeat(where[:, 1:], 20, 1).astype(np.float32),
                         "image": np.broadcast_to(where[:, None, :1] % 256, (32, 4, 4)).astype(np.uint8)})
        lengths += 1
        ended = (random.random(32) < 0.01) | (lengths == 400)
        recorder.end(ended, success=envs % 2)
        lengths[ended] = 0
        step += 1
"""


def test_a_killed_recorder_leaves_whole_episodes(tmp_path):
    children = []
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        command = [sys.executable, "-c", ENDLESS, str(tmp_path / str(seed)), str(seed)]
        children.append(subprocess.Popen(command))

    def listed(seed):
        try:
            return zarr.open(tmp_path / str(seed) / "rollout.zarr", mode="r")["meta/episode_ends"].shape[0]
        except (KeyError, FileNotFoundError, ValueError, zarr.errors.BaseZarrError):
            return 0

    try:
        for seed, child in enumerate(children):
            at_least = wait_until(lambda seed=seed: listed(seed), HANG_S, "episodes") if seed == 0 else 1
            wait_until(lambda seed=seed, least=at_least: listed(seed) >= least, HANG_S, "episodes")
            child.kill()
    finally:
        for child in children:
            child.kill()
            child.wait()
    for seed in range(3):
        folder = tmp_path / str(seed)
        assert sorted(entry.name for entry in folder.iterdir()) == ["rollout.zarr"], "the ring has no name"
        figures = open_rollout(folder / "rollout.zarr")
        assert not figures.finished
        pack(folder / "rollout.zarr", folder / "rollout.zip")
        assert open_rollout(folder / "rollout.zip").counts.episodes == figures.counts.episodes > 0
        ends = set()
        for episode in read(folder / "rollout.zarr"):
            length = len(episode.rows["where"])
            steps = np.arange(episode.start_step, episode.start_step + length)
            assert (episode.rows["where"] == np.stack([np.full(length, episode.env), steps], 1)).all()
            assert (episode.rows["obs/wide"] == steps[:, None]).all()
            assert (episode.rows["image"] == episode.env).all()
            assert episode.success == episode.env % 2
            assert 0 < length <= 400
            ends.add((episode.env, episode.start_step + length))
        starts = {(episode.env, episode.start_step) for episode in read(folder / "rollout.zarr")}
        assert {(env, start) for env, start in starts if start} <= ends, "no episode is left out"


MEASURE = """
import re
import sys
from pathlib import Path
import numpy as np
import zarr
from simyard.runner.recording.recorder import RolloutRecorder

def memory():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

folder = Path(sys.argv[1])
random = np.random.default_rng(0)
rows = random.normal(size=(8, 256, 64)).astype(np.float32)
RolloutRecorder(folder / "warm-up", num_envs=1, longest=1, control_period_s=1, scratch=folder).close()
before = most = memory()
sizes = {"num_envs": 256, "longest": 2000, "control_period_s": 1, "scratch": folder}
with RolloutRecorder(folder / "rollout.zarr", **sizes) as recorder:
    for step in range(6000):
        recorder.record(obs=rows[step % 8])
        recorder.end((random.random(256) < 0.001) | (step % 2000 == 1999))
        most = max(most, memory()) if step % 10 == 0 else most
    print(recorder.close().counts.steps, max(most, memory()) - before)
"""


def test_memory_is_bounded(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    steps, grown = map(int, done.stdout.split())
    assert steps == 256 * 6000
    assert steps * 256 > 4 * (bound := 3 * BLOCK_BYTES + SHARD_BYTES + (1 << 24))
    assert grown < bound
