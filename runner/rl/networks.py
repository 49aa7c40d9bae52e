"""A policy's network, taken out of its library: one module of plain operations, and all that goes in and comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from simyard.core.errors import RequestError

if TYPE_CHECKING:
    import torch

OBSERVATIONS = "obs"
"""Name of the input that takes vectors."""
ACTIONS = "actions"
"""Name of the output."""
Layout = Literal["NCHW", "NHWC"]
"""Order of the sides of an image, behind the rows."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """Input of a network: vectors of observation groups side by side, or the images of one group."""

    name: str
    groups: tuple[str, ...]
    """Observation groups in it, concatenated in this order; one for images."""
    shape: tuple[int, ...]
    """Of one row: (numbers,), or the three sides of an image."""
    layout: Layout | None = None
    """Order of an image's sides, `NCHW` or `NHWC`; None for vectors, and where it is not known."""

    @property
    def is_image(self) -> bool:
        """Whether it takes images."""
        return len(self.shape) > 1

    def take(self, observations: Mapping[str, Any]) -> torch.Tensor:
        """Return the tensor that goes in, from the groups as the environment gives them."""
        import torch

        parts = [observations[group] for group in self.groups]
        return parts[0] if self.is_image else torch.cat(parts, dim=-1)


@dataclass(frozen=True, kw_only=True)
class State:
    """Part of a network's memory, `(layers, batch, size)`: zeros where an episode begins."""

    name: str
    layers: int
    size: int

    @property
    def taken(self) -> str:
        """Name of the input that takes it."""
        return f"{self.name}_in"

    @property
    def given(self) -> str:
        """Name of the output that gives the next one."""
        return f"{self.name}_out"

    def zeros(self, batch: int) -> torch.Tensor:
        """Return it as it is where every episode begins."""
        import torch

        return torch.zeros(self.layers, batch, self.size)


LSTM, GRU = ("h", "c"), ("h",)
"""Names of the states of each kind of memory, as RSL-RL's own exporter has them."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A policy as one module for export."""

    module: torch.nn.Module
    """`(*inputs, *states)` -> actions, or -> (actions, the next states) where there is a memory; each with the batch
    first, a state with it in the middle. On the CPU, in evaluation mode, float32; normaliser and clipping inside."""
    inputs: tuple[Input, ...]
    states: tuple[State, ...] = ()

    def zeros(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Return an example of everything that goes in."""
        import torch

        observations = (torch.zeros(batch, *each.shape) for each in self.inputs)
        return (*observations, *(state.zeros(batch) for state in self.states))


def as_network(forward: Callable[..., Any], **parts: Any) -> torch.nn.Module:
    """Return a function of observations as one module of plain operations.

    Tracing leaves the libraries' classes behind: what comes back holds torch's own layers and calls, whatever Python
    the library runs around them, so that TorchScript and ONNX take it.

    Args:
        forward: The function, of the parts and of torch's operations; its first parameter is the module itself.
        parts: The modules it calls.

    Raises:
        RequestError: If its course depends on the observations' values.
    """
    import torch

    forward.__annotations__ = {}  # they would be compiled too
    root = type("Network", (torch.nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(root, name, part)
    try:
        network = torch.fx.symbolic_trace(root)
    except Exception as error:
        raise RequestError(
            f"The policy's network cannot be taken out of its library: {type(error).__name__}: {error}",
            code="unsupported_policy",
            advice="Networks of plain layers can be; evaluate this one with its library.",
        ) from error
    network.graph.eliminate_dead_code()
    network.recompile()
    network = copy.deepcopy(network).cpu().float().eval()
    return network.requires_grad_(False)


def inputs_of(
    env: Any, groups: tuple[str, ...], *, images: bool = False, layout: Layout | None = None
) -> tuple[Input, ...]:
    """Return the inputs of a network that sees some observation groups: the vectors as one, then each with images.

    Args:
        env: The environment.
        groups: In the network's order.
        images: Whether the library's networks for images can be exported.
        layout: Order of the sides of images.

    Raises:
        RequestError: If it sees something else, or its actions are no vector.
    """
    import gymnasium

    spaces = env.unwrapped.single_observation_space
    allowed, names = ("vectors and images", (1, 3)) if images else ("vectors", (1,))
    flat: list[str] = []
    pictures: list[Input] = []
    if missing := [group for group in groups if group not in spaces.spaces]:
        raise RequestError(
            f"The policy sees the observation group {missing[0]!r}, which the environment has not.",
            code="export_shapes",
            advice=f"It has {sorted(spaces.spaces)}.",
        )
    for group in groups:
        space = spaces[group]
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) not in names:
            raise RequestError(
                f"The policy sees observation group {group!r}, a {_describe(space)}; only {allowed} can be exported.",
                code="unsupported_observations",
                advice="Evaluate it instead, or train a policy on vectors: a distilled one, say.",
            )
        if len(space.shape) == 1:
            flat.append(group)
            continue
        reserved = {OBSERVATIONS, ACTIONS, *(name for each in LSTM for name in (f"{each}_in", f"{each}_out"))}
        name = f"{group}_image" if group in reserved else group
        pictures.append(Input(name=name, groups=(group,), shape=tuple(space.shape), layout=layout))
    if not isinstance(env.unwrapped.single_action_space, gymnasium.spaces.Box):
        raise RequestError(
            f"The policy's actions are a {_describe(env.unwrapped.single_action_space)}; only vectors can be exported.",
            code="unsupported_actions",
            advice="Evaluate it instead.",
        )
    size = sum(spaces[group].shape[0] for group in flat)
    vectors = [Input(name=OBSERVATIONS, groups=tuple(flat), shape=(size,))] if flat else []
    return (*vectors, *pictures)


def refuse_normalized_images(inputs: tuple[Input, ...]) -> None:
    """Raise `RequestError` where a library that normalises all it sees sees images: a contract has no place for it."""
    for each in inputs:
        if each.is_image:
            raise RequestError(
                f"The policy normalises the images of {each.groups[0]!r} by statistics of its training.",
                code="unsupported_observations",
                advice="Evaluate it instead, or train without a normaliser: Isaac Lab's camera tasks scale images.",
            )


def recurrent(what: str) -> RequestError:
    """Return the error for a policy whose memory cannot be taken out of its library."""
    return RequestError(
        f"The policy is recurrent ({what}): its memory cannot be taken out of its library.",
        code="recurrent_policy",
        advice="Evaluate it instead; an LSTM or a GRU of rsl_rl or rl_games can be exported.",
    )


def _describe(space: Any) -> str:
    shape = getattr(space, "shape", None)
    return f"{type(space).__name__} of shape {list(shape)}" if shape else type(space).__name__
