"""Rollouts: robot, scene and policy by id, path or address in; what every environment went through out, as one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.core.artifacts import RENDER, ROLLOUT, SUBMISSION
from simyard.core.errors import RequestError
from simyard.core.files import scratch
from simyard.core.records import JobResult, Outcome
from simyard.core.specs import Asset, InputFile, JobSpec, PolicyFile, ResumePoint, Rollout
from simyard.requests.jobs import PolicyConfig
from simyard.requests.rollout import IsaacLabConfig, PolicyRef, RobotRef, RolloutRequest, SceneRef
from simyard.runner.assets.robot_files import main_file
from simyard.runner.newton.control import read_control
from simyard.runner.newton.mode import OwnRobot
from simyard.runner.recording.arrays import pack
from simyard.runner.rl import DEFAULT_LIBRARY
from simyard.store.store import Store
from simyard.tasks.attempt.transfer import AttemptUploader
from simyard.tasks.kinds.base import Figures, Kind, Resolved, common_fields, lacking
from simyard.tasks.kinds.policy_sources import (
    find_policies,
    in_order_of,
    in_their_stage,
    inherit,
    order_of,
    training_of,
)
from simyard.tasks.packages.pack import find_package
from simyard.tasks.packages.source import require_module
from simyard.tasks.shared.documents import ArtifactWriter
from simyard.tasks.shared.history import Artifact, Verdict
from simyard.tasks.shared.inputs import (
    LocalInput,
    asset_file,
    entry_of,
    find_asset,
    find_input,
    gather,
    trained_under_of,
)
from simyard.tasks.shared.limited import limited

RECORDING = "recording.zarr"
"""Folder of the arrays while they are written, below an attempt's files."""
GROUND = "ground"
"""The built-in scene of a rollout that names none."""


class _RolloutUploader(AttemptUploader):
    """Sends the arrays while they are written: what tells their lengths goes after what it speaks of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent_lengths: dict[Path, bytes] = {}

    def _send_all(self) -> None:
        folder = self._paths.recording
        files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
        found = [path for path in files if not path.name.startswith(".")]
        # Read before the shards are sent: what is written meanwhile is not spoken of yet.
        lengths = {}
        for path in found:
            if path.name == "zarr.json" or folder / "meta" in path.parents:
                with self._opened(path) as file:
                    if file is not None:
                        lengths[path] = file.read()
        names = {path: f"{RECORDING}/{path.relative_to(folder)}" for path in found}
        for path in found:
            if path not in lengths:
                self._send(path, names[path])
        for path, data in lengths.items():
            if self._sent_lengths.get(path) != data:
                self._store.put_bytes(self._keys.file(names[path]), data)
                self._sent_lengths[path] = data
        super()._send_all()


class RolloutKind(Kind):
    """A robot is simulated and recorded."""

    name = "rollout"
    unit = "step"
    reward_name = "mean return"
    config = SUBMISSION
    uploader_type = _RolloutUploader
    rebuilt = (f"{RECORDING}/",)

    def total(self, spec: JobSpec) -> int:
        """Return the control steps of each environment."""
        assert spec.rollout is not None
        return spec.rollout.steps

    def inputs(self, spec: JobSpec, resume: ResumePoint | None) -> list[InputFile]:
        """Return robot, scene and policy."""
        assert spec.rollout is not None
        assets = [asset.file for asset in (spec.rollout.robot, spec.rollout.scene) if asset]
        return [*assets, *super().inputs(spec, resume)]

    def missing(self, spec: JobSpec, outcome: Outcome, artifacts: tuple[Artifact, ...]) -> list[str]:
        """Ask for the film too, where one was asked for."""
        assert spec.rollout is not None
        problems = super().missing(spec, outcome, artifacts)
        return problems + (lacking([RENDER.name], artifacts) if spec.rollout.video else [])

    def keep(self, spec: JobSpec, verdict: Verdict, writer: ArtifactWriter) -> Figures:
        """Return the summary's figures; where the workload could not pack its arrays, pack what it had sent of them."""
        if verdict.chain and not any(artifact.name == ROLLOUT.name for artifact in verdict.artifacts):
            sent = verdict.chain[-1][0].keys.file(RECORDING)
            folder = writer.scratch / "recording"
            for entry in writer.store.list(sent):
                writer.store.get_file(entry.key, folder / entry.key.removeprefix(f"{sent}/"))
            if folder.exists():
                pack(folder, writer.scratch / ROLLOUT.name)
                writer.add(ROLLOUT)
        return super().keep(spec, verdict, writer)

    def headline(self, result: JobResult) -> str:
        """Return the size and the success rate of the recording, in a few words."""
        summary = result.summary
        if not summary:
            return f"{result.done} of {result.total} steps"
        rate = summary["success"]["rate"]
        success = "not measured" if rate is None else f"{100 * rate:.1f} %"
        if summary["episodes"] is None:
            return f"{len(summary['keys'])} arrays of the task's own"
        return f"{summary['episodes']} episodes, {summary['recorded_steps']:,} steps, success {success}"


def resolve_rollout(request: RolloutRequest, job_id: str, store: Store, base: Path) -> Resolved:
    """Turn a rollout's request into a frozen job; writes nothing.

    Raises:
        RequestError: If an asset is missing or of another kind, or the package does not have the task's module.
    """
    found = _Inputs(store, base)
    lab, control = request.isaac_lab, request.control.to_plain()
    mode = None if lab else read_control(control).mode
    dt, substeps = (mode and mode.own_time(request.execution.steps)) or (request.physics.dt, request.physics.substeps)
    rollout = Rollout(
        profile=request.runtime_profile,
        steps=request.execution.steps,
        dt=dt,
        substeps=substeps,
        control=control,
        video=request.outputs.video,
        cameras=tuple(camera.to_spec() for camera in request.outputs.cameras) or None,
        robot=found.own_robot(mode.ROBOT) if mode and mode.ROBOT else found.robot(request.robot),
        scene=found.scene(request.scene),
        scene_id=request.scene.scene_id or (None if lab else GROUND),
        task_module=lab.task_module if lab else None,
        task_args=lab.task_args if lab else {},
    )
    spec = common_fields(
        request,
        job_id,
        kind="rollout",
        simulator="isaaclab" if lab else "newton",
        task=lab.task_class_or_name if lab else str(request.control.task_mode),
        library=(request.policy.rl_library or DEFAULT_LIBRARY) if lab and request.policy else "",
        physics=lab.physics if lab else None,
        num_envs=request.execution.num_envs,
        seed=request.execution.seed,
        packages=found.package(lab),
        rollout=rollout,
    )
    if request.policy:
        spec = found.policy(request.policy, spec)
    return Resolved(spec, tuple(found.local))


class _Inputs:
    """Finder of the inputs that a request names; it remembers the files that the store does not have yet."""

    def __init__(self, store: Store, base: Path) -> None:
        self._store = store
        self._base = base
        self._names: dict[str, str] = {}
        self.local: list[LocalInput] = []

    def robot(self, robot: RobotRef | None) -> Asset | None:
        """Return the robot, by whichever field names it."""
        if robot is None:
            return None
        for form in ("urdf", "usd", "mjcf"):
            uri, asset_id = getattr(robot, f"{form}_uri"), getattr(robot, f"{form}_asset_id")
            if uri or asset_id:
                file, entry = self._find(uri, asset_id, f"robot.{form}", "robot")
                return self._checked(Asset(file=file, format=form, entry=robot.file or entry))
        return None

    def own_robot(self, robot: OwnRobot) -> Asset:
        """Return the robot that a control mode brings; the job has it among its inputs like any other."""
        file, _ = self._find(str(robot.file), None, "robot", "robot")
        return self._checked(Asset(file=file, format=robot.format))

    def scene(self, scene: SceneRef) -> Asset | None:
        """Return the scene's file, if it is not a built-in one."""
        if not (scene.usd_uri or scene.usd_asset_id):
            return None
        file, entry = self._find(scene.usd_uri, scene.usd_asset_id, "scene.usd", "scene")
        return self._checked(Asset(file=file, format="usd", entry=scene.file or entry))

    def package(self, lab: IsaacLabConfig | None) -> tuple[InputFile, ...]:
        """Return the task's package, after a look for the module in it: no simulator starts without."""
        if lab is None or not (lab.task_package_uri or lab.task_package_asset_id):
            return ()
        field = "isaac_lab.task_package"
        file, _ = self._find(lab.task_package_uri, lab.task_package_asset_id, field, "isaac_lab_task_package")
        assert lab.task_module is not None
        with self._here(file) as path:
            require_module(path, lab.task_module)
        return (file,)

    def policy(self, policy: PolicyRef, spec: JobSpec) -> JobSpec:
        """Return the job with its policy, and with what the training that made it says of the task."""
        if policy.from_job is None:
            file, _ = self._find(policy.uri, policy.asset_id, "policy", "checkpoint")
            spec = replace(spec, policies=(PolicyFile(checkpoint=file),))
            if spec.simulator != "isaaclab":  # an ONNX file, whose joints are those of the robot's own file
                return spec
            asset = find_asset(self._store, policy.asset_id) if policy.asset_id else None
            engine = policy.trained_under or (trained_under_of(asset) if asset else None)
            return in_order_of(spec, engine, outside=file)
        if spec.simulator != "isaaclab":
            raise RequestError(
                "policy.from_job names a checkpoint, and the standard profile runs an ONNX file.",
                code="bad_policy",
                advice="Export the policy (simyard export-policy) and give policy.uri.",
            )
        trained_by = training_of(policy.from_job, self._store)
        assert trained_by is not None
        wanted = PolicyConfig(from_job=policy.from_job, rl_library=policy.rl_library)
        policies, _, notes = find_policies(wanted, trained_by, self._store, self._base)
        policies, trained_by, _ = in_their_stage(policies, trained_by, self._store)
        spec = in_order_of(inherit(spec, trained_by, spec.task), order_of(trained_by, self._store))
        return replace(spec, policies=policies, notes=notes or None)

    def _checked(self, asset: Asset) -> Asset:
        """Return the asset, after a look at what it refers to; into a USD only the simulator's Python can look."""
        if asset.format != "usd":
            with self._here(asset.file) as path, scratch("asset") as folder:
                limited(main_file, path, asset.format, folder / "asset", asset.entry)
        return asset

    @contextmanager
    def _here(self, file: InputFile) -> Iterator[Path]:
        """Have a file on this machine, under its own name."""
        with scratch("input") as folder:
            yield gather([file], self.local, self._store, folder)[file.sha256]

    def _find(self, uri: str | None, asset_id: str | None, field: str, kind: str) -> tuple[InputFile, str | None]:
        """Return a file, and which one of a bundle counts by what was said at its upload."""
        if asset_id is not None:
            record = find_asset(self._store, asset_id)
            if record.kind != kind:
                raise RequestError(
                    f"{field}_asset_id: {asset_id!r} is an asset of kind {record.kind!r}, not {kind!r}.",
                    code="wrong_asset_kind",
                    advice=f"Upload it again with --kind {kind}, or name another.",
                )
            return self._named_apart(asset_file(record)), entry_of(record)
        assert uri is not None
        find = find_package if kind == "isaac_lab_task_package" else find_input
        found = find(uri, self._base, f"{field}_uri")
        self.local.append(found)
        return self._named_apart(found.file), None

    def _named_apart(self, file: InputFile) -> InputFile:
        """Return the file under a name that no other input has: all lie in one folder in the end."""
        if self._names.setdefault(file.name, file.sha256) == file.sha256:
            return file
        return self._named_apart(replace(file, name=f"{file.sha256[:8]}-{file.name}"))
