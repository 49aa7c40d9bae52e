"""The task: come down on the block, close the fingers, lift it, and measure whether it is up."""

from itertools import pairwise

import newton
import newton.ik as ik
import torch
import warp as wp

HOME = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
"""First pose of the arm, in radians: with all joints at zero it has no room to bend."""
OPEN, CLOSED = 0.04, 0.0
"""Places of a finger, in metres."""
FINGERTIPS = (0.0, 0.0, 0.1034)
"""The point between the fingertips, seen from the hand."""
PHASES = {"reach": 0.3, "descend": 0.2, "close": 0.12, "lift": 0.23}
"""Parts of the episode; the rest of it holds the block up."""
CONTACT = {"ke": 1e4, "kd": 200.0}
"""Stiffness [N/m] and damping [N s/m] of what touches: with softer contacts a grasp creeps."""


class TabletopPickTask:
    """One pick in every environment, of a block that lies a little differently in each; it is held by friction."""

    def __init__(self, context, *, force_video=False, attach_distance_m=0.08, lift_m=0.2, spread_m=0.02):
        """Build the simulation.

        Args:
            context: What simyard gives every task; see docs/task-packages.md.
            force_video: Whether to film though the request does not ask for it.
            attach_distance_m: How near the fingertips must have come to the block's middle for the hand to close.
            lift_m: How far the hand goes up with it.
            spread_m: How far the block is moved along x and y at random.
        """
        if context.robot is None or context.scene is None:
            raise ValueError("The task needs a robot and a scene: give robot_asset_id and scene_asset_id.")
        self.context, self.attach_distance, self.lift, self.spread = context, attach_distance_m, lift_m, spread_m
        if force_video:
            context.video.force()

        # One world: the robot, whose joints come first, and the scene with its block.
        world = newton.ModelBuilder()
        newton.solvers.SolverMuJoCo.register_custom_attributes(world)
        world.default_shape_cfg.ke, world.default_shape_cfg.kd = CONTACT["ke"], CONTACT["kd"]
        world.add_usd(str(context.robot), enable_self_collisions=False)
        self.hand = index_of(world.body_label, "panda_hand")
        self.arm_model = world.finalize(device=context.device)
        world.add_usd(str(context.scene))
        self.block = index_of(world.body_label, "block")
        joint = world.joint_child.index(self.block)
        self.block_q = slice(world.joint_q_start[joint], world.joint_q_start[joint] + 7)
        self.driven = len(HOME) + 2
        moves = [label for label, dofs in zip(world.joint_label, world.joint_dof_dim, strict=True) if sum(dofs) == 1]
        self.names = [label.rpartition("/")[2] for label in moves]

        # As many of it as there are environments. Cones and a high ratio of friction to normal stiffness keep a grasp.
        scene = newton.ModelBuilder()
        scene.replicate(world, context.num_envs)
        self.model = scene.finalize(device=context.device)
        self.solver = newton.solvers.SolverMuJoCo(self.model, cone="elliptic", impratio=10.0, njmax=500, nconmax=100)
        self.state, self.control = self.model.state(), self.model.control()
        self.joint_q = wp.to_torch(self.state.joint_q).view(context.num_envs, -1)
        self.joint_qd = wp.to_torch(self.state.joint_qd).view(context.num_envs, -1)
        self.target = wp.to_torch(self.control.joint_target_q).view(context.num_envs, -1)
        self.graph, self.ran_once = None, False

    def run(self):
        """Simulate, record and judge."""
        context = self.context
        context.video.watch(self.model)
        self.describe()
        self.begin()
        path, ends = self.plan(), [0.0]
        for part in PHASES.values():
            ends.append(ends[-1] + part * context.steps)
        closes = torch.zeros(context.num_envs, dtype=torch.bool, device=context.device)
        for step in range(context.steps):
            if step == int(ends[2]):
                closes = self.distance() <= self.attach_distance
                context.log.info("%d of %d hands are near enough to close", int(closes.sum()), context.num_envs)
            action = along(path, ends, step).clone()
            action[~closes, len(HOME) :] = OPEN
            context.video.capture(self.state)
            context.recorder.record({**self.observe(), "action": action})
            self.simulate(action)
        risen = self.joint_q[:, self.block_q][:, 2] - self.rests
        lifted = risen > self.lift / 2
        context.recorder.end(torch.ones_like(lifted), success=lifted)
        context.log.info("%d of %d blocks are up, by %s m", int(lifted.sum()), context.num_envs, listed(risen))

    def describe(self):
        """Say what the arrays mean."""
        describe, units = self.context.recorder.describe, "rad; fingers in m"
        describe("joint_position", names=self.names, unit=units, about="Before the action.")
        describe("joint_velocity", names=self.names, unit="rad/s; fingers in m/s", about="Before the action.")
        describe("block_pose", names=("x", "y", "z", "qx", "qy", "qz", "qw"), unit="m, unit quaternion")
        describe("action", names=self.names, unit=units, about="Where each joint is driven to.")

    def begin(self):
        """Bring the arm home, and move each block a little; the same seed gives the same blocks on every device."""
        context = self.context
        self.joint_q[:, : self.driven] = self.joint_q.new_tensor([*HOME, OPEN, OPEN])
        self.target[:, : self.driven] = self.joint_q[:, : self.driven]
        chance = 2 * torch.rand(context.num_envs, 2, generator=torch.Generator().manual_seed(context.seed)) - 1
        self.joint_q[:, self.block_q][:, :2] += (self.spread * chance).to(context.device)
        self.rests = self.joint_q[:, self.block_q][:, 2].clone()
        newton.eval_fk(self.model, self.state.joint_q, self.state.joint_qd, self.state)

    def plan(self):
        """Return where the joints are at the end of each phase, by inverse kinematics: the hand looks down."""
        count, device = self.context.num_envs, self.context.device
        place = ik.IKObjectivePosition(self.hand, wp.vec3(*FINGERTIPS), wp.zeros(count, dtype=wp.vec3, device=device))
        down = torch.tensor([1.0, 0.0, 0.0, 0.0], device=device).repeat(count, 1)
        turn = ik.IKObjectiveRotation(
            self.hand, wp.quat(0.0, 0.0, 0.0, 1.0), wp.from_torch(down.contiguous(), dtype=wp.vec4)
        )
        solver = ik.IKSolver(self.arm_model, count, [place, turn], jacobian_mode=ik.IKJacobianType.ANALYTIC)
        pose, path = self.joint_q[:, : self.driven].clone(), []
        block = self.joint_q[:, self.block_q][:, :3]
        for height, fingers in ((0.12, OPEN), (0.0, OPEN), (self.lift, CLOSED)):
            goal = block + block.new_tensor([0.0, 0.0, height])
            place.set_target_positions(wp.from_torch(goal.contiguous(), dtype=wp.vec3))
            solver.step(wp.from_torch(pose), wp.from_torch(pose), iterations=100)
            pose[:, len(HOME) :] = fingers
            path.append(pose.clone())
        above, at, up = path
        grasp = at.clone()
        grasp[:, len(HOME) :] = CLOSED
        return [self.joint_q[:, : self.driven].clone(), above, at, grasp, up]

    def distance(self):
        """Return how far the point between the fingertips is from the block's middle, in metres."""
        bodies = wp.to_torch(self.state.body_q).view(self.context.num_envs, -1, 7)
        hand, block = bodies[:, self.hand], bodies[:, self.block, :3]
        x, y, z, w = hand[:, 3:].unbind(dim=1)
        out = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=1)
        return (hand[:, :3] + FINGERTIPS[2] * out - block).norm(dim=1)

    def observe(self):
        """Return what is recorded of the state."""
        return {
            "joint_position": self.joint_q[:, : self.driven],
            "joint_velocity": self.joint_qd[:, : self.driven],
            "block_pose": self.joint_q[:, self.block_q],
        }

    def simulate(self, action):
        """Go on for one control step; the second one is recorded as a graph, which all others replay."""
        self.target[:, : self.driven] = action
        if self.graph is not None:
            wp.capture_launch(self.graph)
        elif not self.ran_once:
            self.substeps()
            self.ran_once = True
        else:
            with wp.ScopedCapture(device=self.context.device) as capture:
                self.substeps()
            self.graph = capture.graph
            wp.capture_launch(self.graph)

    def substeps(self):
        """Take the physics steps of one control step."""
        for _ in range(self.context.substeps):
            self.state.clear_forces()
            self.solver.step(self.state, self.state, self.control, None, self.context.dt / self.context.substeps)


def index_of(labels, name):
    """Return the index of a body, by the last part of its path in the USD."""
    found = [index for index, label in enumerate(labels) if label.rpartition("/")[2] == name]
    if len(found) != 1:
        raise ValueError(f"The assets have {len(found)} bodies {name!r}, not one; they have {sorted(labels)}.")
    return found[0]


def along(path, ends, step):
    """Return the pose between two of a path, eased in and out."""
    for phase, (begin, end) in enumerate(pairwise(ends)):
        if step < end:
            part = (step - begin) / (end - begin)
            part = part * part * (3 - 2 * part)
            return path[phase] + part * (path[phase + 1] - path[phase])
    return path[-1]


def listed(values):
    """Return numbers for a line of the log."""
    return ", ".join(f"{value:.3f}" for value in values.tolist())
