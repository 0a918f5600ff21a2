"""Which sampler proposes, how its sizes follow the budget, and what guides its random samples.

The default of every field of conf/sampler/*.yaml follows from the number of trials; a field that is given goes before.
TPE, GP, NSGA-II, NSGA-III and evolution know requirements; none proposes what is known or breaks a limit by counting.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    TPESampler,
)

from nas.architecture import did_you_mean
from nas.study.samplers.errors import SamplerError as SamplerError
from nas.study.samplers.evolution import EvolutionOptions, EvolutionSampler
from nas.study.samplers.exhaustive import Exhaustive as Exhaustive
from nas.study.samplers.known import Space
from nas.study.samplers.prior import Prior as Prior
from nas.study.samplers.prior import PriorSampler
from nas.study.samplers.prior import prior_from as prior_from
from nas.study.samplers.screened import Screened as Screened
from nas.study.samplers.startup import AfterStartup

EVOLUTION = "evolution"
TRIES = 50  # proposals of a point before the last one is changed choice by choice


def population_size(trials: int) -> int:
    """A quarter of the budget, so that there are about four generations; at least 4, at most 50."""
    return max(4, min(50, trials // 4))


def startup_trials(trials: int) -> int:
    """A quarter of the budget is sampled at random before a model is trusted; at least 4, at most 20."""
    return max(4, min(20, trials // 4))


LEARNING: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, trials: TPESampler(seed=seed, n_startup_trials=startup_trials(trials)),
    "gp": lambda seed, trials: GPSampler(
        seed=seed, n_startup_trials=startup_trials(trials), deterministic_objective=False
    ),
    "nsga2": lambda seed, trials: NSGAIISampler(seed=seed, population_size=population_size(trials)),
    "nsga3": lambda seed, trials: NSGAIIISampler(seed=seed, population_size=population_size(trials)),
}
"""Samplers of Optuna that learn from results, after random ones, and that know constraints."""

SLOW = {"gp": 2, "tpe": 10}
"""Samplers that take long for each proposal, and how many they make of a point."""

ENUMERATING = ("qmc", "brute_force")
"""Samplers that spread over the space whatever comes out; a prior does not move them."""

NAMES = (*LEARNING, *ENUMERATING, "random", EVOLUTION)


def make_sampler(
    config: Mapping[str, Any],
    *,
    seed: int,
    trials: int,
    already_sampled: int,
    space: Space,
    prior: Prior,
) -> BaseSampler:
    """The sampler of a file in conf/sampler.

    The seed advances with the trials that exist, so that a resumed run goes on sampling instead of repeating its
    points; quasi-Monte-Carlo and brute force keep theirs, because the storage holds their place.
    space: makes the architecture of a trial, by which samplers tell what is known. Raises SamplerError for an unknown
    sampler, field or value.
    """
    check_sampler(config)
    name = config["name"]
    own_seed = seed + already_sampled
    if name == "brute_force":
        return Exhaustive(space, seed)
    first = PriorSampler(prior, own_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name in LEARNING:
            inner = AfterStartup(first, LEARNING[name](own_seed, trials), startup_trials(trials))
        elif name == "qmc":
            inner = QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        elif name == EVOLUTION:
            inner = EvolutionSampler(evolution_options(config, trials), first, own_seed)
        else:
            inner = first
    return Screened(inner, space, tries=SLOW.get(name, TRIES), seed=own_seed)


def check_sampler(config: Mapping[str, Any]) -> None:
    """Raise SamplerError for a sampler, a field or a value that cannot be used."""
    name = config.get("name")
    if name not in NAMES:
        raise SamplerError(f"There is no sampler {name!r}. {did_you_mean(name, NAMES)}")
    known = ["name", *(f.name for f in fields(EvolutionOptions))] if name == EVOLUTION else ["name"]
    for field in config:
        if field not in known:
            raise SamplerError(f"The sampler {name} has no field {field!r}. {did_you_mean(field, known)}")
    if name == EVOLUTION:
        evolution_options(config, 1)


def evolution_options(config: Mapping[str, Any], trials: int) -> EvolutionOptions:
    """The fields of conf/sampler/evolution.yaml; a population of null follows from the budget."""
    given = {field: value for field, value in config.items() if field != "name" and value is not None}
    population = given.pop("population", max(8, min(50, trials // 5)))
    if not isinstance(population, int) or isinstance(population, bool) or population < 2:
        raise SamplerError(f"sampler.population must be a whole number of at least 2, but got {population!r}.")
    return EvolutionOptions(population=population, **given)
