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

if TYPE_CHECKING:
    import torch

OPSET = 18
"""Of the ONNX files: ONNX Runtime reads it since 1.14, TensorRT since 9; Isaac Lab's own exporter takes it too."""
INPUT = "obs"
OUTPUT = "actions"
_LARGEST_BYTES = 2**31 - 2**20
"""Protocol buffers end at 2 GiB; with larger weights an ONNX model cannot be one file."""


def write_onnx(network: torch.nn.Module, observations: int, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the network as one ONNX file: input `obs`, output `actions`, any number of rows.

    torch's older exporter (by tracing) is used on purpose: for such networks it takes 0.3 s instead of 7 s, leaves
    no paths of this machine in the file, and runs on every torch that Isaac Lab 2.3 and 3.0 bring.

    Args:
        network: (batch, observations) -> (batch, actions), on the CPU, in evaluation mode, float32.
        observations: Numbers in one row of the input.
        path: Where the file goes; it is written beside and renamed.
        metadata: Goes into the file's `metadata_props`.

    Raises:
        RequestError: If the network does not fit one file, or has operators that ONNX has not.
    """
    import onnx
    import torch

    _require_plain(network)
    size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if size > _LARGEST_BYTES:
        raise RequestError(
            f"The network has {size / 2**30:.1f} GiB of weights; one ONNX file holds less than 2 GiB.",
            code="export_too_large",
        )
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                network,
                (torch.zeros(2, observations),),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"The network cannot be written as ONNX: {reason}", code="export_unsupported") from error
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    data = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data, full_check=True)
    write_atomic(path, data)


def write_torchscript(network: torch.nn.Module, observations: int, path: Path) -> None:
    """Write the network as a TorchScript file, by tracing: any number of rows.

    Args:
        network: (batch, observations) -> (batch, actions), on the CPU, in evaluation mode, float32.
        observations: Numbers in one row of the input.
        path: Where the file goes; it is written beside and renamed.
    """
    import torch

    _require_plain(network)
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad():
        traced = torch.jit.trace(network, torch.zeros(2, observations), check_trace=False)
        torch.jit.save(traced, buffer)
    write_atomic(path, buffer.getvalue())


def onnx_ports(path: Path) -> tuple[Port, Port]:
    """Return an ONNX file's only input and only output.

    Raises:
        ValueError: If it has more of them.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise ValueError(
            f"{path.name} has {len(graph.input)} inputs and {len(graph.output)} outputs, expected one each"
        )
    return _port(graph.input[0]), _port(graph.output[0])


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
