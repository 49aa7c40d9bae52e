"""verdict -> the job's artifacts, whole and hashed; `artifact_manifest.json` last, as the commit marker."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simyard.runner.libraries import Library, Scale, get_library
from simyard.runner.metrics import MetricsTable
from simyard.runner.paths import write_json
from simyard.runner.spec import JobSpec
from simyard.runner.tfevents import EventReader
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store, sha256_file
from simyard.tasks import curves, documents
from simyard.tasks.collect import Artifact, Verdict
from simyard.tasks.history import PastAttempt


@dataclass
class _Keeper:
    """Puts files below the job's `artifacts/` and remembers them for the manifest."""

    store: Store
    job: JobKeys
    scratch: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    fetched: dict[str, Path] = field(default_factory=dict)

    def fetch(self, key: str) -> Path:
        """Return a local copy of an object; each is read from the store once."""
        if key not in self.fetched:
            local = self.scratch / f"fetched-{len(self.fetched)}"
            self.store.get_file(key, local)
            self.fetched[key] = local
        return self.fetched[key]

    def copy(self, artifact: Artifact) -> None:
        """Keep a file that an attempt left; one without a digest is read to get it."""
        digest = artifact.sha256 or sha256_file(self.fetch(artifact.key))
        self.store.copy(artifact.key, self.job.artifact(artifact.name))
        self._remember(artifact.name, artifact.kind, artifact.size_bytes, digest, **artifact.extra)

    def add(self, name: str, kind: str, path: Path) -> None:
        """Keep a file made here."""
        self.store.put_file(self.job.artifact(name), path)
        self._remember(name, kind, path.stat().st_size, sha256_file(path))

    def _remember(self, name: str, kind: str, size: int, digest: str, **extra: Any) -> None:
        self.entries.append({"name": name, "kind": kind, "size_bytes": size, "sha256": digest, **extra})


def persist(spec: JobSpec, verdict: Verdict, store: Store) -> dict[str, Any]:
    """Keep what the job produced and commit it.

    Returns:
        The job's result: what `--json` prints.
    """
    job = JobKeys(spec.job_id)
    with tempfile.TemporaryDirectory(prefix="simyard-persist-") as folder:
        scratch = Path(folder)
        keeper = _Keeper(store, job, scratch)
        for artifact in verdict.artifacts:
            try:
                keeper.copy(artifact)
            except KeyNotFound:
                if verdict.status == "succeeded":
                    raise  # otherwise it is what the job failed of, and the rest is kept
        summary = _keep_metrics(spec, verdict, keeper)
        _keep_provenance(spec, keeper)
        result = documents.result(spec, verdict, store.url(job.prefix), summary)
        report = scratch / "report.md"
        report.write_text(documents.report(spec, verdict, result, summary), encoding="utf-8")
        keeper.add("report.md", "report", report)
    result["artifacts"] = sorted(keeper.entries, key=lambda entry: str(entry["name"]))
    store.put_json(job.result, result)
    _drop_others(store, job, result["artifacts"])
    if verdict.status == "succeeded":
        store.put_json(job.manifest, documents.manifest(spec, result))
    return result


def _drop_others(store: Store, job: JobKeys, entries: list[dict[str, Any]]) -> None:
    """Delete what an earlier verdict kept and this one does not: the diagnostics of a job that now succeeded, say."""
    kept = {job.artifact(entry["name"]) for entry in entries}
    for found in store.list(job.artifacts):
        if found.key not in kept:
            store.delete(found.key)


def _keep_metrics(spec: JobSpec, verdict: Verdict, keeper: _Keeper) -> dict[str, Any]:
    """Make one metrics file of all attempts from their own event files; return the summary of each tag."""
    library, scratch = get_library(spec.library), keeper.scratch
    table = MetricsTable()
    for attempt, takeover in verdict.chain:
        _add_events(table, spec, library, attempt, takeover, keeper)
    summary = table.summary()
    if not summary:
        return {}
    table.write_csv(scratch / "metrics.csv")
    keeper.add("metrics.csv", "metrics", scratch / "metrics.csv")
    if table.write_time_csv(scratch / "metrics_time.csv"):
        keeper.add("metrics_time.csv", "metrics", scratch / "metrics_time.csv")
    (scratch / "metrics.json").write_text(json.dumps(summary, indent=2, allow_nan=False), encoding="utf-8")
    keeper.add("metrics.json", "metrics", scratch / "metrics.json")
    if curves.draw(table.columns(), library.reward_tag, spec.name, scratch / "curves.png"):
        keeper.add("curves.png", "plot", scratch / "curves.png")
    return summary


def _add_events(
    table: MetricsTable,
    spec: JobSpec,
    library: Library,
    attempt: PastAttempt,
    takeover: int | None,
    keeper: _Keeper,
) -> None:
    facts = (attempt.outcome or {}).get("facts") or (attempt.status or {}).get("facts")
    if facts is None:
        return
    scale = Scale(num_envs=spec.num_envs, rollout=facts["rollout"])
    offset = library.step_offset(attempt.status["start_iteration"] if attempt.status else 0, scale)
    prefix = attempt.keys.file("events")
    for entry in keeper.store.list(prefix):
        new = EventReader(keeper.fetch(entry.key)).read_new()
        if takeover is not None:
            new = {tag: series.before(library.first_step(tag, takeover, scale) - offset) for tag, series in new.items()}
        # One folder a job, whatever each attempt called it: the tags keep their names.
        folder = entry.key.removeprefix(prefix + "/").rpartition("/")[0]
        table.add(_without_run_name(folder), new, offset)


def _without_run_name(folder: str) -> str:
    """`rsl_rl/cartpole/2026-01-01_10-00-00/rank_1` -> `rsl_rl/rank_1`: a new attempt has a new name for its run."""
    parts = folder.split("/")
    return "/".join(parts[:1] + parts[3:])


def _keep_provenance(spec: JobSpec, keeper: _Keeper) -> None:
    scratch = keeper.scratch
    write_json(scratch / "job.json", spec.to_json())
    keeper.add("job.json", "provenance", scratch / "job.json")
    write_json(scratch / "training-config.json", spec.request)
    keeper.add("training-config.json", "provenance", scratch / "training-config.json")
