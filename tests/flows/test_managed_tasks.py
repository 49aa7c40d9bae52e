"""The Prefect tasks of managed training take ids and plain records: nothing that lives in one process alone."""

import typing
from pathlib import Path
from types import NoneType

import pytest

from simyard.core.specs import JobSpec
from simyard.requests.managed import TrainingRunRequest

PLAIN = (str, int, NoneType, dict, list, typing.Any, Path, JobSpec, TrainingRunRequest)


def parts(hint):
    """Yield the types that a hint is made of."""
    yield typing.get_origin(hint) if typing.get_origin(hint) in PLAIN else hint
    for part in typing.get_args(hint):
        yield from parts(part)


@pytest.mark.parametrize("name", ["freeze", "rollout", "dataset", "trainer", "report"])
def test_a_task_takes_plain_records_alone(name):
    from simyard.flows import managed_training

    hints = typing.get_type_hints(getattr(managed_training, name).fn)
    del hints["return"]
    found = {part for hint in hints.values() for part in parts(hint) if not typing.get_args(part)}
    assert found, "its parameters have types"
    assert found <= set(PLAIN)
