"""Checkpoints from anywhere: found, opened without running code in them, and compared with what shall play them.

Everything here happens before a simulator starts. Every problem is a `RequestError` with a code of its own:
`unsafe_checkpoint`, `checkpoint_truncated`, `not_a_checkpoint`, `exported_policy`, `checkpoint_of_other_library`,
`checkpoint_of_old_rsl_rl`, `checkpoint_wrong_shape`, `checkpoint_wrong_normalizer`, `checkpoint_not_finite`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.rl import get_library
from simyard.runner.rl.safe_load import SB3_POLICY, load, no_checkpoint

_COMPILED = "_orig_mod."
"""What torch.compile puts before every name."""
_NAMES = {"skrl": re.compile(r"agent_(\d+)\.pt"), "sb3": re.compile(r"model_(\d+)_steps\.zip")}
"""File names numbered in steps; of the other libraries `Library.iteration_in_name` knows."""
_UNNUMBERED = {"rsl_rl": "*.pt", "skrl": "*.pt", "rl_games": "*.pth", "sb3": "model*.zip"}
_FOLDERS = ("", "checkpoints", "nn")

_HIDDEN_KEY = {
    "rsl_rl": "agent.actor.hidden_dims",
    "skrl": "agent.models.policy.network",
    "rl_games": "agent.params.network.mlp.units",
    "sb3": "agent.policy_kwargs.net_arch",
}
"""The override that sets the hidden layers."""
_NORMALIZER_KEY = {
    "rsl_rl": "agent.actor.obs_normalization",
    "skrl": "agent.agent.state_preprocessor",
    "rl_games": "agent.params.config.normalize_input",
}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a task and its agent configuration say of a policy; None where only the simulator can tell."""

    inputs: int | None = None
    """Observations of one environment."""
    outputs: int | None = None
    """Actions of one environment."""
    hidden: tuple[int, ...] | None = None
    """Sizes of the actor's hidden layers."""
    normalized: bool | None = None
    """Whether observations are normalised with statistics from training."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint says of itself; None where it does not."""

    library: str
    """The library that wrote it."""
    iteration: int | None
    """Iterations that were finished when it was saved."""
    inputs: int | None
    """Observations its actor takes."""
    outputs: int | None
    """Actions its actor gives."""
    hidden: tuple[int, ...] | None
    """Sizes of the actor's hidden layers."""
    normalized: bool | None
    """Whether it holds statistics of the observations; sb3 keeps them in a file of their own."""
    recurrent: bool
    """Whether the actor has a memory."""
    tensors: int = 0
    """How many tensors it holds, the optimiser's included."""


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
    state = load(path, allowed_globals)
    _require_library(path, state, library)
    tensors = dict(_tensors("", state))
    if broken := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
        raise RequestError(
            f"Checkpoint {path.name!r} has NaN or infinite values in {len(broken)} of its {len(tensors)} tensors, "
            f"the first in {broken[0]!r}.",
            code="checkpoint_not_finite",
            advice="The training diverged: use an earlier checkpoint, and a lower learning rate next time.",
        )
    if not (actor := _actor(state, library)):
        raise no_checkpoint(path, "holds no weights of an actor")
    facts = replace(_READERS[library](state, actor), tensors=len(tensors))
    if expected is not None:
        _compare(path, facts, expected)
    return facts


def written_by(state: Mapping[Any, Any]) -> str | None:
    """Return the library that wrote what `load` returned, or None when it is of none that simyard knows."""
    if SB3_POLICY in state:
        return "sb3"
    if "actor_state_dict" in state or "student_state_dict" in state or "model_state_dict" in state:
        return "rsl_rl"
    if isinstance(state.get("policy"), Mapping):
        return "skrl"
    model = state.get("model")
    if isinstance(model, Mapping) and any(str(name).removeprefix(_COMPILED).startswith("a2c_") for name in model):
        return "rl_games"
    return None


def expected_of(library: str, env_cfg: Any, agent_cfg: Any, task: str | None = None) -> Expected:
    """Return what is known of a policy's network without a simulator.

    Args:
        library: The library's name.
        env_cfg: The environment's resolved configuration, as an object or as a dictionary.
        agent_cfg: The agent's, likewise.
        task: The registered id, where the task is registered. Some environments change their own configuration when
            they are made; its source is then asked, and the sizes stay unknown.
    """
    sized = _get(env_cfg, "obs_order") is None and not _sizes_itself(task)
    inputs = _size(_get(env_cfg, "observation_space")) if sized and _sees_policy_only(library, agent_cfg) else None
    hidden = _hidden_of(library, agent_cfg)
    if hidden and -1 in hidden:  # rsl_rl: as many as there are inputs
        hidden = tuple(inputs if size == -1 else size for size in hidden) if inputs else None
    return Expected(
        inputs=inputs,
        outputs=_size(_get(env_cfg, "action_space")) if sized else None,
        hidden=hidden,
        normalized=_normalizes(library, agent_cfg),
    )


def discover(folder: Path, library: str) -> list[Path]:
    """Return the checkpoints of a library in a folder and in its `checkpoints/` and `nn/`, the newest last.

    Numbers in names count as numbers. Files without one, such as `best_agent.pt`, are given only where no other is.
    """
    if folder.name == "exported":
        return []
    places = [folder / name for name in _FOLDERS]
    files = sorted({path for place in places for path in place.glob(_UNNUMBERED[library]) if path.is_file()})
    numbered = [(number, path) for path in files if (number := _number(path, library)) is not None]
    # What sb3 saves in the end has the number of the last one before it, or a greater one.
    numbered.sort(key=lambda item: (item[0], item[1].name == "model.zip", item[1].name))
    return [path for _, path in numbered] or files


# --- discovery ----------------------------------------------------------------------------------------------------


def _number(path: Path, library: str) -> int | None:
    if library == "sb3" and path.name == "model.zip":
        return _timesteps(path)
    if library in _NAMES:
        match = _NAMES[library].fullmatch(path.name)
        return int(match.group(1)) if match else None
    return get_library(library).iteration_in_name(path.name)


def _timesteps(path: Path) -> int | None:
    """Return how far the policy of a final `model.zip` is: the name does not say, and it is the newest of its run."""
    try:
        with zipfile.ZipFile(path) as archive:
            return int(json.loads(archive.read("data"))["num_timesteps"])
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError):
        return None


# --- what is inside -----------------------------------------------------------------------------------------------


def _require_library(path: Path, state: Mapping[Any, Any], library: str) -> None:
    found = written_by(state)
    if found is None:
        keys = ", ".join(sorted(repr(str(key)) for key in state)[:6]) or "nothing"
        raise no_checkpoint(path, f"holds {keys}, which no library that simyard knows writes")
    if found != library:
        raise RequestError(
            f"Checkpoint {path.name!r} was written by {found}, and the job asks for {library}.",
            code="checkpoint_of_other_library",
            advice=f"Set rlLibrary to {found!r}, or use a checkpoint of {library}.",
        )
    if found == "rsl_rl" and "actor_state_dict" not in state and "student_state_dict" not in state:
        raise RequestError(
            f"Checkpoint {path.name!r} was written by an rsl_rl before 4.0, which kept actor and critic together.",
            code="checkpoint_of_old_rsl_rl",
            advice="Train anew, or play it with the Isaac Lab it was trained with (2.3 has rsl_rl 3.1).",
        )


def _read_rsl_rl(state: Mapping[Any, Any], actor: dict[str, Any]) -> CheckpointFacts:
    layers = _linears(actor, "mlp.")
    memory = actor.get("rnn.rnn.weight_ih_l0")
    images = any(name.startswith("cnns.") for name in actor)
    seen = memory.shape[1] if memory is not None else layers[0][1] if layers else None
    index = state.get("iter")
    return CheckpointFacts(
        library="rsl_rl",
        iteration=index + 1 if isinstance(index, int) else None,  # it is the last one's, counted from 0
        inputs=None if images else seen,
        outputs=_length(actor, "distribution.std_param", "distribution.log_std_param"),
        hidden=tuple(size for size, _ in layers[:-1]) if layers else None,
        normalized=any(name.startswith("obs_normalizer.") for name in actor),
        recurrent=memory is not None,
    )


def _read_skrl(state: Mapping[Any, Any], policy: dict[str, Any]) -> CheckpointFacts:
    containers = {name.partition(".")[0] for name in policy if name.partition(".")[0].endswith("_container")}
    layers = _linears(policy, f"{containers.pop()}.") if len(containers) == 1 else []
    # A model that shares its layers with the value has its last one apart.
    hidden = layers if "policy_layer.weight" in policy else layers[:-1]
    return CheckpointFacts(
        library="skrl",
        iteration=None,
        inputs=layers[0][1] if layers else None,
        outputs=_length(policy, "log_std_parameter"),
        hidden=tuple(size for size, _ in hidden) if layers else None,
        normalized="observation_preprocessor" in state,
        recurrent=any(name.rpartition(".")[2].startswith("weight_ih_l") for name in policy),
    )


def _read_rl_games(state: Mapping[Any, Any], model: dict[str, Any]) -> CheckpointFacts:
    layers = _linears(model, "a2c_network.actor_mlp.")
    recurrent = any(part in name for name in model for part in (".rnn.", ".a_rnn."))
    images = any(name.startswith("a2c_network.actor_cnn.") for name in model)
    head = model.get("a2c_network.mu.weight")
    seen = layers[0][1] if layers and not recurrent else None
    return CheckpointFacts(
        library="rl_games",
        iteration=state["epoch"] if isinstance(state.get("epoch"), int) else None,
        inputs=None if images else _length(model, "running_mean_std.running_mean") or seen,
        outputs=None if head is None else int(head.shape[0]),
        hidden=tuple(size for size, _ in layers) or None,
        normalized=any(name.startswith("running_mean_std.") for name in model),
        recurrent=recurrent,
    )


def _read_sb3(state: Mapping[Any, Any], policy: dict[str, Any]) -> CheckpointFacts:
    data = state["data"]
    layers = _linears(policy, "mlp_extractor.policy_net.")
    head = policy.get("action_net.weight")
    seen = layers[0][1] if layers else None if head is None else int(head.shape[1])
    recurrent = any(name.startswith("lstm_") for name in policy)
    images = any(name.startswith("features_extractor.") for name in policy)
    counts = [data.get(key) for key in ("num_timesteps", "n_envs", "n_steps")]
    whole = all(isinstance(count, int) and count > 0 for count in counts)
    return CheckpointFacts(
        library="sb3",
        iteration=counts[0] // (counts[1] * counts[2]) if whole else None,
        inputs=None if images or recurrent else seen,
        outputs=_length(policy, "log_std"),
        hidden=None if head is None else tuple(size for size, _ in layers),
        normalized=None,
        recurrent=recurrent,
    )


_ACTORS: dict[str, tuple[str, ...]] = {
    "rsl_rl": ("actor_state_dict", "student_state_dict"),
    "skrl": ("policy",),
    "rl_games": ("model",),
    "sb3": (SB3_POLICY,),
}
"""Where each library keeps the actor."""
_READERS: dict[str, Callable[[Mapping[Any, Any], dict[str, Any]], CheckpointFacts]] = {
    "rsl_rl": _read_rsl_rl,
    "skrl": _read_skrl,
    "rl_games": _read_rl_games,
    "sb3": _read_sb3,
}


def _actor(state: Mapping[Any, Any], library: str) -> dict[str, Any]:
    """Return the actor's tensors by name."""
    for key in _ACTORS[library]:
        if isinstance(state.get(key), Mapping):
            return {name.removeprefix(_COMPILED): tensor for name, tensor in _tensors("", dict(state[key]))}
    return {}


def _linears(tensors: Mapping[str, Any], prefix: str) -> list[tuple[int, int]]:
    """Return (outputs, inputs) of the linear layers below a name, in order."""
    found = {}
    for name, tensor in tensors.items():
        index = name.removeprefix(prefix).removesuffix(".weight")
        if name.startswith(prefix) and name.endswith(".weight") and index.isdigit() and tensor.dim() == 2:
            found[int(index)] = (int(tensor.shape[0]), int(tensor.shape[1]))
    return [found[index] for index in sorted(found)]


def _length(tensors: Mapping[str, Any], *names: str) -> int | None:
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


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _tensors(f"{name}.{key}" if name else str(key), item)


def _compare(path: Path, facts: CheckpointFacts, expected: Expected) -> None:
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
        key = _HIDDEN_KEY[facts.library]
        raise RequestError(
            f"Checkpoint {path.name!r} {'; it '.join(wrong)}.",
            code="checkpoint_wrong_shape",
            advice=f"Give the task and the overrides it was trained with; hidden layers are set by {key}.",
        )
    if facts.normalized is not None and expected.normalized not in (None, facts.normalized):
        holds, does = ("holds", "does not use") if facts.normalized else ("lacks", "uses")
        raise RequestError(
            f"Checkpoint {path.name!r} {holds} statistics to normalise observations with, and the agent configuration "
            f"{does} them.",
            code="checkpoint_wrong_normalizer",
            advice=f"Give the overrides it was trained with; this is {_NORMALIZER_KEY[facts.library]}.",
        )


def _sizes(value: int | tuple[int, ...]) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


# --- what is expected ---------------------------------------------------------------------------------------------


def _get(config: Any, dotted: str) -> Any:
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


def _sees_policy_only(library: str, agent_cfg: Any) -> bool:
    """Return False where the actor sees other groups of observations than the one the task gives the size of."""
    groups = {
        "rsl_rl": _get(agent_cfg, "obs_groups.actor"),
        "rl_games": _get(agent_cfg, "params.env.obs_groups.obs"),
    }.get(library)
    return groups is None or list(groups) == ["policy"]


def _hidden_of(library: str, agent_cfg: Any) -> tuple[int, ...] | None:
    sizes: Any = None
    if library == "rsl_rl":
        sizes = _get(agent_cfg, "actor.hidden_dims") or _get(agent_cfg, "policy.actor_hidden_dims")
    elif library == "skrl":
        containers = _get(agent_cfg, "models.policy.network") or []
        sizes = containers[0].get("layers") if len(containers) == 1 else None
    elif library == "rl_games" and not _get(agent_cfg, "params.network.mlp.d2rl"):
        sizes = _get(agent_cfg, "params.network.mlp.units")
    elif library == "sb3":
        sizes = _get(agent_cfg, "policy_kwargs.net_arch")
        sizes = sizes.get("pi") if isinstance(sizes, Mapping) else sizes
    if not isinstance(sizes, list | tuple) or not all(isinstance(size, int) for size in sizes):
        return None
    return tuple(sizes)


def _normalizes(library: str, agent_cfg: Any) -> bool | None:
    if library == "rsl_rl":
        keys = ("actor.obs_normalization", "policy.actor_obs_normalization", "empirical_normalization")
        return any(bool(_get(agent_cfg, key)) for key in keys)
    if library == "skrl":
        agent = agent_cfg["agent"]
        # The older name counts only where the newer one does not stand at all.
        return bool(agent.get("observation_preprocessor", agent.get("state_preprocessor")))
    if library == "rl_games":
        return bool(_get(agent_cfg, "params.config.normalize_input"))
    return None
