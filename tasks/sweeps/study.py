"""The study of a sweep: Optuna's samplers, asked for one setting after another and told what was measured.

Nothing of it is kept. A suggestion follows from the seed, its number and the values that were told before it, so a
study that is made anew and asked and told the same again suggests the same: the store's decisions are enough.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simyard.requests.sweeps import Parameter, SweepConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

_PAIRED = "paired"
Values = tuple[float, ...] | None
"""The mean of each objective over the seeds of a setting; None where it failed."""


class Study:
    """Suggests the settings of a sweep, or of one of its brackets, in order."""

    def __init__(self, config: SweepConfig, bracket: int = 0) -> None:
        """Begin with no setting.

        Args:
            config: The parameters and the sampler.
            bracket: Counted from 0; each draws differently.
        """
        self._config = config
        self._seed = (config.seed + bracket) % 2**32
        self._asked: list[Trial] = []
        self._told: set[int] = set()
        self._study: Any = None

    @property
    def learns(self) -> bool:
        """Whether a suggestion depends on what was measured before it."""
        return self._config.sampler in ("tpe", "cmaes")

    def suggest(self, told: Sequence[Mapping[int, Values]]) -> dict[str, Any]:
        """Return the values of the next setting.

        Args:
            told: For each setting of this study, and at last for the next one, what was known when it was suggested:
                the values of each earlier one by its place, None for one that failed.
        """
        while len(self._asked) < len(told):
            self._tell(told[len(self._asked)])
            self._asked.append(self._ask())
        return self._values(self._asked[-1].params)

    def of_grid(self, number: int) -> dict[str, Any]:
        """Return a combination of all values; the last parameter changes first."""
        axes: list[list[Mapping[str, Any]]] = [
            [{path: value} for value in parameter.points or ()] for path, parameter in self._config.parameters.items()
        ]
        if self._config.paired:
            axes.append([*self._config.paired])
        combination = next(itertools.islice(itertools.product(*axes), number, None))
        return {path: value for part in combination for path, value in part.items()}

    def _ask(self) -> Trial:
        import optuna

        if self._study is None:
            optuna.logging.set_verbosity(optuna.logging.ERROR)  # each trial would be a line of the log
            towards = optuna.study.StudyDirection
            directions = [
                towards.MAXIMIZE if one.mode == "max" else towards.MINIMIZE for one in self._config.objectives
            ]
            self._study = optuna.create_study(directions=directions, sampler=_sampler(self._config, self._seed))
        trial: Trial = self._study.ask(_distributions(self._config))
        return trial

    def _tell(self, values: Mapping[int, Values]) -> None:
        from optuna.trial import TrialState

        for index, value in sorted(values.items()):
            if index not in self._told:
                self._told.add(index)
                failed = {"state": TrialState.FAIL} if value is None else {}
                self._study.tell(self._asked[index], value, **failed)

    def _values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the parameters: of a list the sampler draws the place."""
        values: dict[str, Any] = {}
        for path, parameter in self._config.parameters.items():
            found = drawn[path]
            values[path] = parameter.values[found] if parameter.values is not None else found
        if self._config.paired:
            values |= self._config.paired[drawn[_PAIRED]]
        return values


def _sampler(config: SweepConfig, seed: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler

    match config.sampler:
        case "tpe":
            # Side by side, those that are in progress count as bad: otherwise several draw the same.
            return TPESampler(seed=seed, constant_liar=True)
        case "cmaes":
            return CmaEsSampler(seed=seed)
    return RandomSampler(seed=seed)


def _distributions(config: SweepConfig) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for path, parameter in config.parameters.items():
        if parameter.values is not None:  # values of any type, and Optuna's are scalars
            found[path] = CategoricalDistribution(range(len(parameter.values)))
            continue
        assert parameter.low is not None and parameter.high is not None
        if parameter.is_whole:
            found[path] = IntDistribution(
                int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.step or 1)
            )
        else:
            found[path] = FloatDistribution(
                float(parameter.low), float(parameter.high), log=parameter.log, step=parameter.step
            )
    if config.paired:
        found[_PAIRED] = CategoricalDistribution(range(len(config.paired)))
    return found


def draw(config: SweepConfig, name: str, seed: int) -> Any:
    """Return a value of one parameter at random, as Optuna draws it; for `paired` the set of values.

    Args:
        config: The parameters.
        name: The parameter's path, or `paired`.
        seed: The same draws the same.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = study.ask({name: _distributions(config)[name]}).params[name]
    if name == _PAIRED:
        return dict(config.paired[found])
    values = config.parameters[name].values
    return found if values is None else values[found]


def place_of(value: Any, values: Sequence[Any]) -> int:
    """Return the place of a value in a list of them; JSON tells 1 from true."""
    return [json.dumps(one, sort_keys=True) for one in values].index(json.dumps(value, sort_keys=True))


def clipped(parameter: Parameter, value: float) -> float | int:
    """Return the value of a range that is nearest to a number."""
    assert parameter.low is not None and parameter.high is not None
    value = min(max(value, parameter.low), parameter.high)
    step = parameter.step or (1 if parameter.is_whole else None)
    if step is not None:
        most = int((parameter.high - parameter.low) / step * (1 + 1e-12))
        value = parameter.low + min(round((value - parameter.low) / step), most) * step
    return int(value) if parameter.is_whole else float(f"{value:.12g}")
