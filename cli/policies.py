"""`simyard policy`: what goes to a robot."""

from __future__ import annotations

from pathlib import Path

import click

from simyard.cli.shared import JSON, STORE, Command, Group, emit, open_site_store
from simyard.core.errors import RequestError

_README = """# {task}

The policy of `{checkpoint}` ({library}), exported by simyard in `{job}`.

    pip install 'simyard[policy]'              # or: pip install --no-deps simyard, beside numpy and onnxruntime
    python -m simyard.policy check {name}      # parity with the golden pairs, and the time of a step, on this computer

| file | |
|---|---|
| `policy.onnx` | the network, normaliser inside; SHA-256 {sha256} |
| `policy_contract.json` | what goes in and comes out, in order, with limits; control period {period_ms:g} ms |
| `golden.json` | observations of real rollouts, and the actions that the library's own inference sent |
| `checklist.json` | what must hold before a robot moves |

Checklist: {verdict}.

{rows}"""


@click.group(cls=Group)
def policy() -> None:
    """Bundle policies for robots."""


@policy.command(cls=Command)
@click.argument("job_id", metavar="JOB")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@STORE
@JSON
def bundle(job_id: str, file: Path | None, store: str | None, as_json: bool) -> None:
    """Write an export as one zip for its robot: policy, contract, golden pairs, checklist. FILE is JOB.zip by default.

    On the robot, `python -m simyard.policy check FILE` proves it, with NumPy and ONNX Runtime alone.
    """
    from simyard.core.artifacts import CHECKLIST, CONTRACT, GOLDEN, POLICY_ONNX, ROBOT_MODEL
    from simyard.core.files import sha256_of
    from simyard.core.foreign import parse_json
    from simyard.policy.bundle import README, write_bundle
    from simyard.runner.exporting.checks import Checklist
    from simyard.runner.exporting.contract import ONNX, parse_contract
    from simyard.store import keys
    from simyard.tasks.shared import history

    opened = open_site_store(store)
    spec = history.load_spec(opened, job_id)
    known = history.job_status(opened, job_id)
    if spec.kind != "export" or known.status != "succeeded":
        raise RequestError(
            f"{job_id} is a job of kind {spec.kind!r} that is {known.status}, not an export that succeeded.",
            code="no_export",
            advice="Name a job of `simyard export-policy`; `simyard jobs list` shows them.",
        )
    there = {entry.name for entry in known.artifacts}
    if GOLDEN.name not in there:
        raise RequestError(
            f"{job_id} has no {GOLDEN.name}: an older simyard exported it.",
            code="no_golden_pairs",
            advice=f"Export the policy again: simyard export-policy --job {spec.from_job or 'JOB'}.",
        )
    wanted = [row.name for row in (POLICY_ONNX, CONTRACT, GOLDEN, CHECKLIST, ROBOT_MODEL) if row.name in there]
    files = {name: opened.get_bytes(keys.JobKeys(job_id).artifact(name)) for name in wanted}
    contract = parse_contract(parse_json(files[CONTRACT.name]))
    checklist = Checklist.from_json(parse_json(files[CHECKLIST.name]))
    open_items = [item.item for item in checklist.items if item.status != "pass"]
    path = file or Path(f"{job_id}.zip")
    files[README] = _README.format(
        task=contract.task,
        checkpoint=spec.policies[0].checkpoint.name,
        library=contract.library,
        job=job_id,
        name=path.name,
        sha256=contract.file(ONNX).sha256,
        period_ms=contract.control_period_s * 1000,
        verdict="deployable" if checklist.deployable else f"not deployable, open are {', '.join(open_items)}",
        rows=checklist.rows(),
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(path, files)
    written = {"file": str(path), "sha256": sha256_of(path), "bytes": path.stat().st_size}
    emit(written, as_json, lambda found: f"{found['file']}: {found['bytes']} bytes, SHA-256 {found['sha256']}")
