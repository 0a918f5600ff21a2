"""Random sampling that leans towards what is known to work, and never forbids anything.

A prior weighs the mixers of a layer. It guides random samples: the sampler `random`, the first trials of the others
and the immigrants of evolution; what a sampler learns from results is its own.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from nas.architecture import did_you_mean
from nas.study.samplers.errors import SamplerError
from nas.study.samplers.genome import PREFIX

FIRST_PLACES = ("0", "early")
MIXER = re.compile(r"(?:(\d+)\.)?mixer")
"""What follows the prefix of a layer, where a stage has several behind their places."""
FIELDS = ("mixers", "first")


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Probabilities of some choices of a layer's mixer; the others share what is left evenly.

    mixers: in every layer; first: in the first one, or the first stage, instead.
    """

    mixers: Mapping[str | int, float] = field(default_factory=dict)
    first: Mapping[str | int, float] = field(default_factory=dict)

    def weights(self, name: str, choices: Sequence[Any]) -> list[float] | None:
        """Probabilities of the choices of a parameter; None where the prior says nothing of it."""
        found = PREFIX.fullmatch(name)
        mixer = None if found is None else MIXER.fullmatch(found[3] or "mixer")
        if found is None or mixer is None:
            return None
        comes_first = found[2] in FIRST_PLACES and mixer[1] in (None, "0")
        given = {**self.mixers, **self.first} if comes_first else self.mixers
        known = {choice: given[choice] for choice in choices if choice in given}
        if not known:
            return None
        others = len(choices) - len(known)
        rest = max(0.0, 1.0 - sum(known.values()))
        return [known.get(choice, rest / others if others else 0.0) for choice in choices]


def prior_from(given: Mapping[str, Any], mixers: Mapping[str | int, str]) -> Prior:
    """A prior from its file: probabilities by kind of mixer, shared evenly by the choices that go by that kind.

    mixers: the choices of a layer's mixer and the kinds they are weighed as. Raises SamplerError for a kind that the
    space does not offer and for what is no probability.
    """
    for name in given:
        if name not in FIELDS:
            raise SamplerError(f"There is no field priors.{name}. {did_you_mean(name, FIELDS)}")
    sections = {}
    for section in FIELDS:
        weights = given.get(section) or {}
        if not isinstance(weights, Mapping):
            raise SamplerError(f"priors.{section} must give probabilities by mixer, but got {weights!r}.")
        for kind, share in weights.items():
            if kind not in mixers.values():
                raise SamplerError(
                    f"priors.{section} weighs {kind!r}, which this search space does not offer. "
                    f"{did_you_mean(kind, sorted(set(mixers.values())))} priors=none takes no prior."
                )
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise SamplerError(f"priors.{section}.{kind} must be a probability from 0 to 1, but got {share!r}.")
        if sum(weights.values()) > 1:
            raise SamplerError(
                f"The probabilities of priors.{section} must sum to at most 1, but sum to {sum(weights.values()):g}."
            )
        choices = Counter(mixers.values())
        sections[section] = {c: weights[kind] / choices[kind] for c, kind in mixers.items() if kind in weights}
    return Prior(**sections)


class PriorSampler(RandomSampler):
    """Random sampling with the weights of a prior."""

    def __init__(self, prior: Prior, seed: int) -> None:
        super().__init__(seed)
        self.prior = prior

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if isinstance(param_distribution, CategoricalDistribution):
            choices = param_distribution.choices
            weights = self.prior.weights(param_name, choices)
            if weights is not None:
                return choices[self._rng.rng.choice(len(choices), p=weights)]
        return super().sample_independent(study, trial, param_name, param_distribution)
