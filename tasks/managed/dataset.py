"""The dataset manifest of an iteration: one content-addressed JSON document, and a trainer needs nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.artifacts import ROLLOUT
from simyard.core.errors import StoreError
from simyard.core.files import write_atomic
from simyard.core.records import LineageRecord
from simyard.core.specs import InputFile, JobSpec
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.run import RunSpec

SCHEMA = "simyard.dataset/1"
MANIFEST = "dataset_manifest.json"
MEASURED = ("mean_return", "success_rate")
"""Metrics that rollouts measure, whatever drives the robots."""


@dataclass(frozen=True)
class Dataset:
    """A dataset manifest."""

    sha256: str
    """Of the manifest's bytes."""
    content: dict[str, Any]
    """The manifest itself."""


def iteration_id(number: int) -> str:
    """Return the name of an iteration, counted from 1."""
    return f"iter-{number:04d}"


def write_dataset(
    run: RunSpec, number: int, checkpoint: LineageRecord | None, rollouts: list[JobSpec], store: Store
) -> Dataset:
    """Make the manifest of rollouts that have succeeded, and keep it. The same rollouts give the same document.

    Args:
        run: The run.
        number: The iteration.
        checkpoint: The lineage record of what drove them; None where nothing did.
        rollouts: Their frozen jobs, in order.
        store: Where they are.
    """
    entries = [_entry(spec, store) for spec in rollouts]
    results = [store.get_json(JobKeys(spec.job_id).result) for spec in rollouts]
    content = {
        "schema": SCHEMA,
        "run_id": run.run_id,
        "iteration": number,
        "iteration_id": iteration_id(number),
        "checkpoint": checkpoint
        and {name: getattr(checkpoint, name) for name in ("checkpoint_id", "uri", "sha256", "size_bytes")},
        "rollouts": entries,
        "episodes": _total(entries, "episodes"),
        "recorded_steps": _total(entries, "recorded_steps"),
        "arrays": {
            f"data/{name}": {"shape": about["shape"], "dtype": about["dtype"]}
            for name, about in results[0]["summary"]["keys"].items()
        },
    }
    data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    digest = hashlib.sha256(data).hexdigest()
    store.put_bytes(RunKeys(run.run_id).dataset(digest), data)
    return Dataset(digest, content)


def _total(entries: list[dict[str, Any]], name: str) -> int | None:
    """Return a sum; None where one of them was not measured."""
    values = [entry[name] for entry in entries]
    return None if None in values else sum(values)


def _entry(spec: JobSpec, store: Store) -> dict[str, Any]:
    assert spec.rollout is not None
    job = JobKeys(spec.job_id)
    manifest = store.get_bytes(job.manifest)
    summary = store.get_json(job.result)["summary"]
    (rollout,) = [entry for entry in json.loads(manifest)["artifacts"] if entry["name"] == ROLLOUT.name]
    return {
        "job_id": spec.job_id,
        "uri": store.url(job.artifact(ROLLOUT.name)),
        "path": f"rollouts/{spec.job_id}/{ROLLOUT.name}",
        "sha256": rollout["sha256"],
        "size_bytes": rollout["size_bytes"],
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "seed": spec.seed,
        "num_envs": spec.num_envs,
        "steps": spec.rollout.steps,
        "episodes": summary["episodes"],
        "recorded_steps": summary["recorded_steps"],
        "mean_return": summary["return"]["mean"] if summary["return"] else None,
        "success_rate": summary["success"]["rate"],
    }


def mean_return(dataset: dict[str, Any]) -> float | None:
    """Return the mean return of a dataset's episodes; None where a rollout recorded none."""
    return _mean(dataset, "mean_return")


def success_rate(dataset: dict[str, Any]) -> float | None:
    """Return the rate of episodes that succeeded; None where a rollout did not measure it."""
    return _mean(dataset, "success_rate")


def _mean(dataset: dict[str, Any], name: str) -> float | None:
    rows = dataset["rollouts"]
    if any(row[name] is None or not row["episodes"] for row in rows):
        return None
    return float(sum(row[name] * row["episodes"] for row in rows) / sum(row["episodes"] for row in rows))


def bring(run_id: str, dataset_sha256: str, checkpoint: InputFile | None, folder: Path, store: Store) -> Path | None:
    """Lay out on this machine what a trainer reads: the manifest, the rollouts beside it, the checkpoint.

    Args:
        run_id: The run.
        dataset_sha256: Which manifest.
        checkpoint: What the trainer goes on from.
        folder: Empty.
        store: Where everything is.

    Returns:
        Where the checkpoint lies, if there is one.

    Raises:
        StoreError: If something is gone, or is not what it was.
    """
    data = store.get_bytes(RunKeys(run_id).dataset(dataset_sha256))
    if hashlib.sha256(data).hexdigest() != dataset_sha256:
        raise StoreError("The dataset manifest is not what it was.", code="wrong_digest", advice="Begin another run.")
    for entry in json.loads(data)["rollouts"]:
        key = JobKeys(entry["job_id"]).artifact(ROLLOUT.name)
        store.get_file(key, folder / entry["path"], sha256=entry["sha256"])
    write_atomic(folder / MANIFEST, data)
    if checkpoint is None:
        return None
    target = folder / checkpoint.name
    store.get_file(checkpoint.key, target, sha256=checkpoint.sha256)
    return target
