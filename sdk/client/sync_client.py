# Generated from async_client.py by `make client`: change that one.
"""The client, and the handle of a job that it submitted."""

from __future__ import annotations

import fnmatch
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import httpx

from simyard.client import bodies, calls, files
from simyard.client.calls import LOG
from simyard.client.concurrency import sync_call, sync_sleep, sync_together
from simyard.client.errors import ApiError, ConfigurationError, NotFoundError, SimyardClientError
from simyard.client.files import Config, Download
from simyard.client.records import AssetRecord, CheckpointRecord, EventRecord, JobRecord, TrainingRunRecord
from simyard.client.settings import DEFAULT_URL, Settings, is_passing, within
from simyard.client.sync_http import Http
from simyard.client.waiting import OVER, Deadline, Outage, judged_job, judged_run
from simyard.client.watching import CATCH_UP_LINES, JobWatch, LogTail, RunWatch

MAX_AT_ONCE = 32
_MAX_OBJECT_BYTES = 5 * 1024**3


class Client:
    """The service from Python. Threads may share one; use it as a context, or close it.

    Every method raises `ApiError` (by its status a subclass) when the service refuses, `TransportError` when there is
    no answer, and `ConfigurationError` before anything is sent when an argument is wrong. Requests that may be
    repeated are, on 429, 500, 502, 503, 504 and without an answer: all but `resume_training_run`. A submission carries
    an idempotency key, so that a repeated one is the same job.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_URL,
        timeout_s: float = 30.0,
        max_retries: int = 3,
        retry_backoff_s: float = 0.5,
    ) -> None:
        """Set the service's address, the key and the limits. Nothing is sent yet.

        Args:
            api_key: A key of the project, `sy_live_…`.
            base_url: The service's address.
            timeout_s: Seconds to wait for a connection, and for the next bytes of an answer.
            max_retries: Further tries of a request that may be repeated.
            retry_backoff_s: The pause before the second try, in seconds; it doubles with each further one, up to 30 s.
                Where the service says `Retry-After`, no less than that, and an error if that is more than 120 s.

        Raises:
            ConfigurationError: If one of them is bad.
        """
        self._http = Http(
            Settings(
                api_key=api_key,
                base_url=base_url,
                timeout_s=timeout_s,
                max_retries=max_retries,
                retry_backoff_s=retry_backoff_s,
            )
        )

    @classmethod
    def from_env(cls) -> Self:
        """Make a client of `SIMYARD_API_KEY`, `SIMYARD_API_URL` and `SIMYARD_HTTP_TIMEOUT_S`, `_RETRIES`, `_BACKOFF_S`.

        Raises:
            ConfigurationError: If the key is missing or a value is bad.
        """
        return cls(**vars(Settings.from_env()))

    @property
    def base_url(self) -> str:
        """The service's address."""
        return self._http.settings.base_url

    @property
    def timeout_s(self) -> float:
        """Seconds to wait for a connection, and for the next bytes of an answer."""
        return self._http.settings.timeout_s

    @property
    def max_retries(self) -> int:
        """Further tries of a request that may be repeated."""
        return self._http.settings.max_retries

    @property
    def retry_backoff_s(self) -> float:
        """The pause before the second try; seconds."""
        return self._http.settings.retry_backoff_s

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    # Rollouts

    def run(
        self,
        robot: str,
        scene: str,
        num_envs: int,
        steps: int,
        physics_dt: float = 0.005,
        substeps: int = 2,
        seed: int = 42,
        video: bool = True,
        log_format: str = "zarr",
        control: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        *,
        notify_url: str | None = None,
    ) -> Job:
        """Submit a rollout of a robot in a built-in scene.

        Args:
            robot: A URDF, USD or MJCF: a URI, or a local file, which is sent first.
            scene: The built-in scene, such as `ground`.
            num_envs: Environments side by side.
            steps: Control steps of each.
            physics_dt: Seconds of a control step.
            substeps: Physics steps in each.
            seed: Random seed.
            video: Whether to make `render.mp4`.
            log_format: How arrays are written.
            control: How the robot is driven.
            idempotency_key: The same key and request are the same job; left out it is a new one.
            notify_url: What is told about the job's end.
        """
        if not isinstance(scene, str) or not scene.strip():
            raise ConfigurationError(f"scene is {scene!r}: give the name of a built-in scene, such as 'ground'.")
        return self.submit_assets(
            robot_asset=robot,
            scene_id=scene,
            num_envs=num_envs,
            steps=steps,
            physics_dt=physics_dt,
            substeps=substeps,
            seed=seed,
            video=video,
            log_format=log_format,
            control=control,
            idempotency_key=idempotency_key,
            notify_url=notify_url,
        )

    submit = run
    step = run

    def submit_assets(
        self,
        *,
        robot_asset: str | None = None,
        scene_usd: str | None = None,
        robot_asset_id: str | None = None,
        scene_asset_id: str | None = None,
        num_envs: int,
        steps: int,
        physics_dt: float = 0.005,
        substeps: int = 2,
        seed: int = 42,
        video: bool | None = None,
        log_format: str = "zarr",
        control: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        robot_asset_type: str = "auto",
        auto_upload_inputs: bool = True,
        scene_id: str | None = None,
        runtime_profile: str | None = None,
        isaac_lab: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
        overrides: Iterable[str] | None = None,
        compute_config: Mapping[str, Any] | None = None,
        name: str | None = None,
        notify_url: str | None = None,
    ) -> Job:
        """Submit a rollout of your robot in your scene, or of your task package.

        Args:
            robot_asset: A URDF, USD or MJCF: a URI, or a local file, which is sent first.
            scene_usd: A USD: the same.
            robot_asset_id: An uploaded robot instead; `robot_asset_type` must say what it is.
            scene_asset_id: An uploaded scene instead. Without any scene it is the built-in `ground`.
            num_envs: Environments side by side.
            steps: Control steps of each.
            physics_dt: Seconds of a control step.
            substeps: Physics steps in each.
            seed: Random seed.
            video: Whether to make `render.mp4`. Given neither here nor in `outputs`, it is made, unless the profile is
                `isaac_lab_rollout`, whose task packages are asked for it expressly.
            log_format: How arrays are written.
            control: How the robot is driven.
            idempotency_key: The same key and request are the same job; left out it is a new one.
            robot_asset_type: `urdf`, `usd` or `mjcf`; `auto` tells it from the name of the file.
            auto_upload_inputs: Whether local files may be sent.
            scene_id: A built-in scene; beside a USD no more than a label.
            runtime_profile: `standard`, or `isaac_lab_rollout` for a task package.
            isaac_lab: The task: `task_module`, `task_class_or_name`, `task_package_asset_id`, `task_args`.
            outputs: What to leave besides the arrays, such as `{"video": True}`.
            policy: What drives the robot with `task_mode` `policy`: `asset_id`, `uri` or `from_job`.
            overrides: Hydra overrides, for registered tasks.
            compute_config: What to run on, such as `{"gpus_per_node": 0}`.
            name: Display name.
            notify_url: What is told about the job's end.
        """
        # Everything is checked before the first file is sent.
        key = calls.checked_key(idempotency_key)
        made = bodies.outputs_of(outputs, video, log_format, runtime_profile)
        robot_type = bodies.checked_robot_type(robot_asset_type)
        robot: dict[str, str] | None = None
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
            ending, value = self._reference(scene_usd, "scene_usd", "scene", auto_upload_inputs)
            scene[f"usd_{ending}"] = value
        if scene_id and scene_id.strip():
            scene["scene_id"] = scene_id.strip()
        if robot is None and robot_asset and robot_asset.strip():
            ending, value = self._reference(robot_asset, "robot_asset", "robot", auto_upload_inputs)
            robot = {f"{robot_type}_{ending}": value}

        body = bodies.rollout(
            robot=robot,
            scene=scene,
            num_envs=num_envs,
            steps=steps,
            physics_dt=physics_dt,
            substeps=substeps,
            seed=seed,
            outputs=made,
            control=control,
            runtime_profile=runtime_profile,
            isaac_lab=isaac_lab,
            policy=policy,
            overrides=None if overrides is None else list(overrides),
            compute_config=compute_config,
            name=name,
            notify_url=notify_url,
        )
        return self._job(self._http.send(calls.create_job(body, key)))

    def _reference(self, reference: str, what: str, kind: str, auto_upload: bool) -> tuple[str, str]:
        """Return a body's reference to a file, as (ending of the field, value); a local file is sent first."""
        path = bodies.local_path(reference, what)
        if path is None:
            return "uri", reference.strip()
        if not auto_upload:
            raise ConfigurationError(
                f"{what} {reference!r} is a local file, and auto_upload_inputs is off: upload it and give its asset id."
            )
        return "asset_id", self.upload_input_asset(str(path), asset_kind=kind)

    # Jobs of every kind

    def create_job(
        self, body: Mapping[str, Any], *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> Job:
        """Submit a job of any kind.

        Args:
            body: The body of `POST /v0/jobs`: a rollout, a training, an evaluation or an export.
            notify_url: What is told about the job's end.
            idempotency_key: The same key and request are the same job; left out it is a new one.
        """
        call = calls.create_job(bodies.with_notice(body, notify_url), idempotency_key)
        return self._job(self._http.send(call))

    def train(self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None) -> Job:
        """Submit a training, as `simyard train` takes it; see `create_job`.

        Args:
            config: The config, or the path of its JSON file.
            notify_url: What is told about the job's end.
            idempotency_key: The same key and request are the same job; left out it is a new one.
        """
        body = bodies.training(files.read_config(config))
        return self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    def evaluate(self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None) -> Job:
        """Submit an evaluation, as `simyard evaluate` takes it; the rest is as in `train`."""
        body = bodies.evaluation(files.read_config(config))
        return self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    def export_policy(
        self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> Job:
        """Submit an export, as `simyard export-policy` takes it; the rest is as in `train`."""
        body = bodies.export(files.read_config(config))
        return self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    def list_jobs(self, *, limit: int = 100) -> list[JobRecord]:
        """Return the newest jobs, newest first."""
        return self._http.send(calls.list_jobs(limit))

    def status(self, job_id: str) -> JobRecord:
        """Return a job as it is now."""
        return self._http.send(calls.get_job(job_id))

    def wait(
        self, job_id: str, poll_interval_s: float = 2.0, timeout_s: float = 1800.0, raise_on_error: bool = True
    ) -> JobRecord:
        """Wait until a job is over; a service that is away for a while, up to five minutes, does not end the wait.

        Args:
            job_id: The job.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a job that failed or was canceled is an error.

        Raises:
            JobFailedError: If it failed.
            JobCanceledError: If it was canceled.
            JobTimeoutError: If it is not over in time; it goes on.
        """
        return self._wait_job(job_id, poll_interval_s, timeout_s, raise_on_error)

    def watch_job(
        self,
        job_id: str,
        *,
        poll_interval_s: float = 2.0,
        timeout_s: float = 1800.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> JobRecord:
        """Wait as `wait` does, and print a line whenever something is new.

        Args:
            job_id: The job.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a job that failed or was canceled is an error.
            stream: Where to print; left out it is the standard output.
        """
        watch = JobWatch(job_id, stream or sys.stdout)
        return self._wait_job(job_id, poll_interval_s, timeout_s, raise_on_error, watch)

    def _wait_job(
        self,
        job_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: JobWatch | None = None,
    ) -> JobRecord:
        deadline = Deadline(f"Job {job_id}", poll_interval_s, timeout_s)
        outage = Outage(self._http.settings)
        while True:
            try:
                job = self.status(job_id)
            except SimyardClientError as error:
                outage.bear(error)
            else:
                outage.end()
                if watch:
                    watch.show(job)
                if job["status"] in OVER:
                    return judged_job(job, raise_on_error)
            sync_sleep(deadline.pause_s())

    def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to end; what it saved is kept. Return it as it is now."""
        return self._http.send(calls.cancel_job(job_id))

    def logs(self, job_id: str, name: str = LOG, tail: int = 200) -> str:
        """Return the last lines of a log, such as `runner.log` or `command.stderr.log`."""
        return self._http.send(calls.get_logs(job_id, name, tail))

    def follow_logs(self, job_id: str, name: str = LOG, tail: int = 200) -> Iterator[str]:
        """Give the lines of a log, without their ends, as they are written, until the job is over.

        After a break it goes on where it was; lines are given twice only if more than 1000 came meanwhile, or the log
        is another one.

        Args:
            job_id: The job.
            name: The log.
            tail: How many lines of those that are there already.
        """
        return self._follow(job_id, name, calls.follow_logs(job_id, name, tail))

    def _follow(self, job_id: str, name: str, call: calls.Call[None]) -> Iterator[str]:
        log = LogTail()
        break_s = max(self._http.settings.retry_backoff_s, 0.1)
        while True:
            try:
                with self._http.stream(call) as response:
                    for line in response.iter_lines():
                        if log.is_new(line):
                            yield line
            except (httpx.RequestError, NotFoundError):
                pass  # a break, or a log that the job has not begun
            except ApiError as error:
                if not is_passing(error):
                    raise

            # The stream has ended, maybe too early: take the rest from the log, and see whether the job is over.
            outage = Outage(self._http.settings, answered=True)
            while True:
                try:
                    # In this order: what was written before the job was over is in the log.
                    is_over = (self.status(job_id))["status"] in OVER
                    try:
                        text = self.logs(job_id, name, CATCH_UP_LINES)
                    except NotFoundError:
                        if is_over and log.is_empty:
                            raise
                        text = ""  # the job has not begun to write it
                    break
                except SimyardClientError as error:
                    outage.bear(error)
                sync_sleep(break_s)
            for line in log.catch_up(text, is_whole=is_over):
                yield line
            if is_over:
                return
            sync_sleep(break_s)
            call = calls.follow_logs(job_id, name, CATCH_UP_LINES)

    # Artifacts

    def get_download_url(self, job_id: str, artifact_name: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch an artifact."""
        return self._http.settings.url((self._http.send(calls.find_artifact(job_id, artifact_name)))["url"])

    def download_artifact(self, job_id: str, artifact_name: str, timeout_s: float = 120.0) -> bytes:
        """Return an artifact's bytes; `download` is for those that are too large for memory.

        Args:
            job_id: The job.
            artifact_name: Its name, such as `checkpoints/model_10.pt`.
            timeout_s: How long to wait for its next bytes, in seconds.

        Raises:
            IntegrityError: If other bytes came than the service says.
        """
        within("timeout_s", timeout_s, 0, 86_400, "seconds", above=True)
        with Download(None) as into:
            return self._http.fetch(calls.find_artifact(job_id, artifact_name), into, timeout_s)

    def download(
        self,
        job_id: str,
        output_dir: str,
        *,
        only: Iterable[str] = (),
        raise_on_error: bool = True,
        at_once: int = 4,
    ) -> list[str]:
        """Fetch a job's artifacts; each appears under its name when it is whole and its SHA-256 is right.

        Args:
            job_id: The job.
            output_dir: The folder; made if need be. A `/` in a name is a folder in it.
            only: Patterns such as `checkpoints/*`; left out it is everything.
            raise_on_error: Whether a job that failed or was canceled is an error; otherwise what it left is fetched.
            at_once: How many files at a time, 32 at most.

        Returns:
            The paths.

        Raises:
            JobFailedError: If the job failed.
            JobCanceledError: If it was canceled.
            IntegrityError: If other bytes came than the service says.
            UnsafeNameError: If an artifact's name would lead out of the folder; nothing is fetched then.
            OSError: If a file cannot be written.
        """
        within("at_once", at_once, 1, MAX_AT_ONCE, "files")
        patterns = [only] if isinstance(only, str) else list(only)
        job = self.status(job_id)
        if job["status"] in OVER:
            judged_job(job, raise_on_error)
        chosen = [
            artifact
            for artifact in job["artifacts"]
            if not patterns or any(fnmatch.fnmatchcase(artifact["name"], pattern) for pattern in patterns)
        ]
        if patterns and not chosen:
            names = [artifact["name"] for artifact in job["artifacts"]]
            raise ConfigurationError(f"No artifact of job {job_id} matches {patterns}; it has {names}.")

        # Every name is looked at before the first file comes.
        folder, stop = Path(output_dir).expanduser(), threading.Event()
        targets = [folder.joinpath(*files.safe_parts(artifact["name"])) for artifact in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        fetches = [
            partial(
                self._http.fetch_file,
                calls.find_artifact(job_id, artifact["name"]),
                target,
                stop,
                artifact.get("sha256"),
                artifact.get("size_bytes"),
            )
            for artifact, target in zip(chosen, targets, strict=True)
        ]
        return sync_together(fetches, at_once, stop)

    # Inputs

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
    ) -> str:
        """Send a file and return its URI. It is read piece by piece; an interrupted one is sent again.

        Args:
            local_path: The file.
            destination_uri: `s3://bucket/key`: straight into a bucket, with this machine's AWS credentials.
            bucket: The same, with a key of its own.
            key_prefix: What that key begins with; `simyard/inputs` unless it is said.
            object_name: What the file is called; left out it is its own name.
            prefer_presigned: Whether to send it through the service where no bucket is named.
            register_asset: Whether to make it an asset too.
            asset_kind: What it is: `robot`, `scene`, `isaac_lab_task_package`, …
            metadata: What to remember about it.
        """
        uri, _ = self._upload(
            local_path,
            destination_uri=destination_uri,
            bucket=bucket,
            key_prefix=key_prefix,
            object_name=object_name,
            prefer_presigned=prefer_presigned,
            register_asset=register_asset,
            asset_kind=asset_kind,
            metadata=metadata,
        )
        return uri

    def upload_input_asset(
        self,
        local_path: str,
        *,
        destination_uri: str | None = None,
        bucket: str | None = None,
        key_prefix: str | None = None,
        object_name: str | None = None,
        prefer_presigned: bool = True,
        asset_kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Send a file, make it an asset and return the asset's id; the arguments are those of `upload_input`."""
        _, asset_id = self._upload(
            local_path,
            destination_uri=destination_uri,
            bucket=bucket,
            key_prefix=key_prefix,
            object_name=object_name,
            prefer_presigned=prefer_presigned,
            register_asset=True,
            asset_kind=asset_kind,
            metadata=metadata,
        )
        assert asset_id is not None
        return asset_id

    def _upload(
        self,
        local_path: str,
        *,
        destination_uri: str | None,
        bucket: str | None,
        key_prefix: str | None,
        object_name: str | None,
        prefer_presigned: bool,
        register_asset: bool,
        asset_kind: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> tuple[str, str | None]:
        """Send a file, through the service or into a bucket; return its URI, and its asset id if it has one."""
        path = files.local_file(local_path)
        name = files.file_name(path, object_name)
        asset_id: str | None = None
        if prefer_presigned and destination_uri is None and bucket is None:
            slot = self._http.upload(path, name, register=register_asset, kind=asset_kind, metadata=metadata)
            uri, asset_id = slot["input_uri"], slot.get("asset_id")
        else:
            place = bodies.bucket_place(destination_uri, bucket, key_prefix, name)
            if path.stat().st_size > _MAX_OBJECT_BYTES:
                raise ConfigurationError(
                    f"{str(path)!r} is larger than 5 GiB, which is the most that one request may put into a bucket: "
                    "upload it through the service, or with the bucket's own tools."
                )
            sync_call(files.put_object, path, *place, files.content_type(name))
            uri = f"s3://{'/'.join(place)}"
        if register_asset and not asset_id:
            asset = self.register_input_asset(
                input_uri=uri,
                filename=name,
                content_type=files.content_type(name),
                size_bytes=path.stat().st_size,
                kind=asset_kind,
                metadata=metadata,
            )
            asset_id = asset["asset_id"]
        return uri, asset_id

    def register_input_asset(
        self,
        *,
        input_uri: str,
        filename: str | None = None,
        content_type: str | None = None,
        size_bytes: int | None = None,
        kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AssetRecord:
        """Make a file that was sent an asset.

        Args:
            input_uri: What `upload_input` returned.
            filename: What it is called.
            content_type: Its media type.
            size_bytes: Its size.
            kind: What it is: `robot`, `scene`, `isaac_lab_task_package`, …
            metadata: What to remember about it.
        """
        return self._http.send(calls.register_asset(input_uri, filename, content_type, size_bytes, kind, metadata))

    def get_input_asset(self, asset_id: str) -> AssetRecord:
        """Return an asset."""
        return self._http.send(calls.get_asset(asset_id))

    def list_input_assets(self, *, limit: int = 100) -> list[AssetRecord]:
        """Return the newest assets, newest first."""
        return self._http.send(calls.list_assets(limit))

    # Managed training runs

    def create_training_run(
        self,
        *,
        project_id: str,
        name: str,
        rollout_template: Mapping[str, Any],
        trainer_spec: Mapping[str, Any],
        checkpoint_init_uri: str | None = None,
        checkpoint_init_asset_id: str | None = None,
        loop_policy: Mapping[str, Any] | None = None,
        success_criteria: Mapping[str, Any] | None = None,
        budget_policy: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> TrainingRunRecord:
        """Submit a managed training run.

        Args:
            project_id: Whose it is.
            name: Display name.
            rollout_template: The rollouts of every iteration.
            trainer_spec: What turns them into the next checkpoint.
            checkpoint_init_uri: The checkpoint to begin from.
            checkpoint_init_asset_id: The same, uploaded.
            loop_policy: How long the loop goes on.
            success_criteria: When the run has done what it is for.
            budget_policy: What it may cost.
            idempotency_key: The same key and request are the same run; left out it is a new one.
        """
        body = bodies.training_run(
            project_id=project_id,
            name=name,
            rollout_template=rollout_template,
            trainer_spec=trainer_spec,
            loop_policy=loop_policy,
            success_criteria=success_criteria,
            budget_policy=budget_policy,
            checkpoint_init_uri=checkpoint_init_uri,
            checkpoint_init_asset_id=checkpoint_init_asset_id,
        )
        return self._http.send(calls.create_run(body, idempotency_key))

    def list_training_runs(self, limit: int = 30) -> list[TrainingRunRecord]:
        """Return the newest runs, newest first."""
        return self._http.send(calls.list_runs(limit))

    def get_training_run(self, run_id: str) -> TrainingRunRecord:
        """Return a run as it is now."""
        return self._http.send(calls.get_run(run_id))

    def wait_training_run(
        self, run_id: str, *, poll_interval_s: float = 5.0, timeout_s: float = 24 * 3600.0, raise_on_error: bool = True
    ) -> TrainingRunRecord:
        """Wait until a run is over; a paused one is not.

        Args:
            run_id: The run.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a run that failed or was canceled is an error.

        Raises:
            TrainingRunFailedError: If it failed.
            TrainingRunCanceledError: If it was canceled.
            JobTimeoutError: If it is not over in time; it goes on.
        """
        return self._wait_run(run_id, poll_interval_s, timeout_s, raise_on_error)

    def watch_training_run(
        self,
        run_id: str,
        *,
        poll_interval_s: float = 5.0,
        timeout_s: float = 24 * 3600.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
        event_limit: int = 200,
    ) -> TrainingRunRecord:
        """Wait as `wait_training_run` does, and print changes and events.

        Args:
            run_id: The run.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a run that failed or was canceled is an error.
            stream: Where to print; left out it is the standard output.
            event_limit: How many events to read each time; between two times no more may happen.
        """
        within("event_limit", event_limit, 1, 100_000, "events")
        watch = RunWatch(run_id, stream or sys.stdout)
        return self._wait_run(run_id, poll_interval_s, timeout_s, raise_on_error, watch, event_limit)

    def _wait_run(
        self,
        run_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: RunWatch | None = None,
        event_limit: int = 0,
    ) -> TrainingRunRecord:
        deadline = Deadline(f"Training run {run_id}", poll_interval_s, timeout_s)
        outage = Outage(self._http.settings)
        while True:
            try:
                run = self.get_training_run(run_id)
                if watch:
                    watch.show(run)
                    watch.show_events(self.list_training_events(run_id, limit=event_limit))
            except SimyardClientError as error:
                outage.bear(error)
            else:
                outage.end()
                if run["status"] in OVER:
                    return judged_run(run, raise_on_error)
            sync_sleep(deadline.pause_s())

    def pause_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to begin nothing new."""
        return self._http.send(calls.pause_run(run_id))

    def resume_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a paused run to go on. Without an answer it is not repeated: `get_training_run` tells."""
        return self._http.send(calls.resume_run(run_id))

    def cancel_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to end; what it saved is kept."""
        return self._http.send(calls.cancel_run(run_id))

    def list_training_iterations(self, run_id: str, *, limit: int = 200) -> list[dict[str, Any]]:
        """Return a run's iterations, oldest first."""
        return self._http.send(calls.list_iterations(run_id, limit))

    def list_run_checkpoints(self, run_id: str, *, limit: int = 200) -> list[CheckpointRecord]:
        """Return a run's checkpoints, newest first."""
        return self._http.send(calls.list_checkpoints(run_id, limit))

    def get_latest_checkpoint(self, run_id: str) -> CheckpointRecord | None:
        """Return a run's newest checkpoint; None before there is one."""
        return next(iter(self.list_run_checkpoints(run_id, limit=1)), None)

    def list_training_events(self, run_id: str, *, limit: int = 500) -> list[EventRecord]:
        """Return the newest events of a run, the oldest of them first."""
        return self._http.send(calls.list_events(run_id, limit))

    def get_checkpoint_download_url(self, run_id: str, checkpoint_id: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch a checkpoint."""
        return self._http.settings.url((self._http.send(calls.find_checkpoint(run_id, checkpoint_id)))["url"])

    def download_checkpoint(self, run_id: str, checkpoint_id: str, path: str | os.PathLike[str]) -> str:
        """Fetch a checkpoint into a file, which appears when it is whole; return its path.

        Args:
            run_id: The run.
            checkpoint_id: The checkpoint.
            path: The file; its folder is made if need be.

        Raises:
            IntegrityError: If other bytes came than the service says.
            OSError: If the file cannot be written.
        """
        call = calls.find_checkpoint(run_id, checkpoint_id)
        return self._http.fetch_file(call, Path(path).expanduser())

    def _job(self, record: JobRecord) -> Job:
        return Job(self, record["job_id"], record)


@dataclass(frozen=True)
class Job:
    """A job that a client submitted."""

    client: Client = field(repr=False, compare=False)
    """The connection to the service."""
    job_id: str
    """The job's id."""
    record: JobRecord | None = field(default=None, repr=False, compare=False)
    """The answer to the submission, with `estimated_usd` and its like; None for a handle made by hand."""

    def status(self) -> JobRecord:
        """Return the job as it is now; see `Client.status`."""
        return self.client.status(self.job_id)

    def wait(self, poll_interval_s: float = 2.0, timeout_s: float = 1800.0, raise_on_error: bool = True) -> JobRecord:
        """Wait until the job is over; see `Client.wait`."""
        return self.client.wait(self.job_id, poll_interval_s, timeout_s, raise_on_error)

    def watch(
        self,
        poll_interval_s: float = 2.0,
        timeout_s: float = 1800.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> JobRecord:
        """Wait, and print what changes; see `Client.watch_job`."""
        return self.client.watch_job(
            self.job_id,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            raise_on_error=raise_on_error,
            stream=stream,
        )

    def cancel(self) -> JobRecord:
        """Ask the job to end; see `Client.cancel`."""
        return self.client.cancel(self.job_id)

    def download(
        self, output_dir: str, *, only: Iterable[str] = (), raise_on_error: bool = True, at_once: int = 4
    ) -> list[str]:
        """Fetch the artifacts; see `Client.download`."""
        return self.client.download(self.job_id, output_dir, only=only, raise_on_error=raise_on_error, at_once=at_once)

    def logs(self, name: str = LOG, tail: int = 200) -> str:
        """Return the end of a log; see `Client.logs`."""
        return self.client.logs(self.job_id, name=name, tail=tail)

    def follow_logs(self, name: str = LOG, tail: int = 200) -> Iterator[str]:
        """Give the lines of a log until the job is over; see `Client.follow_logs`."""
        return self.client.follow_logs(self.job_id, name=name, tail=tail)
