"""Success of an environment's episodes, read where it forgets them, and without a wait for the GPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.evaluation.episode_statistics import success_metric
from simyard.runner.recording.arrays import CUT_OFF, NOT_MEASURED

if TYPE_CHECKING:
    import torch

TERMINATION = "success"
"""The termination that means success, where the task logs no metric."""


class SuccessReader:
    """Stands around the environment's `_reset_idx`, as the evaluation's meter does, for thousands of environments.

    A task logs its metric as the mean over the episodes that end together. The meter resets each environment by itself
    to have it of one episode, which takes longer than the simulation where many end in every step. Here the tensor is
    caught that the task takes the mean of: it has a value for each episode. Only of a task that computes its metric in
    another way the environments are reset one by one.
    """

    def __init__(self, base: Any) -> None:
        """Begin to read.

        Args:
            base: The unwrapped environment of Isaac Lab.
        """
        import torch

        self._base = base
        self._reset = base._reset_idx
        self._means = _Means()
        self._metric: str | None = None
        self._is_mean = False
        self._now = torch.full((base.num_envs,), -1.0, device=base.device)
        self._any = False

    def close(self) -> None:
        """Give torch its mean back."""
        self._means.close()

    @property
    def source(self) -> str | None:
        """Source of the success of episodes; None if there is none."""
        if self._metric is not None:
            return f"metric {self._metric}"
        return f"termination {TERMINATION}" if self._has_termination else None

    def begin(self, env_ids: Any) -> Any:
        """Reset without an episode that ends, and find out what the task says of success."""
        with self._means.caught():
            answer = self._reset(env_ids)
        log = self._base.extras.get("log", {})
        self._metric = success_metric(log)
        self._is_mean = self._metric is not None and self._means.vector(log[self._metric]) is not None
        return answer

    def reset(self, env_ids: Any) -> Any:
        """Reset the environments whose episodes end in this step, and read of each whether it succeeded."""
        if self._metric is None:
            if self._has_termination:
                self._say(env_ids, self._base.termination_manager.get_term(TERMINATION)[env_ids])
            return self._reset(env_ids)
        if self._is_mean:
            with self._means.caught():
                answer = self._reset(env_ids)
            if (parts := self._means.vector(self._value())) is not None:
                self._say(env_ids, parts)
            return answer
        for index in range(len(env_ids)):
            answer = self._reset(env_ids[index : index + 1])
            if (value := self._value()) is not None:
                self._say(env_ids[index : index + 1], value)
        return answer

    def take(self) -> torch.Tensor | None:
        """Return the values read in this step, `(num_envs,)`: 1, 0, or -1 where the metric is neither.

        That is of environments whose episodes ended in it, and of the others anything. None where nothing was read.
        """
        taken, self._any = self._any, False
        return self._now if taken else None

    @property
    def _has_termination(self) -> bool:
        manager = getattr(self._base, "termination_manager", None)
        return manager is not None and TERMINATION in manager.active_terms

    def _value(self) -> Any:
        return self._base.extras.get("log", {}).get(self._metric)

    def _say(self, env_ids: Any, values: Any) -> None:
        import torch

        values = torch.as_tensor(values, dtype=torch.float32, device=self._now.device).view(-1)
        if values.shape == env_ids.shape:  # else it is a mean over others too: those that go on, or all of the past
            self._now[env_ids] = values.where(values == values.bool(), -1.0)
            self._any = True


def check_rate(recording: Path) -> bool:
    """Forget the success of all episodes of a finished recording if the metric did not say it of each that ended.

    Some tasks log a share of goals, or a mean over the past: its zeros alone would make a rate of 0.

    Returns:
        Whether it did.
    """
    import zarr

    meta: Any = zarr.open_group(recording, mode="r+")["meta"]
    success = meta["success"]
    unsaid = (success[:] == NOT_MEASURED) & (meta["termination"][:] != CUT_OFF)
    if unsaid.any():
        success[:] = NOT_MEASURED
    return not unsaid.any()


class _Means:
    """Remembers the vectors that torch takes the mean of.

    It stands where code finds that function and that method. torch's own way to watch calls, a mode, costs each of the
    hundred other calls of a reset some microseconds, which adds up to a tenth of the step.
    """

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._function, self._method = torch.mean, torch.Tensor.mean
        self._is_watching = False
        self._taken: list[tuple[Any, Any]] = []
        # For good: a class that changes in every step makes all attributes of all tensors slow to find.
        torch.Tensor.mean = lambda *arguments, **more: self._take(self._method, *arguments, **more)

    def close(self) -> None:
        """Leave the method as it was; it is inherited."""
        del self._torch.Tensor.mean

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Remember the means that are taken inside, and forget those before."""
        self._taken, self._is_watching = [], True
        self._torch.mean = functools.partial(self._take, self._function)
        try:
            yield
        finally:
            self._torch.mean, self._is_watching = self._function, False

    def vector(self, mean: Any) -> Any:
        """Return the vector that a mean was taken of; None if it is none of the last ones."""
        return next((vector for result, vector in self._taken if result is mean), None)

    def _take(self, original: Any, *arguments: Any, **more: Any) -> Any:
        if not (self._is_watching and arguments and arguments[0].ndim == 1):
            return original(*arguments, **more)
        vector = arguments[0].clone()  # the task may clear it before it comes back
        result = original(*arguments, **more)
        self._taken.append((result, vector))
        return result
