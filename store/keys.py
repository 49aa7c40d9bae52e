"""Every key of the store, and nothing else builds one.

assets/<sha256>/<name>                    inputs, content-addressed
assets/<sha256>/asset.json                what a user said of an input that was uploaded; written after it
idempotency/<sha256 of the key>.json      which job or run a key stands for
jobs/<job_id>/job.json                    the frozen spec: enough to run the job again
jobs/<job_id>/cancel.json                 somebody asked the job to stop
jobs/<job_id>/attempts/<n>/…              what one attempt left: written by that attempt alone
jobs/<job_id>/attempts/<n>/nodes/<k>/…    what its further machines left, where it had several
jobs/<job_id>/artifacts/…                 what the job promised
jobs/<job_id>/result.json                 how the job ended, whatever the end
jobs/<job_id>/artifact_manifest.json      the commit marker of a success, written last
jobs/<job_id>/notification.json           what became of the webhook that tells of its end; a run has one too
training-runs/<run_id>/run.json           the frozen managed training run
training-runs/<run_id>/wish.json          what somebody wants of it: to pause, to go on, to stop
training-runs/<run_id>/status.json        the heartbeat of the process that drives it
training-runs/<run_id>/events/…           what happened, in order: written by that process alone
training-runs/<run_id>/datasets/…         one manifest an iteration, content-addressed
training-runs/<run_id>/iterations/<n>/…   the trainer's attempts; iteration.json, written last, commits it
training-runs/<run_id>/checkpoints/…      lineage: one record a checkpoint, whose bytes are an asset
training-runs/<run_id>/slots/<k>/…        work for the flow run that has a warm simulator in a pool
training-runs/<run_id>/result.json        how the run ended
uploads/<upload_id>/<name>                what was uploaded by a signed URL and is no asset yet
projects/<project>/…                      a store of its own for each project of the service but the default one
service/keys/<key_id>.json                what is kept of an API key
service/outbox/<id>.json                  a webhook to send when the job or run of this id has ended
service/sending/<id>/<n>.json             which copy of the service sends it for the n-th time
doctor/<check_id>.json                    what `simyard doctor` writes to prove that it can, and deletes
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import datetime

from simyard.core.errors import RequestError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts
_JOB_ID = re.compile(r"job-[0-9a-hjkmnp-tv-z]{26}")
_RUN_ID = re.compile(r"run-[0-9a-hjkmnp-tv-z]{26}")
_ASSET_ID = re.compile(r"asset-([0-9a-f]{64})")
_PROMOTION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

JOBS = "jobs"
ASSETS = "assets"
RUNS = "training-runs"
PROMOTIONS = "promotions"
API_KEYS = "service/keys"
OUTBOX = "service/outbox"
SENDING = "service/sending"
DOCTOR = "doctor"


def new_job_id(*, now_ms: int | None = None) -> str:
    """Return a new job id; ids sort by the millisecond in which they were made."""
    return f"job-{_new_number(now_ms)}"


def job_id_of_run(run_id: uuid.UUID, due: datetime) -> str:
    """Return the job id of a flow run that was due then: the same again when that run is retried.

    The server makes random UUIDs, so the time comes from the run, and the rest from the UUID.
    """
    return f"job-{_number_of_run(run_id, due)}"


def new_run_id() -> str:
    """Return a new id of a managed training run; ids sort by the millisecond in which they were made."""
    return f"run-{_new_number()}"


def run_id_of_run(run_id: uuid.UUID, due: datetime) -> str:
    """Return the id of the managed training run that a flow run drives, as `job_id_of_run` does."""
    return f"run-{_number_of_run(run_id, due)}"


def rollout_job_id(run_id: str, iteration: int, index: int) -> str:
    """Return the id of a rollout of a managed training run, always the same: whoever takes the run up finds it."""
    return f"job-{check_run_id(run_id)[4:14]}{_digits_of(f'{run_id}/{iteration}/{index}')}"


def follow_up_job_id(job_id: str, what: str) -> str:
    """Return the id of the job that follows another, always the same: a training's export, say."""
    return check_job_id(job_id)[:14] + _digits_of(f"{job_id}/{what}")


def _new_number(now_ms: int | None = None) -> str:
    return _digits((now_ms if now_ms is not None else time.time_ns() // 1_000_000) << 80 | secrets.randbits(80))


def _number_of_run(run_id: uuid.UUID, due: datetime) -> str:
    return _digits(int(due.timestamp() * 1000) << 80 | run_id.int & (1 << 80) - 1)


def _digits_of(text: str) -> str:
    """Return the digits after the time in an id that is derived from a text."""
    return _digits(int.from_bytes(hashlib.sha256(text.encode()).digest()[:10]))[10:]


def _digits(number: int) -> str:
    """Return 128 bits as the part of an id behind its kind."""
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def check_job_id(job_id: str) -> str:
    """Return the id, or raise `RequestError` when it is not one of ours (ids become keys and paths)."""
    if not _JOB_ID.fullmatch(job_id):
        raise RequestError(
            f"{job_id!r} is not a job id.",
            code="bad_job_id",
            advice="An id looks like 'job-01k…': see `simyard jobs list`.",
        )
    return job_id


def check_run_id(run_id: str) -> str:
    """Return the id, or raise `RequestError` when it is not that of a managed training run."""
    if not _RUN_ID.fullmatch(run_id):
        raise RequestError(
            f"{run_id!r} is not the id of a managed training run.",
            code="bad_run_id",
            advice="An id looks like 'run-01k…': see `simyard managed list`.",
        )
    return run_id


def check_promotion(name: str) -> str:
    """Return the name, or raise `RequestError` when nothing can be promoted under it."""
    if not _PROMOTION.fullmatch(name):
        raise RequestError(
            f"{name!r} is not the name of a promotion.",
            code="bad_promotion",
            advice="Allowed: 1 to 64 of a-z, 0-9, '_', '.' and '-', a letter or digit first.",
        )
    return name


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
        """Key of the asset's record, written after its file."""
        return f"{self.prefix}/asset.json"

    def file(self, name: str) -> str:
        """The key of the file itself."""
        return asset(self.sha256, name)


def idempotency(key: str) -> str:
    """Return the key of an idempotency record; users' keys may hold anything, so their digest names it."""
    return f"idempotency/{hashlib.sha256(key.encode()).hexdigest()}.json"


def api_key(key_id: str) -> str:
    """Return the key of an API key's record."""
    return f"{API_KEYS}/{key_id}.json"


def doctor(check_id: str) -> str:
    """Return the key that `simyard doctor` tries the store with, and that a machine writes its report to."""
    return f"{DOCTOR}/{check_id}.json"


def outbox(own_id: str) -> str:
    """Return the key of a notification that waits for the end of a job or a managed run."""
    return f"{OUTBOX}/{own_id}.json"


def sending(own_id: str) -> str:
    """Return the folder where copies of the service say that they send such a webhook."""
    return f"{SENDING}/{own_id}"


def sending_once(own_id: str, number: int) -> str:
    """Return the key of the claim that a copy of the service makes before delivery `number`, counted from 1."""
    return f"{sending(own_id)}/{number:03d}.json"


def upload(upload_id: str, name: str) -> str:
    """Return the key of a file uploaded by a signed URL."""
    return f"uploads/{upload_id}/{name}"


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
        """Key of the attempt's outcome, written once, last."""
        return f"{self.prefix}/outcome.json"

    @property
    def checkpoints(self) -> str:
        """The index of the attempt's valid checkpoints, oldest first."""
        return f"{self.prefix}/checkpoints.json"

    @property
    def files(self) -> str:
        """Everything else the attempt left, under the artifact's own name."""
        return f"{self.prefix}/files"

    @property
    def meeting(self) -> str:
        """Key of the rendezvous of the attempt's machines; the first one writes it."""
        return f"{self.prefix}/meeting.json"

    @property
    def go(self) -> str:
        """The first machine's word that all are ready."""
        return f"{self.prefix}/go.json"

    @property
    def machine_lost(self) -> str:
        """Key of the report on a lost machine; the control flow writes it."""
        return f"{self.prefix}/machine_lost.json"

    @property
    def ready(self) -> str:
        """A machine's word that it could begin."""
        return f"{self.prefix}/ready.json"

    def file(self, name: str) -> str:
        """The key of one such file."""
        return f"{self.files}/{name}"

    def node(self, number: int) -> AttemptKeys:
        """The keys of one of the attempt's machines; the first one, 0, has the attempt's own."""
        return AttemptKeys(f"{self.prefix}/nodes/{number:03d}") if number else self


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
        """Key of the job's result."""
        return f"{self.prefix}/result.json"

    @property
    def manifest(self) -> str:
        """The commit marker."""
        return f"{self.prefix}/artifact_manifest.json"

    @property
    def notification(self) -> str:
        """Whether the webhook of its end was delivered."""
        return f"{self.prefix}/notification.json"

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


@dataclass(frozen=True)
class IterationKeys:
    """The keys of one iteration of a managed training run."""

    prefix: str

    @property
    def record(self) -> str:
        """Key of the iteration's record: its commit marker, written last."""
        return f"{self.prefix}/iteration.json"

    @property
    def trainer(self) -> str:
        """The folder of the trainer's attempts."""
        return f"{self.prefix}/trainer"

    def trainer_file(self, attempt: int, name: str) -> str:
        """The key of something that one attempt left; attempts are counted from 1."""
        return f"{self.trainer}/{attempt:03d}/{name}"


@dataclass(frozen=True)
class RunKeys:
    """The keys of one managed training run."""

    run_id: str

    @property
    def prefix(self) -> str:
        """Everything of the run lies below this, save its rollouts, which are jobs, and its checkpoints' bytes."""
        return f"{RUNS}/{self.run_id}"

    @property
    def run(self) -> str:
        """The frozen run."""
        return f"{self.prefix}/run.json"

    @property
    def wish(self) -> str:
        """Key of the run's desired state."""
        return f"{self.prefix}/wish.json"

    @property
    def status(self) -> str:
        """The heartbeat of the process that drives it."""
        return f"{self.prefix}/status.json"

    @property
    def result(self) -> str:
        """Key of the run's result."""
        return f"{self.prefix}/result.json"

    @property
    def notification(self) -> str:
        """Whether the webhook of its end was delivered."""
        return f"{self.prefix}/notification.json"

    @property
    def events(self) -> str:
        """The folder of events, whose names sort as they happened."""
        return f"{self.prefix}/events"

    @property
    def iterations(self) -> str:
        """The folder of iterations."""
        return f"{self.prefix}/iterations"

    @property
    def checkpoints(self) -> str:
        """The folder of lineage records."""
        return f"{self.prefix}/checkpoints"

    def event(self, number: int) -> str:
        """The key of one event, counted from 1."""
        return f"{self.events}/{number:08d}.json"

    def iteration(self, number: int) -> IterationKeys:
        """The keys of one iteration, counted from 1."""
        return IterationKeys(f"{self.iterations}/{number:06d}")

    def dataset(self, sha256: str) -> str:
        """The key of the dataset manifest with this content."""
        return f"{self.prefix}/datasets/{sha256}.json"

    def checkpoint(self, checkpoint_id: str) -> str:
        """The key of one lineage record."""
        return f"{self.checkpoints}/{checkpoint_id}.json"

    def file(self, name: str) -> str:
        """The key of something for people: the report, the curves."""
        return f"{self.prefix}/{name}"

    def slot(self, number: int, name: str) -> str:
        """The key of something of one slot, counted from 0."""
        return f"{self.prefix}/slots/{number:03d}/{name}"


@dataclass(frozen=True)
class PromotionKeys:
    """The keys of what is promoted under one name."""

    name: str

    SUFFIX = ".history"
    """Of the folder beside the record; no record's own name ends so."""

    @property
    def record(self) -> str:
        """Key of the promotion's record: the promoted policy and the whole history."""
        return f"{PROMOTIONS}/{self.name}.json"

    @property
    def decisions(self) -> str:
        """The folder of decisions, whose names sort as they were made."""
        return f"{PROMOTIONS}/{self.name}{self.SUFFIX}"

    def decision(self, number: int) -> str:
        """The key of one decision, counted from 1."""
        return f"{self.decisions}/{number:08d}.json"
