"""The place of one factor in an environment with arms: its level everywhere, and Isaac Lab's event terms to set it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.specs import Level
from simyard.runner.evaluation import factors
from simyard.runner.isaaclab.arms import Arms
from simyard.runner.rl.inference import keeping_random_numbers


class Site:
    """An environment with its arms, and the level of one factor in each of its environments."""

    def __init__(self, base: Any, arms: Arms, name: str, levels: Sequence[Level | None], seed: int) -> None:
        import torch

        self.base, self.arms, self.seed = base, arms, seed
        self.name, self.part = name, factors.split(name)[1]
        self.by_arm = levels
        """Level of each arm; None for an event's own parameters."""
        numbers = [level if isinstance(level, int | float) else 0.0 for level in levels]
        self.levels = torch.tensor(numbers, device=base.device).repeat_interleave(arms.pairs)
        """Level of each environment, `(num_envs,)`."""

    @property
    def robot(self) -> Any:
        """The task's robot."""
        robots = self.base.scene.articulations
        if len(robots) != 1 and "robot" not in robots:
            raise self.refused(f"it has {len(robots)} robots" if robots else "it has no robot")
        return robots["robot"] if "robot" in robots else next(iter(robots.values()))

    def refused(self, why: str) -> RequestError:
        """Return the error for a factor that this task cannot have."""
        return RequestError(
            f"variations: {self.name!r} cannot be varied in this task: {why}.",
            code="factor_not_of_task",
            advice="Leave it out; docs/robustness.md says what each factor needs.",
        )

    def each(self) -> list[tuple[Any, float]]:
        """Return the environments that have a level other than the neutral one, `(ids, level)`."""
        import torch

        found: dict[float, list[int]] = {}
        for arm, level in enumerate(self.by_arm):
            if isinstance(level, int | float) and level != factors.neutral(self.name):
                found.setdefault(float(level), []).extend(range(arm * self.arms.pairs, (arm + 1) * self.arms.pairs))
        return [(torch.tensor(ids, device=self.base.device), level) for level, ids in found.items()]

    def selected(self, env_ids: Any) -> Any:
        """Return those of some environments whose level is not the neutral one; None and slices are all of them."""
        import torch

        everywhere = torch.arange(self.arms.total, device=self.base.device)
        ids = everywhere if env_ids is None else everywhere[env_ids] if isinstance(env_ids, slice) else env_ids.long()
        return ids[self.levels[ids] != factors.neutral(self.name)]

    def apply(self, term: str, ids: Any, wanted: Mapping[str, Any], bodies: Sequence[str] = ()) -> None:
        """Call an event term of Isaac Lab's for some environments, with the same numbers for all of them."""
        from isaaclab.envs import mdp
        from isaaclab.managers import EventTermCfg, SceneEntityCfg

        self.refuse_repeated(term)
        robot = next(name for name, thing in self.base.scene.articulations.items() if thing is self.robot)
        asset = SceneEntityCfg(robot, body_names=list(bodies) or None)
        asset.resolve(self.base.scene)
        made = getattr(mdp, term)
        signature = inspect.signature(made.__call__).parameters
        defaults = {key: item.default for key, item in signature.items() if item.default is not inspect.Parameter.empty}
        parameters = {**defaults, **wanted, **({"asset_cfg": asset} if "asset_cfg" in signature else {})}
        with keeping_random_numbers(self.base.device):
            event = made(EventTermCfg(func=made, mode="reset", params=parameters), self.base)
            asset.finalize(self.base.device)
            event(self.base, ids, **parameters)

    def refuse_repeated(self, term: str) -> None:
        """Refuse a factor whose property the task's own events set anew, again and again."""
        manager = getattr(self.base, "event_manager", None)
        for mode in ("reset", "interval"):
            terms = manager._mode_term_cfgs.get(mode, []) if manager is not None else []
            names = manager._mode_term_names.get(mode, []) if manager is not None else []
            for name, cfg in zip(names, terms, strict=True):
                function = cfg.func if inspect.isroutine(cfg.func) or inspect.isclass(cfg.func) else type(cfg.func)
                if function.__name__ == term:
                    raise self.refused(f"its event {name!r} sets the same in every {mode}; vary 'event.{name}'")
