"""attempts -> verdict: what the job promised is there, whole, hashed and opened, or it is not a success."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simyard.runner.errors import Category, Failure
from simyard.runner.spec import JobSpec
from simyard.store.store import KeyNotFound, Store
from simyard.tasks import history
from simyard.tasks.history import PastAttempt


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the job."""

    name: str
    """Path below `artifacts/`."""
    kind: str
    key: str
    """Where it lies now."""
    size_bytes: int
    sha256: str | None = None
    """Known for checkpoints, which were hashed before they left the machine; the others are hashed when kept."""
    extra: dict[str, Any] = field(default_factory=dict)
    """For a checkpoint: `iteration` and `parent`."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How the job ended."""

    status: str
    """`succeeded`, `failed` or `canceled`."""
    failure: Failure | None
    artifacts: tuple[Artifact, ...]
    attempts: tuple[PastAttempt, ...]
    chain: tuple[tuple[PastAttempt, int | None], ...]
    """The attempts whose work was kept, each with the iteration at which the next took over."""

    @property
    def outcome(self) -> dict[str, Any]:
        """The last attempt's own account; empty when it left none."""
        return (self.attempts[-1].outcome or {}) if self.attempts else {}


def collect(spec: JobSpec, store: Store, failure: Failure | None = None) -> Verdict:
    """Judge the job by what is in the store.

    Args:
        spec: The job.
        store: Its store.
        failure: Why launching gave up, where no attempt could say so itself.
    """
    past = history.attempts(store, spec.job_id)
    chain = tuple(history.chain(past))
    artifacts = (*_checkpoints(chain), *_files(store, chain))
    last = past[-1].outcome if past else None
    reported = Failure.from_json(last["failure"]) if last and last["failure"] else failure
    verdict = reported or _missing(spec, store, last, artifacts)
    status = "succeeded" if verdict is None else "canceled" if verdict.category is Category.CANCELED else "failed"
    return Verdict(status=status, failure=verdict, artifacts=artifacts, attempts=tuple(past), chain=chain)


def _checkpoints(chain: tuple[tuple[PastAttempt, int | None], ...]) -> list[Artifact]:
    """Return one chain of checkpoints: of each attempt those up to the one its successor took up."""
    found: dict[str, Artifact] = {}
    for attempt, takeover in chain:
        for record in attempt.checkpoints:
            if takeover is not None and record["iteration"] is not None and record["iteration"] > takeover:
                continue
            name = f"checkpoints/{record['name']}"
            found[name] = Artifact(
                name=name,
                kind="checkpoint",
                key=record["key"],
                size_bytes=record["size_bytes"],
                sha256=record["sha256"],
                extra={"iteration": record["iteration"], "parent": record["parent"]},
            )
    return list(found.values())


KINDS = {"runner.log": "log", "command.stdout.log": "log", "command.stderr.log": "log", "telemetry.csv": "telemetry",
         "versions.json": "provenance", "diagnostics.json": "diagnostics"}  # fmt: skip
REBUILT = ("metrics.csv", "metrics_time.csv", "checkpoints/")
"""Names that `persist` makes anew from all attempts."""


def _files(store: Store, chain: tuple[tuple[PastAttempt, int | None], ...]) -> list[Artifact]:
    """Return the last attempt's files under their own names, earlier ones below `attempts/<n>/`."""
    found = []
    for attempt, takeover in chain:
        prefix = attempt.keys.files + "/"
        for entry in store.list(attempt.keys.files):
            name = entry.key.removeprefix(prefix)
            if name.startswith(REBUILT):
                continue
            kind = KINDS.get(name) or ("events" if name.startswith("events/") else "provenance")
            shown = name if takeover is None else f"attempts/{attempt.number:03d}/{name}"
            found.append(Artifact(name=shown, kind=kind, key=entry.key, size_bytes=entry.size_bytes))
    return found


def _missing(
    spec: JobSpec, store: Store, outcome: dict[str, Any] | None, artifacts: tuple[Artifact, ...]
) -> Failure | None:
    """Return what is missing from a job whose last attempt reports a success."""
    if outcome is None:
        return Failure(
            code="no_outcome", category=Category.INFRA, message="The last attempt left no outcome.",
            advice="It died without a word; run `simyard jobs retry` to go on from the last checkpoint.",
        )  # fmt: skip
    problems = []
    final = [a for a in artifacts if a.kind == "checkpoint" and a.extra["iteration"] == spec.last_iteration]
    if not final:
        problems.append(f"no checkpoint of iteration {spec.last_iteration}")
    elif outcome["opened"] and outcome["opened"][-1]["sha256"] != final[-1].sha256:
        problems.append(f"{final[-1].name} is not the file that was opened")
    for artifact in artifacts:
        try:
            size = store.stat(artifact.key).size_bytes
        except KeyNotFound:
            problems.append(f"{artifact.name} is gone from the store")
            continue
        if size != artifact.size_bytes:
            problems.append(f"{artifact.name} has {size} bytes in the store, not {artifact.size_bytes}")
    have = {artifact.name for artifact in artifacts}
    problems += [f"no {name}" for name in ("params/env.yaml", "params/agent.yaml", "versions.json") if name not in have]
    if not any(artifact.kind == "events" for artifact in artifacts):
        problems.append("no metrics: the library wrote no TensorBoard events")
    if not problems:
        return None
    return Failure(
        code="artifact_missing",
        category=Category.INFRA,
        message="The training reports success, but " + "; ".join(problems) + ".",
        advice="See command.stdout.log; nothing was marked as a success.",
    )
