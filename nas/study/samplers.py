"""Which Optuna sampler proposes, and how its sizes follow the budget."""

import warnings
from collections.abc import Callable
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from nas.architecture import did_you_mean


class SamplerError(ValueError):
    """An unknown sampler. The message is one sentence for a user."""


def population_size(trials: int) -> int:
    """A quarter of the budget, so that there are about four generations; at least 4, at most 50."""
    return max(4, min(50, trials // 4))


def startup_trials(trials: int) -> int:
    """A quarter of the budget is sampled at random before a model is trusted; at least 4, at most 20."""
    return max(4, min(20, trials // 4))


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, trials: TPESampler(seed=seed, n_startup_trials=startup_trials(trials)),
    "gp": lambda seed, trials: GPSampler(
        seed=seed, n_startup_trials=startup_trials(trials), deterministic_objective=False
    ),
    "nsga2": lambda seed, trials: NSGAIISampler(seed=seed, population_size=population_size(trials)),
    "nsga3": lambda seed, trials: NSGAIIISampler(seed=seed, population_size=population_size(trials)),
    "random": lambda seed, trials: RandomSampler(seed=seed),
    "qmc": lambda seed, trials: QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
    "brute_force": lambda seed, trials: BruteForceSampler(seed=seed),
}


def make_sampler(name: Any, *, seed: int, trials: int, already_sampled: int) -> BaseSampler:
    """The sampler of that name. The seed advances with the trials that exist, so that a resumed run goes on sampling
    instead of repeating its points; quasi-Monte-Carlo keeps its seed, because the storage holds its place.

    Raises SamplerError for an unknown name.
    """
    if name not in SAMPLERS:
        raise SamplerError(f"There is no sampler {name!r}. {did_you_mean(name, SAMPLERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](seed if name == "qmc" else seed + already_sampled, trials)
