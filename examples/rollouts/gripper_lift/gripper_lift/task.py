"""The task: close on the cube, lift it, hold it, and measure whether it is up."""

import json

import newton
import torch
import warp as wp

from gripper_lift.model import CUBE, JOINTS, OPENING, STROKE, build_model


class GripperLift:
    """One lift in every environment, from a cube that lies a little differently in each."""

    def __init__(self, context, *, lift_height_m=0.15, success_height_m=0.1, cube_mass_kg=0.1, friction=1.0):
        """Build the simulation.

        Args:
            context: What simyard gives every task; see docs/task-packages.md.
            lift_height_m: How far the gripper goes up.
            success_height_m: How far the cube must be off the ground in the end.
            cube_mass_kg: Of the cube.
            friction: Coefficient of fingers, cube and ground.
        """
        if not 0 < success_height_m < lift_height_m <= STROKE:
            raise ValueError(
                f"The heights are {success_height_m} and {lift_height_m} m. "
                f"Allowed: 0 < success_height_m < lift_height_m <= {STROKE}."
            )
        self.context = context
        self.lift_height, self.success_height = lift_height_m, success_height_m
        self.model = build_model(context.num_envs, cube_mass_kg, friction, context.device)
        # Cones and a high ratio of friction to normal stiffness keep a grasp from creeping.
        self.solver = newton.solvers.SolverMuJoCo(self.model, cone="elliptic", impratio=10.0)
        self.state, self.next_state = self.model.state(), self.model.state()
        self.control = self.model.control()

    def run(self):
        """Simulate, record and judge."""
        context = self.context
        context.video.watch(self.model)
        self.describe()
        self.scatter_cubes()
        for step in range(context.steps):
            action = self.action(step / context.steps)
            context.video.capture(self.state)
            context.recorder.record({**self.observe(), "action": action})
            self.simulate(action)
        height = self.coordinates()[:, 5] - CUBE / 2
        lifted = height > self.success_height
        context.recorder.end(torch.ones_like(lifted), success=lifted)
        context.log.info("%d of %d cubes are up", int(lifted.sum()), context.num_envs)
        self.write("heights.json", {"cube_height_m": [round(value, 5) for value in height.tolist()]})

    def describe(self):
        """Say what the arrays mean."""
        describe = self.context.recorder.describe
        describe("joint_position", names=JOINTS, unit="m", about="Before the action.")
        describe("joint_velocity", names=JOINTS, unit="m/s", about="Before the action.")
        describe("cube_pose", names=("x", "y", "z", "qx", "qy", "qz", "qw"), unit="m, unit quaternion")
        describe("action", names=JOINTS, unit="m", about="Where each joint is driven to.")

    def scatter_cubes(self):
        """Move and turn each cube a little; the same seed gives the same cubes on every device."""
        generator = torch.Generator().manual_seed(self.context.seed)
        chance = 2 * torch.rand(self.context.num_envs, 3, generator=generator) - 1
        chance = chance.to(self.context.device)
        coordinates = self.coordinates()
        coordinates[:, 3] = 0.008 * chance[:, 0]
        coordinates[:, 4] = 0.01 * chance[:, 1]
        half_turn = 0.15 * chance[:, 2]
        coordinates[:, 8], coordinates[:, 9] = torch.sin(half_turn), torch.cos(half_turn)
        newton.eval_fk(self.model, self.state.joint_q, self.state.joint_qd, self.state)

    def action(self, time):
        """Return where the joints are driven to at a time from 0 to 1: close, then lift, then hold."""
        closing, lifting = min(1.0, time / 0.2), min(1.0, max(0.0, (time - 0.3) / 0.4))
        target = torch.tensor([self.lift_height * lifting, OPENING * closing, OPENING * closing])
        return target.to(self.context.device).expand(self.context.num_envs, 3)

    def observe(self):
        """Return what is recorded of the state."""
        coordinates, velocities = self.coordinates(), wp.to_torch(self.state.joint_qd)
        return {
            "joint_position": coordinates[:, :3],
            "joint_velocity": velocities.view(self.context.num_envs, -1)[:, :3],
            "cube_pose": coordinates[:, 3:],
        }

    def coordinates(self):
        """Return the joint coordinates of the state as (num_envs, 10): three joints, then the cube's pose."""
        return wp.to_torch(self.state.joint_q).view(self.context.num_envs, -1)

    def simulate(self, action):
        """Go on for one control step."""
        wp.to_torch(self.control.joint_target_q).view(self.context.num_envs, -1)[:, :3] = action
        for _ in range(self.context.substeps):
            self.state.clear_forces()
            period = self.context.dt / self.context.substeps
            self.solver.step(self.state, self.next_state, self.control, None, period)
            self.state, self.next_state = self.next_state, self.state

    def write(self, name, content):
        """Write a file of the task's own: beside, and renamed, so that nobody sees half of it."""
        beside = self.context.output / f".{name}"
        beside.write_text(json.dumps(content))
        beside.rename(self.context.output / name)
