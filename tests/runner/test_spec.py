"""The wire contract: what is written is what is read."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simyard.core.errors import Category, Failure, RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, Limits, ResumePoint

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


def test_a_field_of_a_newer_version_is_an_error():
    with pytest.raises(ValueError, match=r"Limits has no field \['patience'\]; allowed:.*wall_s"):
        Limits.from_json({"patience": 1})


def test_a_field_that_is_missing_is_an_error():
    with pytest.raises(TypeError, match="sha256"):
        InputFile.from_json({"name": "a", "key": "b", "size_bytes": 1})


def test_iterations_count_on_top_of_the_checkpoint():
    file = InputFile(name="model_6.pt", key="k", sha256="s", size_bytes=1)
    spec = JobSpec(
        job_id="j", kind="train", name="n", simulator="s", task="t", library="rsl_rl", num_envs=1, max_iterations=5,
        seed=1, resume=ResumePoint(checkpoint=file, iteration=7),
    )  # fmt: skip
    assert (spec.first_iteration, spec.last_iteration) == (7, 12)
