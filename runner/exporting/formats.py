"""A network as files that run without simyard, Isaac Lab and the library that trained it."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.core.files import write_atomic
from simyard.runner.exporting.contract import Port
from simyard.runner.rl.networks import ACTIONS

if TYPE_CHECKING:
    import torch

    from simyard.runner.rl.networks import Network

OPSET = 18
"""Of the ONNX files: ONNX Runtime reads it since 1.14, TensorRT since 9; Isaac Lab's own exporter takes it too."""
_LARGEST_BYTES = 2**31 - 2**20
"""Protocol buffers end at 2 GiB; with larger weights an ONNX model cannot be one file."""


def write_onnx(network: Network, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the network as one ONNX file for any number of rows: its inputs and states, `actions` and the next states.

    torch's older exporter (by tracing) is used on purpose: for such networks it takes 0.3 s instead of 7 s, leaves
    no paths of this machine in the file, and runs on every torch that Isaac Lab 2.3 and 3.0 bring.

    Args:
        network: What is written.
        path: Where the file goes; it is written beside and renamed.
        metadata: Goes into the file's `metadata_props`.

    Raises:
        RequestError: If the network does not fit one file, or has operators that ONNX has not.
    """
    import onnx
    import torch

    module = network.module
    _require_plain(module)
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    if size > _LARGEST_BYTES:
        raise RequestError(
            f"The network has {size / 2**30:.1f} GiB of weights; one ONNX file holds less than 2 GiB.",
            code="export_too_large",
        )
    taken = [*(each.name for each in network.inputs), *(state.taken for state in network.states)]
    given = [ACTIONS, *(state.given for state in network.states)]
    batch_of = {name: 1 for state in network.states for name in (state.taken, state.given)}
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                network.zeros(2),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=taken,
                output_names=given,
                dynamic_axes={name: {batch_of.get(name, 0): "batch"} for name in (*taken, *given)},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"The network cannot be written as ONNX: {reason}", code="export_unsupported") from error
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    data = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data, full_check=True)
    write_atomic(path, data)


def write_torchscript(network: Network, path: Path) -> None:
    """Write the network as a TorchScript file, by tracing: any number of rows, which come with the inputs alone.

    One with a memory keeps its states, and has `reset()` and `reset(rows)`, of a truth value for each row.

    Args:
        network: What is written.
        path: Where the file goes; it is written beside and renamed.
    """
    import torch

    _require_plain(network.module)
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad():
        module = _remembering(network) if network.states else network.module
        example = network.zeros(2)[: len(network.inputs)]
        if not network.states:
            module = torch.jit.trace(module, example, check_trace=False)
        torch.jit.save(module, buffer)
    write_atomic(path, buffer.getvalue())


def _remembering(network: Network) -> torch.jit.ScriptModule:
    """Return the network with its states inside; they are made for as many rows as come first after a reset."""
    import torch

    count = len(network.inputs)

    class Core(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network.module

        def forward(self, inputs: list[torch.Tensor], states: list[torch.Tensor]) -> Any:
            actions, *after = self.network(*inputs, *states)
            return actions, after

    class Remembering(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, core: Any) -> None:
            super().__init__()
            self.core = core
            sizes = [[state.layers, state.size] for state in network.states]
            self.sizes = torch.jit.Attribute(sizes, list[list[int]])
            self.states = torch.jit.Attribute([], list[torch.Tensor])

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            if len(self.states) == 0:
                for size in self.sizes:
                    zeros = torch.zeros([size[0], obs.size(0), size[1]], dtype=obs.dtype, device=obs.device)
                    self.states.append(zeros)
            if self.states[0].size(1) != obs.size(0):
                raise ValueError("The memory is of another number of rows: call reset() before the batch changes.")
            actions, after = self.core([obs], self.states)
            self.states = after
            return actions

        @torch.jit.export  # type: ignore[untyped-decorator]
        def reset(self, rows: torch.Tensor | None = None) -> None:
            if rows is None:
                self.states = torch.jit.annotate(list[torch.Tensor], [])
            else:
                for n in range(len(self.states)):
                    self.states[n] = self.states[n].masked_fill(rows.view(1, -1, 1), 0.0)

    example = network.zeros(2)
    core = torch.jit.trace(Core().eval(), (list(example[:count]), list(example[count:])), check_trace=False)
    return torch.jit.script(Remembering(core).eval())


def onnx_ports(path: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return an ONNX file's inputs and outputs, in order."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return tuple(map(_port, graph.input)), tuple(map(_port, graph.output))


def _port(value: Any) -> Port:
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
    return Port(name=value.name, shape=shape, dtype="float32")


def _require_plain(network: torch.nn.Module) -> None:
    """Refuse a network that would be exported wrongly without an error."""
    import torch

    if network.training:
        raise ValueError("The network is in training mode: call eval() before it is exported.")
    wrong = {f"{t.dtype} on {t.device}" for t in network.parameters() if t.dtype != torch.float32 or t.is_cuda}
    if wrong:
        raise ValueError(f"The network has weights of {sorted(wrong)}, expected torch.float32 on cpu.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's deprecations and tracing notes: parity with the library's own inference judges the result."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
