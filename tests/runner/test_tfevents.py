from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from simyard.tasks.metrics.events import MAX_RECORD, EventReader, Series, find_event_files, masked_crc32c

event_accumulator = lazy("tensorboard.backend.event_processing.event_accumulator")
event_pb2 = lazy("tensorboard.compat.proto.event_pb2")
summary_pb2 = lazy("tensorboard.compat.proto.summary_pb2")
tensor_pb2 = lazy("tensorboard.compat.proto.tensor_pb2")
pywrap_tensorflow = lazy("tensorboard.compat.tensorflow_stub.pywrap_tensorflow")
tensor_util = lazy("tensorboard.util.tensor_util")
tensorboard = lazy("torch.utils.tensorboard")


def frame(payload: bytes) -> bytes:
    return header(len(payload)) + payload + struct.pack("<I", pywrap_tensorflow.masked_crc32c(payload))


def header(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + struct.pack("<I", masked_crc32c(length))


def scalar(tag: str, step: int, value: float, wall: float = 1.7e9) -> bytes:
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
    return frame(event_pb2.Event(wall_time=wall, step=step, summary=summary).SerializeToString())


def tensor(tag: str, step: int, proto: tensor_pb2.TensorProto) -> bytes:
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, tensor=proto)])
    return frame(event_pb2.Event(wall_time=1.7e9, step=step, summary=summary).SerializeToString())


def event_file(folder: Path, data: bytes = b"") -> Path:
    path = folder / "events.out.tfevents.1700000000.host"
    path.write_bytes(data)
    return path


def read(path: Path) -> dict[str, list[tuple[int, float, bytes]]]:
    return rows(EventReader(path).read_new())


def rows(found: dict[str, Series]) -> dict[str, list[tuple[int, float, bytes]]]:
    """Step, wall time and the bits of the value, so that NaN equals itself."""
    return {
        tag: [
            (step, wall, struct.pack("<d", value)) for step, wall, value in zip(s.steps, s.walls, s.values, strict=True)
        ]
        for tag, s in found.items()
    }


def joined(*parts: dict[str, list]) -> dict[str, list]:
    return {
        tag: [row for part in parts for row in part.get(tag, [])] for tag in {tag for part in parts for tag in part}
    }


@pytest.fixture
def mixed() -> bytes:
    """A file of every kind of record: plain, many in one, tensors, texts, none at all."""
    two = summary_pb2.Summary(
        value=[
            summary_pb2.Summary.Value(tag="a", simple_value=1.5),
            summary_pb2.Summary.Value(tag="b", simple_value=-0.0),
        ]
    )
    return b"".join(
        (
            frame(event_pb2.Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString()),
            scalar("a", 0, 0.1),
            scalar("a", 1, 0.2),
            frame(event_pb2.Event(wall_time=2.0, step=127, summary=two).SerializeToString()),
            scalar("a", 128, float("nan")),
            tensor("c", 129, tensor_util.make_tensor_proto(np.float32(2.5))),
            tensor("c", 130, tensor_util.make_tensor_proto(np.float32(3.5))),
            tensor("text", 130, tensor_util.make_tensor_proto("words")),
            scalar("a", 131, float("inf")),
        )
    )


def test_reads_the_same_scalars_as_tensorboard_in_every_folder(tmp_path):
    rng = random.Random(0)
    for folder in ("", "rank_1", "deep/summaries"):
        with tensorboard.SummaryWriter(str(tmp_path / folder)) as writer:
            for step in (*range(150), 70_000, 2**40):
                for tag in ("Loss/value", "Train/mean_reward", "Ünï/çode"):
                    writer.add_scalar(tag, rng.gauss(0, 1) * 10 ** rng.randint(-40, 30), step)
            writer.add_histogram("weights", np.arange(10.0), 1)
            writer.add_text("note", "words", 1)

    paths = find_event_files(tmp_path)

    assert [path.parent.relative_to(tmp_path).as_posix() for path in paths] == ["deep/summaries", ".", "rank_1"]
    for path in paths:
        found = EventReader(path).read_new()
        theirs = event_accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        assert sorted(found) == sorted(theirs.Tags()["scalars"])
        for tag, series in found.items():
            expected = [(event.wall_time, event.step, event.value) for event in theirs.Scalars(tag)]
            assert list(zip(series.walls, series.steps, series.values, strict=True)) == expected


def test_finds_nothing_where_there_is_no_folder(tmp_path):
    assert find_event_files(tmp_path / "absent") == []


def test_reads_scalars_written_as_tensors(tmp_path):
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("loss", step / 8, step, new_style=True)
        writer.add_hparams({"rate": 0.1}, {"score": 1.0}, run_name=".")

    found = joined(*(read(path) for path in find_event_files(tmp_path)))

    assert [struct.unpack("<d", value)[0] for _, _, value in found["loss"]] == [0.0, 0.125, 0.25, 0.375, 0.5]
    assert sorted(found) == ["loss", "score"]


@pytest.mark.parametrize(
    ("given", "values", "is_wide"),
    [
        pytest.param(dict(dtype=1, float_val=[0.5]), [0.5], False, id="float"),
        pytest.param(dict(dtype=1, tensor_content=struct.pack("<f", 0.5)), [0.5], False, id="float as bytes"),
        pytest.param(dict(dtype=2, double_val=[0.5]), [0.5], True, id="double"),
        pytest.param(dict(dtype=2, tensor_content=struct.pack("<d", 0.5)), [0.5], True, id="double as bytes"),
        pytest.param(np.float64(0.1), [0.1], True, id="all digits of a double"),
        pytest.param(dict(dtype=1), [0.0], False, id="zero is left out"),
        pytest.param(np.ones(1, np.float32), None, None, id="vector"),
        pytest.param(np.ones((2, 2), np.float32), None, None, id="matrix"),
        pytest.param(np.int32(1), None, None, id="whole number"),
        pytest.param("text", None, None, id="text"),
    ],
)
def test_a_tensor_is_a_scalar_where_it_is_one_float(tmp_path, given, values, is_wide):
    proto = tensor_pb2.TensorProto(**given) if isinstance(given, dict) else tensor_util.make_tensor_proto(given)
    reader = EventReader(event_file(tmp_path, tensor("x", 1, proto) + scalar("x", 2, 1.0)))
    series = reader.read_new()["x"]
    assert (list(series.values), series.wide, reader.error) == ([*(values or []), 1.0], bool(is_wide), None)


def test_a_record_cut_at_any_byte_is_waited_for(tmp_path, mixed):
    whole = read(event_file(tmp_path, mixed))
    assert [len(whole[tag]) for tag in ("a", "b", "c")] == [5, 1, 2]
    for cut in range(len(mixed) + 1):
        path = event_file(tmp_path, mixed[:cut])
        reader = EventReader(path)
        before = rows(reader.read_new())
        assert reader.error is None
        with path.open("ab") as file:
            file.write(mixed[cut:])
        assert joined(before, rows(reader.read_new())) == whole
        assert (reader.error, reader.offset) == (None, len(mixed))


def test_a_file_that_grows_byte_by_byte_gives_every_scalar_once(tmp_path, mixed):
    path = event_file(tmp_path)
    reader = EventReader(path)
    parts = []
    with path.open("ab", buffering=0) as file:
        for byte in mixed:
            file.write(bytes([byte]))
            parts.append(rows(reader.read_new()))

    assert joined(*parts) == read(path)
    assert reader.read_new() == {}


def test_records_longer_than_a_chunk_are_stepped_over(tmp_path):
    big = tensor("text", 2, tensor_util.make_tensor_proto("x" * 5_000_000))
    path = event_file(tmp_path, scalar("a", 1, 1.0) + big + scalar("a", 3, 3.0) + big[:-1])
    reader = EventReader(path)

    assert list(reader.read_new()["a"].steps) == [1, 3]
    assert reader.error is None


def test_plain_records_with_crossing_lengths_are_told_apart(tmp_path):
    # One byte more of tag and one less of step give records of one length.
    data = b"".join(scalar("ab" if step < 128 else "a", step, step) for step in (1, 2, 127, 128, 129, 3, 4, 130, 5, 6))
    found = EventReader(event_file(tmp_path, data)).read_new()
    assert {tag: list(series.steps) for tag, series in found.items()} == {
        "ab": [1, 2, 127, 3, 4, 5, 6],
        "a": [128, 129, 130],
    }
    assert all(series.steps.tolist() == series.values.tolist() for series in found.values())


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        (lambda: b"\x00" * 64, "checksum of its length"),
        (lambda: b"not an event file at all, but long enough", "checksum of its length"),
        (lambda: frame(b"\xff" * 30), "not an Event"),
        (lambda: frame(b"\x2a\x7f"), "runs over the end"),
        (lambda: frame(b"\x0b"), "wire type 3"),
        (lambda: header(MAX_RECORD + 1) + b"x" * 100, f"a record of {MAX_RECORD + 1} bytes"),
    ],
    ids=["zeros", "text", "number", "field", "wire", "absurd length under a right checksum"],
)
def test_garbage_stops_the_reader_at_its_offset_and_keeps_what_came_before(tmp_path, garbage, message):
    good = scalar("a", 1, 1.0) + scalar("a", 2, 2.0)
    reader = EventReader(event_file(tmp_path, good + garbage() + scalar("a", 3, 3.0)))

    assert list(reader.read_new()["a"].steps) == [1, 2]
    assert message in reader.error and reader.error.endswith(f"at byte {len(good)}")
    assert reader.read_new() == {}


def test_a_flipped_byte_anywhere_never_raises(tmp_path, mixed):
    for place in range(len(mixed)):
        damaged = bytearray(mixed)
        damaged[place] ^= 0xFF
        EventReader(event_file(tmp_path, bytes(damaged))).read_new()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), framed=st.booleans())
def test_random_bytes_never_raise(tmp_path_factory, data, framed):
    path = event_file(tmp_path_factory.getbasetemp(), frame(data) if framed else data)
    EventReader(path).read_new()


def test_reading_goes_on_when_a_broken_record_was_mended(tmp_path):
    first, second = scalar("a", 1, 1.0), scalar("a", 2, 2.0)
    path = event_file(tmp_path, first + bytes(len(second)))
    reader = EventReader(path)
    reader.read_new()
    assert reader.error is not None

    event_file(tmp_path, first + second + first)

    assert list(reader.read_new()["a"].steps) == [2, 1]
    assert reader.error is None


def test_a_file_that_shrank_is_reported(tmp_path):
    path = event_file(tmp_path, scalar("a", 1, 1.0))
    reader = EventReader(path)
    reader.read_new()
    event_file(tmp_path, b"")

    assert reader.read_new() == {}
    assert "shrank to 0 bytes" in reader.error


def test_a_missing_file_is_reported_and_read_when_it_comes(tmp_path):
    reader = EventReader(tmp_path / "events.out.tfevents.1700000000.host")
    assert reader.read_new() == {}
    assert "cannot read" in reader.error

    event_file(tmp_path, scalar("a", 1, 1.0))

    assert list(reader.read_new()["a"].steps) == [1]
    assert reader.error is None


scalars = st.tuples(
    st.sampled_from(["a", "b", "Loss/value"]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.integers(0, 300) | st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32),
    st.floats(allow_nan=False),
)


@settings(max_examples=150, deadline=None)
@given(written=st.lists(scalars, max_size=30))
def test_what_was_written_is_read(tmp_path_factory, written):
    data = b"".join(scalar(tag, step, value, wall) for tag, step, value, wall in written)
    expected: dict[str, list] = {}
    for tag, step, value, wall in written:
        expected.setdefault(tag, []).append((step, wall, struct.pack("<d", np.float32(value))))

    assert read(event_file(tmp_path_factory.getbasetemp(), data)) == expected


@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_the_checksum_is_tensorboards(data):
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


def test_needs_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); import simyard.tasks.metrics.table; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['simyard']"
