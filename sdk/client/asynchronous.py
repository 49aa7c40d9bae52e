"""The client, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import httpx

from simyard.client import bodies, calls, files
from simyard.client.calls import Answer, Call, Result
from simyard.client.errors import ApiError, NotFoundError
from simyard.client.job import LOG, AsyncJob
from simyard.client.plans import Fetch, Pause, Plan, Plans, PutObject, Send, Step, Together, Upload
from simyard.client.records import AssetRecord, CheckpointRecord, EventRecord, JobRecord, TrainingRunRecord
from simyard.client.settings import DEFAULT_URL, LIMITS, Settings, certificates, is_passing
from simyard.client.sync import Config
from simyard.client.watching import CATCH_UP_LINES, LogTail


class AsyncClient:
    """The service from Python with asyncio: `Client`, with `await`. Tasks may share one."""

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_URL,
        timeout_s: float = 30.0,
        max_retries: int = 3,
        retry_backoff_s: float = 0.5,
    ) -> None:
        """As `Client`."""
        self._settings = Settings(
            api_key=api_key,
            base_url=base_url,
            timeout_s=timeout_s,
            max_retries=max_retries,
            retry_backoff_s=retry_backoff_s,
        )
        self._plans = Plans(self._settings)
        self._http = httpx.AsyncClient(headers={"User-Agent": "simyard"}, verify=certificates(), limits=LIMITS)

    @classmethod
    def from_env(cls) -> Self:
        """As `Client.from_env`."""
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
        """As `Client.base_url`."""
        return self._settings.base_url

    @property
    def timeout_s(self) -> float:
        """As `Client.timeout_s`."""
        return self._settings.timeout_s

    @property
    def max_retries(self) -> int:
        """As `Client.max_retries`."""
        return self._settings.max_retries

    @property
    def retry_backoff_s(self) -> float:
        """As `Client.retry_backoff_s`."""
        return self._settings.retry_backoff_s

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    # Rollouts

    async def run(
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
    ) -> AsyncJob:
        """As `Client.run`."""
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
        return self._job(await self._run(plan))

    submit = run
    step = run

    async def submit_assets(
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
    ) -> AsyncJob:
        """As `Client.submit_assets`."""
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
        return self._job(await self._run(plan))

    # Jobs of every kind

    async def create_job(
        self, body: Mapping[str, Any], *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """As `Client.create_job`."""
        call = calls.create_job(bodies.with_notice(body, notify_url), idempotency_key)
        return self._job(await self._send(call))

    async def train(
        self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """As `Client.train`."""
        body = bodies.training(files.read_config(config))
        return await self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    async def evaluate(
        self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """As `Client.evaluate`."""
        body = bodies.evaluation(files.read_config(config))
        return await self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    async def export_policy(
        self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """As `Client.export_policy`."""
        body = bodies.export(files.read_config(config))
        return await self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    async def list_jobs(self, *, limit: int = 100) -> list[JobRecord]:
        """As `Client.list_jobs`."""
        return await self._send(calls.list_jobs(limit))

    async def status(self, job_id: str) -> JobRecord:
        """As `Client.status`."""
        return await self._send(calls.get_job(job_id))

    async def wait(
        self, job_id: str, poll_interval_s: float = 2.0, timeout_s: float = 1800.0, raise_on_error: bool = True
    ) -> JobRecord:
        """As `Client.wait`."""
        return await self._run(self._plans.wait(job_id, poll_interval_s, timeout_s, raise_on_error))

    async def watch_job(
        self,
        job_id: str,
        *,
        poll_interval_s: float = 2.0,
        timeout_s: float = 1800.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> JobRecord:
        """As `Client.watch_job`."""
        return await self._run(self._plans.watch_job(job_id, poll_interval_s, timeout_s, raise_on_error, stream))

    async def cancel(self, job_id: str) -> JobRecord:
        """As `Client.cancel`."""
        return await self._send(calls.cancel_job(job_id))

    async def logs(self, job_id: str, name: str = LOG, tail: int = 200) -> str:
        """As `Client.logs`."""
        return await self._send(calls.get_logs(job_id, name, tail))

    def follow_logs(self, job_id: str, name: str = LOG, tail: int = 200) -> AsyncIterator[str]:
        """As `Client.follow_logs`, for `async for`."""
        return self._follow(job_id, name, calls.follow_logs(job_id, name, tail))

    # Artifacts

    async def get_download_url(self, job_id: str, artifact_name: str) -> str:
        """As `Client.get_download_url`."""
        return self._settings.url((await self._send(calls.find_artifact(job_id, artifact_name)))["url"])

    async def download_artifact(self, job_id: str, artifact_name: str, timeout_s: float = 120.0) -> bytes:
        """As `Client.download_artifact`."""
        return await self._run(self._plans.fetch_bytes(job_id, artifact_name, timeout_s))

    async def download(
        self,
        job_id: str,
        output_dir: str,
        *,
        only: Iterable[str] = (),
        raise_on_error: bool = True,
        at_once: int = 4,
    ) -> list[str]:
        """As `Client.download`."""
        return await self._run(self._plans.download(job_id, output_dir, only, raise_on_error, at_once))

    # Inputs

    async def upload_input(
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
        """As `Client.upload_input`."""
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
        return (await self._run(plan))[0]

    async def upload_input_asset(
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
        """As `Client.upload_input_asset`."""
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
        return await self._run(plan)

    async def register_input_asset(
        self,
        *,
        input_uri: str,
        filename: str | None = None,
        content_type: str | None = None,
        size_bytes: int | None = None,
        kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AssetRecord:
        """As `Client.register_input_asset`."""
        return await self._send(calls.register_asset(input_uri, filename, content_type, size_bytes, kind, metadata))

    async def get_input_asset(self, asset_id: str) -> AssetRecord:
        """As `Client.get_input_asset`."""
        return await self._send(calls.get_asset(asset_id))

    async def list_input_assets(self, *, limit: int = 100) -> list[AssetRecord]:
        """As `Client.list_input_assets`."""
        return await self._send(calls.list_assets(limit))

    # Managed training runs

    async def create_training_run(
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
        """As `Client.create_training_run`."""
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
        return await self._send(calls.create_run(body, idempotency_key))

    async def list_training_runs(self, limit: int = 30) -> list[TrainingRunRecord]:
        """As `Client.list_training_runs`."""
        return await self._send(calls.list_runs(limit))

    async def get_training_run(self, run_id: str) -> TrainingRunRecord:
        """As `Client.get_training_run`."""
        return await self._send(calls.get_run(run_id))

    async def wait_training_run(
        self, run_id: str, *, poll_interval_s: float = 5.0, timeout_s: float = 24 * 3600.0, raise_on_error: bool = True
    ) -> TrainingRunRecord:
        """As `Client.wait_training_run`."""
        return await self._run(self._plans.wait_run(run_id, poll_interval_s, timeout_s, raise_on_error))

    async def watch_training_run(
        self,
        run_id: str,
        *,
        poll_interval_s: float = 5.0,
        timeout_s: float = 24 * 3600.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
        event_limit: int = 200,
    ) -> TrainingRunRecord:
        """As `Client.watch_training_run`."""
        plan = self._plans.watch_run(run_id, poll_interval_s, timeout_s, raise_on_error, stream, event_limit)
        return await self._run(plan)

    async def pause_training_run(self, run_id: str) -> TrainingRunRecord:
        """As `Client.pause_training_run`."""
        return await self._send(calls.pause_run(run_id))

    async def resume_training_run(self, run_id: str) -> TrainingRunRecord:
        """As `Client.resume_training_run`."""
        return await self._send(calls.resume_run(run_id))

    async def cancel_training_run(self, run_id: str) -> TrainingRunRecord:
        """As `Client.cancel_training_run`."""
        return await self._send(calls.cancel_run(run_id))

    async def list_training_iterations(self, run_id: str, *, limit: int = 200) -> list[dict[str, Any]]:
        """As `Client.list_training_iterations`."""
        return await self._send(calls.list_iterations(run_id, limit))

    async def list_run_checkpoints(self, run_id: str, *, limit: int = 200) -> list[CheckpointRecord]:
        """As `Client.list_run_checkpoints`."""
        return await self._send(calls.list_checkpoints(run_id, limit))

    async def get_latest_checkpoint(self, run_id: str) -> CheckpointRecord | None:
        """As `Client.get_latest_checkpoint`."""
        return next(iter(await self.list_run_checkpoints(run_id, limit=1)), None)

    async def list_training_events(self, run_id: str, *, limit: int = 500) -> list[EventRecord]:
        """As `Client.list_training_events`."""
        return await self._send(calls.list_events(run_id, limit))

    async def get_checkpoint_download_url(self, run_id: str, checkpoint_id: str) -> str:
        """As `Client.get_checkpoint_download_url`."""
        return self._settings.url((await self._send(calls.find_checkpoint(run_id, checkpoint_id)))["url"])

    async def download_checkpoint(self, run_id: str, checkpoint_id: str, path: str | os.PathLike[str]) -> str:
        """As `Client.download_checkpoint`."""
        call = calls.find_checkpoint(run_id, checkpoint_id)
        return await self._run(self._plans.fetch_file(call, Path(path).expanduser()))

    # The network

    def _job(self, record: JobRecord) -> AsyncJob:
        return AsyncJob(self, record["job_id"], record)

    async def _send(self, call: Call[Result]) -> Result:
        return await self._run(self._plans.send(call))

    async def _run(self, plan: Plan[Result]) -> Result:
        """Do what a plan says, to its end."""
        try:
            step = next(plan)
            while True:
                try:
                    done = await self._do(step)
                except BaseException as error:  # also a cancellation: the plan clears up
                    step = plan.throw(error)
                else:
                    step = plan.send(done)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _do(self, step: Step) -> Any:
        try:
            match step:
                case Send(call):
                    return await self._answer(call)
                case Pause(seconds):
                    return await asyncio.sleep(seconds)
                case Upload():
                    return await self._upload(step)
                case Fetch():
                    return await self._fetch(step)
                case PutObject():
                    place = (step.path, step.bucket, step.key, step.content_type)
                    return await asyncio.to_thread(files.put_object, *place)
                case Together():
                    return await self._together(step)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise calls.transport_error(error) from error

    async def _answer(self, call: Call[Any]) -> Answer:
        response = await self._http.request(
            call.method,
            self._settings.url(call.path),
            content=call.content,
            headers=calls.headers(call, self._settings.api_key),
            timeout=httpx.Timeout(self.timeout_s, read=max(self.timeout_s, call.least_timeout_s)),
        )
        return Answer(response.status_code, response.headers, response.content)

    async def _upload(self, step: Upload) -> Answer:
        with step.path.open("rb") as file:

            async def chunks() -> AsyncIterator[bytes]:
                while chunk := await asyncio.to_thread(file.read, files.CHUNK_BYTES):
                    yield chunk

            response = await self._http.request(
                step.method,
                step.url,
                content=chunks(),
                headers=calls.upload_headers(step.headers, os.fstat(file.fileno()).st_size),
                timeout=httpx.Timeout(self.timeout_s, read=max(self.timeout_s, calls.FILES_READ_S)),
            )
        return Answer(response.status_code, response.headers, response.content)

    async def _fetch(self, step: Fetch) -> Answer:
        async with self._http.stream(
            "GET", step.url, headers=step.into.headers(), timeout=step.timeout_s, follow_redirects=True
        ) as response:
            if not response.is_success and response.status_code != 416:
                return Answer(response.status_code, response.headers, await response.aread())
            step.into.begin(response.status_code, response.headers.get("content-range"))
            async for chunk in response.aiter_bytes(files.CHUNK_BYTES):
                await asyncio.to_thread(step.into.take, chunk)
            return Answer(response.status_code, response.headers, b"")

    async def _together(self, step: Together) -> list[Any]:
        places = asyncio.Semaphore(step.at_once)

        async def run(plan: Plan[Any]) -> Any:
            async with places:
                return await self._run(plan)

        running = [asyncio.ensure_future(run(plan)) for plan in step.plans]
        try:
            return await asyncio.gather(*running)
        except BaseException:
            step.stop.set()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise

    async def _follow(self, job_id: str, name: str, call: Call[None]) -> AsyncIterator[str]:
        log = LogTail()
        while True:
            try:
                async with contextlib.aclosing(self._lines(call, log)) as lines_of_stream:
                    async for line in lines_of_stream:
                        yield line
            except (httpx.RequestError, NotFoundError):
                pass  # a break, or a log that the job has not begun
            except ApiError as error:
                if not is_passing(error):
                    raise
            lines, is_over = await self._run(self._plans.catch_up(job_id, name, log))
            for line in lines:
                yield line
            if is_over:
                return
            await asyncio.sleep(self._plans.break_s)
            call = calls.follow_logs(job_id, name, CATCH_UP_LINES)

    async def _lines(self, call: Call[None], log: LogTail) -> AsyncGenerator[str, None]:
        async with self._http.stream(
            call.method,
            self._settings.url(call.path),
            headers=calls.headers(call, self._settings.api_key),
            timeout=self.timeout_s,
        ) as response:
            if not response.is_success:
                raise calls.api_error(Answer(response.status_code, response.headers, await response.aread()))
            async for line in response.aiter_lines():
                if log.is_new(line):
                    yield line
