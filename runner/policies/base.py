"""A trained policy as its library runs it, and as a bare network for a robot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """How observations are normalised before the network: `(observation - mean) / divisor`, then clipped."""

    mean: tuple[float, ...]
    """One for each observation, in order."""
    divisor: tuple[float, ...]
    """Standard deviations, with whatever the library adds to them."""
    clip: float | None = None
    """Largest magnitude after it; None for no limit."""


class Policy:
    """A library's own inference, driving one environment. Actions are deterministic: the mean, never a sample."""

    library: ClassVar[str]
    observation_groups: tuple[str, ...] = ("policy",)
    """The environment's observation groups that the network sees, concatenated in this order."""

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        """Build the library's agent as training built it, and load the checkpoint into it.

        Args:
            env: The gymnasium environment; wrappers below the library's own see each action it sends.
            agent_cfg: As `resolve_task_config` returns it.
            checkpoint: A file that `checkpoints.inspect` accepted.
            normalizer: The observation statistics, where the library keeps them in a file of their own.
        """
        raise NotImplementedError

    def begin(self) -> None:
        """Reset the environment and the policy's own state."""
        raise NotImplementedError

    def step(self) -> None:
        """Infer one action for every environment and take one step."""
        raise NotImplementedError

    def network(self) -> torch.nn.Module:
        """Return observations -> actions as one module for export.

        Returns:
            A module on the CPU in evaluation mode, float32, that TorchScript and ONNX can take: `(batch, observations)`
            -> `(batch, actions)`, both as the environment has them: normaliser and clipping are inside.

        Raises:
            RequestError: If the policy is recurrent or sees anything but flat observations.
        """
        raise NotImplementedError

    def normalizer(self) -> Normalizer | None:
        """Return the statistics inside `network`, or None when it does not normalise."""
        raise NotImplementedError
