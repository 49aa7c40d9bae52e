"""One world of the standard profile, a robot in a scene, and the simulation of many copies of it on Newton.

**Gains.** What the file says, where it gives a stiffness, else what makes each joint an oscillator of 10 Hz by itself,
critically damped: the largest inertia that it has in any pose, with all that hangs on it, times `(2 pi 10 Hz)^2`.
Gravity then moves the mass that a joint carries by 2.5 mm at most, and targets are followed 0.03 s behind. `gains`
decides otherwise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import Category, Failure, RequestError, WorkloadError
from simyard.runner.newton.control import Control, Gains
from simyard.runner.newton.mode import of_joint
from simyard.runner.newton.reading import listed, unreadable
from simyard.runner.newton.robots import FreeBody, Robot, add_robot, still_bodies
from simyard.runner.newton.scenes import EMPTY, Objects, add_scene

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

_FREQUENCY_HZ = 10.0
_POSES = 64
"""Random poses, within the limits, in which inertia is looked at."""
_GRAVITY_M_S2 = -9.81
_FRICTION_TO_NORMAL = 10.0
"""Ratio of friction's impedance to that of the normal force: MuJoCo's `impratio`."""
_CONTACTS_A_LINK, _CONTACTS_AN_OBJECT, _CONTACTS_SPARE = 4, 8, 8
_FASTER = 1.01
"""Ratio to a limit of velocity from which on it is worth a line."""
_CLEARANCE_M = 0.005
"""Least height of a floating robot's lowest point in the first pose, in metres above z = 0."""
_SUNK_M = 0.01
"""Depth below it from which on a fixed robot's links are worth a note."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One world, to be repeated."""

    builder: Any
    """Its `newton.ModelBuilder`."""
    robot: Robot
    """The robot in it."""
    objects: Objects
    """Free bodies and joints besides the robot's."""
    contacts: int
    """Contacts that it has room for at a time."""
    constraints: int
    """Rows of the solver that it has room for."""
    notes: tuple[str, ...]
    """Sentences on what was read otherwise than somebody may think, or is simulated otherwise."""

    @property
    def free(self) -> dict[str, FreeBody]:
        """Every free body but the robot's own, by name."""
        return {**self.robot.objects, **self.objects.bodies}


def build_world(
    control: Control, robot_file: Path, format_: str, *, scene_id: str | None, scene_file: Path | None
) -> World:
    """Build one world on the CPU, to the point where only the simulation is left.

    Args:
        control: How the robot stands at first, and how hard its joints are pulled, if they are.
        robot_file: The robot's main file.
        format_: `urdf`, `mjcf` or `usd`.
        scene_id: A built-in scene, where there is no file.
        scene_file: A scene's main file.

    Raises:
        RequestError: If robot or scene cannot be simulated, or the first pose is impossible.
    """
    import newton
    from newton import ShapeFlags

    builder, setup = newton.ModelBuilder(), control.setup
    newton.solvers.SolverMuJoCo.register_custom_attributes(builder)
    at = (*(setup.base_position or (0.0, 0.0, 0.0)), setup.base_yaw)
    robot = add_robot(builder, robot_file, format_, fix_base=setup.fix_base, at=at)

    # The first pose; a joint that mimics another begins where that one takes it.
    setup.check(robot)
    for target in robot.targets:
        if target.name in setup.initial_positions:
            builder.joint_q[target.coordinate] = setup.initial_positions[target.name]
    for joint in range(len(builder.constraint_mimic_joint0)):
        follower, leader = builder.constraint_mimic_joint0[joint], builder.constraint_mimic_joint1[joint]
        offset, slope = builder.constraint_mimic_coef0[joint], builder.constraint_mimic_coef1[joint]
        led = builder.joint_q[builder.joint_q_start[leader]]
        builder.joint_q[builder.joint_q_start[follower]] = offset + slope * led

    # A robot's file has no say in gravity; a scene's has.
    builder.gravity = _GRAVITY_M_S2
    objects = add_scene(builder, scene_id, scene_file)

    # Gripped objects slip less than by MuJoCo's default, unless a file sets `impratio` itself.
    impratio = builder.custom_attributes["mujoco:impratio"]
    if not impratio.values:
        impratio.values = {0: _FRICTION_TO_NORMAL}

    # A floating robot is lifted out of the ground, unless somebody said where it is; a fixed one stays where it is.
    compiled = _compile(builder, robot_file, robot)
    notes = [*robot.reading.notes]
    if robot.reading.compare is not None:
        notes += robot.reading.compare(compiled.model, compiled.engine)
    links = set(robot.bodies.values())
    if robot.base is not None and setup.base_position is None:
        lowest = _lowest(compiled.model, links)
        if lowest < _CLEARANCE_M:
            builder.joint_q[robot.base.coordinate + 2] += _CLEARANCE_M - lowest
    elif robot.base is None and scene_file is None and scene_id != EMPTY:
        lowest = _lowest(compiled.model, links - still_bodies(builder))
        if lowest < -_SUNK_M:
            notes.append(
                f"the base is fixed, and links that move begin {-lowest:.3g} m below z = 0, where the scene pushes "
                f"them: control.base_position higher by that, scene_id {EMPTY!r}, or control.fix_base false"
            )
    _set_gains(builder, robot, (setup.gains or Gains()) if control.mode.DRIVES else None, compiled.inertia)

    # Room for every link to lie on something and every object to lie in a heap: more makes steps slower.
    owners = zip(builder.shape_body, builder.shape_flags, strict=True)
    moving = [body for body, flags in owners if body >= 0 and flags & ShapeFlags.COLLIDE_SHAPES]
    of_links = sum(body in links for body in moving)
    contacts = _CONTACTS_SPARE + _CONTACTS_A_LINK * of_links + _CONTACTS_AN_OBJECT * (len(moving) - of_links)
    constraints = contacts * compiled.rows_a_contact + compiled.other_rows
    return World(
        builder=builder,
        robot=robot,
        objects=objects,
        contacts=contacts,
        constraints=constraints,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Compiled:
    """The world as MuJoCo compiles it."""

    model: Any
    """Newton's model, on the CPU."""
    engine: Any
    """MuJoCo's model of it."""
    inertia: Array
    """The largest of each degree of freedom."""
    rows_a_contact: int
    """Of the solver."""
    other_rows: int
    """For limits, friction and equalities, if all hold at once."""


def _set_gains(builder: Any, robot: Robot, gains: Gains | None, inertia: Array) -> None:
    """Set stiffness and damping of each driven joint; without gains no joint is pulled."""
    from newton import JointTargetMode

    for target in robot.targets:
        dof = target.dof
        if gains is None:
            builder.joint_target_mode[dof] = int(JointTargetMode.NONE)
            continue
        written = float(builder.joint_target_ke[dof]) or None
        own = written or inertia[dof] * (2 * math.pi * _FREQUENCY_HZ) ** 2
        stiffness = of_joint(gains.stiffness, target.name, own)
        critical = 2 * math.sqrt(stiffness * inertia[dof])
        own_damping = float(builder.joint_target_kd[dof]) if written and stiffness == written else critical
        builder.joint_target_mode[dof] = int(JointTargetMode.POSITION)
        builder.joint_target_ke[dof] = stiffness
        builder.joint_target_kd[dof] = of_joint(gains.damping, target.name, own_damping)


@cache
def _solver() -> Any:
    """Return MuJoCo's solver, which takes no minute for a robot of hundreds of links.

    Newton excludes every pair of bodies that cannot touch, and goes through all bodies for each. Where one of the two
    has no shape that touches anything, there is nothing to exclude.
    """
    import numpy as np
    from newton.solvers import SolverMuJoCo

    class Solver(SolverMuJoCo):
        @staticmethod
        def _find_body_collision_filter_pairs(model: Any, selected_bodies: Array, colliding_shapes: Array) -> Any:
            touching = np.isin(selected_bodies, model.shape_body.numpy()[colliding_shapes])
            return SolverMuJoCo._find_body_collision_filter_pairs(model, selected_bodies[touching], colliding_shapes)

    return Solver


def _compile(builder: Any, file: Path, robot: Robot) -> _Compiled:
    import numpy as np

    try:
        model = builder.finalize(device="cpu")
        solver: Any = _solver()(model, use_mujoco_cpu=True)
    except Exception as error:
        raise unreadable(file, error) from error
    inertia, compiled = np.ones(model.joint_dof_count), solver.mj_model
    inertia[solver.mjc_dof_to_newton_dof.numpy()[0]] = _largest_inertia(compiled, solver.mj_data)
    if not (np.isfinite(inertia).all() and (inertia > 0).all()):
        wrong = {int(dof) for dof in np.flatnonzero(~((inertia > 0) & np.isfinite(inertia)))}
        names = [column.name for column in robot.velocities if column.index in wrong]
        raise RequestError(
            f"{file.name!r} has joints that move no mass: {listed(map(repr, names))}.",
            code="asset_unreadable",
            advice="Give every link after a moving joint an inertial element, or a collision shape.",
        )
    directions = int(compiled.geom_condim.max(initial=3)) - 1
    others = 2 * compiled.nv + 6 * compiled.neq + 2 * compiled.ntendon
    return _Compiled(model, compiled, inertia, 2 * directions, others)


def _largest_inertia(model: Any, data: Any) -> Array:
    """Return the largest diagonal of MuJoCo's inertia matrix over many poses: an arm that hangs straight has little."""
    import mujoco
    import numpy as np

    random = np.random.default_rng(0)
    single = np.isin(model.jnt_type, (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)))
    turns = model.jnt_type[single] == int(mujoco.mjtJoint.mjJNT_HINGE)
    bounds = np.where(turns[:, None], (-math.pi, math.pi), (0.0, 0.0))
    bounds = np.where(model.jnt_limited[single].astype(bool)[:, None], model.jnt_range[single], bounds)
    largest, matrix = np.zeros(model.nv), np.zeros((model.nv, model.nv))
    for pose in range(_POSES):
        if pose:
            data.qpos[model.jnt_qposadr[single]] = random.uniform(bounds[:, 0], bounds[:, 1])
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_crb(model, data)
        mujoco.mj_fullM(model, data, matrix)
        largest = np.maximum(largest, matrix.diagonal())
    return largest


def _lowest(model: Any, bodies: Iterable[int]) -> float:
    """Return the least z of the bodies' colliding shapes at the first pose; infinity where they have none."""
    import newton
    import numpy as np
    import warp

    state = model.state()
    newton.eval_fk(model, model.joint_q, model.joint_qd, state)
    owner = model.shape_body.numpy()
    collides = (model.shape_flags.numpy() & newton.ShapeFlags.COLLIDE_SHAPES) != 0
    box = (model.shape_collision_aabb_lower.numpy(), model.shape_collision_aabb_upper.numpy())
    pose, local = state.body_q.numpy(), model.shape_transform.numpy()
    lowest = math.inf
    for shape in np.flatnonzero(collides & np.isin(owner, list(bodies))):
        placed = warp.transform(*pose[owner[shape]]) * warp.transform(*local[shape])
        for corner in np.ndindex(2, 2, 2):
            point = warp.vec3(*(float(box[side][shape][axis]) for axis, side in enumerate(corner)))
            lowest = min(lowest, float(warp.dot(warp.transform_point(placed, point), warp.vec3(0.0, 0.0, 1.0))))
    return lowest


class Simulation:
    """Simulates `num_envs` copies of a world, each alone, on one device.

    A control step is captured once, as a graph, and then replayed: launching each kernel by itself takes several times
    as long as the kernels do, on a CPU too.
    """

    def __init__(
        self, world: World, *, num_envs: int, steps: int, device: str, dt: float, substeps: int, seed: int
    ) -> None:
        """Build the model and bring every world into its first state.

        Args:
            world: What is copied.
            num_envs: How many copies.
            steps: Control steps that there will be.
            device: `cpu` or `cuda:0`.
            dt: Seconds of a control step.
            substeps: Physics steps in it.
            seed: For whatever is random.
        """
        import newton
        import torch
        import warp

        self.world, self.robot, self.objects, self.free = world.builder, world.robot, world.objects, world.free
        self.steps = steps
        self.num_envs, self.device, self.dt, self.substeps, self.seed = num_envs, device, dt, substeps, seed

        # The copies, and MuJoCo's solver, without a printed line for each contact too many.
        builder: Any = newton.ModelBuilder()
        builder.replicate(world.builder, num_envs)
        self.model = builder.finalize(device=device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "MULTICCD is enabled, but")  # for pairs that touch in one point anyway
            self._solver: Any = _solver()(
                self.model,
                nconmax=world.contacts,
                njmax=world.constraints,
                enable_multiccd=True,  # a box that stands on one point does not stand
            )
        self._solver.mjw_model.opt.warn_overflow = False
        self.state, self._control = self.model.state(), self.model.control()
        newton.eval_fk(self.model, self.model.joint_q, self.model.joint_qd, self.state)
        self._graph: Any = None
        self._done = 0

        def view(array: Any) -> torch.Tensor:
            return warp.to_torch(array).view(num_envs, -1, *array.shape[1:])

        self.joint_q, self.joint_qd = view(self.state.joint_q), view(self.state.joint_qd)
        """Every world's generalised coordinates and velocities, `(num_envs, ...)`: the simulation's own memory."""
        self.bodies, self.twists = warp.to_torch(self.state.body_q), warp.to_torch(self.state.body_qd)
        self.bodies, self.twists = self.bodies.view(num_envs, -1, 7), self.twists.view(num_envs, -1, 6)
        """Every body's pose (xyz, xyzw) and velocity (of the centre of mass, then angular), in its world's frame."""
        self._target_q = view(self._control.joint_target_q)
        self._positions = self._columns(column.index for column in self.robot.positions)
        self._velocities = self._columns(column.index for column in self.robot.velocities)
        starts, own = self.model.joint_target_q_start, self.model.joint_q_start
        by_coordinate = starts is own
        self._targets = self._columns(t.coordinate if by_coordinate else t.dof for t in self.robot.targets)
        driven = self._columns(target.coordinate for target in self.robot.targets)
        self.first_targets = self.joint_q[:, driven].clone()
        """`(num_envs, driven)`: where the driven joints begin."""
        self._target_q[:, self._targets] = self.first_targets
        self._broken_at = torch.full((num_envs,), -1, dtype=torch.int64, device=device)
        self._limited = self._columns(self.robot.reading.speeds)
        self._fastest = torch.zeros(len(self._limited), device=device)

    def _columns(self, indices: Iterable[int]) -> torch.Tensor:
        import torch

        return torch.tensor(list(indices), dtype=torch.int64, device=self.device)

    def joint_position(self) -> torch.Tensor:
        """Return the robot's joint positions, `(num_envs, positions)`, in radians or metres."""
        return self.joint_q[:, self._positions]

    def joint_velocity(self) -> torch.Tensor:
        """Return the robot's joint velocities, `(num_envs, velocities)`, in rad/s or m/s."""
        return self.joint_qd[:, self._velocities]

    def place(self, name: str, pose: torch.Tensor) -> None:
        """Put a free body somewhere before the first step, `(num_envs, 7)`: xyz, xyzw."""
        first = self.free[name].coordinate
        self.joint_q[:, first : first + 7] = pose
        self.bodies[:] = self.poses_at(self.joint_q)

    def poses_at(self, joint_q: torch.Tensor) -> torch.Tensor:
        """Return the pose of every body, `(num_envs, bodies, 7)`, at these coordinates."""
        import newton
        import warp

        state, coordinates = self.model.state(), joint_q.reshape(-1).contiguous()
        at: Any = warp.from_torch(coordinates)
        newton.eval_fk(self.model, at, state.joint_qd, state)
        return warp.to_torch(state.body_q).view(self.num_envs, -1, 7)

    def step(self, targets: torch.Tensor | None) -> None:
        """Simulate one control step.

        Args:
            targets: Where the driven joints are to go, `(num_envs, driven)`; None where nothing pulls at them.
        """
        import torch
        import warp

        if targets is not None:
            self._target_q[:, self._targets] = targets
        if self._graph is None:
            self._simulate()  # compiles and loads what the graph needs
            with warp.ScopedCapture(device=self.device) as capture:
                self._simulate()
            self._graph = capture.graph
        else:
            warp.capture_launch(self._graph)
        if len(self._limited):
            self._fastest = torch.maximum(self._fastest, self.joint_qd[:, self._limited].abs().amax(dim=0))
        finite = torch.isfinite(self.joint_q).all(dim=1) & torch.isfinite(self.joint_qd).all(dim=1)
        self._broken_at = torch.where(finite | (self._broken_at >= 0), self._broken_at, self._done)
        self._done += 1

    def _simulate(self) -> None:
        for _ in range(self.substeps):
            self.state.clear_forces()
            self._solver.step(self.state, self.state, self._control, None, self.dt / self.substeps)

    def require_finite(self) -> None:
        """Wait for the simulation, and see that no world has become NaN or infinite.

        Raises:
            WorkloadError: If one has, with its number and the control step.
        """
        broken = self._broken_at.cpu()
        worlds = (broken >= 0).nonzero().flatten()
        if len(worlds) == 0:
            return
        first = int(worlds[broken[worlds].argmin()])
        raise WorkloadError(
            Failure(
                code="not_finite",
                category=Category.USER,
                message=f"The simulation became NaN or infinite in world {first} at control step {int(broken[first])}; "
                f"{len(worlds)} of {self.num_envs} worlds are affected.",
                advice="Take more substeps, lower gains, or look for links with hardly any mass.",
            )
        )

    def too_fast(self) -> list[str]:
        """Return the joints that went faster than their file allows, with their speed: the solver does not mind."""
        names = {column.index: column.name for column in self.robot.velocities}
        pairs = zip(self.robot.reading.speeds.items(), self._fastest.tolist(), strict=True)
        return [f"{names[dof]!r} {speed:.3g} of {limit:g}" for (dof, limit), speed in pairs if speed > limit * _FASTER]

    def lost_contacts(self) -> int:
        """Return in how many worlds there were more contacts at a time than there was room for."""
        return int((self._solver.mjw_data.overflow.numpy() != 0).sum())
