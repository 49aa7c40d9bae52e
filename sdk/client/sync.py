"""The client."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import httpx

from simyard.client import bodies, calls, files
from simyard.client.calls import Answer, Call, Result
from simyard.client.errors import ApiError, NotFoundError
from simyard.client.job import LOG, Job
from simyard.client.plans import Fetch, Pause, Plan, Plans, PutObject, Send, Step, Together, Upload
from simyard.client.records import AssetRecord, CheckpointRecord, EventRecord, JobRecord, TrainingRunRecord
from simyard.client.settings import DEFAULT_URL, LIMITS, Settings, certificates, is_passing
from simyard.client.watching import CATCH_UP_LINES, LogTail

Config = Mapping[str, Any] | str | os.PathLike[str]
"""What a job is made of: the object itself, or the path of a JSON file."""


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
        """Take where the service is. Nothing is sent yet.

        Args:
            api_key: A key of the project, `sy_live_…`.
            base_url: The service's address.
            timeout_s: How long to wait for a connection, and for the next bytes of an answer; seconds.
            max_retries: Further tries of a request that may be repeated.
            retry_backoff_s: The pause before the second try, in seconds; it doubles with each further one, up to 30 s.
                Where the service says `Retry-After`, no less than that, and an error if that is more than 120 s.

        Raises:
            ConfigurationError: If one of them is bad.
        """
        self._settings = Settings(
            api_key=api_key,
            base_url=base_url,
            timeout_s=timeout_s,
            max_retries=max_retries,
            retry_backoff_s=retry_backoff_s,
        )
        self._plans = Plans(self._settings)
        self._http = httpx.Client(headers={"User-Agent": "simyard"}, verify=certificates(), limits=LIMITS)

    @classmethod
    def from_env(cls) -> Self:
        """Make a client of `SIMYARD_API_KEY`, `SIMYARD_API_URL` and `SIMYARD_HTTP_TIMEOUT_S`, `_RETRIES`, `_BACKOFF_S`.

        Raises:
            ConfigurationError: If the key is missing or a value is bad.
        """
        settings = Settings.from_env()
        return cls(
            settings.api_key,
            settings.base_url,
            settings.timeout_s,
            settings.max_retries,
            settings.retry_backoff_s,
        )

    @property
    def base_url(self) -> str:
        """The service's address."""
        return self._settings.base_url

    @property
    def timeout_s(self) -> float:
        """How long to wait for a connection, and for the next bytes of an answer; seconds."""
        return self._settings.timeout_s

    @property
    def max_retries(self) -> int:
        """Further tries of a request that may be repeated."""
        return self._settings.max_retries

    @property
    def retry_backoff_s(self) -> float:
        """The pause before the second try; seconds."""
        return self._settings.retry_backoff_s

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
        plan = self._plans.run(
            robot,
            scene,
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
        return self._job(self._run(plan))

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
        plan = self._plans.submit_assets(
            robot_asset=robot_asset,
            scene_usd=scene_usd,
            robot_asset_id=robot_asset_id,
            scene_asset_id=scene_asset_id,
            num_envs=num_envs,
            steps=steps,
            physics_dt=physics_dt,
            substeps=substeps,
            seed=seed,
            video=video,
            log_format=log_format,
            control=control,
            idempotency_key=idempotency_key,
            robot_asset_type=robot_asset_type,
            auto_upload_inputs=auto_upload_inputs,
            scene_id=scene_id,
            runtime_profile=runtime_profile,
            isaac_lab=isaac_lab,
            outputs=outputs,
            policy=policy,
            overrides=overrides,
            compute_config=compute_config,
            name=name,
            notify_url=notify_url,
        )
        return self._job(self._run(plan))

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
        return self._job(self._send(call))

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
        return self._send(calls.list_jobs(limit))

    def status(self, job_id: str) -> JobRecord:
        """Return a job as it is now."""
        return self._send(calls.get_job(job_id))

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
        return self._run(self._plans.wait(job_id, poll_interval_s, timeout_s, raise_on_error))

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
        return self._run(self._plans.watch_job(job_id, poll_interval_s, timeout_s, raise_on_error, stream))

    def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to end; what it saved is kept. Return it as it is now."""
        return self._send(calls.cancel_job(job_id))

    def logs(self, job_id: str, name: str = LOG, tail: int = 200) -> str:
        """Return the last lines of a log, such as `runner.log` or `command.stderr.log`."""
        return self._send(calls.get_logs(job_id, name, tail))

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

    # Artifacts

    def get_download_url(self, job_id: str, artifact_name: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch an artifact."""
        return self._settings.url(self._send(calls.find_artifact(job_id, artifact_name))["url"])

    def download_artifact(self, job_id: str, artifact_name: str, timeout_s: float = 120.0) -> bytes:
        """Return an artifact's bytes; `download` is for those that are too large for memory.

        Args:
            job_id: The job.
            artifact_name: Its name, such as `checkpoints/model_10.pt`.
            timeout_s: How long to wait for its next bytes, in seconds.

        Raises:
            IntegrityError: If other bytes came than the service says.
        """
        return self._run(self._plans.fetch_bytes(job_id, artifact_name, timeout_s))

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
        return self._run(self._plans.download(job_id, output_dir, only, raise_on_error, at_once))

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
        plan = self._plans.upload_input(
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
        return self._run(plan)[0]

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
        plan = self._plans.upload_asset(
            local_path,
            destination_uri=destination_uri,
            bucket=bucket,
            key_prefix=key_prefix,
            object_name=object_name,
            prefer_presigned=prefer_presigned,
            asset_kind=asset_kind,
            metadata=metadata,
        )
        return self._run(plan)

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
        return self._send(calls.register_asset(input_uri, filename, content_type, size_bytes, kind, metadata))

    def get_input_asset(self, asset_id: str) -> AssetRecord:
        """Return an asset."""
        return self._send(calls.get_asset(asset_id))

    def list_input_assets(self, *, limit: int = 100) -> list[AssetRecord]:
        """Return the newest assets, newest first."""
        return self._send(calls.list_assets(limit))

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
        return self._send(calls.create_run(body, idempotency_key))

    def list_training_runs(self, limit: int = 30) -> list[TrainingRunRecord]:
        """Return the newest runs, newest first."""
        return self._send(calls.list_runs(limit))

    def get_training_run(self, run_id: str) -> TrainingRunRecord:
        """Return a run as it is now."""
        return self._send(calls.get_run(run_id))

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
        return self._run(self._plans.wait_run(run_id, poll_interval_s, timeout_s, raise_on_error))

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
        plan = self._plans.watch_run(run_id, poll_interval_s, timeout_s, raise_on_error, stream, event_limit)
        return self._run(plan)

    def pause_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to begin nothing new."""
        return self._send(calls.pause_run(run_id))

    def resume_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a paused run to go on. Without an answer it is not repeated: `get_training_run` tells."""
        return self._send(calls.resume_run(run_id))

    def cancel_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to end; what it saved is kept."""
        return self._send(calls.cancel_run(run_id))

    def list_training_iterations(self, run_id: str, *, limit: int = 200) -> list[dict[str, Any]]:
        """Return a run's iterations, oldest first."""
        return self._send(calls.list_iterations(run_id, limit))

    def list_run_checkpoints(self, run_id: str, *, limit: int = 200) -> list[CheckpointRecord]:
        """Return a run's checkpoints, newest first."""
        return self._send(calls.list_checkpoints(run_id, limit))

    def get_latest_checkpoint(self, run_id: str) -> CheckpointRecord | None:
        """Return a run's newest checkpoint; None before there is one."""
        return next(iter(self.list_run_checkpoints(run_id, limit=1)), None)

    def list_training_events(self, run_id: str, *, limit: int = 500) -> list[EventRecord]:
        """Return the newest events of a run, the oldest of them first."""
        return self._send(calls.list_events(run_id, limit))

    def get_checkpoint_download_url(self, run_id: str, checkpoint_id: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch a checkpoint."""
        return self._settings.url(self._send(calls.find_checkpoint(run_id, checkpoint_id))["url"])

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
        return self._run(self._plans.fetch_file(call, Path(path).expanduser()))

    # The network

    def _job(self, record: JobRecord) -> Job:
        return Job(self, record["job_id"], record)

    def _send(self, call: Call[Result]) -> Result:
        return self._run(self._plans.send(call))

    def _run(self, plan: Plan[Result]) -> Result:
        """Do what a plan says, to its end."""
        try:
            step = next(plan)
            while True:
                try:
                    done = self._do(step)
                except BaseException as error:  # also Ctrl-C: the plan clears up
                    step = plan.throw(error)
                else:
                    step = plan.send(done)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _do(self, step: Step) -> Any:
        try:
            match step:
                case Send(call):
                    return self._answer(call)
                case Pause(seconds):
                    return time.sleep(seconds)
                case Upload():
                    return self._upload(step)
                case Fetch():
                    return self._fetch(step)
                case PutObject():
                    return files.put_object(step.path, step.bucket, step.key, step.content_type)
                case Together():
                    return self._together(step)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise calls.transport_error(error) from error

    def _answer(self, call: Call[Any]) -> Answer:
        response = self._http.request(
            call.method,
            self._settings.url(call.path),
            content=call.content,
            headers=calls.headers(call, self._settings.api_key),
            timeout=httpx.Timeout(self.timeout_s, read=max(self.timeout_s, call.least_timeout_s)),
        )
        return Answer(response.status_code, response.headers, response.content)

    def _upload(self, step: Upload) -> Answer:
        with step.path.open("rb") as file:
            response = self._http.request(
                step.method,
                step.url,
                content=file,
                headers=calls.upload_headers(step.headers, os.fstat(file.fileno()).st_size),
                timeout=httpx.Timeout(self.timeout_s, read=max(self.timeout_s, calls.FILES_READ_S)),
            )
        return Answer(response.status_code, response.headers, response.content)

    def _fetch(self, step: Fetch) -> Answer:
        with self._http.stream(
            "GET", step.url, headers=step.into.headers(), timeout=step.timeout_s, follow_redirects=True
        ) as response:
            if not response.is_success and response.status_code != 416:
                return Answer(response.status_code, response.headers, response.read())
            step.into.begin(response.status_code, response.headers.get("content-range"))
            for chunk in response.iter_bytes(files.CHUNK_BYTES):
                step.into.take(chunk)
            return Answer(response.status_code, response.headers, b"")

    def _together(self, step: Together) -> list[Any]:
        with ThreadPoolExecutor(step.at_once) as pool:
            running = [pool.submit(self._run, plan) for plan in step.plans]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
                failed = [future for future in running if future.done() and future.exception()]
                if failed:
                    failed[0].result()
                return [future.result() for future in running]
            except BaseException:
                step.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _follow(self, job_id: str, name: str, call: Call[None]) -> Iterator[str]:
        log = LogTail()
        while True:
            try:
                yield from self._lines(call, log)
            except (httpx.RequestError, NotFoundError):
                pass  # a break, or a log that the job has not begun
            except ApiError as error:
                if not is_passing(error):
                    raise
            lines, is_over = self._run(self._plans.catch_up(job_id, name, log))
            yield from lines
            if is_over:
                return
            time.sleep(self._plans.break_s)
            call = calls.follow_logs(job_id, name, CATCH_UP_LINES)

    def _lines(self, call: Call[None], log: LogTail) -> Iterator[str]:
        with self._http.stream(
            call.method,
            self._settings.url(call.path),
            headers=calls.headers(call, self._settings.api_key),
            timeout=self.timeout_s,
        ) as response:
            if not response.is_success:
                raise calls.api_error(Answer(response.status_code, response.headers, response.read()))
            for line in response.iter_lines():
                if log.is_new(line):
                    yield line
