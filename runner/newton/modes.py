"""The ways to drive a robot that need nothing but its joints."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simyard.core.errors import RequestError
from simyard.runner.newton.fields import Field, Flag, ForJoints, Keyframe, Keyframes, Number, per_joint
from simyard.runner.newton.mode import Mode, check_position
from simyard.runner.newton.robots import Robot

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation

FREE_RANGE_RAD, FREE_RANGE_M = math.pi / 2, 0.25
"""How far `random` goes to both sides of the first pose where a joint has no limits."""


class Hold(Mode):
    """Stay."""

    ABOUT = "Hold the first pose."

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Take the first pose as the target."""
        self._pose = simulation.first_targets.clone()

    def targets(self, step: int) -> torch.Tensor:
        """Return the first pose."""
        return self._pose


class Zero(Mode):
    """Let go."""

    ABOUT = "Let go: no joint is driven, so the robot moves by gravity, friction and its own damping alone."
    DRIVES = False

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Do nothing."""

    def targets(self, step: int) -> None:
        """Return nothing."""
        return None


class Random(Mode):
    """Wander."""

    ABOUT = "Go from one random pose to the next, in each world to others."
    FIELDS: ClassVar[Mapping[str, Field]] = {
        "period_s": Number(about="Seconds from one pose to the next.", low=1e-3, high=1e4, default=0.5),
        "range": Number(
            about="Which part of each joint's limits is used, around their middle.", low=0, high=1, default=1
        ),
        "smooth": Flag(about="Whether targets move there at one speed; else they jump and stay.", default=True),
    }

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Find the range of each joint."""
        self._simulation = simulation
        targets, first = simulation.robot.targets, simulation.first_targets[0].tolist()
        part = self.values["range"]
        ranges = [self._range(target, now, part) for target, now in zip(targets, first, strict=True)]
        self._low, self._width = zip(*ranges, strict=True)
        self._segment = -1
        self._next = simulation.first_targets

    @staticmethod
    def _range(target: Any, now: float, part: float) -> tuple[float, float]:
        reach = FREE_RANGE_M if target.linear else FREE_RANGE_RAD
        low = target.low if target.low > -math.inf else min(now, target.high) - reach
        high = target.high if target.high < math.inf else max(now, low) + reach
        middle, width = (low + high) / 2, (high - low) * part
        return middle - width / 2, width

    def targets(self, step: int) -> torch.Tensor:
        """Return the pose on the way to the next one, or that one itself."""
        at = step * self._simulation.dt / self.values["period_s"]
        segment = int(at + 1e-9)
        while self._segment < segment:
            self._segment += 1
            self._last, self._next = self._next, self._draw(self._segment)
        if not self.values["smooth"]:
            return self._next
        return self._last + (at - segment) * (self._next - self._last)

    def _draw(self, segment: int) -> torch.Tensor:
        """Draw a pose for each world: by seed and number alone, so that the count of worlds changes none of them."""
        import numpy as np
        import torch

        simulation = self._simulation
        shape = (simulation.num_envs, len(self._low))
        drawn = np.random.default_rng([simulation.seed, segment]).uniform(size=shape) * self._width + self._low
        return torch.as_tensor(drawn, dtype=torch.float32, device=simulation.device)


class Sine(Mode):
    """Swing."""

    ABOUT = "Swing each joint around its first position, within its limits."
    FIELDS: ClassVar[Mapping[str, Field]] = {
        "amplitude": ForJoints(
            about="Radians or metres; of joints that are not named 0.", low=0, high=100, default=0.2
        ),
        "frequency_hz": ForJoints(
            about="Swings a second; of joints that are not named 0.5.", low=0, high=1000, default=0.5
        ),
        "phase": ForJoints(about="Radians; of joints that are not named 0.", low=-1000, high=1000, default=0.0),
    }

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Put the numbers of each joint where the simulation is."""
        import torch

        def tensor(values: Any) -> torch.Tensor:
            return torch.tensor(list(values), dtype=torch.float32, device=simulation.device)

        names = simulation.robot.driven
        self._dt, self._middle, self._num_envs = simulation.dt, simulation.first_targets[0], simulation.num_envs
        self._amplitude = tensor(per_joint(self.values["amplitude"], names, 0.0))
        self._rate = tensor(2 * math.pi * hz for hz in per_joint(self.values["frequency_hz"], names, 0.5))
        self._phase = tensor(per_joint(self.values["phase"], names, 0.0))
        self._low = tensor(target.low for target in simulation.robot.targets)
        self._high = tensor(target.high for target in simulation.robot.targets)

    def targets(self, step: int) -> torch.Tensor:
        """Return where each sine is."""
        import torch

        wave = self._middle + self._amplitude * torch.sin(self._rate * (step * self._dt) + self._phase)
        return torch.clamp(wave, self._low, self._high).expand(self._num_envs, -1)


class Trajectory(Mode):
    """Follow."""

    ABOUT = "Follow keyframes: straight from one to the next, from the first pose on; the last one is held."
    FIELDS: ClassVar[Mapping[str, Field]] = {
        "keyframes": Keyframes(about='A list of {"time_s": seconds, "positions": {joint: radians or metres}}.'),
    }

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse joints that there are not, and positions beyond their limits."""
        super().check(robot, objects, policy)
        for index, frame in enumerate(self.values["keyframes"]):
            for name, value in frame.positions.items():
                check_position(f"control.keyframes[{index}].positions.{name}", name, value, robot)

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Lay out times and positions, joint by joint: a keyframe need not name all."""
        self._dt, self._num_envs, self._device = simulation.dt, simulation.num_envs, simulation.device
        first = dict(zip(simulation.robot.driven, simulation.first_targets[0].tolist(), strict=True))
        self._paths = [_Path(self.values["keyframes"], name, position) for name, position in first.items()]

    def targets(self, step: int) -> torch.Tensor:
        """Return where the robot is to be now."""
        import torch

        row = [path.at(step * self._dt) for path in self._paths]
        return torch.tensor(row, dtype=torch.float32, device=self._device).expand(self._num_envs, -1)


class _Path:
    """The way of one joint."""

    def __init__(self, frames: tuple[Keyframe, ...], joint: str, first: float) -> None:
        named = [(frame.time_s, frame.positions[joint]) for frame in frames if joint in frame.positions]
        if not named or named[0][0] > 0:
            named.insert(0, (0.0, first))
        self._times = [time for time, _ in named]
        self._positions = [position for _, position in named]

    def at(self, time: float) -> float:
        after = bisect_right(self._times, time)
        if after == len(self._times):
            return self._positions[-1]
        (begin, end), (start, goal) = self._times[after - 1 : after + 1], self._positions[after - 1 : after + 1]
        return start + (goal - start) * (time - begin) / (end - begin)


class Policy(Mode):
    """Obey a network."""

    ABOUT = "Do what the job's ONNX file says: it takes joint positions and velocities, and returns position targets."

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Open the file and run it once on a zero observation of every shape that it will get."""
        if policy is None:
            return
        wanted, actions = len(robot.positions) + len(robot.velocities), len(robot.targets)
        session = _open(policy)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1:
            raise _unfit(policy, f"it has {len(inputs)} inputs: {[each.name for each in inputs]}", "one, (batch, n)")
        shape, kind = inputs[0].shape, inputs[0].type
        if kind != "tensor(float)" or len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != wanted):
            raise _unfit(
                policy,
                f"its input is {kind} {shape}",
                f"float32 (batch, {wanted}), the {len(robot.positions)} positions and {len(robot.velocities)} "
                f"velocities of {', '.join(column.name for column in robot.positions)}",
            )
        if isinstance(shape[0], int):
            raise _unfit(
                policy, f"its batch is always {shape[0]}", "a batch of any size: export it with a dynamic axis"
            )
        action = self._run(session, inputs[0].name, outputs[0].name, 2, wanted, policy)
        if action.shape != (2, actions):
            raise _unfit(
                policy,
                f"its output for a batch of 2 is {action.shape}",
                f"(batch, {actions}), a target for each of {', '.join(robot.driven)}",
            )

    @staticmethod
    def _run(session: Any, input_: str, output: str, batch: int, width: int, policy: Path) -> Any:
        import numpy as np

        try:
            return session.run([output], {input_: np.zeros((batch, width), np.float32)})[0]
        except Exception as error:
            raise _unfit(
                policy, f"it does not run: {str(error).strip()[:300]}", "a network of ONNX's own operators"
            ) from error

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Open the file; it runs on the CPU wherever the simulation is."""
        assert policy is not None
        self._simulation = simulation
        self._session = _open(policy)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def targets(self, step: int) -> torch.Tensor:
        """Return what the network makes of the joints as they are now."""
        import torch

        simulation = self._simulation
        seen = torch.cat([simulation.joint_position(), simulation.joint_velocity()], dim=1).cpu().numpy()
        action = self._session.run([self._output], {self._input: seen})[0]
        return torch.as_tensor(action, dtype=torch.float32, device=simulation.device)


def _open(policy: Path) -> Any:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data, whole = policy.read_bytes(), "an ONNX file with its weights inside"
    try:
        if _names_other_files(onnx.load_model_from_string(data)):
            raise _unfit(policy, "its weights are in other files, which could be any of this machine's", whole)
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except RequestError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unfit(policy, f"it cannot be opened: {first[:300]}", whole) from error


def _names_other_files(message: Any) -> bool:
    """Look for tensors with a `location`, wherever in the model they are."""
    for field, value in message.ListFields():
        if field.name == "external_data" or (field.name == "data_location" and value):
            return True
        if field.type == field.TYPE_MESSAGE:
            items = [value] if hasattr(value, "ListFields") else value
            if any(_names_other_files(item) for item in items):
                return True
    return False


def _unfit(policy: Path, why: str, allowed: str) -> RequestError:
    return RequestError(
        f"The policy {policy.name!r} does not fit this robot: {why}.",
        code="policy_does_not_fit",
        advice=f"Wanted: {allowed}.",
    )
