"""`--view`: what is refused before anything of a job is there, and which lines of a workload are an address."""

import sys
from dataclasses import replace
from pathlib import Path

import left_jobs
import pytest
import records

from simyard.core.errors import RequestError
from simyard.core.specs import AttemptSpec, Facts, JobSpec
from simyard.requests.settings import MachineSettings
from simyard.runner.progress import viewer_of
from simyard.tasks.attempt.view import refuse_without_viewer, require_viewer

FACTS = Facts(**records.facts() | {"overrides": (), "notes": (), "flavor": "api"})


def refusal(spec: JobSpec, machine: MachineSettings, pool: str | None = None) -> tuple[str, str]:
    with pytest.raises(RequestError) as refused:
        require_viewer(spec, pool, machine)
    return refused.value.failure.code, str(refused.value)


@pytest.fixture
def machine(tmp_path: Path) -> MachineSettings:
    return MachineSettings(home=tmp_path, store=str(tmp_path / "store"), python=sys.executable)


def test_what_cannot_be_shown_is_refused_with_the_reason(machine: MachineSettings) -> None:
    job = left_jobs.spec()
    code, said = refusal(job, machine, pool="gpus")
    assert code == "no_view" and "'gpus'" in said
    code, said = refusal(replace(job, gpus=4), machine)
    assert code == "no_view" and "4 of them" in said
    refuse_without_viewer(FACTS)
    for facts in (replace(FACTS, kit=True), replace(FACTS, flavor="scripts", version="2.3.0")):
        with pytest.raises(RequestError, match=r"Kit, Isaac Sim's app|Isaac Lab 2\.3\.0"):
            refuse_without_viewer(facts)


@pytest.mark.long  # starts a few Pythons
def test_a_python_without_viser_is_refused(machine: MachineSettings, tmp_path: Path) -> None:
    job = left_jobs.spec()
    require_viewer(job, None, machine)
    (bare := tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    code, said = refusal(job, replace(machine, python=str(bare)))
    assert code == "viewer_absent" and str(bare) in said and "simyard[view]" in said
    code, _ = refusal(job, replace(machine, python=str(tmp_path / "none")))
    assert code == "viewer_absent"


def test_a_job_knows_nothing_of_its_viewer() -> None:
    assert "view" not in left_jobs.spec().to_json()
    earlier = AttemptSpec(job=left_jobs.spec(), number=1).to_json()
    del earlier["view"]  # as a version before it wrote one
    assert not AttemptSpec.from_json(earlier).view


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("viewer: http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("viewer: http://127.0.0.1:8080/\x1b[2K", None),
        ("viewer: http://10.0.0.7:8080", None),
        ("the viewer: http://127.0.0.1:8080", None),
        ("viewer: javascript:alert(1)", None),
    ],
)
def test_only_an_address_of_loopback_is_one(line: str, url: str | None) -> None:
    assert viewer_of(line) == url
