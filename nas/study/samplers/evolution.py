"""Structured evolution: architectures as lists of blocks, changed by moves that take layers whole.

Steady state (mu + 1), as in regularised evolution but with fronts: parents win tournaments by constraint violation,
non-dominated rank and crowding (Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002,
sections III and VI) among the best trials so far. All state is the study's, so a run goes on where another stopped and
any number of workers may propose. A child is repaired while the space asks for its choices, so it always lies in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import did_you_mean
from nas.study.samplers.errors import SamplerError
from nas.study.samplers.genome import Choice, Choices, Genome, nearest_choice
from nas.study.samplers.moves import MOVES, cross
from nas.study.samplers.parents import select


@dataclass(frozen=True, kw_only=True)
class EvolutionOptions:
    """population: trials that may be parents. crossover: share of children with two parents. more_moves: the chance of
    each further move after the first. immigrants: share of proposals that are random. moves: weight of each move."""

    population: int
    crossover: float = 0.6
    more_moves: float = 0.3
    immigrants: float = 0.05
    moves: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("crossover", "more_moves", "immigrants"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
                raise SamplerError(f"sampler.{name} must be a number from 0 to below 1, but got {value!r}.")
        for name, weight in self.weights.items():
            if name not in MOVES:
                raise SamplerError(f"There is no move {name!r} in sampler.moves. {did_you_mean(name, MOVES)}")
            if not isinstance(weight, int | float) or isinstance(weight, bool) or weight < 0:
                raise SamplerError(f"sampler.moves.{name} must be a weight of at least 0, but got {weight!r}.")
        if not sum(self.weights.values()):
            raise SamplerError("sampler.moves must give some move a weight above 0, but all are 0.")

    @property
    def weights(self) -> Mapping[str, float]:
        return dict.fromkeys(MOVES, 1.0) if self.moves is None else self.moves


class EvolutionSampler(BaseSampler):
    """Proposes children of the best trials.

    first: proposes while there are too few parents, immigrants, and what a moved block lacks in its new place.
    """

    def __init__(self, options: EvolutionOptions, first: BaseSampler, seed: int) -> None:
        self.options = options
        self.first = first
        self.random = Random(seed)
        self._children: dict[int, Mapping[str, Choice]] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def reseed_rng(self) -> None:
        self.random.seed()
        self.first.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make a child; called again for the same trial, make another one."""
        trials = study.get_trials(deepcopy=False)
        directions = [direction.name for direction in study.directions]
        parents = select(trials, self.options.population, directions, study.metric_names or ())
        if len(parents) >= max(2, self.options.population // 2) and self.random.random() >= self.options.immigrants:
            self._children[trial.number] = self._child(parents, known_choices(trials)).params()
        else:
            self._children.pop(trial.number, None)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert isinstance(param_distribution, CategoricalDistribution), "spaces ask for choices alone"
        choice = nearest_choice(self._children.get(trial.number, {}), param_name, param_distribution.choices)
        if choice is not None:
            return choice
        return self.first.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._children.pop(trial.number, None)

    def _child(self, parents: Sequence[FrozenTrial], choices: Choices) -> Genome:
        genome = Genome.of(self._tournament(parents).params)
        if self.random.random() < self.options.crossover:
            genome = cross(genome, Genome.of(self._tournament(parents).params), self.random)
        weights = self.options.weights
        while True:
            (name,) = self.random.choices(list(weights), list(weights.values()))
            genome = MOVES[name](genome, choices, self.random)
            if self.random.random() >= self.options.more_moves:
                return genome

    def _tournament(self, parents: Sequence[FrozenTrial]) -> FrozenTrial:
        """The better of two; `parents` come in order of merit."""
        first, second = (self.random.randrange(len(parents)) for _ in range(2))
        return parents[min(first, second)]


def known_choices(trials: Sequence[FrozenTrial]) -> dict[str, Sequence[Choice]]:
    """The choices of every name that a trial was asked for."""
    return {
        name: distribution.choices
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, CategoricalDistribution)
    }
