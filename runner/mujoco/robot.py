"""The contract's robot in MuJoCo: its model with the drives of training, its state as Isaac Lab has it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.exporting.contract import Contract, Drive, Simulation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_DRIVES = ("ImplicitActuatorCfg", "IdealPDActuatorCfg", "DelayedPDActuatorCfg")
"""Actuators that are a spring, a damper and a limit; MuJoCo has these in its model, and integrates them implicitly."""


def missing_drives(told: Simulation) -> Iterator[str]:
    """Yield why groups of actuators cannot be driven here."""
    for drive in told.drives:
        kind = (drive.type or "").rpartition(":")[2]
        if kind not in _DRIVES:
            yield f"drive {drive.name!r} ({kind or 'without a type'})"
        elif None in (drive.stiffness, drive.damping, drive.effort_limit):
            yield f"drive {drive.name!r} (its gains differ between environments)"


class Model:
    """A compiled model, and where the contract's joints are in it."""

    def __init__(self, contract: Contract, path: Path) -> None:
        """Read an MJCF or URDF file, and put the contract's drives in the place of its own.

        Raises:
            ValueError: If a joint of the contract is not there, or is there several times.
        """
        import mujoco

        assert contract.simulation is not None
        self.contract, self.told = contract, contract.simulation
        (self.robot,) = (robot for robot in contract.articulations if robot.name == self.told.robot)
        spec = mujoco.MjSpec.from_file(str(path))
        for actuator in list(spec.actuators):
            spec.delete(actuator)
        hinges = [
            joint for joint in spec.joints if joint.type in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
        ]
        names = matched(self.robot.joints, [joint.name for joint in hinges])
        for drive in self.told.drives:
            _add_drive(spec, drive, names)
        spec.option.timestep = contract.physics_dt_s / self.told.substeps
        model = self.model = spec.compile()

        ids = [model.joint(names[joint]).id for joint in self.robot.joints]
        self.qpos = [int(model.jnt_qposadr[n]) for n in ids]
        self.dofs = [int(model.jnt_dofadr[n]) for n in ids]
        self.joint = {name: n for n, name in enumerate(self.robot.joints)}
        for drive in self.told.drives:
            for n, joint in enumerate(drive.joints):
                dof = self.dofs[self.joint[joint]]
                if drive.armature:
                    model.dof_armature[dof] = drive.armature[n]
                if drive.friction:
                    model.dof_frictionloss[dof] = drive.friction[n]
        # The root is the body below the world that carries the joints.
        body = int(model.jnt_bodyid[ids[0]]) if ids else 1
        while model.body_parentid[body] != 0:
            body = int(model.body_parentid[body])
        self.root = body
        first = int(model.body_jntadr[body])
        self.free = first >= 0 and model.jnt_type[first] == mujoco.mjtJoint.mjJNT_FREE
        if self.free is self.told.fixed_base:
            raise ValueError(
                f"The root of the model {'floats' if self.free else 'is fixed'}, that of training did not."
            )
        self.ctrl = {joint: n for n, joint in enumerate(joint for drive in self.told.drives for joint in drive.joints)}

    def bodies(self, names: Sequence[str] | None) -> list[int]:
        """Return the ids of bodies by the contract's names; all of them for None."""
        there = [self.model.body(n).name for n in range(1, self.model.nbody)]
        if names is None:
            return list(range(1, self.model.nbody))
        found = matched(names, there)
        return [int(self.model.body(found[name]).id) for name in names]


def _add_drive(spec: Any, drive: Drive, names: dict[str, str]) -> None:
    import mujoco

    for n, joint in enumerate(drive.joints):
        stiffness, damping = (drive.stiffness or ())[n], (drive.damping or ())[n]
        limit = (drive.effort_limit or ())[n]
        actuator = spec.add_actuator(name=f"drive {joint}", target=names[joint], trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
        actuator.gainprm[0] = stiffness
        actuator.biasprm[:3] = (0.0, -stiffness, -damping)
        if limit is not None:
            actuator.forcelimited, actuator.forcerange = True, (-limit, limit)


def matched(wanted: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """Return the name in a model of each wanted one: the same, or the only one left that ends with it.

    Newton's conversion puts the path of the part before the name.

    Raises:
        ValueError: If one is not there, or it is not clear which.
    """
    left, found = [name for name in there if name not in wanted], {}
    for name in sorted(wanted, key=len, reverse=True):  # `left_hip` before `hip`, which it ends with
        fits = [name] if name in there else [one for one in left if one.endswith((f"_{name}", f"/{name}"))]
        if len(fits) != 1:
            raise ValueError(f"The model has {fits or 'nothing'} for {name!r}; its names are {list(there)}.")
        found[name] = fits[0]
        left = [one for one in left if one != fits[0]]
    return found


class State:
    """One robot in its own world, in Isaac Lab's terms: joints in the contract's order, quaternions as x, y, z, w."""

    def __init__(self, model: Model) -> None:
        """Make a world of a model."""
        import mujoco
        import numpy as np

        told, joints = model.told, len(model.robot.joints)
        self.model = model
        self.data = mujoco.MjData(model.model)
        """MuJoCo's own, for functions of users; `model.model` is its model."""
        self.default_joint_pos = np.array(model.robot.default_positions or (0.0,) * joints)
        self.default_joint_vel = np.array(told.default_velocities or (0.0,) * joints)
        self.joint_limits = np.array(
            [[-math.inf if low is None else low, math.inf if high is None else high]
             for low, high in told.joint_limits or ((None, None),) * joints]
        ).reshape(joints, 2)  # fmt: skip
        self.period_s, self.episode_steps = model.contract.control_period_s, told.episode_steps
        self.origin: Array = np.zeros(3)
        """Place of this environment in the world."""
        self.commands: dict[str, Array] = {}
        """By name, as they were in training."""
        size = model.contract.output.shape[1] or 0
        self.action, self.previous_action = np.zeros(size), np.zeros(size)
        self.step = 0
        """Control steps since the episode began."""
        self.terminated = False
        self.targets = {kind: np.zeros(joints) for kind in ("position", "velocity", "effort")}

    def begin(self, start: dict[str, Array], origin: Array) -> None:
        """Begin an episode where training's began: joints, root relative to the origin, its velocity, targets."""
        import mujoco
        import numpy as np

        model, data = self.model, self.data
        mujoco.mj_resetData(model.model, data)
        self.origin = origin
        data.qpos[model.qpos], data.qvel[model.dofs] = start["joint_pos"], start["joint_vel"]
        position, quaternion = start["root"][:3] + origin, start["root"][[6, 3, 4, 5]]
        if model.free:
            data.qpos[:3], data.qpos[3:7] = position, quaternion
            linear, angular = start["root_vel"][:3], start["root_vel"][3:]
            turn = rotation(start["root"][3:7])
            data.qvel[:3] = linear - np.cross(angular, turn @ model.model.body_ipos[model.root])
            data.qvel[3:6] = turn.T @ angular
        elif (mocap := int(model.model.body_mocapid[model.root])) >= 0:
            data.mocap_pos[mocap], data.mocap_quat[mocap] = position, quaternion
        else:
            self.origin = np.zeros(3)
        self.targets = {kind: np.zeros(len(self.joint_pos)) for kind in self.targets}
        self.targets["position"] = start["targets"].copy()
        self.action, self.previous_action = np.zeros_like(self.action), np.zeros_like(self.action)
        self.step, self.terminated = 0, False
        mujoco.mj_forward(model.model, data)

    def advance(self, targets: dict[str, Array]) -> None:
        """Take one step of the simulator, with targets of every joint."""
        import mujoco
        import numpy as np

        model, data = self.model, self.data
        data.qfrc_applied[:] = 0.0
        for drive in model.told.drives:
            for n, name in enumerate(drive.joints):
                joint = model.joint[name]
                data.ctrl[model.ctrl[name]] = targets["position"][joint]
                effort = targets["effort"][joint] + (drive.damping or ())[n] * targets["velocity"][joint]
                limit = (drive.effort_limit or ())[n]
                data.qfrc_applied[model.dofs[joint]] = effort if limit is None else np.clip(effort, -limit, limit)
        for _ in range(model.told.substeps):
            mujoco.mj_step(model.model, data)

    # The rest is read by terms.

    @property
    def joint_pos(self) -> Array:
        """Rad or m."""
        return self.data.qpos[self.model.qpos]  # type: ignore[no-any-return]

    @property
    def joint_vel(self) -> Array:
        """rad/s or m/s."""
        return self.data.qvel[self.model.dofs]  # type: ignore[no-any-return]

    @property
    def joint_effort(self) -> Array:
        """N m or N, of drives and commands together."""
        return self.data.qfrc_actuator[self.model.dofs] + self.data.qfrc_applied[self.model.dofs]  # type: ignore[no-any-return]

    @property
    def root_pos(self) -> Array:
        """m, from the origin of the environment."""
        place = self.data.qpos[:3] if self.model.free else self.data.xpos[self.model.root]
        return place - self.origin  # type: ignore[no-any-return]

    @property
    def root_quat(self) -> Array:
        """x, y, z, w."""
        quaternion = self.data.qpos[3:7] if self.model.free else self.data.xquat[self.model.root]
        return quaternion[[1, 2, 3, 0]]  # type: ignore[no-any-return]

    @property
    def root_ang_vel_b(self) -> Array:
        """rad/s, in the root's frame."""
        import numpy as np

        return self.data.qvel[3:6].copy() if self.model.free else np.zeros(3)

    @property
    def root_ang_vel_w(self) -> Array:
        """rad/s, in the world's frame."""
        return rotation(self.root_quat) @ self.root_ang_vel_b

    @property
    def root_lin_vel_w(self) -> Array:
        """m/s of the root's centre of mass, in the world's frame."""
        import numpy as np

        if not self.model.free:
            return np.zeros(3)
        arm = rotation(self.root_quat) @ self.model.model.body_ipos[self.model.root]
        return self.data.qvel[:3] + np.cross(self.root_ang_vel_w, arm)  # type: ignore[no-any-return]

    @property
    def root_lin_vel_b(self) -> Array:
        """m/s of the root's centre of mass, in the root's frame."""
        return rotation(self.root_quat).T @ self.root_lin_vel_w

    @property
    def projected_gravity(self) -> Array:
        """Direction of gravity in the root's frame."""
        down: Array = -rotation(self.root_quat)[2]
        return down

    @property
    def time_s(self) -> float:
        """Seconds since the episode began."""
        return self.step * self.period_s

    def contact_forces(self, bodies: Sequence[str] | None) -> Array:
        """Return the contact force on bodies by name, N."""
        import mujoco
        import numpy as np

        mujoco.mj_rnePostConstraint(self.model.model, self.data)
        forces: Array = np.linalg.norm(self.data.cfrc_ext[self.model.bodies(bodies), 3:6], axis=1)
        return forces


def rotation(quaternion: Array) -> Array:
    """Return the matrix of a quaternion x, y, z, w: from its frame to the world's."""
    import numpy as np

    x, y, z, w = quaternion
    matrix: Array = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return matrix
