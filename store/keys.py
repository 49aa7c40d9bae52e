"""Every key of the store, and nothing else builds one; those that come from users are checked.

docs/architecture.md has them as a tree.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from simyard.core.errors import RequestError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts
_JOB_ID = re.compile(r"job-[0-9a-hjkmnp-tv-z]{26}")
_RUN_ID = re.compile(r"run-[0-9a-hjkmnp-tv-z]{26}")
_SWEEP_ID = re.compile(r"sweep-[0-9a-hjkmnp-tv-z]{26}")
_ASSET_ID = re.compile(r"asset-([0-9a-f]{64})")
_PROMOTION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

JOBS = "jobs"
ASSETS = "assets"
RUNS = "training-runs"
SWEEPS = "sweeps"
PROMOTIONS = "promotions"
SERVICE = "service"
API_KEYS = f"{SERVICE}/keys"
PLACES = f"{SERVICE}/places"
OUTBOX = f"{SERVICE}/outbox"
SENDING = f"{SERVICE}/sending"
DOCTOR = "doctor"
PROJECTS = "projects"
MEASUREMENTS = "measurements"
LABELS = "labels"
IDEMPOTENCY = "idempotency"
SPENT = "spent"

MAX_KEY_BYTES = 900
"""Longest key, in bytes of UTF-8. S3 allows 1024, and the store's own prefix counts."""
MAX_NAME_BYTES = 230
"""Longest name between two slashes. File systems allow 255, and names of files being written are longer."""
_MENTIONED = re.compile(r"\bjob-[0-9a-hjkmnp-tv-z]{26}\b|\b[0-9a-f]{64}\b")
# Control characters and lone surrogates; U+FFFE and U+FFFF cannot be written in XML, so S3 cannot list them.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# What nearly every key looks like, seen at one glance: the checks one by one cost a tenth of a small read.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_PROJECT = re.compile(rf"(?:^|/){PROJECTS}/([a-z0-9][a-z0-9-]{{0,62}})/?$")
# obstore calls the file it is writing NAME#1, NAME#2, … until it is whole, and a resumable upload NAME#00, NAME#01, …
_BEING_WRITTEN = re.compile(r"#[0-9]+$")
# obstore takes such an end of a file's path for a drive of Windows, on any system, and cannot write it.
_DRIVE = re.compile(r"[A-Za-z][:|]$")


def is_being_written(key: str) -> bool:
    """Tell whether this is the name of a file that is not whole yet, or that a killed writer left."""
    return bool(_BEING_WRITTEN.search(key))


def check_key(key: str) -> str:
    """Return the key of one object, or raise `RequestError` when it is not a plain relative path.

    Args:
        key: Names joined with `/`, such as `jobs/job-01k…/job.json`.

    Raises:
        RequestError: The key is empty, absolute, too long, has an empty, `.` or `..` name, or a backslash or a
            control character, or ends in `#` and a number, or as a drive does.
    """
    if isinstance(key, str) and len(key) <= MAX_NAME_BYTES and _PLAIN_KEY.fullmatch(key):
        return key
    problem = problem_of(key)
    if problem:
        raise RequestError(
            f"{key!r} is not a key: it {problem}.",
            code="bad_key",
            advice="A key is a relative path with '/' between its names, such as 'jobs/run-1/model.pt'.",
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return a folder's key without its last slash; the empty one stands for the whole store.

    Raises:
        RequestError: As for `check_key`, but a folder's name may end in `#` and a number.
    """
    if prefix == "":
        return prefix
    folder = prefix[:-1] if isinstance(prefix, str) and prefix.endswith("/") else prefix
    problem = problem_of(folder, of_folder=True)
    if problem:
        raise RequestError(
            f"{prefix!r} is not a folder's key: it {problem}.",
            code="bad_key",
            advice="Give a relative path with '/' between its names, such as 'jobs/run-1'.",
        )
    return folder


def problem_of(key: str, *, of_folder: bool = False) -> str:
    """Return the fault of an object's or a folder's key as the end of a sentence; empty for a good one."""
    if not isinstance(key, str):
        return f"is of type {type(key).__name__}"
    names = key.split("/")
    checks = {
        "is empty": not key,
        "is absolute": key.startswith("/"),
        "has an empty name": "" in names,
        "has a name that is '.' or '..'": "." in names or ".." in names,
        "has a backslash": "\\" in key,
        "has a control character": bool(UNSAFE.search(key)),
        "ends in '#' and a number, as files being written do": not of_folder and is_being_written(key),
        "ends in a letter and ':' or '|', as drives do": not of_folder and bool(_DRIVE.search(key)),
    }
    for problem, found in checks.items():
        if found:
            return problem
    if any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        return f"has a name longer than {MAX_NAME_BYTES} bytes"
    return f"is longer than {MAX_KEY_BYTES} bytes" if len(key.encode()) > MAX_KEY_BYTES else ""


def measurements(task: str, library: str) -> str:
    """Return the prefix of what trainings of a task took with a library."""
    return f"{MEASUREMENTS}/{task}/{library}"


def measurement(task: str, library: str, device: str, num_envs: int) -> str:
    """Return the key of what the newest of them took on a kind of device with a count of environments."""
    return f"{measurements(task, library)}/{device}/{num_envs}.json"


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


def new_sweep_id() -> str:
    """Return a new id of a sweep; ids sort by the millisecond in which they were made."""
    return f"sweep-{_new_number()}"


def sweep_id_of_run(run_id: uuid.UUID, due: datetime) -> str:
    """Return the id of the sweep that a flow run drives, as `job_id_of_run` does."""
    return f"sweep-{_number_of_run(run_id, due)}"


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


def _matched(pattern: re.Pattern[str], text: str, what: str, code: str, advice: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise RequestError(f"{text!r} is not {what}.", code=code, advice=advice)
    return match


def check_job_id(job_id: str) -> str:
    """Return the id, or raise `RequestError` when it is not one of ours (ids become keys and paths)."""
    advice = "An id looks like 'job-01k…': see `simyard jobs list`."
    return _matched(_JOB_ID, job_id, "a job id", "bad_job_id", advice)[0]


def check_run_id(run_id: str) -> str:
    """Return the id, or raise `RequestError` when it is not that of a managed training run."""
    advice = "An id looks like 'run-01k…': see `simyard managed list`."
    return _matched(_RUN_ID, run_id, "the id of a managed training run", "bad_run_id", advice)[0]


def check_sweep_id(sweep_id: str) -> str:
    """Return the id, or raise `RequestError` when it is not that of a sweep."""
    advice = "An id looks like 'sweep-01k…': see `simyard sweep list`."
    return _matched(_SWEEP_ID, sweep_id, "the id of a sweep", "bad_sweep_id", advice)[0]


def check_promotion(name: str) -> str:
    """Return the name, or raise `RequestError` when nothing can be promoted under it."""
    advice = "Allowed: 1 to 64 of a-z, 0-9, '_', '.' and '-', a letter or digit first."
    return _matched(_PROMOTION, name, "the name of a promotion", "bad_promotion", advice)[0]


def sha256_of_asset(asset_id: str) -> str:
    """Return the digest in an asset's id, or raise `RequestError` when it is no such id."""
    advice = "An id is 'asset-' and 64 digits of 0-9 and a-f: see `simyard assets list`."
    return _matched(_ASSET_ID, asset_id, "an asset id", "bad_asset_id", advice)[1]


def asset(sha256: str, name: str) -> str:
    """Return the key of an input file with this content."""
    return f"{ASSETS}/{sha256}/{name}"


def asset_id_of(sha256: str) -> str:
    """Return the id of the asset with this content."""
    return f"asset-{sha256}"


def mentioned(text: str) -> frozenset[str]:
    """Return the ids of jobs and the digests that a document's text names."""
    return frozenset(_MENTIONED.findall(text))


def time_of(own_id: str) -> str:
    """Return the digits of an id that are its time: those of a run or sweep begin the ids of its own jobs."""
    return own_id.partition("-")[2][:10]


def spent(job_id: str) -> str:
    """Return the key of what a job had used before it was deleted."""
    return f"{SPENT}/{job_id}.json"


class _Below:
    """A key below the prefix of the keys that have it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, keys: _Prefixed, kind: type[_Prefixed] | None = None) -> str:
        return f"{keys.prefix}/{self._name}"


class _Prefixed(Protocol):
    @property
    def prefix(self) -> str: ...


@dataclass(frozen=True)
class AssetKeys:
    """The keys of one asset."""

    sha256: str

    @property
    def prefix(self) -> str:
        """Everything of the asset lies below this."""
        return f"{ASSETS}/{self.sha256}"

    record = _Below("asset.json")
    """Key of the asset's record, written after its file."""

    def file(self, name: str) -> str:
        """The key of the file itself."""
        return asset(self.sha256, name)


def idempotency(key: str) -> str:
    """Return the key of an idempotency record; users' keys may hold anything, so their digest names it."""
    return f"{IDEMPOTENCY}/{hashlib.sha256(key.encode()).hexdigest()}.json"


def api_key(key_id: str) -> str:
    """Return the key of an API key's record."""
    return f"{API_KEYS}/{key_id}.json"


def places(key_id: str) -> str:
    """Return the folder of the places that an API key has for jobs and managed runs."""
    return f"{PLACES}/{key_id}"


def place(key_id: str, number: int, generation: int) -> str:
    """Return the key of a place, counted from 1, that so many others had before; it is written once."""
    return f"{places(key_id)}/{number:06d}/{generation:08d}.json"


def doctor(check_id: str) -> str:
    """Return the key that `simyard doctor` tries the store with, and that a machine writes its report to."""
    return f"{DOCTOR}/{check_id}.json"


def labels(job_id: str) -> str:
    """Return the key of the tags and the note of a job."""
    return f"{LABELS}/{check_job_id(job_id)}.json"


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

    status = _Below("status.json")
    """The attempt's heartbeat: stage, iteration, reward, time."""
    outcome = _Below("outcome.json")
    """Key of the attempt's outcome, written once, last."""
    checkpoints = _Below("checkpoints.json")
    """The index of the attempt's valid checkpoints, in the order of `core/records.by_iteration`."""
    files = _Below("files")
    """Everything else the attempt left, under the artifact's own name."""
    states = _Below("states")
    """The states of a training beside its newest checkpoints."""
    meeting = _Below("meeting.json")
    """Key of the rendezvous of the attempt's machines; the first one writes it."""
    go = _Below("go.json")
    """The first machine's word that all are ready."""
    machine_lost = _Below("machine_lost.json")
    """Key of the report on a lost machine; the control flow writes it."""
    ready = _Below("ready.json")
    """A machine's word that it could begin."""

    def file(self, name: str) -> str:
        """The key of one such file."""
        return f"{self.files}/{name}"

    def state(self, name: str) -> str:
        """The key of one such state."""
        return f"{self.states}/{name}"

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

    job = _Below("job.json")
    """The frozen spec."""
    estimate = _Below("estimate.json")
    """Key of the estimate that its submission was answered with."""
    cancel = _Below("cancel.json")
    """The request to stop."""
    result = _Below("result.json")
    """Key of the job's result."""
    manifest = _Below("artifact_manifest.json")
    """The commit marker."""
    notification = _Below("notification.json")
    """Whether the webhook of its end was delivered."""
    attempts = _Below("attempts")
    """The folder of all attempts."""
    artifacts = _Below("artifacts")
    """The folder of what the job promised."""

    def attempt(self, number: int) -> AttemptKeys:
        """The keys of one attempt, counted from 1."""
        return AttemptKeys(f"{self.attempts}/{number:03d}")

    drivers = _Below("drivers")
    """The folder of the claims on the job."""

    def driver(self, number: int) -> str:
        """The key of the claim of the one process that makes a job's attempts; the next is of its successor."""
        return f"{self.drivers}/{number}.json"

    def tracker(self, name: str) -> str:
        """The key of the record of the job's run in a tracker."""
        return f"{self.prefix}/trackers/{name}.json"

    def artifact(self, name: str) -> str:
        """The key of one artifact."""
        return f"{self.artifacts}/{name}"


@dataclass(frozen=True)
class IterationKeys:
    """The keys of one iteration of a managed training run."""

    prefix: str

    record = _Below("iteration.json")
    """Key of the iteration's record: its commit marker, written last."""
    trainer = _Below("trainer")
    """The folder of the trainer's attempts."""

    def trainer_file(self, attempt: int, name: str) -> str:
        """The key of something that one attempt left; attempts are counted from 1."""
        return f"{self.trainer}/{attempt:03d}/{name}"


class DrivenKeys:
    """The keys that a managed run and a sweep both have: a process drives each of them."""

    @property
    def prefix(self) -> str:
        """Everything lies below this, save jobs."""
        raise NotImplementedError

    estimate = _Below("estimate.json")
    """Key of the estimate that its submission was answered with."""
    desired_state = _Below("wish.json")
    """Key of its desired state."""
    status = _Below("status.json")
    """The heartbeat of the process that drives it."""
    result = _Below("result.json")
    """Key of its result."""
    notification = _Below("notification.json")
    """Whether the webhook of its end was delivered."""
    events = _Below("events")
    """The folder of events, whose names sort as they happened."""

    def event(self, number: int) -> str:
        """The key of one event, counted from 1."""
        return f"{self.events}/{number:08d}.json"


@dataclass(frozen=True)
class RunKeys(DrivenKeys):
    """The keys of one managed training run."""

    run_id: str

    @property
    def prefix(self) -> str:
        """Everything of the run lies below this, save its rollouts, which are jobs, and its checkpoints' bytes."""
        return f"{RUNS}/{self.run_id}"

    run = _Below("run.json")
    """The frozen run."""
    secrets = _Below("secrets.json")
    """Key of the values of the trainer's variables, while the run may go on."""
    iterations = _Below("iterations")
    """The folder of iterations."""
    checkpoints = _Below("checkpoints")
    """The folder of lineage records."""

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
class SweepKeys(DrivenKeys):
    """The keys of one sweep."""

    sweep_id: str

    @property
    def prefix(self) -> str:
        """Everything of the sweep lies below this, save its trainings and evaluations, which are jobs."""
        return f"{SWEEPS}/{self.sweep_id}"

    sweep = _Below("sweep.json")
    """The frozen sweep."""
    verdict = _Below("verdict.json")
    """Key of the verdict: what the sweep found so far, and in the end."""
    decisions = _Below("decisions")
    """The folder of decisions, whose names sort as they were made: the sweep is rebuilt from them."""
    settings = _Below("settings")
    """The folder of settings as the decisions have left them, for those who read."""
    artifacts = _Below("artifacts")
    """The folder of the report and the pictures."""

    def decision(self, number: int) -> str:
        """The key of one decision, counted from 1."""
        return f"{self.decisions}/{number:08d}.json"

    def setting(self, number: int) -> str:
        """The key of one setting, counted from 0."""
        return f"{self.settings}/{number:06d}.json"

    def artifact(self, name: str) -> str:
        """The key of something for people: the report, a picture."""
        return f"{self.artifacts}/{name}"


def keys_of(own_id: str) -> JobKeys | RunKeys | SweepKeys:
    """Return the keys of a job, a managed run or a sweep, which its id tells: each has a result, and a notification."""
    return (JobKeys if own_id.startswith("job-") else SweepKeys if own_id.startswith("sweep-") else RunKeys)(own_id)


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


def project_of(reference: str) -> str:
    """Return the project of the store that a reference or a URL names, or `default`."""
    found = _PROJECT.search(reference)
    return found.group(1) if found else "default"
