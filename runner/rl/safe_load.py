"""Opening a checkpoint file without running code that it may hold: each of the libraries loads pickles."""

from __future__ import annotations

import importlib
import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.rl import LIBRARIES

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
"""Magic number, protocol, system, the object and the storages' keys; the storages' bytes follow."""
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)")
_HARMLESS = ("torch._utils.", "torch.storage.", "collections.OrderedDict", "numpy.")
"""Names that say nothing where torch does not say which one it refused."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
"""Errors from reading a zip archive that is cut off or overwritten somewhere."""


def load(path: Path, allowed_globals: tuple[str, ...] = ()) -> dict[Any, Any]:
    """Load a checkpoint of any library without running anything that it may hold.

    Returns:
        What was saved, on the CPU; of an archive in a library's own format, what its `Library.read_archive` returns.

    Raises:
        RequestError: If it is damaged, no checkpoint, or holds more than tensors, numbers and containers.
    """
    if not path.is_file():
        raise no_checkpoint(path, "is no file")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise _truncated(path, "is empty")
    if head.startswith(_ZIP):
        return _load_zip(path, allowed_globals)
    if _ZIP.startswith(head):
        raise _truncated(path, f"has {len(head)} bytes")
    if head.startswith(_PICKLE):
        _require_whole_pickles(path)
        return _load_torch(path, path, allowed_globals)
    if head.startswith(b"version https://git-lfs"):
        raise no_checkpoint(path, "is a pointer of Git LFS", "Fetch the file itself: git lfs pull.")
    if path.suffix == ".onnx" or re.match(rb"\x08[\x03-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]", head):
        raise _exported(path, "ONNX")
    raise no_checkpoint(path, "is neither a zip archive nor a pickle")


def no_checkpoint(path: Path, why: str, advice: str = "") -> RequestError:
    """Return the error for a file that holds something else."""
    *examples, last = (library.file_example for library in LIBRARIES.values())
    return RequestError(
        f"{path.name!r} is no checkpoint: it {why}.",
        code="not_a_checkpoint",
        advice=advice or f"Give one that a training has saved: {', '.join(examples)} or {last}.",
    )


def _load_zip(path: Path, allowed: tuple[str, ...]) -> dict[Any, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise _truncated(path, f"is damaged at {damaged!r}")
            if min((member.header_offset for member in archive.infolist()), default=0):
                # What is left of an sb3 archive may end just where the archive inside it ends.
                raise _truncated(path, "ends too early")
            files = {name.rpartition("/")[2] for name in archive.namelist()}
            if "constants.pkl" in files:
                raise _exported(path, "TorchScript")
            if files & {"archive_format", "serialized_exported_program.json"}:
                raise _exported(path, "torch.export")

            def load_member(name: str) -> dict[Any, Any]:
                return _load_torch(path, io.BytesIO(archive.read(name)), allowed)

            for library in LIBRARIES.values():
                if (state := library.read_archive(path, archive, load_member)) is not None:
                    return state
    except _DAMAGED as error:
        raise _truncated(path, f"is no whole zip archive ({error})") from error
    if "data.pkl" not in files:
        raise no_checkpoint(path, "is a zip archive of other things")
    return _load_torch(path, path, allowed)


def _load_torch(path: Path, source: Path | io.BytesIO, allowed: tuple[str, ...]) -> dict[Any, Any]:
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals(source, allowed)):
            warnings.simplefilter("ignore")  # torch announces each pickle protocol but its own
            state = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, source, str(error)) from error
    except RequestError:
        raise
    except Exception as error:
        if isinstance(error, EOFError | struct.error | IndexError) or "unexpected EOF" in str(error):
            raise _truncated(path, "ends too early") from error
        raise no_checkpoint(path, f"does not load: {str(error).splitlines()[0] if str(error) else error!r}") from error
    if not isinstance(state, dict):
        raise no_checkpoint(path, f"holds a {type(state).__name__} where checkpoints hold a dictionary")
    return state


def _safe_globals(source: Path | io.BytesIO, allowed: tuple[str, ...]) -> list[Any]:
    """Return the globals a checkpoint may name besides torch's own: NumPy's numbers, and those the site allows.

    rl_games saves its best reward as a number of NumPy's; the four build numbers and nothing else. Of the site's
    names only those are imported that the file asks for.
    """
    import numpy as np

    scalar = np.float32(0).__reduce__()[0]
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
    wanted = set(_pickled_names(source)) if allowed else set()
    return numbers + [(_import(name), name) for name in allowed if name in wanted]


def _import(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(
            f"SIMYARD_SAFE_GLOBALS allows {name!r}, which cannot be imported: {error}",
            code="unknown_safe_global",
            advice="Install the package it is of for the simulator's Python, or correct the name.",
        ) from error


def _require_whole_pickles(path: Path) -> None:
    """Refuse a pickle that ends too early; it is read as a list of instructions and nothing of it is run."""
    with path.open("rb") as file:
        try:
            legacy = False
            for _, argument, _ in pickletools.genops(file):
                legacy = legacy or argument == _TORCH_MAGIC
            for _ in range(_LEGACY_PICKLES - 1 if legacy else 0):
                for _ in pickletools.genops(file):
                    pass
        except (ValueError, OverflowError, MemoryError) as error:
            if "opcode" in str(error) and "unknown" in str(error):
                raise no_checkpoint(path, "is no pickle") from error
            raise _truncated(path, "ends too early") from error


def _pickled_names(source: Path | io.BytesIO) -> list[str]:
    """Return the dotted names that a file's pickle asks for: to tell people, never to decide what is loaded."""
    names: list[str] = []
    with _pickle_of(source) as file:
        while True:
            try:
                names += _names_in(file)
            except ValueError:  # storages, or the end
                return names


def _pickle_of(source: Path | io.BytesIO) -> io.BytesIO:
    file = source if isinstance(source, Path) else io.BytesIO(source.getvalue())
    if not zipfile.is_zipfile(file):
        return io.BytesIO(file.read_bytes() if isinstance(file, Path) else file.getvalue())
    with zipfile.ZipFile(file) as archive:
        inside = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        return io.BytesIO(archive.read(inside[0]) if inside else b"")


def _names_in(file: io.BytesIO) -> list[str]:
    names: list[str] = []
    texts: list[str] = []
    memo: dict[int, Any] = {}
    last: Any = None
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            names.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.append(".".join(texts[-2:]))
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = last
            continue
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            argument = memo.get(int(argument or 0))
        last = argument
        if isinstance(last, str):
            texts.append(last)
    return names


def _refused(path: Path, source: Path | io.BytesIO, said: str) -> RequestError:
    """Return the error for a refused file, with the refused name: from torch's message, else from the pickle."""
    match = _REFUSED.search(said)
    names = [match.group(1)] if match else [name for name in _pickled_names(source) if not name.startswith(_HARMLESS)]
    if not names:
        return no_checkpoint(path, "is a pickle that torch does not take")
    advice = (
        "Only tensors, numbers and containers are loaded from outside. A site that trusts this class allows it by "
        f"name: SIMYARD_SAFE_GLOBALS={names[0]}"
    )
    if "is blocked" in said:
        advice = "That runs commands, and can never be allowed: do not use this file, wherever it came from."
    return RequestError(
        f"Checkpoint {path.name!r} is not plain weights: it asks for {names[0]!r}.",
        code="unsafe_checkpoint",
        advice=advice,
    )


def _truncated(path: Path, how: str) -> RequestError:
    return RequestError(
        f"Checkpoint {path.name!r} {how}.",
        code="checkpoint_truncated",
        advice="Copy it again, or use an earlier one: it was cut off while it was written or sent.",
    )


def _exported(path: Path, form: str) -> RequestError:
    return RequestError(
        f"{path.name!r} is an exported policy ({form}), not a checkpoint.",
        code="exported_policy",
        advice="Use the checkpoint that it was exported from, model_59.pt say.",
    )
