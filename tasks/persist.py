"""verdict -> the job's artifacts, whole and hashed; `artifact_manifest.json` last, as the commit marker."""

from __future__ import annotations

from dataclasses import replace

from simyard.core.artifacts import JOB, REPORT, TXT_LOGS
from simyard.core.files import scratch, write_json
from simyard.core.records import Estimate, JobResult
from simyard.core.specs import JobSpec
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.kinds import kind_of
from simyard.tasks.shared import documents
from simyard.tasks.shared.documents import ArtifactWriter
from simyard.tasks.shared.estimates import keep_measurement
from simyard.tasks.shared.history import Verdict
from simyard.tasks.shared.usage import cost, scaling


def persist(spec: JobSpec, verdict: Verdict, store: Store) -> JobResult:
    """Keep the artifacts of the job and commit its result.

    Returns:
        The job's result: what `--json` prints.
    """
    job, kind = JobKeys(spec.job_id), kind_of(spec)
    with scratch("persist") as folder:
        writer = ArtifactWriter(store, job, folder)

        # What the attempts left. A file that is gone is what the job failed of; the rest is kept.
        for artifact in verdict.artifacts:
            try:
                entry = writer.copy(artifact)
                if artifact.kind == "log" and "/" not in artifact.name and spec.kind in TXT_LOGS:
                    name = f"{artifact.name.removesuffix('.log')}.txt"
                    writer.copy(replace(artifact, name=name, sha256=entry.sha256))
            except KeyNotFound:
                if verdict.status == "succeeded":
                    raise

        # What is made of it: one table of metrics and the curves of all attempts, say.
        figures = kind.keep(spec, verdict, writer)

        # The frozen job, and the request as it came.
        for made, content in ((JOB, spec.to_json()), (kind.config, spec.request)):
            write_json(folder / made.name, content)
            writer.add(made)

        # The report speaks of the result, and the result names the report.
        result = documents.result(kind, spec, verdict, store.url(job.prefix), figures)
        told = store.get_record_or_none(job.estimate, Estimate)
        result = replace(result, estimate=told, cost=cost(spec, store))
        gained = scaling(spec, store) if spec.ranks > 1 else None
        if gained:
            result = replace(result, summary={**(result.summary or {}), "scaling": gained.to_json()})
        report = documents.report(kind, spec, verdict, result, figures, gained)
        (folder / REPORT.name).write_text(report, encoding="utf-8")
        writer.add(REPORT)
    result = replace(result, artifacts=tuple(sorted(writer.entries, key=lambda entry: entry.name)))
    store.put_record(job.result, result)

    # Artifacts that only an earlier verdict kept go: the diagnostics of a job that now succeeded, say.
    kept = {job.artifact(entry.name) for entry in result.artifacts}
    for found in store.list(job.artifacts):
        if found.key not in kept:
            store.delete(found.key)

    # The commit marker, last: with it the job has succeeded.
    if verdict.status == "succeeded":
        keep_measurement(spec, store)
        store.put_record(job.manifest, documents.manifest(spec, result))
    return result
