"""The standard profile: a robot and a scene from files, many worlds of them on Newton, driven by a mode of ours.

Each world is one episode. Every control step records the state before it, and the targets that were set for it:

| key | shape | |
|---|---|---|
| `joint_position`, `joint_velocity` | joints | of the robot, in radians or metres |
| `action` | driven joints | position targets; not in `zero` |
| `root_pose`, `root_velocity` | 7, 6 | of a floating base: xyz and xyzw; of its centre of mass, then angular |
| `body_pose` | bodies, 7 | of free objects; the store's attribute `bodies` has their names |
| `scene_joint_position`, `scene_joint_velocity` | joints | of a scene that has joints |
| `images/<camera>` | height, width, 3 | uint8, what each of the request's cameras sees |

Positions are metres in the frame of the world, which is that of the scene.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths
from simyard.core.specs import Asset, AttemptSpec, Facts, JobSpec, Rollout, Room
from simyard.runner.assets.robot_files import main_file
from simyard.runner.newton.control import read_control
from simyard.runner.newton.robots import Column
from simyard.runner.newton.scenes import check_scene_id
from simyard.runner.newton.simulation import Simulation, World, build_world
from simyard.runner.recording.geometry import GEOMETRY, Geometry, geometry_of
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.rollout.run import Recording, rollout
from simyard.runner.room import of_rollout
from simyard.runner.video.cameras import check_bodies

if TYPE_CHECKING:
    import torch

_CHECK_EVERY = 100
"""Control steps between two checks whether the numbers are still finite: each waits for a GPU."""


def check(job: JobSpec, files: Mapping[str, Path]) -> tuple[tuple[str, ...], Room | None]:
    """Refuse a job that cannot be simulated: read every file that is here, and build one world on the CPU.

    Args:
        job: The job.
        files: Where its inputs lie, by digest; the robot is built where its files are here.

    Returns:
        Sentences for the report, on what of the robot is read or simulated otherwise than somebody may think; and the
        room that the recording will take, where a world was built.

    Raises:
        RequestError: If anything is wrong with the robot, the scene or the control.
    """
    wanted, robot = _read(job)
    control = read_control(wanted.control)
    if wanted.scene is None:
        check_scene_id(wanted.scene_id)
    policy = files.get(job.policies[0].checkpoint.sha256) if job.policies else None
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="simyard-check-") as folder:

        def unpacked(asset: Asset | None, name: str) -> Path | None:
            path = files.get(asset.file.sha256) if asset else None
            into = Path(folder, name)
            return main_file(path, asset.format, into, asset.entry, said.append) if asset and path else None

        robot_file, scene_file = unpacked(robot, "robot"), unpacked(wanted.scene, "scene")
        if robot_file is None or (wanted.scene and scene_file is None):
            return tuple(said), None
        world = build_world(control, robot_file, robot.format, scene_id=wanted.scene_id, scene_file=scene_file)
        control.check(world.robot, world.free, policy)
        check_bodies(wanted.cameras or (), _bodies(world))
        return (*said, *world.notes), of_rollout(job, wanted.dt, _numbers(world))


def run(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Simulate and record.

    Raises:
        WorkloadError: If a world becomes NaN or infinite, or what the job promises cannot be made.
    """
    rollout(_drive, attempt, facts, paths)


def _read(job: JobSpec) -> tuple[Rollout, Asset]:
    """Return the rollout and its robot.

    Raises:
        RequestError: If it names no robot, or no policy where the mode needs one.
    """
    assert job.rollout is not None
    if job.rollout.robot is None:
        raise RequestError("robot is missing.", code="no_robot", advice="Name a URDF, MJCF or USD file.")
    if job.rollout.control.get("task_mode") == "policy" and not job.policies:
        raise RequestError("task_mode 'policy' needs a policy.", code="no_policy", advice="Name an ONNX file.")
    return job.rollout, job.rollout.robot


def _drive(recording: Recording, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    import torch

    def unpacked(asset: Asset, name: str) -> Path:
        say = partial(recording.log.info, "%s")
        return main_file(paths.inputs / asset.file.name, asset.format, paths.root / name, asset.entry, say)

    # A world, and as many copies of it as there are environments.
    job, (wanted, robot) = attempt.job, _read(attempt.job)
    control = read_control(wanted.control)
    robot_file = unpacked(robot, "robot-files")
    scene_file = unpacked(wanted.scene, "scene-files") if wanted.scene else None
    world = build_world(control, robot_file, robot.format, scene_id=wanted.scene_id, scene_file=scene_file)
    for note in world.notes:
        recording.log.info("%s", note)
    policy = paths.inputs / job.policies[0].checkpoint.name if job.policies else None
    control.check(world.robot, world.free, policy)
    simulation = Simulation(
        world,
        num_envs=job.num_envs,
        steps=wanted.steps,
        device=facts.device,
        dt=wanted.dt,
        substeps=wanted.substeps,
        seed=job.seed,
    )
    control.mode.prepare(simulation, policy)

    recorder, film = recording.open(
        control_period_s=wanted.dt,
        longest=wanted.steps,
        physics_dt_s=wanted.dt / wanted.substeps,
        substeps=wanted.substeps,
        scene=wanted.scene.file.name if wanted.scene else check_scene_id(wanted.scene_id),
        control=wanted.control,
        device=facts.device,
        bodies=[*world.free],
        **{GEOMETRY: _geometry(simulation)},
    )
    _describe(recorder, world)
    film.watch(simulation.model)

    # Every step: where the mode wants the joints, the state before it, and the step itself.
    with recording.cameras(simulation.model, simulation.state, _bodies(world)) as cameras:
        for step in range(wanted.steps):
            targets = control.mode.targets(step)
            recorder.record(_row(simulation, targets) | cameras.look(lambda: simulation.bodies.cpu().numpy()))
            film.capture(simulation.state)
            simulation.step(targets)
            if (step + 1) % _CHECK_EVERY == 0:
                simulation.require_finite()
    simulation.require_finite()

    # Each world was one episode.
    everywhere = torch.ones(job.num_envs, dtype=torch.bool, device=simulation.device)
    recorder.end(everywhere, success=control.mode.success())
    if fast := simulation.too_fast():
        recording.log.warning("faster than the file allows, in rad/s or m/s: %s", ", ".join(fast))
    if lost := simulation.lost_contacts():
        recording.log.warning("%d of %d worlds had more contacts than there was room for", lost, job.num_envs)


def _numbers(world: World) -> int:
    """Return the numbers that `_row` has of one world."""
    robot, objects = world.robot, world.objects
    own = len(robot.positions) + len(robot.velocities) + len(robot.targets) + (13 if robot.base else 0)
    return own + 7 * len(world.free) + len(objects.positions) + len(objects.velocities)


def _bodies(world: World) -> dict[str, int]:
    """Return the index of each body in the world, by name."""
    return {**world.robot.bodies, **{name: each.body for name, each in world.free.items()}}


def _geometry(simulation: Simulation) -> Geometry:
    """Return how the bodies of a world follow from what `_row` has of it."""
    robot, objects = simulation.robot, simulation.objects
    parts = (("joint_position", robot.positions), ("scene_joint_position", objects.positions))
    columns = {column.index: (key, number) for key, part in parts for number, column in enumerate(part)}
    poses: dict[int, tuple[str, int | None]] = {
        free.body: ("body_pose", row) for row, free in enumerate(simulation.free.values())
    }
    if robot.base is not None:
        poses[robot.base.body] = ("root_pose", None)
    return geometry_of(simulation.model, columns, poses)


def _row(simulation: Simulation, targets: torch.Tensor | None) -> dict[str, torch.Tensor]:
    robot, objects = simulation.robot, simulation.objects
    row: dict[str, torch.Tensor] = {}
    if robot.positions:
        row |= {"joint_position": simulation.joint_position(), "joint_velocity": simulation.joint_velocity()}
    if targets is not None:
        row["action"] = targets
    if robot.base is not None:
        root = robot.base.body
        row |= {"root_pose": simulation.bodies[:, root], "root_velocity": simulation.twists[:, root]}
    if simulation.free:
        row["body_pose"] = simulation.bodies[:, [each.body for each in simulation.free.values()]]
    if objects.positions:
        row["scene_joint_position"] = simulation.joint_q[:, [column.index for column in objects.positions]]
        row["scene_joint_velocity"] = simulation.joint_qd[:, [column.index for column in objects.velocities]]
    return row


def _describe(recorder: RolloutRecorder, world: World) -> None:
    robot, objects = world.robot, world.objects
    linear = {target.name for target in robot.targets if target.linear}
    length = "m" if linear and len(linear) == len(robot.targets) else "rad or m" if linear else "rad"
    speed = {"m": "m/s", "rad": "rad/s"}.get(length, "rad/s or m/s")
    about = f" In metres: {', '.join(sorted(linear))}." if length == "rad or m" else ""

    def names(columns: tuple[Column, ...]) -> list[str]:
        return [column.name for column in columns]

    describe = recorder.describe
    describe("joint_position", unit=length, names=names(robot.positions), about=f"Before the step.{about}")
    describe("joint_velocity", unit=speed, names=names(robot.velocities), about="Before the step.")
    describe("action", unit=length, names=robot.driven, about="Position targets of the step.")
    pose, twist = ("x", "y", "z", "qx", "qy", "qz", "qw"), ("vx", "vy", "vz", "wx", "wy", "wz")
    describe("root_pose", unit="m, quaternion", names=pose, about="Of the floating base, in the world.")
    describe("root_velocity", unit="m/s, rad/s", names=twist, about="Of its centre of mass, in the world's axes.")
    describe(
        "body_pose", unit="m, quaternion", names=pose, about="Of the free bodies; the store's `bodies` names them."
    )
    describe("scene_joint_position", unit="rad or m", names=names(objects.positions))
    describe("scene_joint_velocity", unit="rad/s or m/s", names=names(objects.velocities))
