"""Every key of the store, and nothing else builds one.

assets/<sha256>/<name>                    inputs, content-addressed
assets/<sha256>/asset.json                what a user said of an input that was uploaded; written after it
idempotency/<sha256 of the key>.json      which job a key stands for
jobs/<job_id>/job.json                    the frozen spec: enough to run the job again
jobs/<job_id>/cancel.json                 somebody asked the job to stop
jobs/<job_id>/attempts/<n>/…              what one attempt left: written by that attempt alone
jobs/<job_id>/artifacts/…                 what the job promised
jobs/<job_id>/result.json                 how the job ended, whatever the end
jobs/<job_id>/artifact_manifest.json      the commit marker of a success, written last
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import datetime

from simyard.runner.errors import RequestError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts
_JOB_ID = re.compile(r"job-[0-9a-hjkmnp-tv-z]{26}")
_ASSET_ID = re.compile(r"asset-([0-9a-f]{64})")

JOBS = "jobs"
ASSETS = "assets"


def new_job_id(*, now_ms: int | None = None) -> str:
    """Return a new job id; ids sort by the millisecond in which they were made."""
    return _job_id((now_ms if now_ms is not None else time.time_ns() // 1_000_000) << 80 | secrets.randbits(80))


def job_id_of_run(run_id: uuid.UUID, due: datetime) -> str:
    """Return the job id of a flow run that was due then: the same again when that run is retried.

    The server makes random UUIDs, so the time comes from the run, and the rest from the UUID.
    """
    return _job_id(int(due.timestamp() * 1000) << 80 | run_id.int & (1 << 80) - 1)


def follow_up_job_id(job_id: str, what: str) -> str:
    """Return the id of the job that follows another, always the same: a training's export, say."""
    tail = int.from_bytes(hashlib.sha256(f"{job_id}/{what}".encode()).digest()[:10])
    return check_job_id(job_id)[:14] + _job_id(tail)[14:]


def _job_id(number: int) -> str:
    """Return 128 bits as an id."""
    return "job-" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def check_job_id(job_id: str) -> str:
    """Return the id, or raise `RequestError` when it is not one of ours (ids become keys and paths)."""
    if not _JOB_ID.fullmatch(job_id):
        raise RequestError(
            f"{job_id!r} is not a job id.",
            code="bad_job_id",
            advice="An id looks like 'job-01k…': see `simyard jobs list`.",
        )
    return job_id


def asset(sha256: str, name: str) -> str:
    """Return the key of an input file with this content."""
    return f"{ASSETS}/{sha256}/{name}"


def asset_id_of(sha256: str) -> str:
    """Return the id of the asset with this content."""
    return f"asset-{sha256}"


def sha256_of_asset(asset_id: str) -> str:
    """Return the digest in an asset's id, or raise `RequestError` when it is no such id."""
    match = _ASSET_ID.fullmatch(asset_id)
    if not match:
        raise RequestError(
            f"{asset_id!r} is not an asset id.",
            code="bad_asset_id",
            advice="An id is 'asset-' and 64 digits of 0-9 and a-f: see `simyard assets list`.",
        )
    return match.group(1)


@dataclass(frozen=True)
class AssetKeys:
    """The keys of one asset."""

    sha256: str

    @property
    def prefix(self) -> str:
        """Everything of the asset lies below this."""
        return f"{ASSETS}/{self.sha256}"

    @property
    def record(self) -> str:
        """What the asset is; there once its file is whole."""
        return f"{self.prefix}/asset.json"

    def file(self, name: str) -> str:
        """The key of the file itself."""
        return asset(self.sha256, name)


def idempotency(key: str) -> str:
    """Return where it is written which job an idempotency key stands for; keys are whatever users like."""
    return f"idempotency/{hashlib.sha256(key.encode()).hexdigest()}.json"


@dataclass(frozen=True)
class AttemptKeys:
    """The keys of one attempt; only that attempt writes below `prefix`."""

    prefix: str

    @property
    def status(self) -> str:
        """The attempt's heartbeat: stage, iteration, reward, time."""
        return f"{self.prefix}/status.json"

    @property
    def outcome(self) -> str:
        """How the attempt ended: written once, last."""
        return f"{self.prefix}/outcome.json"

    @property
    def checkpoints(self) -> str:
        """The index of the attempt's valid checkpoints, oldest first."""
        return f"{self.prefix}/checkpoints.json"

    @property
    def files(self) -> str:
        """Everything else the attempt left, under the artifact's own name."""
        return f"{self.prefix}/files"

    def file(self, name: str) -> str:
        """The key of one such file."""
        return f"{self.files}/{name}"


@dataclass(frozen=True)
class JobKeys:
    """The keys of one job."""

    job_id: str

    @property
    def prefix(self) -> str:
        """Everything of the job lies below this."""
        return f"{JOBS}/{self.job_id}"

    @property
    def job(self) -> str:
        """The frozen spec."""
        return f"{self.prefix}/job.json"

    @property
    def cancel(self) -> str:
        """The request to stop."""
        return f"{self.prefix}/cancel.json"

    @property
    def result(self) -> str:
        """How the job ended."""
        return f"{self.prefix}/result.json"

    @property
    def manifest(self) -> str:
        """The commit marker."""
        return f"{self.prefix}/artifact_manifest.json"

    @property
    def attempts(self) -> str:
        """The folder of all attempts."""
        return f"{self.prefix}/attempts"

    @property
    def artifacts(self) -> str:
        """The folder of what the job promised."""
        return f"{self.prefix}/artifacts"

    def attempt(self, number: int) -> AttemptKeys:
        """The keys of one attempt, counted from 1."""
        return AttemptKeys(f"{self.attempts}/{number:03d}")

    def artifact(self, name: str) -> str:
        """The key of one artifact."""
        return f"{self.artifacts}/{name}"
