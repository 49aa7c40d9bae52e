"""attempts -> verdict: what the job promised is there, whole, hashed and opened, or it is not a success."""

from __future__ import annotations

from simyard.core.artifacts import CHECKPOINTS, kind_of_file
from simyard.core.errors import Category, Failure
from simyard.core.records import Outcome, ended
from simyard.core.specs import JobSpec
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.kinds import kind_of
from simyard.tasks.shared import history
from simyard.tasks.shared.history import Artifact, Verdict


def collect(spec: JobSpec, store: Store, failure: Failure | None = None) -> Verdict:
    """Judge the job by what is in the store.

    Args:
        spec: The job.
        store: Its store.
        failure: Why launching gave up, where no attempt could say so itself.
    """
    past = history.attempts(store, spec.job_id)
    chain = tuple(history.chain(past))
    artifacts: dict[str, Artifact] = {}

    # One chain of checkpoints: of each attempt those up to the one that its successor resumed from.
    for attempt, takeover in chain:
        for record in attempt.checkpoints:
            if takeover is not None and record.iteration is not None and record.iteration > takeover:
                continue
            name = CHECKPOINTS.name + record.name
            artifacts[name] = Artifact(
                name=name,
                kind=CHECKPOINTS.kind,
                key=record.key,
                size_bytes=record.size_bytes,
                sha256=record.sha256,
                iteration=record.iteration,
                parent=record.parent,
                stage=record.stages.runs[-1].name if record.stages and record.stages.runs else None,
            )

    # The last attempt's files under their own names, earlier ones below `attempts/<n>/`.
    for attempt, takeover in chain:
        prefix = attempt.keys.files + "/"
        digests = {record.name: record.sha256 for record in (attempt.outcome.opened if attempt.outcome else ())}
        for entry in store.list(attempt.keys.files):
            file = entry.key.removeprefix(prefix)
            if file.startswith(kind_of(spec).rebuilt):
                continue
            name = file if takeover is None else f"attempts/{attempt.number:03d}/{file}"
            artifacts[name] = Artifact(
                name=name, kind=kind_of_file(file), key=entry.key, size_bytes=entry.size_bytes, sha256=digests.get(file)
            )

    # An attempt's own failure comes first; one that reports a success must have left what was promised.
    found = tuple(artifacts.values())
    last = past[-1].outcome if past else None
    reported = last.failure if last and last.failure else failure
    verdict = reported or _missing(spec, store, last, found)
    return Verdict(status=ended(verdict), failure=verdict, artifacts=found, attempts=tuple(past), chain=chain)


def _missing(spec: JobSpec, store: Store, outcome: Outcome | None, artifacts: tuple[Artifact, ...]) -> Failure | None:
    """Return the failure of a job that lacks artifacts though its last attempt reports a success, or None."""
    if outcome is None:
        return Failure(
            code="no_outcome", category=Category.INFRA, message="The last attempt left no outcome.",
            advice="It ended without reporting one; run `simyard jobs resume` to go on from the last checkpoint.",
        )  # fmt: skip
    problems = kind_of(spec).missing(spec, outcome, artifacts)
    for artifact in artifacts:
        try:
            size = store.stat(artifact.key).size_bytes
        except KeyNotFound:
            problems.append(f"{artifact.name} is gone from the store")
            continue
        if size != artifact.size_bytes:
            problems.append(f"{artifact.name} has {size} bytes in the store, not {artifact.size_bytes}")
    if not problems:
        return None
    return Failure(
        code="artifact_missing",
        category=Category.INFRA,
        message="The workload reports success, but " + "; ".join(problems) + ".",
        advice="See command.stdout.log; nothing was marked as a success.",
    )
