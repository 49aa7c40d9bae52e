"""Many copies of one world on Newton, stepped at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from simyard.core.errors import Category, Failure, WorkloadError
from simyard.runner.newton.world import World

if TYPE_CHECKING:
    import torch


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
        self.model = _model(world.builder, num_envs, device)
        self._solver = _solver(self.model, world)
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
        if self._done == 0:
            self._simulate()  # compiles and loads what the graph needs
        else:
            if self._graph is None:
                with warp.ScopedCapture(device=self.device) as capture:
                    self._simulate()
                self._graph = capture.graph
            warp.capture_launch(self._graph)
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

    def lost_contacts(self) -> int:
        """Return in how many worlds there were more contacts at a time than there was room for."""
        return int((self._solver.mjw_data.overflow.numpy() != 0).sum())


def _model(world: Any, count: int, device: str) -> Any:
    import newton

    builder = newton.ModelBuilder()
    builder.replicate(world, count)
    return builder.finalize(device=device)


def _solver(model: Any, world: World) -> Any:
    """Return MuJoCo's solver, without a printed line for each contact too many."""
    import newton

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "MULTICCD is enabled, but")  # for pairs that touch in one point anyway
        solver = newton.solvers.SolverMuJoCo(
            model,
            nconmax=world.contacts,
            njmax=world.constraints,
            enable_multiccd=True,  # a box that stands on one point does not stand
        )
    solver.mjw_model.opt.warn_overflow = False
    return solver
