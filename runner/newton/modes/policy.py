from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.newton.mode import Mode
from simyard.runner.newton.robots import Robot

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation


@dataclass(kw_only=True)
class Policy(Mode):
    """Follow the job's ONNX file, which takes joint positions and velocities and returns position targets."""

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Open the file and run it once on a zero observation of every shape that it will get."""
        if policy is None:
            return
        import numpy as np

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
        try:
            action = session.run([outputs[0].name], {inputs[0].name: np.zeros((2, wanted), np.float32)})[0]
        except Exception as error:
            raise _unfit(
                policy, f"it does not run: {str(error).strip()[:300]}", "a network of ONNX's own operators"
            ) from error
        if action.shape != (2, actions):
            raise _unfit(
                policy,
                f"its output for a batch of 2 is {action.shape}",
                f"(batch, {actions}), a target for each of {', '.join(robot.driven)}",
            )

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Open the file; it runs on the CPU wherever the simulation is."""
        assert policy is not None
        self._simulation = simulation
        self._session = _open(policy)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def targets(self, step: int) -> torch.Tensor:
        """Return the network's action for the joints' present positions and velocities."""
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
