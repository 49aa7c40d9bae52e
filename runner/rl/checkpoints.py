"""Checkpoints from anywhere: found, opened without running code in them, and compared with what shall play them.

Everything here happens before a simulator starts. Each of the libraries loads pickles, which run whatever code a file
names; here nothing of a file is run. Every problem is a `RequestError` with a code of its own:
`unsafe_checkpoint`, `checkpoint_truncated`, `not_a_checkpoint`, `exported_policy`, `checkpoint_of_other_library`,
`checkpoint_of_old_rsl_rl`, `checkpoint_wrong_shape`, `checkpoint_wrong_normalizer`, `checkpoint_not_finite`.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.rl import LIBRARIES, Library, get_library
from simyard.runner.rl.base import CheckpointFacts, tensors_of

if TYPE_CHECKING:
    import torch

COMPILED = "_orig_mod."
"""Prefix of every name in a module compiled by torch.compile."""
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


def discover(folder: Path, library: str) -> list[Path]:
    """Return the checkpoints of a library in a folder and in its `checkpoints/` and `nn/`, the newest last.

    Numbers in names count as numbers. Files without one, such as `best_agent.pt`, are given only where no other is.
    """
    if folder.name == "exported":
        return []
    found = (path for place in places() for path in (folder / place).glob(get_library(library).file_glob))
    return newest_last({path for path in found if path.is_file()}, library)


def places() -> list[str]:
    """Return the folders below a run's where checkpoints are: a file may lie in one that is called as another's."""
    return sorted({"", *(library.file_folder for library in LIBRARIES.values())})


def newest_last(files: Iterable[Path], library: str) -> list[Path]:
    """Return those of some files that are named as a library's checkpoints, the newest last."""
    known = get_library(library)
    files = sorted(path for path in files if path.match(known.file_glob))
    numbered = [(order, path.name, path) for path in files if (order := known.order_of(path)) is not None]
    return [path for *_, path in sorted(numbered)] or files


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A policy's network by its task and agent configuration; None for a value that only the simulator knows."""

    inputs: int | None = None
    """Observations of one environment."""
    outputs: int | None = None
    """Actions of one environment."""
    hidden: tuple[int, ...] | None = None
    """Sizes of the actor's hidden layers."""
    normalized: bool | None = None
    """Whether observations are normalised with statistics from training."""


def inspect(
    path: Path, *, library: str, expected: Expected | None = None, allowed_globals: tuple[str, ...] = ()
) -> CheckpointFacts:
    """Open a checkpoint safely and compare it with what shall play it.

    Args:
        path: The file.
        library: The library it must be of.
        expected: What the task and the agent configuration say, from `expected_of`.
        allowed_globals: Dotted names of classes that it may hold besides plain tensors.

    Raises:
        RequestError: If it is no such checkpoint; see the module's documentation for the codes.
    """
    known = get_library(library)
    state = load(path, allowed_globals)

    # Its library, by its content: their names are alike.
    found = next((name for name, other in LIBRARIES.items() if other.wrote(state)), None)
    if found is None:
        keys = ", ".join(sorted(repr(str(key)) for key in state)[:6]) or "nothing"
        raise no_checkpoint(path, f"holds {keys}, which no library that simyard knows writes")
    if found != library:
        raise RequestError(
            f"Checkpoint {path.name!r} was written by {found}, and the job asks for {library}.",
            code="checkpoint_of_other_library",
            advice=f"Set rlLibrary to {found!r}, or use a checkpoint of {library}.",
        )
    known.require_playable(path, state)

    # Its numbers, those of the critic and the optimiser too.
    tensors = dict(tensors_of("", state))
    if broken := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
        raise RequestError(
            f"Checkpoint {path.name!r} has NaN or infinite values in {len(broken)} of its {len(tensors)} tensors, "
            f"the first in {broken[0]!r}.",
            code="checkpoint_not_finite",
            advice="The training diverged: use an earlier checkpoint, and a lower learning rate next time.",
        )

    # Its network.
    part = known.actor_of(state)
    weights = tensors_of("", dict(part)) if part else ()
    if not (actor := {name.removeprefix(COMPILED): tensor for name, tensor in weights}):
        raise no_checkpoint(path, "holds no weights of an actor")
    facts = known.read(state, actor)
    if expected is not None:
        _compare(path, facts, expected, known)
    return facts


def _is_finite(tensor: torch.Tensor) -> bool:
    try:
        return bool(tensor.isfinite().all())
    except (RuntimeError, NotImplementedError):  # one without numbers
        return False


def _compare(path: Path, facts: CheckpointFacts, expected: Expected, library: Library) -> None:
    wrong = [
        text
        for found, wanted, text in (
            (facts.inputs, expected.inputs, "takes {} observations, and the task gives {}"),
            (facts.outputs, expected.outputs, "gives {} actions, and the task takes {}"),
            (facts.hidden, expected.hidden, "has hidden layers of {}, and the agent configuration says {}"),
        )
        if found is not None and wanted is not None and found != wanted
        for text in [text.format(_sizes(found), _sizes(wanted))]
    ]
    if wrong:
        raise RequestError(
            f"Checkpoint {path.name!r} {'; it '.join(wrong)}.",
            code="checkpoint_wrong_shape",
            advice="Give the task and the overrides it was trained with; hidden layers are set by "
            f"{library.hidden_key}.",
        )
    if facts.normalized is not None and expected.normalized not in (None, facts.normalized):
        holds, does = ("holds", "does not use") if facts.normalized else ("lacks", "uses")
        raise RequestError(
            f"Checkpoint {path.name!r} {holds} statistics to normalise observations with, and the agent configuration "
            f"{does} them.",
            code="checkpoint_wrong_normalizer",
            advice=f"Give the overrides it was trained with; this is {library.normalizer_key}.",
        )


def _sizes(value: int | tuple[int, ...]) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


# --- opened, without running code -----------------------------------------------------------------------------------


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
        # The refused name is in torch's message, else in the pickle.
        if match := _REFUSED.search(str(error)):
            names = [match.group(1)]
        else:
            names = [name for name in _pickled_names(source) if not name.startswith(_HARMLESS)]
        if not names:
            raise no_checkpoint(path, "is a pickle that torch does not take") from error
        advice = (
            "Only tensors, numbers and containers are loaded from outside. A site that trusts this class allows it by "
            f"name: SIMYARD_SAFE_GLOBALS={names[0]}"
        )
        if "is blocked" in str(error):
            advice = "That runs commands, and can never be allowed: do not use this file, wherever it came from."
        raise RequestError(
            f"Checkpoint {path.name!r} is not plain weights: it asks for {names[0]!r}.",
            code="unsafe_checkpoint",
            advice=advice,
        ) from error
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
    for name in allowed:
        if name in wanted:
            module, _, attribute = name.rpartition(".")
            try:
                numbers.append((getattr(importlib.import_module(module), attribute), name))
            except (ImportError, AttributeError, ValueError) as error:
                raise RequestError(
                    f"SIMYARD_SAFE_GLOBALS allows {name!r}, which cannot be imported: {error}",
                    code="unknown_safe_global",
                    advice="Install the package it is of for the simulator's Python, or correct the name.",
                ) from error
    return numbers


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
    where = source if isinstance(source, Path) else io.BytesIO(source.getvalue())
    if zipfile.is_zipfile(where):
        with zipfile.ZipFile(where) as archive:
            inside = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            data = archive.read(inside[0]) if inside else b""
    else:
        data = where.read_bytes() if isinstance(where, Path) else where.getvalue()
    file, names = io.BytesIO(data), list[str]()
    while True:
        try:
            names += _names_in(file)
        except ValueError:  # storages, or the end
            return names


def _names_in(file: io.BytesIO) -> list[str]:
    """Return those of the pickle that begins here, and go behind it."""
    names: list[str] = []
    texts: list[str] = []
    memo: dict[int, object] = {}
    last: object = None
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = last
            continue
        if opcode.name == "GLOBAL":
            names.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.append(".".join(texts[-2:]))
        last = memo.get(int(argument or 0)) if opcode.name in ("GET", "BINGET", "LONG_BINGET") else argument
        if isinstance(last, str):
            texts.append(last)
    return names


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


# --- what is expected -----------------------------------------------------------------------------------------------


def expected_of(library: str, env_cfg: Any, agent_cfg: Any, task: str | None = None) -> Expected:
    """Return the facts about a policy's network that are known without a simulator.

    Args:
        library: The library's name.
        env_cfg: The environment's resolved configuration, as an object or as a dictionary.
        agent_cfg: The agent's, likewise.
        task: The registered id, where the task is registered. Some environments change their own configuration when
            they are made; its source is then asked, and the sizes stay unknown.
    """
    known = get_library(library)
    if not known.is_own_network(agent_cfg):
        return Expected()
    sized = setting(env_cfg, "obs_order") is None and not _sizes_itself(task)
    groups = known.observation_groups(agent_cfg)
    # Of other groups than this one the task does not give the size.
    sees_policy_only = groups is None or list(groups) == ["policy"]
    inputs = _size(setting(env_cfg, "observation_space")) if sized and sees_policy_only else None
    sizes = known.hidden_sizes(agent_cfg)
    hidden = None
    if isinstance(sizes, list | tuple) and all(isinstance(size, int) for size in sizes):
        hidden = tuple(sizes)
    if hidden and -1 in hidden:  # as many as there are inputs
        hidden = tuple(inputs if size == -1 else size for size in hidden) if inputs else None
    return Expected(
        inputs=inputs,
        outputs=_size(setting(env_cfg, "action_space")) if sized else None,
        hidden=hidden,
        normalized=known.normalizes(agent_cfg),
    )


def setting(config: Any, dotted: str) -> Any:
    """Return a value of a configuration, or None where it has none; Isaac Lab prints what is missing as `{}`."""
    for key in dotted.split("."):
        config = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    return None if type(config).__name__ == "_MISSING_TYPE" or config == {} else config


def _size(space: Any) -> int | None:
    return space if isinstance(space, int) and not isinstance(space, bool) and space > 0 else None


def _sizes_itself(task: str | None) -> bool:
    """Return True for an environment whose source assigns spaces to its configuration; nothing is imported."""
    import gymnasium

    spec = gymnasium.registry.get(task.split(":")[-1]) if task else None
    if spec is None or not isinstance(spec.entry_point, str):
        return False
    found = importlib.util.find_spec(spec.entry_point.partition(":")[0])
    if found is None or not found.origin:
        return False
    source = Path(found.origin).read_text(encoding="utf-8")
    return bool(re.search(r"cfg\.(observation|action)_space\s*[-+*]?=[^=]", source))


# --- what is inside, for the libraries ------------------------------------------------------------------------------


def layers_of(tensors: Mapping[str, torch.Tensor], prefix: str) -> list[tuple[int, int]]:
    """Return (outputs, inputs) of the linear layers below a name, in order."""
    found = {}
    for name, tensor in tensors.items():
        index = name.removeprefix(prefix).removesuffix(".weight")
        if name.startswith(prefix) and name.endswith(".weight") and index.isdigit() and tensor.dim() == 2:
            found[int(index)] = (int(tensor.shape[0]), int(tensor.shape[1]))
    return [found[index] for index in sorted(found)]


def length_of(tensors: Mapping[str, torch.Tensor], *names: str) -> int | None:
    """Return the length of the first vector there is."""
    for name in names:
        if name in tensors and tensors[name].dim() == 1:
            return int(tensors[name].shape[0])
    return None
