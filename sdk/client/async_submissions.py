"""The client's methods that submit jobs, and the handle of a job that was submitted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

from simyard.client.async_http import FILES_READ_S, checked_key, one
from simyard.client.async_inputs import AsyncInputs
from simyard.client.async_jobs import LOG, AsyncJobs, JobRecord
from simyard.client.errors import ConfigurationError
from simyard.client.files import Config, read_config

ROBOT_TYPES = ("urdf", "usd", "mjcf")
_BUNDLES = (".zip", ".tar.gz", ".tgz")
_SUFFIXES = {"urdf": (".urdf",), "usd": (".usd", ".usda", ".usdc", ".usdz"), "mjcf": (".mjcf", ".xml")}
_REMOTE = ("s3", "http", "https")


class AsyncSubmissions(AsyncJobs, AsyncInputs):
    """The methods that submit jobs."""

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
        return await self.submit_assets(
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
        key = checked_key(idempotency_key)
        made = outputs_of(outputs, video, log_format, runtime_profile)
        robot_type = checked_robot_type(robot_asset_type)
        robot: dict[str, str] | None = None
        if robot_asset_id and robot_asset_id.strip():
            if robot_type == "auto":
                raise ConfigurationError(
                    f"robot_asset_type is 'auto', and an asset's id does not tell its type: give one of {ROBOT_TYPES}."
                )
            robot = {f"{robot_type}_asset_id": robot_asset_id.strip()}
        elif robot_asset and robot_asset.strip():
            robot_type = type_of_robot(robot_asset.strip(), robot_type)
        elif runtime_profile in (None, "standard"):
            raise ConfigurationError("There is no robot: give robot_asset or robot_asset_id.")

        scene: dict[str, str] = {}
        if scene_asset_id and scene_asset_id.strip():
            scene["usd_asset_id"] = scene_asset_id.strip()
        elif scene_usd and scene_usd.strip():
            check_scene(scene_usd.strip())
            ending, value = await self._reference(scene_usd, "scene_usd", "scene", auto_upload_inputs)
            scene[f"usd_{ending}"] = value
        if scene_id and scene_id.strip():
            scene["scene_id"] = scene_id.strip()
        if robot is None and robot_asset and robot_asset.strip():
            ending, value = await self._reference(robot_asset, "robot_asset", "robot", auto_upload_inputs)
            robot = {f"{robot_type}_{ending}": value}
        body = {
            "job_type": "rollout",
            "robot": robot,
            "scene": scene or None,
            "physics": {"dt": physics_dt, "substeps": substeps},
            "execution": {"num_envs": num_envs, "steps": steps, "seed": seed},
            "outputs": made,
            "control": control or None,
            "runtime_profile": runtime_profile,
            "isaac_lab": isaac_lab,
            "policy": policy,
            "overrides": None if overrides is None else list(overrides),
            "compute_config": compute_config,
            "name": name,
            "notify_url": notify_url,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return await self._submit(
            {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()}, key
        )

    async def _reference(self, reference: str, what: str, kind: str, auto_upload: bool) -> tuple[str, str]:
        """Return a body's reference to a file, as (ending of the field, value); a local file is sent first."""
        path = local_path(reference, what)
        if path is None:
            return "uri", reference.strip()
        if not auto_upload:
            raise ConfigurationError(
                f"{what} {reference!r} is a local file, and auto_upload_inputs is off: upload it and give its asset id."
            )
        return "asset_id", await self.upload_input_asset(str(path), asset_kind=kind)

    # Jobs of every kind

    async def create_job(
        self, body: Mapping[str, Any], *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """Submit a job of any kind.

        Args:
            body: The body of `POST /v0/jobs`: a rollout, a training, an evaluation or an export.
            notify_url: What is told about the job's end.
            idempotency_key: The same key and request are the same job; left out it is a new one.
        """
        notice = {} if notify_url is None else {"notify_url": notify_url}
        return await self._submit({**body, **notice}, checked_key(idempotency_key))

    async def train(
        self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """Submit a training, as `simyard train` takes it; see `create_job`.

        Args:
            config: The config, or the path of its JSON file.
            notify_url: What is told about the job's end.
            idempotency_key: The same key and request are the same job; left out it is a new one.
        """
        body = read_config(config)
        mode = _section(body, "trainingConfig", "training_config").get("mode", "train")
        if mode != "train":
            raise ConfigurationError(f"trainingConfig.mode is {mode!r}: that is no training; use evaluate().")
        return await self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    async def evaluate(
        self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """Submit an evaluation, as `simyard evaluate` takes it; the mode need not be said. Else as `train`."""
        body = read_config(config)
        section = _section(body, "trainingConfig", "training_config")
        if section.get("mode", "evaluate") != "evaluate":
            raise ConfigurationError(f"trainingConfig.mode is {section['mode']!r}: that is no evaluation; use train().")
        key = "trainingConfig" if "trainingConfig" in body else "training_config"
        body = {**body, key: {**section, "mode": "evaluate"}}
        return await self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    async def export_policy(
        self, config: Config, *, notify_url: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob:
        """Submit an export, as `simyard export-policy` takes it; the rest is as in `train`."""
        body = read_config(config)
        _section(body, "exportConfig", "export_config")
        return await self.create_job(body, notify_url=notify_url, idempotency_key=idempotency_key)

    async def _submit(self, body: Mapping[str, Any], key: str) -> AsyncJob:
        record = await self._http.send(
            "POST", "/v0/jobs", one(JobRecord, "job_id"), body=body, key=key, least_timeout_s=FILES_READ_S
        )
        return AsyncJob(self, record["job_id"], record)


@dataclass(frozen=True)
class AsyncJob:
    """A job that a client submitted."""

    client: AsyncSubmissions = field(repr=False, compare=False)
    """The connection to the service."""
    job_id: str
    """The job's id."""
    record: JobRecord | None = field(default=None, repr=False, compare=False)
    """The answer to the submission, with `estimated_usd` and its like; None for a handle made by hand."""

    async def status(self) -> JobRecord:
        """Return the job as it is now; see `AsyncClient.status`."""
        return await self.client.status(self.job_id)

    async def wait(
        self, poll_interval_s: float = 2.0, timeout_s: float = 1800.0, raise_on_error: bool = True
    ) -> JobRecord:
        """Wait until the job is over; see `AsyncClient.wait`."""
        return await self.client.wait(self.job_id, poll_interval_s, timeout_s, raise_on_error)

    async def watch(
        self,
        poll_interval_s: float = 2.0,
        timeout_s: float = 1800.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> JobRecord:
        """Wait, and print what changes; see `AsyncClient.watch_job`."""
        return await self.client.watch_job(
            self.job_id,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            raise_on_error=raise_on_error,
            stream=stream,
        )

    async def cancel(self) -> JobRecord:
        """Ask the job to end; see `AsyncClient.cancel`."""
        return await self.client.cancel(self.job_id)

    async def download(
        self, output_dir: str, *, only: Iterable[str] = (), raise_on_error: bool = True, at_once: int = 4
    ) -> list[str]:
        """Fetch the artifacts; see `AsyncClient.download`."""
        return await self.client.download(
            self.job_id, output_dir, only=only, raise_on_error=raise_on_error, at_once=at_once
        )

    async def logs(self, name: str = LOG, tail: int = 200) -> str:
        """Return the end of a log; see `AsyncClient.logs`."""
        return await self.client.logs(self.job_id, name=name, tail=tail)

    def follow_logs(self, name: str = LOG, tail: int = 200) -> AsyncIterator[str]:
        """Give the lines of a log until the job is over; see `AsyncClient.follow_logs`."""
        return self.client.follow_logs(self.job_id, name=name, tail=tail)


def outputs_of(
    outputs: Mapping[str, Any] | None, video: bool | None, log_format: str, profile: str | None
) -> Mapping[str, Any]:
    """Return the outputs that the rollout is to leave.

    Args:
        outputs: As in the body.
        video: The same for the video, in short.
        log_format: How arrays are written, unless `outputs` says it.
        profile: The runtime profile; with neither of the two, all but task packages make a video: those are asked.

    Raises:
        ConfigurationError: If the two say different things.
    """
    made = {"log_format": log_format, **(outputs or {})}
    if video is not None:
        if made.setdefault("video", video) != video:
            raise ConfigurationError(f"outputs says video {made['video']!r}, video is {video!r}: give one of the two.")
    elif outputs is None and profile != "isaac_lab_rollout":
        made["video"] = True
    return made


def checked_robot_type(robot_type: str) -> str:
    """Return a robot type in lower case.

    Raises:
        ConfigurationError: If there is no such type.
    """
    name = robot_type.strip().lower() if isinstance(robot_type, str) else ""
    if name not in ("auto", *ROBOT_TYPES):
        raise ConfigurationError(f"robot_asset_type is {robot_type!r}: allowed are 'auto' and {ROBOT_TYPES}.")
    return name


def type_of_robot(reference: str, robot_type: str) -> str:
    """Return the type that a robot's file has, told by its name; a bundle is taken for a URDF's unless it is said.

    Raises:
        ConfigurationError: If the name tells nothing, or another type than was said.
    """
    name = urlsplit(reference).path.lower()
    found = next((kind for kind, suffixes in _SUFFIXES.items() if name.endswith(suffixes)), None)
    if found is None and name.endswith(_BUNDLES):
        return "urdf" if robot_type == "auto" else robot_type
    if found is None or robot_type not in ("auto", found):
        allowed = (*(_SUFFIXES.get(robot_type) or [end for ends in _SUFFIXES.values() for end in ends]), *_BUNDLES)
        raise ConfigurationError(f"Robot {reference!r} is no file of type {robot_type!r}: allowed are {allowed}.")
    return found


def check_scene(reference: str) -> None:
    """Refuse a scene that is no USD.

    Raises:
        ConfigurationError: If it is none.
    """
    if not urlsplit(reference).path.lower().endswith((*_SUFFIXES["usd"], *_BUNDLES)):
        raise ConfigurationError(f"Scene {reference!r} is no USD: allowed are {(*_SUFFIXES['usd'], *_BUNDLES)}.")


def local_path(reference: str, what: str) -> Path | None:
    """Return the path that a reference names on this machine; None for a URI that the service fetches.

    Raises:
        ConfigurationError: If the reference is empty or of a scheme that nobody knows.
    """
    text = reference.strip()
    parts = urlsplit(text)
    if parts.scheme in _REMOTE:
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    # One letter is a drive of Windows.
    if not text or (len(parts.scheme) > 1 and "://" in text):
        raise ConfigurationError(f"{what} is {reference!r}: give a local file, or a URI of {_REMOTE}.")
    return Path(text)


def _section(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the section of a kind's own fields, under the first of its names that there is.

    Raises:
        ConfigurationError: If there is none: the config is of another kind.
    """
    section = next((config[name] for name in names if name in config), None)
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"The config has no {names[0]!r}, it has {sorted(config)}: is it of another kind?")
    return section
