"""Checkpoints from anywhere: found, opened without running code in them, and compared with what shall play them.

Everything here happens before a simulator starts. Every problem is a `RequestError` with a code of its own:
`unsafe_checkpoint`, `checkpoint_truncated`, `not_a_checkpoint`, `exported_policy`, `checkpoint_of_other_library`,
`checkpoint_of_old_rsl_rl`, `checkpoint_wrong_shape`, `checkpoint_wrong_normalizer`, `checkpoint_not_finite`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.rl import LIBRARIES, Library, get_library
from simyard.runner.rl.base import CheckpointFacts
from simyard.runner.rl.safe_load import load, no_checkpoint

COMPILED = "_orig_mod."
"""Prefix of every name in a module compiled by torch.compile."""


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
    _require_library(path, state, known)
    tensors = dict(tensors_of("", state))
    if broken := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
        raise RequestError(
            f"Checkpoint {path.name!r} has NaN or infinite values in {len(broken)} of its {len(tensors)} tensors, "
            f"the first in {broken[0]!r}.",
            code="checkpoint_not_finite",
            advice="The training diverged: use an earlier checkpoint, and a lower learning rate next time.",
        )
    parts = [state[key] for key in known.actor_keys if isinstance(state.get(key), Mapping)]
    found = tensors_of("", dict(parts[0])) if parts else ()
    if not (actor := {name.removeprefix(COMPILED): tensor for name, tensor in found}):
        raise no_checkpoint(path, "holds no weights of an actor")
    facts = replace(known.read(state, actor), tensors=len(tensors))
    if expected is not None:
        _compare(path, facts, expected, known)
    return facts


def written_by(state: Mapping[Any, Any]) -> str | None:
    """Return the library that wrote what `load` returned, or None when it is of none that simyard knows."""
    return next((name for name, library in LIBRARIES.items() if library.wrote(state)), None)


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
    sized = setting(env_cfg, "obs_order") is None and not _sizes_itself(task)
    inputs = _size(setting(env_cfg, "observation_space")) if sized and known.sees_policy_only(agent_cfg) else None
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


def discover(folder: Path, library: str) -> list[Path]:
    """Return the checkpoints of a library in a folder and in its `checkpoints/` and `nn/`, the newest last.

    Numbers in names count as numbers. Files without one, such as `best_agent.pt`, are given only where no other is.
    """
    if folder.name == "exported":
        return []
    known = get_library(library)
    # A file of any library may lie in a folder that is called as another's.
    places = [folder / name for name in sorted({"", *(other.file_folder for other in LIBRARIES.values())})]
    files = sorted({path for place in places for path in place.glob(known.file_glob) if path.is_file()})
    numbered = [(order, path.name, path) for path in files if (order := known.order_of(path)) is not None]
    return [path for *_, path in sorted(numbered)] or files


# --- what is inside -----------------------------------------------------------------------------------------------


def _require_library(path: Path, state: Mapping[Any, Any], library: Library) -> None:
    found = written_by(state)
    if found is None:
        keys = ", ".join(sorted(repr(str(key)) for key in state)[:6]) or "nothing"
        raise no_checkpoint(path, f"holds {keys}, which no library that simyard knows writes")
    if found != library.name:
        raise RequestError(
            f"Checkpoint {path.name!r} was written by {found}, and the job asks for {library.name}.",
            code="checkpoint_of_other_library",
            advice=f"Set rlLibrary to {found!r}, or use a checkpoint of {library.name}.",
        )
    library.require_playable(path, state)


def layers_of(tensors: Mapping[str, Any], prefix: str) -> list[tuple[int, int]]:
    """Return (outputs, inputs) of the linear layers below a name, in order."""
    found = {}
    for name, tensor in tensors.items():
        index = name.removeprefix(prefix).removesuffix(".weight")
        if name.startswith(prefix) and name.endswith(".weight") and index.isdigit() and tensor.dim() == 2:
            found[int(index)] = (int(tensor.shape[0]), int(tensor.shape[1]))
    return [found[index] for index in sorted(found)]


def length_of(tensors: Mapping[str, Any], *names: str) -> int | None:
    """Return the length of the first vector there is."""
    for name in names:
        if name in tensors and tensors[name].dim() == 1:
            return int(tensors[name].shape[0])
    return None


def _is_finite(tensor: Any) -> bool:
    try:
        return bool(tensor.isfinite().all())
    except (RuntimeError, NotImplementedError):  # one without numbers
        return False


def tensors_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, tensor) of every tensor in nested containers, below a name."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from tensors_of(f"{name}.{key}" if name else str(key), item)


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


# --- what is expected ---------------------------------------------------------------------------------------------


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
