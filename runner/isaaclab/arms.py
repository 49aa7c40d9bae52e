"""Arms: the same episodes several times side by side in one environment, so that each arm may have other conditions.

Environment `arm * pairs + pair` plays one pair of the arm. Every arm meets what the first one meets: the same origins
and terrains, starts, commands and noise. And the first one, the control arm, meets what an environment of `pairs`
alone would, number by number: whatever is drawn for all environments is drawn for the first arm alone and repeated,
and what environments of other arms need besides comes from numbers of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from simyard.runner.rl.base import with_methods
from simyard.runner.rl.inference import keeping_random_numbers

CONTROL = 0
"""The arm under the task's own conditions."""


class Arms:
    """Places in an environment, and the random numbers that they share."""

    def __init__(self, pairs: int, count: int) -> None:
        """Lay them out.

        Args:
            pairs: Environments of each arm.
            count: Arms, the control arm among them.
        """
        self.pairs, self.count = pairs, count
        self.total = pairs * count
        """Environments in all."""
        self._rows = self.total
        self._served: tuple[Any, int] | None = None
        self._aside = 0

    def arm_of(self, env: int) -> int:
        """Return the arm of an environment."""
        return env // self.pairs

    def spread(self, values: Any) -> Any:
        """Return values of pairs, `(pairs, ...)`, for the environments of all arms."""
        return values.repeat(self.count, *[1] * (values.ndim - 1))

    @contextmanager
    def matched(self, task: str) -> Iterator[None]:
        """Have all environments that are made and played in the body share origins and random numbers.

        Args:
            task: Registered id: its module is imported before functions of torch are replaced, since those that it
                compiles must find the real ones.
        """
        import gymnasium
        import torch
        from gymnasium.envs.registration import load_env_creator
        from isaaclab.cloner import clone_plan, replicate_session
        from isaaclab.managers.command_manager import CommandTerm
        from isaaclab.managers.event_manager import EventManager
        from isaaclab.terrains.terrain_importer import TerrainImporter
        from isaaclab.utils import math

        entry = gymnasium.spec(task.split(":")[-1]).entry_point
        if isinstance(entry, str):
            load_env_creator(entry)
        with ExitStack() as stack:
            places = with_methods(
                TerrainImporter,
                _compute_env_origins_curriculum=self._on_terrain(TerrainImporter._compute_env_origins_curriculum),
            )
            stack.enter_context(places)
            for module in (clone_plan, replicate_session):
                stack.enter_context(with_methods(module, grid_transforms=self._grid(module.grid_transforms)))
            made = replicate_session.make_clone_plan
            stack.enter_context(with_methods(replicate_session, make_clone_plan=self._planned(made)))

            numbers = {name: self._factory(getattr(torch, name)) for name in ("rand", "randn", "randint")}
            numbers |= {name: self._alike(getattr(torch, name)) for name in ("rand_like", "randn_like", "randint_like")}
            stack.enter_context(with_methods(torch, **numbers))
            names = ("uniform_", "normal_", "random_", "exponential_", "bernoulli_")
            changed = {name: self._alike(getattr(torch.Tensor, name), in_place=True) for name in names}
            stack.enter_context(with_methods(torch.Tensor, **changed))
            compiled = ("random_orientation", "random_yaw_orientation")  # by torch, so what they draw is not seen
            stack.enter_context(with_methods(math, **{name: self._factory(getattr(math, name)) for name in compiled}))

            resample, apply = CommandTerm._resample, EventManager.apply
            stack.enter_context(with_methods(CommandTerm, _resample=self._serves(resample)))
            stack.enter_context(with_methods(EventManager, apply=self._by_term(apply)))
            linear = self._by_arm(torch.nn.functional.linear)
            stack.enter_context(with_methods(torch.nn.functional, linear=linear))
            yield

    def enter(self, base: Any) -> None:
        """Have an environment's resets share random numbers too.

        Args:
            base: The unwrapped environment, made while numbers were `matched`.
        """
        reset = base._reset_idx

        def matched(env_ids: Any) -> Any:
            with self.serving(env_ids, base.device):
                return reset(env_ids)

        base._reset_idx = matched

    # --- random numbers ---------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self, env_ids: Any, device: Any, control: Any = None) -> Iterator[None]:
        """Have what is drawn in the body be of some environments: a row each.

        Args:
            env_ids: They; None or a slice for all of them.
            device: Where numbers are drawn.
            control: The environments of the control arm that have drawn the same; left out those among `env_ids`.
        """
        import torch

        if env_ids is None or isinstance(env_ids, slice) or len(env_ids) == self.total:
            yield
            return
        ids = torch.as_tensor(env_ids, device=device).long()
        mine = ids[ids < self.pairs] if control is None else torch.as_tensor(control, device=device).long()
        before = self._rows, self._served
        with ExitStack() as stack:
            if len(mine):
                place = torch.full((self.pairs,), -1, device=device)
                place[mine] = torch.arange(len(mine), device=device)
                self._rows, self._served = len(ids), (place[ids % self.pairs], len(mine))
            else:
                stack.enter_context(self._numbers_aside(device))
            try:
                yield
            finally:
                self._rows, self._served = before

    @contextmanager
    def _numbers_aside(self, device: Any) -> Iterator[None]:
        """Draw numbers in the body that the control arm never hears of."""
        import torch

        before, self._rows = self._rows, -1
        with keeping_random_numbers(device):
            self._aside += 1
            torch.manual_seed(self._aside)
            try:
                yield
            finally:
                self._rows = before

    def _drawn(self, draw: Callable[[int], Any]) -> Any:
        """Return a row for each environment that is served: of a pair's those of the control arm, where it has any."""
        if self._served is None:
            return self.spread(draw(self.pairs))
        rows, count = self._served
        found = draw(count)[rows.clamp(min=0)]
        if len(others := (rows < 0).nonzero().flatten()):
            with self._numbers_aside(rows.device):
                found[others] = draw(len(others))
        return found

    def _factory(self, original: Any) -> Any:
        """Return `torch.rand` and its like, whose size stands among the arguments."""

        def matched(*arguments: Any, **options: Any) -> Any:
            at = next((index for index, item in enumerate(arguments) if isinstance(item, tuple | list)), None)
            if "size" in options:
                size = options.pop("size")
                build: Callable[[Any], Any] = lambda shape: original(*arguments, size=shape, **options)  # noqa: E731
            elif at is not None:
                size, rest = arguments[at], arguments
                build = lambda shape: original(*rest[:at], shape, *rest[at + 1 :], **options)  # noqa: E731
            elif arguments and isinstance(arguments[-1], int):
                size = arguments
                build = lambda shape: original(*shape, **options)  # noqa: E731
            else:  # `random_orientation(number, device)`
                size, rest = arguments[:1], arguments[1:]
                build = lambda shape: original(*shape, *rest, **options)  # noqa: E731
            if not size or size[0] != self._rows:
                return build(tuple(size))
            return self._drawn(lambda count: build((count, *size[1:])))

        return matched

    def _alike(self, original: Any, *, in_place: bool = False) -> Any:
        def matched(tensor: Any, *arguments: Any, **options: Any) -> Any:
            if tensor.ndim == 0 or tensor.shape[0] != self._rows:
                return original(tensor, *arguments, **options)
            if in_place:
                return tensor.copy_(self._drawn(lambda count: original(tensor[:count], *arguments, **options).clone()))
            return self._drawn(lambda count: original(tensor[:count], *arguments, **options))

        return matched

    # --- those who draw for some environments -----------------------------------------------------------------------

    def _serves(self, original: Any) -> Any:
        def matched(term: Any, env_ids: Any, *arguments: Any) -> Any:
            with self.serving(env_ids, term.device):
                return original(term, env_ids, *arguments)

        return matched

    def _by_term(self, original: Any) -> Any:
        """Return `EventManager.apply`, which finds out itself for which environments an interval is over: term by term.

        What it draws has a row for each of them, so it must be known before.
        """

        def matched(manager: Any, mode: str, *arguments: Any, **options: Any) -> Any:
            if mode != "interval" or "interval" not in manager._mode_term_cfgs:
                return original(manager, mode, *arguments, **options)
            terms, left, dt = manager._mode_term_cfgs[mode], manager._interval_term_time_left, options["dt"]
            try:
                for term, time_left in zip(terms, left, strict=True):
                    manager._mode_term_cfgs[mode], manager._interval_term_time_left = [term], [time_left]
                    if term.is_global_time:
                        original(manager, mode, *arguments, **options)
                        continue
                    with self.serving(((time_left - dt) < 1e-6).nonzero().flatten(), manager.device):
                        original(manager, mode, *arguments, **options)
            finally:
                manager._mode_term_cfgs[mode], manager._interval_term_time_left = terms, left
            return None

        return matched

    def _by_arm(self, original: Any) -> Any:
        """Return `linear` that takes a batch of all environments arm by arm.

        A matrix product may add in another order where the batch is larger, which changes the last bits.
        """

        def by_arm(batch: Any, *arguments: Any, **options: Any) -> Any:
            import torch

            if batch.ndim != 2 or batch.shape[0] != self.total:
                return original(batch, *arguments, **options)
            return torch.cat([original(part, *arguments, **options) for part in batch.split(self.pairs)])

        return by_arm

    # --- places -----------------------------------------------------------------------------------------------------

    def _grid(self, original: Any) -> Any:
        def laid_out(number: int, *arguments: Any, **options: Any) -> Any:
            import numpy as np

            if number != self.total:
                return original(number, *arguments, **options)
            found = original(self.pairs, *arguments, **options)
            return tuple(np.tile(values, (self.count, 1)) for values in found)

        return laid_out

    def _on_terrain(self, original: Any) -> Any:
        def laid_out(importer: Any, number: int, origins: Any) -> Any:
            found = original(importer, number // self.count, origins)
            importer.terrain_levels = self.spread(importer.terrain_levels)
            importer.terrain_types = self.spread(importer.terrain_types)
            return self.spread(found)

        return laid_out

    def _planned(self, original: Any) -> Any:
        """Return `make_clone_plan`, which chooses among several assets for each environment."""

        def planned(assets: Any, worlds: Any, number: int, **options: Any) -> Any:
            import numpy as np

            choose = options["clone_strategy"]
            options["clone_strategy"] = lambda weights, count: np.tile(choose(weights, count // self.count), self.count)
            return original(assets, worlds, number, **options)

        return planned
