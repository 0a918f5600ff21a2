"""Structured evolution: architectures as lists of blocks, changed by moves that take layers whole.

Steady state (mu + 1), as in regularised evolution but with fronts: parents win tournaments by constraint violation,
non-dominated rank and crowding (Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002,
sections III and VI) among the best trials so far. All state is the study's, so a run goes on where another stopped and
any number of workers may propose. A child whose architecture is known is changed again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture, canonical_id, did_you_mean, from_dict
from nas.study.front import crowding, ranks
from nas.study.samplers.errors import SamplerError
from nas.study.samplers.genome import MOVES, Choice, Genome, cross
from nas.study.trials import ARCHITECTURE

TRIES = 30  # changes of a child whose architecture is known before it is proposed all the same


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

    space: makes the architecture of a trial. first: proposes while there are too few parents, immigrants, and what a
    moved block lacks in its new place.
    """

    def __init__(
        self, space: Callable[[Any], Architecture], options: EvolutionOptions, first: BaseSampler, seed: int
    ) -> None:
        self.space = space
        self.options = options
        self.first = first
        self.random = Random(seed)
        self._children: dict[int, Mapping[str, Choice]] = {}
        self._ids: dict[int, str] = {}

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
        trials = study.get_trials(deepcopy=False)
        parents = select(trials, self.options.population, [d.name for d in study.directions])
        if len(parents) >= max(2, self.options.population // 2) and self.random.random() >= self.options.immigrants:
            self._children[trial.number] = self._child(study, trial, trials, parents)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert isinstance(param_distribution, CategoricalDistribution), "spaces ask for choices alone"
        child = self._children.get(trial.number, {})
        if child.get(param_name) in param_distribution.choices:
            return child[param_name]
        return self.first.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._children.pop(trial.number, None)

    def _child(
        self, study: optuna.Study, trial: FrozenTrial, trials: Sequence[FrozenTrial], parents: Sequence[FrozenTrial]
    ) -> Mapping[str, Choice]:
        """The parameters of a child, complete, and new if a number of tries finds a new one."""
        known = {self._id_of(one) for one in trials if ARCHITECTURE in one.user_attrs}
        choices = known_choices(trials)
        params: Mapping[str, Choice] = {}
        for _ in range(TRIES):
            genome = Genome.of(self._tournament(parents).params)
            if self.random.random() < self.options.crossover:
                genome = cross(genome, Genome.of(self._tournament(parents).params), self.random)
            genome = self._moved(genome, choices)
            completed = Completed(genome.params(), lambda n, d: self.first.sample_independent(study, trial, n, d))
            identity = canonical_id(self.space(completed))
            params = completed.params
            if identity not in known:
                break
        return params

    def _moved(self, genome: Genome, choices: Mapping[str, Sequence[Choice]]) -> Genome:
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

    def _id_of(self, trial: FrozenTrial) -> str:
        if trial.number not in self._ids:
            self._ids[trial.number] = canonical_id(from_dict(trial.user_attrs[ARCHITECTURE]))
        return self._ids[trial.number]


@dataclass
class Completed:
    """A trial of which some choices are known; others are drawn. Keeps what was asked, in order."""

    wanted: Mapping[str, Choice]
    draw: Callable[[str, CategoricalDistribution], Any]

    def __post_init__(self) -> None:
        self.params: dict[str, Choice] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        value = self.wanted.get(name)
        self.params[name] = value if value in choices else self.draw(name, CategoricalDistribution(tuple(choices)))
        return self.params[name]


def select(trials: Sequence[FrozenTrial], size: int, directions: Sequence[str]) -> list[FrozenTrial]:
    """The best finished trials, the best first: feasible ones by rank and crowding, then by their violation."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.params]
    feasible = [t for t in complete if violation(t) == 0.0]
    signs = np.array([1.0 if name == "MINIMIZE" else -1.0 for name in directions])
    values = np.array([t.values for t in feasible]).reshape(len(feasible), len(signs)) * signs
    rank, distance = ranks(values), crowding(values)
    order = sorted(range(len(feasible)), key=lambda i: (rank[i], -distance[i]))
    rest = sorted((t for t in complete if violation(t) > 0.0), key=violation)
    return [*(feasible[i] for i in order), *rest][:size]


def violation(trial: FrozenTrial) -> float:
    """By how much a trial misses its requirements, summed; 0 where it meets them."""
    return float(sum(max(0.0, value) for value in trial.constraints.values()))


def known_choices(trials: Sequence[FrozenTrial]) -> dict[str, Sequence[Choice]]:
    """The choices of every name that a trial was asked for."""
    return {
        name: distribution.choices
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, CategoricalDistribution)
    }
