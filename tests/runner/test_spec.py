"""The wire contract: what is written is what is read."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simyard.core.errors import Category, Failure, RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, Limits, ResumePoint
from simyard.core.wire import ABSENT, Wire, WireError

TEXT = st.text(max_size=20)
COUNT = st.integers(0, 2**31)
SECONDS = st.floats(0, 1e7)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def files():
    return st.builds(InputFile, name=TEXT, key=TEXT, sha256=TEXT, size_bytes=COUNT)


def resume_points():
    return st.builds(ResumePoint, checkpoint=files(), iteration=COUNT, trusted=st.booleans())


def limits():
    return st.builds(Limits, **{field.name: SECONDS for field in dataclasses.fields(Limits)})


def jobs():
    return st.builds(
        JobSpec, job_id=TEXT, kind=TEXT, name=TEXT, description=TEXT, simulator=TEXT, task=TEXT, library=TEXT,
        num_envs=COUNT, max_iterations=COUNT, seed=COUNT, gpus=st.none() | COUNT,
        overrides=st.lists(TEXT, max_size=3).map(tuple), packages=st.lists(files(), max_size=2).map(tuple),
        import_callback=st.none() | TEXT, resume=st.none() | resume_points(), limits=limits(), retries=COUNT,
        created_at=TEXT, from_job=st.none() | TEXT, request=st.dictionaries(TEXT, JSON, max_size=3),
    )  # fmt: skip


def wires():
    attempts = st.builds(
        AttemptSpec, job=jobs(), number=COUNT, start_iteration=COUNT, resume=st.none() | resume_points()
    )
    facts = st.builds(
        Facts, simulator=TEXT, version=TEXT, flavor=TEXT, device=TEXT, rollout=COUNT,
        overrides=st.lists(TEXT, max_size=3).map(tuple), notes=st.lists(TEXT, max_size=3).map(tuple),
        versions=st.dictionaries(TEXT, TEXT, max_size=3),
    )  # fmt: skip
    return attempts | facts


@given(wires())
def test_what_is_written_is_what_is_read(wire):
    assert type(wire).from_json(json.loads(json.dumps(wire.to_json()))) == wire


@given(st.builds(Failure, code=TEXT, category=st.sampled_from(Category), message=TEXT, advice=TEXT))
def test_a_failure_is_read_as_it_was_written(failure):
    assert Failure.from_json(json.loads(json.dumps(failure.to_json()))) == failure


@pytest.mark.parametrize("error", [RequestError("a", code="b", advice="c"), StoreError("a"), WorkloadError])
def test_an_error_survives_a_pickle_with_its_kind_and_its_failure(error):
    import pickle

    if error is WorkloadError:
        error = WorkloadError(Failure(code="a", category=Category.INFRA, message="b"))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, SimyardError)
    assert (type(again), again.failure, str(again)) == (type(error), error.failure, str(error))


JOB = {
    "job_id": "j", "kind": "train", "name": "n", "simulator": "s", "task": "t", "library": "rsl_rl", "num_envs": 1,
    "seed": 1,
}  # fmt: skip
FILE = {"name": "a", "key": "b", "sha256": "c", "size_bytes": 1}


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (Limits, {"patience": 1}, r"Limits has the unknown field 'patience' \(1\); allowed: .*'wall_s'"),
        (InputFile, {"name": "a", "key": "b", "size_bytes": 1}, "InputFile lacks the field 'sha256'"),
        (InputFile, FILE | {"size_bytes": "1"}, r"InputFile\.size_bytes is '1', expected int"),
        (InputFile, FILE | {"size_bytes": True}, r"InputFile\.size_bytes is True, expected int"),
        (InputFile, FILE | {"name": None}, r"InputFile\.name is None, expected str"),
        (InputFile, [FILE], r"InputFile is \[.*, expected an object"),
        (Limits, {"wall_s": math.inf}, r"Limits\.wall_s is inf, expected a finite number"),
        (JobSpec, JOB | {"overrides": "a=1"}, r"JobSpec\.overrides is 'a=1', expected list"),
        (JobSpec, JOB | {"packages": [FILE, {}]}, r"JobSpec\.packages\[1\] lacks the field 'name'"),
        (JobSpec, JOB | {"limits": {"wall_s": "1"}}, r"JobSpec\.limits\.wall_s is '1', expected float"),
    ],
)
def test_what_a_document_cannot_be_is_an_error_that_says_where(cls, data, message):
    with pytest.raises(WireError, match=message) as raised:
        cls.from_json(data)
    assert raised.value.failure.code == "bad_document"


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_a_document_of_another_version_is_refused_before_anything_else(version):
    with pytest.raises(WireError, match=f"JobSpec: schema_version is {version!r}; this simyard reads 1") as raised:
        JobSpec.from_json(JOB | {"schema_version": version, "new": 1})
    assert raised.value.failure.code == "unknown_schema"
    assert raised.value.failure.advice
    assert JobSpec.from_json(JOB).schema_version == 1


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Everything(Wire):
    colour: Colour
    state: Literal["on", "off"]
    pair: tuple[int, float | None]
    either: int | str
    by_name: dict[str, InputFile]
    failure: Failure | None = field(default=None, metadata=ABSENT)


def test_every_type_of_field_is_read_as_it_was_written():
    file = InputFile(name="a", key="b", sha256="c", size_bytes=1)
    failure = Failure(code="a", category=Category.INFRA, message="b")
    both = [
        Everything(colour=Colour.RED, state="on", pair=(1, None), either=either, by_name={"x": file}, failure=failure)
        for either in (1, "one")
    ]
    for one in both:
        assert Everything.from_json(json.loads(json.dumps(one.to_json()))) == one
    without = dataclasses.replace(both[0], failure=None).to_json()
    assert "failure" not in without
    assert Everything.from_json(without).failure is None
    for change, message in (
        ({"colour": "blue"}, r"colour is 'blue', expected one of \['red'\]"),
        ({"state": "idle"}, r"state is 'idle', expected one of \['on', 'off'\]"),
        ({"pair": [1]}, "pair has 1 items, expected 2"),
        ({"either": 1.5}, "either is 1.5, expected int or str"),
        ({"by_name": {"x": {**FILE, "y": 1}}}, r"by_name\.x has the unknown field 'y'"),
        ({"failure": {"code": "a", "category": "nobody", "message": "b"}}, r"failure\.category is 'nobody'"),
    ):
        with pytest.raises(WireError, match=message):
            Everything.from_json(without | change)


def test_iterations_count_on_top_of_the_checkpoint():
    file = InputFile(name="model_6.pt", key="k", sha256="s", size_bytes=1)
    spec = JobSpec(
        job_id="j", kind="train", name="n", simulator="s", task="t", library="rsl_rl", num_envs=1, max_iterations=5,
        seed=1, resume=ResumePoint(checkpoint=file, iteration=7),
    )  # fmt: skip
    assert (spec.first_iteration, spec.last_iteration) == (7, 12)
