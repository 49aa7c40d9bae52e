from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import Category, Failure, RequestError, WorkloadError, unknown
from simyard.runner.newton.mode import Mode, of_joint, setting, wrong
from simyard.runner.newton.robots import Robot, check_joints, check_position

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation

_PHASES = {"reach": 0.3, "descend": 0.2, "close": 0.12, "lift": 0.23}
"""Parts of the episode; the rest of it holds the object up."""
_ITERATIONS = 100
_REACHED_M = 0.01
"""Largest distance between the tool and its goal that counts as reached, in metres."""


@dataclass(kw_only=True)
class PickLift(Mode):
    """Pick up a free object: hand above it, down to it, fingers closed, up; held by friction, success is measured."""

    ee_body: str = setting(
        "The body whose origin is the point between the fingertips, with its z axis out of the hand."
    )
    finger_joints: tuple[str, ...] = setting("The joints that open and close the fingers.")
    open: float | Mapping[str, float] | None = setting(
        "Where the fingers are open, in radians or metres; left out it is their upper limit.",
        low=-100,
        high=100,
        default=None,
    )
    closed: float | Mapping[str, float] | None = setting(
        "Where they would be without an object between them; left out it is their lower limit.",
        low=-100,
        high=100,
        default=None,
    )
    object: str | None = setting("The body to pick up; left out it is the scene's only free one.", default=None)
    grasp_offset_m: float = setting("How far above its origin it is gripped.", low=-1, high=1, default=0.0)
    approach_m: float = setting("From how far above the hand comes down.", low=0.01, high=1, default=0.1)
    lift_m: float = setting("How far the hand goes up with it.", low=0.01, high=1, default=0.15)
    success_m: float = setting("How far it must be up in the end.", low=0.001, high=1, default=0.05)
    spread_m: float = setting(
        "How far it is moved along x and y at random, in each world.", low=0, high=1, default=0.03
    )
    spread_yaw: float = setting("How far it is turned at random, in radians.", low=0, high=math.pi, default=0.5)

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse a robot without such a hand, and a scene without such an object."""
        super().check(robot, objects, policy)
        if self.ee_body not in robot.bodies:
            raise unknown("body in control.ee_body:", self.ee_body, robot.bodies, code="unknown_body")
        check_joints("control.finger_joints", self.finger_joints, robot)
        if robot.base is not None:
            raise wrong("control.fix_base", False, "true, since the arm reaches from where it stands")
        self._object(objects)
        for end, given, side in (("open", self.open, 1), ("closed", self.closed, 0)):
            for name, value in zip(self.finger_joints, self._fingers(given, side, robot), strict=True):
                if not math.isfinite(value):
                    raise wrong(f"control.{end}", given, f"a position for {name!r}, which has no limit")
                check_position(f"control.{end}", name, value, robot)

    def _object(self, objects: Collection[str]) -> str:
        name = self.object
        if name is None and len(objects) == 1:
            return next(iter(objects))
        if name is None or name not in objects:
            if not objects:
                raise RequestError(
                    "There is nothing to pick up: the scene has no body that is free to move.",
                    code="unknown_body",
                    advice="Take the scene 'table_top' or 'franka_cabinet_oige_v1', or a USD with a rigid body.",
                )
            raise unknown("body in control.object:", name, objects, code="unknown_body")
        return name

    def _fingers(self, given: float | Mapping[str, float] | None, side: int, robot: Robot) -> list[float]:
        """Return the position of each finger joint: as it was given, else the limit of that side."""
        return [of_joint(given, name, robot.limits(name)[side]) for name in self.finger_joints]

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Move the object in each world, and find the poses of the arm above it, at it, and with it."""
        import numpy as np

        self._simulation, robot, name = simulation, simulation.robot, self._object(simulation.free)
        self._body = simulation.free[name].body

        # Drawn by the seed alone, so that the count of worlds changes none of them.
        drawn = np.random.default_rng([simulation.seed]).uniform(-1, 1, size=(simulation.num_envs, 3))
        pose = simulation.bodies[:, self._body].clone()
        offset = pose.new_tensor(drawn)
        pose[:, :2] += self.spread_m * offset[:, :2]
        half = self.spread_yaw * offset[:, 2] / 2
        x, y, z, w = pose[:, 3:].clone().unbind(dim=1)
        sin, cos = half.sin(), half.cos()
        pose[:, 3], pose[:, 4] = cos * x - sin * y, cos * y + sin * x
        pose[:, 5], pose[:, 6] = cos * z + sin * w, cos * w - sin * z
        simulation.place(name, pose)

        # Where the point between the fingertips goes: above the object, to it, and up.
        start = simulation.bodies[:, self._body, :3].clone()
        self._height = start[:, 2]
        places = []
        for over in (self.approach_m, 0.0, self.lift_m):
            places.append(start.clone())
            places[-1][:, 2] += self.grasp_offset_m + over

        # The poses of the way, from the first one on, with the fingers open or closed.
        hand = [robot.driven.index(finger) for finger in self.finger_joints]
        above, at, lifted = _Arm(simulation, self.ee_body, hand).solve(places, self._turns())
        self._poses = [simulation.first_targets]
        opened, closed = self._fingers(self.open, 1, robot), self._fingers(self.closed, 0, robot)
        for pose, fingers in ((above, opened), (at, opened), (at, closed), (lifted, closed)):
            self._poses.append(pose.clone())
            self._poses[-1][:, hand] = pose.new_tensor(fingers)
        self._ends = [simulation.steps * part for part in accumulate(_PHASES.values(), initial=0.0)]

    def _turns(self) -> torch.Tensor:
        """Return the hand's smallest turn about the vertical that is square to the object's sides, in radians."""
        import torch

        simulation = self._simulation
        x, y, z, w = simulation.bodies[:, self._body, 3:].unbind(dim=1)
        sides = torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        root = simulation.bodies[:, next(iter(simulation.robot.bodies.values())), :2]
        towards = simulation.bodies[:, self._body, :2] - root
        azimuth = torch.atan2(towards[:, 1], towards[:, 0])
        quarter = math.pi / 2
        return azimuth + torch.remainder(sides - azimuth + quarter / 2, quarter) - quarter / 2

    def targets(self, step: int) -> torch.Tensor:
        """Return the pose between two of the way, eased in and out."""
        for phase, (begin, end) in enumerate(zip(self._ends, self._ends[1:], strict=False)):
            if step < end:
                part = (step - begin) / (end - begin)
                part = part * part * (3 - 2 * part)
                return self._poses[phase] + part * (self._poses[phase + 1] - self._poses[phase])
        return self._poses[-1]

    def success(self) -> torch.Tensor:
        """Return True for each world whose object has risen by `success_m`."""
        risen: torch.Tensor = self._simulation.bodies[:, self._body, 2] - self._height >= self.success_m
        return risen


class _Arm:
    """The joints before the hand, moved by Newton's inverse kinematics, in every world at once."""

    def __init__(self, simulation: Simulation, ee_body: str, hand: list[int]) -> None:
        import newton
        import newton.ik as ik
        import numpy as np
        import warp

        self._simulation = simulation
        self._body = simulation.robot.bodies[ee_body]
        model: Any = newton.ModelBuilder()
        model.add_builder(simulation.world)
        model = model.finalize(device=simulation.device)
        count, device = simulation.num_envs, simulation.device
        free = np.zeros(model.joint_dof_count, bool)
        free[[target.dof for index, target in enumerate(simulation.robot.targets) if index not in hand]] = True
        self._place: Any = ik.IKObjectivePosition(
            self._body, warp.vec3(0.0, 0.0, 0.0), warp.zeros(count, dtype=warp.vec3, device=device)
        )
        self._turn: Any = ik.IKObjectiveRotation(
            self._body, warp.quat(0.0, 0.0, 0.0, 1.0), warp.zeros(count, dtype=warp.vec4, device=device)
        )
        limits: Any = ik.IKObjectiveJointLimit(model.joint_limit_lower, model.joint_limit_upper, weight=0.1)
        self._solver: Any = ik.IKSolver(
            model,
            count,
            [self._place, self._turn, limits],
            joint_dof_mask=warp.array(free, dtype=warp.bool, device=device),
            jacobian_mode=ik.IKJacobianType.ANALYTIC,
        )

    def solve(self, places: list[torch.Tensor], turns: torch.Tensor) -> list[torch.Tensor]:
        """Return the driven joints' positions for each place in turn, `(num_envs, driven)`, hand down.

        Args:
            places: Where the tool point is to be, `(num_envs, 3)` each.
            turns: `(num_envs,)` angles about the vertical.

        Raises:
            WorkloadError: If the tool does not come there.
        """
        import torch
        import warp

        down = torch.stack([(turns / 2).cos(), (turns / 2).sin(), torch.zeros_like(turns), torch.zeros_like(turns)], 1)
        self._turn.set_target_rotations(warp.from_torch(down.contiguous(), dtype=warp.vec4))
        q, targets = self._simulation.joint_q.clone(), self._simulation.robot.targets
        columns = [target.coordinate for target in targets]
        low, high = (q.new_tensor(bounds) for bounds in zip(*((t.low, t.high) for t in targets), strict=True))
        found = []
        for place in places:
            self._place.set_target_positions(warp.from_torch(place.contiguous(), dtype=warp.vec3))
            self._solver.step(warp.from_torch(q), warp.from_torch(q), iterations=_ITERATIONS)
            q[:, columns] = q[:, columns].clamp(low, high)
            off = (self._simulation.poses_at(q)[:, self._body, :3] - place).norm(dim=1)
            worst = int(off.argmax())
            if float(off[worst]) > _REACHED_M:
                at = ", ".join(f"{float(x):.3f}" for x in place[worst])
                raise WorkloadError(
                    Failure(
                        code="out_of_reach",
                        category=Category.USER,
                        message=f"The hand cannot be at ({at}) and point down in world {worst}: "
                        f"it ends {float(off[worst]):.3f} m away.",
                        advice="Move the base nearer, begin in a bent pose (initial_positions), or lower spread_m.",
                    )
                )
            found.append(q[:, columns])
        return found
