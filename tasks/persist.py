"""verdict -> the job's artifacts, whole and hashed; `artifact_manifest.json` last, as the commit marker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from simyard.core.artifacts import JOB, REPORT
from simyard.core.files import write_json
from simyard.core.records import ArtifactEntry, JobResult
from simyard.core.specs import JobSpec
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.kinds import kind_of
from simyard.tasks.shared import documents
from simyard.tasks.shared.documents import Keeper
from simyard.tasks.shared.history import Verdict
from simyard.tasks.shared.usage import scaling


def persist(spec: JobSpec, verdict: Verdict, store: Store) -> JobResult:
    """Keep the artifacts of the job and commit its result.

    Returns:
        The job's result: what `--json` prints.
    """
    job = JobKeys(spec.job_id)
    with tempfile.TemporaryDirectory(prefix="simyard-persist-") as folder:
        scratch = Path(folder)
        keeper = Keeper(store, job, scratch)
        for artifact in verdict.artifacts:
            try:
                keeper.copy(artifact)
            except KeyNotFound:
                if verdict.status == "succeeded":
                    raise  # otherwise it is what the job failed of, and the rest is kept
        kind = kind_of(spec)
        figures = kind.keep(spec, verdict, keeper)
        _keep_provenance(spec, keeper)
        result = documents.result(kind, spec, verdict, store.url(job.prefix), figures)
        gained = scaling(spec, store) if spec.ranks > 1 else None
        if gained:
            result = replace(result, summary={"scaling": gained.to_json()})
        report = scratch / REPORT.name
        report.write_text(documents.report(kind, spec, verdict, result, figures, gained), encoding="utf-8")
        keeper.add(REPORT)
    result = replace(result, artifacts=tuple(sorted(keeper.entries, key=lambda entry: entry.name)))
    store.put_record(job.result, result)
    _drop_others(store, job, result.artifacts)
    if verdict.status == "succeeded":
        store.put_record(job.manifest, documents.manifest(spec, result))
    return result


def _drop_others(store: Store, job: JobKeys, entries: Iterable[ArtifactEntry]) -> None:
    """Delete artifacts that only an earlier verdict kept: the diagnostics of a job that now succeeded, say."""
    kept = {job.artifact(entry.name) for entry in entries}
    for found in store.list(job.artifacts):
        if found.key not in kept:
            store.delete(found.key)


def _keep_provenance(spec: JobSpec, keeper: Keeper) -> None:
    scratch = keeper.scratch
    write_json(scratch / JOB.name, spec.to_json())
    keeper.add(JOB)
    config = kind_of(spec).config
    write_json(scratch / config.name, spec.request)
    keeper.add(config)
