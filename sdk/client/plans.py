"""What takes more than one request: as generators that say what to do next, so that both clients do the same.

A plan yields steps and is sent their results; the client that runs it does the waiting and the network.
"""

from __future__ import annotations

import fnmatch
import sys
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from simyard.client import bodies, calls
from simyard.client.calls import Answer, Call, api_error
from simyard.client.errors import (
    ConfigurationError,
    JobCanceledError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    SimyardClientError,
    TrainingRunCanceledError,
    TrainingRunFailedError,
)
from simyard.client.files import Download, content_type, file_name, local_file, safe_parts
from simyard.client.records import DownloadPlace, JobRecord, TrainingRunRecord, UploadSlot
from simyard.client.settings import Settings, is_passing, within
from simyard.client.watching import CATCH_UP_LINES, JobWatch, LogTail, RunWatch

OUTAGE_S = 300.0
"""How long a service may be away before those who wait for a job give up."""
MAX_AT_ONCE = 32
_OVER = ("succeeded", "failed", "canceled")
_YEAR_S = 366 * 86_400.0
_MAX_OBJECT_BYTES = 5 * 1024**3


@dataclass(frozen=True)
class Send:
    """Send a request once; the result is its `Answer`."""

    call: Call[Any]


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Upload:
    """Send a file to a signed address once; the result is the `Answer`."""

    path: Path
    method: str
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Fetch:
    """Fetch a file from a signed address once; the result is the `Answer`, without the body if it is a success."""

    url: str
    into: Download
    timeout_s: float


@dataclass(frozen=True)
class PutObject:
    """Put a file into a bucket, with this machine's own credentials."""

    path: Path
    bucket: str
    key: str
    content_type: str


@dataclass(frozen=True)
class Together:
    """Run plans side by side; the result is the list of theirs."""

    plans: tuple[Generator[Any, Any, Any], ...]
    at_once: int
    stop: threading.Event
    """Set by the first that fails."""


Step = Send | Pause | Upload | Fetch | PutObject | Together
Result = TypeVar("Result")
Plan = Generator[Step, Any, Result]


@dataclass(frozen=True)
class Plans:
    """The plans of one client."""

    settings: Settings

    @property
    def break_s(self) -> float:
        """From the end of a log's stream to the next one, in seconds."""
        return max(self.settings.retry_backoff_s, 0.1)

    def send(self, call: Call[Result]) -> Plan[Result]:
        """Send a request, again if it may be and the failure may pass."""
        tries = 0
        while True:
            tries += 1
            try:
                answer: Answer = yield Send(call)
                return call.result(answer)
            except SimyardClientError as error:
                pause_s = self.settings.pause_s(tries, error) if call.is_repeatable else None
                if pause_s is None:
                    raise
            yield Pause(pause_s)

    # Waiting

    def wait(
        self,
        job_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: JobWatch | None = None,
    ) -> Plan[JobRecord]:
        """Poll a job until it is over."""
        deadline = _deadline(poll_interval_s, timeout_s)
        away_since: float | None = None
        seen = False
        while True:
            try:
                job = yield from self.send(calls.get_job(job_id))
            except SimyardClientError as error:
                away_since = self._bear(error, away_since, seen)
            else:
                away_since, seen = None, True
                if watch:
                    watch.show(job)
                if job["status"] in _OVER:
                    return _judged_job(job, raise_on_error)
            yield from _pause(deadline, poll_interval_s, f"Job {job_id}", timeout_s)

    def watch_job(
        self, job_id: str, poll_interval_s: float, timeout_s: float, raise_on_error: bool, stream: TextIO | None
    ) -> Plan[JobRecord]:
        """Poll a job until it is over, and print what changes."""
        watch = JobWatch(job_id, stream or sys.stdout)
        return (yield from self.wait(job_id, poll_interval_s, timeout_s, raise_on_error, watch))

    def wait_run(
        self,
        run_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: RunWatch | None = None,
        event_limit: int = 0,
    ) -> Plan[TrainingRunRecord]:
        """Poll a managed run until it is over."""
        deadline = _deadline(poll_interval_s, timeout_s)
        away_since: float | None = None
        seen = False
        while True:
            try:
                run = yield from self.send(calls.get_run(run_id))
                if watch:
                    watch.show(run)
                    watch.show_events((yield from self.send(calls.list_events(run_id, event_limit))))
            except SimyardClientError as error:
                away_since = self._bear(error, away_since, seen)
            else:
                away_since, seen = None, True
                if run["status"] in _OVER:
                    return _judged_run(run, raise_on_error)
            yield from _pause(deadline, poll_interval_s, f"Training run {run_id}", timeout_s)

    def watch_run(
        self,
        run_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        stream: TextIO | None,
        event_limit: int,
    ) -> Plan[TrainingRunRecord]:
        """Poll a managed run until it is over, and print what happens."""
        within("event_limit", event_limit, 1, 100_000, "events")
        watch = RunWatch(run_id, stream or sys.stdout)
        return (yield from self.wait_run(run_id, poll_interval_s, timeout_s, raise_on_error, watch, event_limit))

    def _bear(self, error: SimyardClientError, away_since: float | None, seen: bool) -> float:
        """Return since when the service is away; raise where it was never there, or for too long."""
        now = time.monotonic()
        since = now if away_since is None else away_since
        if not is_passing(error) or not seen or self.settings.max_retries == 0 or now - since > OUTAGE_S:
            raise error
        return since

    # Files that go

    def upload(
        self,
        path: Path,
        name: str,
        *,
        register: bool,
        kind: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Plan[UploadSlot]:
        """Send a file to an address that the service gives; after an interruption to a new one, from the start."""
        tries = 0
        while True:
            tries += 1
            try:
                ask = calls.presign_upload(
                    name, content_type(name), path.stat().st_size, register=register, kind=kind, metadata=metadata
                )
            except OSError as error:
                raise ConfigurationError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
            slot = yield from self.send(ask)
            try:
                headers = {str(key): str(value) for key, value in (slot.get("upload_headers") or {}).items()}
                url = self.settings.url(slot["upload_url"])
                answer = yield Upload(path, slot.get("upload_method") or "PUT", url, headers)
                if answer.is_success:
                    return slot
                raise api_error(answer, f"upload of {name!r}: ")
            except SimyardClientError as error:
                pause_s = self.settings.pause_s(tries, error)
                if pause_s is None:
                    raise
            yield Pause(pause_s)

    def upload_input(
        self,
        local_path: str,
        *,
        destination_uri: str | None = None,
        bucket: str | None = None,
        key_prefix: str | None = None,
        object_name: str | None = None,
        prefer_presigned: bool = True,
        register_asset: bool = False,
        asset_kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Plan[tuple[str, str | None]]:
        """Send a file, through the service or into a bucket; return its URI, and its asset id if it has one."""
        path = local_file(local_path)
        name = file_name(path, object_name)
        asset_id: str | None = None
        if prefer_presigned and destination_uri is None and bucket is None:
            slot = yield from self.upload(path, name, register=register_asset, kind=asset_kind, metadata=metadata)
            uri, asset_id = slot["input_uri"], slot.get("asset_id")
        else:
            place = bodies.bucket_place(destination_uri, bucket, key_prefix, name)
            if path.stat().st_size > _MAX_OBJECT_BYTES:
                raise ConfigurationError(
                    f"{str(path)!r} is larger than 5 GiB, which is the most that one request may put into a bucket: "
                    "upload it through the service, or with the bucket's own tools."
                )
            yield PutObject(path, *place, content_type(name))
            uri = f"s3://{'/'.join(place)}"
        if register_asset and not asset_id:
            size = path.stat().st_size
            ask = calls.register_asset(uri, name, content_type(name), size, asset_kind, metadata)
            asset_id = (yield from self.send(ask))["asset_id"]
        return uri, asset_id

    def upload_asset(self, local_path: str, **options: Any) -> Plan[str]:
        """Send a file and make it an asset."""
        _, asset_id = yield from self.upload_input(local_path, register_asset=True, **options)
        assert asset_id is not None
        return asset_id

    def _reference(self, reference: str, what: str, kind: str, auto_upload: bool) -> Plan[tuple[str, str]]:
        """Return how a body names a file, as (ending of the field, value); a local one is sent first."""
        path = bodies.local_path(reference, what)
        if path is None:
            return "uri", reference.strip()
        if not auto_upload:
            raise ConfigurationError(
                f"{what} {reference!r} is a local file, and auto_upload_inputs is off: upload it and give its asset id."
            )
        return "asset_id", (yield from self.upload_asset(str(path), asset_kind=kind))

    # Jobs

    def run(self, robot: str, scene: str, **options: Any) -> Plan[JobRecord]:
        """Submit a rollout of a robot in a built-in scene."""
        if not isinstance(scene, str) or not scene.strip():
            raise ConfigurationError(f"scene is {scene!r}: give the name of a built-in scene, such as 'ground'.")
        return (yield from self.submit_assets(robot_asset=robot, scene_id=scene, **options))

    def submit_assets(
        self,
        *,
        robot_asset: str | None = None,
        robot_asset_id: str | None = None,
        robot_asset_type: str = "auto",
        auto_upload_inputs: bool = True,
        scene_usd: str | None = None,
        scene_asset_id: str | None = None,
        scene_id: str | None = None,
        video: bool | None,
        log_format: str,
        outputs: Mapping[str, Any] | None = None,
        overrides: Iterable[str] | None = None,
        runtime_profile: str | None = None,
        idempotency_key: str | None,
        **options: Any,
    ) -> Plan[JobRecord]:
        """Submit a rollout; local files are sent first."""
        key = calls.checked_key(idempotency_key)
        made = bodies.outputs_of(outputs, video, log_format, runtime_profile)
        robot_type = bodies.checked_robot_type(robot_asset_type)
        robot: dict[str, str] | None = None
        # Everything is checked before the first file is sent.
        if robot_asset_id and robot_asset_id.strip():
            robot = bodies.robot_by_id(robot_asset_id.strip(), robot_type)
        elif robot_asset and robot_asset.strip():
            robot_type = bodies.type_of_robot(robot_asset.strip(), robot_type)
        elif runtime_profile in (None, "standard"):
            raise ConfigurationError("There is no robot: give robot_asset or robot_asset_id.")
        scene: dict[str, str] = {}
        if scene_asset_id and scene_asset_id.strip():
            scene["usd_asset_id"] = scene_asset_id.strip()
        elif scene_usd and scene_usd.strip():
            bodies.check_scene(scene_usd.strip())
            ending, value = yield from self._reference(scene_usd, "scene_usd", "scene", auto_upload_inputs)
            scene[f"usd_{ending}"] = value
        if scene_id and scene_id.strip():
            scene["scene_id"] = scene_id.strip()
        if robot is None and robot_asset and robot_asset.strip():
            ending, value = yield from self._reference(robot_asset, "robot_asset", "robot", auto_upload_inputs)
            robot = {f"{robot_type}_{ending}": value}
        body = bodies.rollout(
            robot=robot, scene=scene, outputs=made, runtime_profile=runtime_profile,
            overrides=None if overrides is None else list(overrides), **options,
        )  # fmt: skip
        return (yield from self.send(calls.create_job(body, key)))

    def catch_up(self, job_id: str, name: str, log: LogTail) -> Plan[tuple[list[str], bool]]:
        """Return the new lines of a log whose stream has ended, and whether the job is over."""
        away_since: float | None = None
        while True:
            try:
                # In this order: what was written before the job was over is in the log.
                is_over = (yield from self.send(calls.get_job(job_id)))["status"] in _OVER
                try:
                    text = yield from self.send(calls.get_logs(job_id, name, CATCH_UP_LINES))
                except NotFoundError:
                    if is_over and log.is_empty:
                        raise
                    text = ""  # the job has not begun to write it
            except SimyardClientError as error:
                away_since = self._bear(error, away_since, seen=True)
                yield Pause(self.break_s)
            else:
                return log.catch_up(text, is_whole=is_over), is_over

    # Files that come

    def fetch(self, locate: Call[DownloadPlace], into: Download, timeout_s: float) -> Plan[bytes]:
        """Fetch a file; after an interruption the rest, from a new address."""
        tries = 0
        while True:
            tries += 1
            place = yield from self.send(locate)
            into.sha256 = place.get("sha256") or into.sha256
            into.size_bytes = place["size_bytes"] if place.get("size_bytes") is not None else into.size_bytes
            try:
                answer = yield Fetch(self.settings.url(place["url"]), into, timeout_s)
                if answer.is_success:
                    return into.finish()
                raise api_error(answer, f"download of {into.target.name if into.target else 'the file'!r}: ")
            except SimyardClientError as error:
                pause_s = self.settings.pause_s(tries, error)
                if pause_s is None:
                    raise
            yield Pause(pause_s)

    def fetch_bytes(self, job_id: str, name: str, timeout_s: float) -> Plan[bytes]:
        """Fetch an artifact into memory."""
        within("timeout_s", timeout_s, 0, 86_400, "seconds", above=True)
        with Download(None) as into:
            return (yield from self.fetch(calls.find_artifact(job_id, name), into, timeout_s))

    def fetch_file(
        self,
        locate: Call[DownloadPlace],
        target: Path,
        stop: threading.Event | None = None,
        sha256: str | None = None,
        size_bytes: int | None = None,
    ) -> Plan[str]:
        """Fetch a file to a path; return the path."""
        with Download(target, stop) as into:
            into.sha256, into.size_bytes = sha256, size_bytes
            yield from self.fetch(locate, into, self.settings.timeout_s)
        return str(target)

    def download(
        self, job_id: str, output_dir: str, only: Iterable[str], raise_on_error: bool, at_once: int
    ) -> Plan[list[str]]:
        """Fetch a job's artifacts into a folder; return their paths, in the job's order."""
        within("at_once", at_once, 1, MAX_AT_ONCE, "files")
        patterns = [only] if isinstance(only, str) else list(only)
        job = yield from self.send(calls.get_job(job_id))
        if job["status"] in _OVER:
            _judged_job(job, raise_on_error)
        chosen = [
            artifact
            for artifact in job["artifacts"]
            if not patterns or any(fnmatch.fnmatchcase(artifact["name"], pattern) for pattern in patterns)
        ]
        if patterns and not chosen:
            names = [artifact["name"] for artifact in job["artifacts"]]
            raise ConfigurationError(f"No artifact of job {job_id} matches {patterns}; it has {names}.")
        folder, stop = Path(output_dir).expanduser(), threading.Event()
        # Every name is looked at before the first file comes.
        targets = [folder.joinpath(*safe_parts(artifact["name"])) for artifact in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        plans = tuple(
            self.fetch_file(
                calls.find_artifact(job_id, artifact["name"]),
                target,
                stop,
                artifact.get("sha256"),
                artifact.get("size_bytes"),
            )
            for artifact, target in zip(chosen, targets, strict=True)
        )
        paths: list[str] = yield Together(plans, at_once, stop)
        return paths


def _deadline(poll_interval_s: float, timeout_s: float) -> float:
    within("poll_interval_s", poll_interval_s, 0, 86_400, "seconds", above=True)
    within("timeout_s", timeout_s, 0, _YEAR_S, "seconds", above=True)
    return time.monotonic() + timeout_s


def _pause(deadline: float, poll_interval_s: float, what: str, timeout_s: float) -> Plan[None]:
    left = deadline - time.monotonic()
    if left <= 0:
        raise JobTimeoutError(f"{what} was not over after {timeout_s:g} s. It goes on; cancel it if it should not.")
    yield Pause(min(poll_interval_s, left))


def _judged_job(job: JobRecord, raise_on_error: bool) -> JobRecord:
    kind = {"failed": JobFailedError, "canceled": JobCanceledError}.get(job["status"])
    if raise_on_error and kind:
        raise kind(job["job_id"], job["status"], job)
    return job


def _judged_run(run: TrainingRunRecord, raise_on_error: bool) -> TrainingRunRecord:
    kind = {"failed": TrainingRunFailedError, "canceled": TrainingRunCanceledError}.get(run["status"])
    if raise_on_error and kind:
        raise kind(run["run_id"], run["status"], run)
    return run
