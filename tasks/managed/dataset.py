"""The dataset manifest of an iteration: one content-addressed JSON document, and a trainer needs nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from simyard.core.artifacts import ROLLOUT
from simyard.core.errors import StoreError
from simyard.core.files import write_atomic
from simyard.core.records import JobResult, Manifest
from simyard.core.run_records import DatasetArray, DatasetCheckpoint, DatasetManifest, DatasetRollout, LineageRecord
from simyard.core.specs import InputFile, JobSpec
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.run import RunSpec

MANIFEST = "dataset_manifest.json"
MEASURED = ("mean_return", "success_rate")
"""Metrics that rollouts measure, whatever drives the robots."""


@dataclass(frozen=True)
class Dataset:
    """A dataset manifest."""

    sha256: str
    """Of the manifest's bytes."""
    manifest: DatasetManifest

    @property
    def mean_return(self) -> float | None:
        """The mean return of its episodes; None where a rollout recorded none."""
        return _mean((row.mean_return, row.episodes) for row in self.manifest.rollouts)

    @property
    def success_rate(self) -> float | None:
        """The rate of episodes that succeeded; None where a rollout did not measure it."""
        return _mean((row.success_rate, row.episodes) for row in self.manifest.rollouts)


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
    # Each rollout, by its own manifest and figures.
    rows = []
    arrays: dict[str, DatasetArray] = {}
    for spec in rollouts:
        assert spec.rollout is not None
        job = JobKeys(spec.job_id)
        whole = store.get_bytes(job.manifest)
        (entry,) = [one for one in Manifest.from_json(json.loads(whole)).artifacts if one.name == ROLLOUT.name]
        figures = store.get_record(job.result, JobResult).summary
        assert figures is not None
        row = DatasetRollout(
            job_id=spec.job_id,
            uri=store.url(job.artifact(ROLLOUT.name)),
            path=f"rollouts/{spec.job_id}/{ROLLOUT.name}",
            sha256=entry.sha256,
            size_bytes=entry.size_bytes,
            manifest_sha256=hashlib.sha256(whole).hexdigest(),
            seed=spec.seed,
            num_envs=spec.num_envs,
            steps=spec.rollout.steps,
            episodes=figures["episodes"],
            recorded_steps=figures["recorded_steps"],
            mean_return=figures["return"]["mean"] if figures["return"] else None,
            success_rate=figures["success"]["rate"],
        )
        rows.append(row)
        # All record the same arrays.
        arrays = arrays or {
            f"data/{name}": DatasetArray(shape=tuple(about["shape"]), dtype=about["dtype"])
            for name, about in figures["keys"].items()
        }

    # The document of all of them, under its digest.
    driven_by = None
    if checkpoint is not None:
        driven_by = DatasetCheckpoint(
            checkpoint_id=checkpoint.checkpoint_id,
            uri=checkpoint.uri,
            sha256=checkpoint.sha256,
            size_bytes=checkpoint.size_bytes,
        )
    manifest = DatasetManifest(
        run_id=run.run_id,
        iteration=number,
        iteration_id=iteration_id(number),
        checkpoint=driven_by,
        rollouts=tuple(rows),
        episodes=_total(row.episodes for row in rows),
        recorded_steps=_total(row.recorded_steps for row in rows),
        arrays=arrays,
    )
    data = (json.dumps(manifest.to_json(), indent=2, sort_keys=True) + "\n").encode()
    digest = hashlib.sha256(data).hexdigest()
    store.put_bytes(RunKeys(run.run_id).dataset(digest), data)
    return Dataset(digest, manifest)


def _total(counts: Iterable[int | None]) -> int | None:
    """Return a sum; None where one of them was not counted."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _mean(parts: Iterable[tuple[float | None, int | None]]) -> float | None:
    """Return the mean over all episodes, of each rollout's mean and count; None where one did not measure it."""
    total, episodes = 0.0, 0
    for value, count in parts:
        if value is None or not count:
            return None
        total += value * count
        episodes += count
    return total / episodes


def fetch_dataset(
    run_id: str, dataset_sha256: str, checkpoint: InputFile | None, folder: Path, store: Store
) -> Path | None:
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
    for row in DatasetManifest.from_json(json.loads(data)).rollouts:
        key = JobKeys(row.job_id).artifact(ROLLOUT.name)
        store.get_file(key, folder / row.path, sha256=row.sha256)
    write_atomic(folder / MANIFEST, data)
    if checkpoint is None:
        return None
    target = folder / checkpoint.name
    store.get_file(checkpoint.key, target, sha256=checkpoint.sha256)
    return target
