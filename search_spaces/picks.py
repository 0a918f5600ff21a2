"""Two ways to walk a search space: draw every choice from a trial, or match every choice to a known design.

A space asks for a choice by name and offers a mapping from choices (what the sampler stores) to what they stand for.
Because both walks run the same code of the space, `encode` is the inverse of sampling by construction. A question
with one possible outcome is not asked, so that samplers see only what can be searched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log1p
from numbers import Real
from typing import Any, Protocol, TypeVar

Choice = str | int
Value = TypeVar("Value")


class Trial(Protocol):
    """The part of an Optuna trial that a space uses."""

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any: ...


class Pick(Protocol):
    """Answers one question of a space. `total` is part of a name whose choices depend on it (`heads_of_4`)."""

    def __call__(self, name: str, options: Mapping[Choice, Value], *, total: int | None = None) -> Value: ...


class OutsideSpaceError(Exception):
    """A design cannot be placed in a space. Never reaches a user: `encode` answers None."""


@dataclass(frozen=True)
class Draw:
    """Takes every choice from a trial. A name that is asked again keeps its choice."""

    trial: Trial
    params: dict[str, Choice] = field(default_factory=dict)

    def __call__(self, name: str, options: Mapping[Choice, Value], *, total: int | None = None) -> Value:
        if is_settled(options):
            return next(iter(options.values()))
        full_name = name if total is None else f"{name}_of_{total}"
        if full_name not in self.params:
            self.params[full_name] = self.trial.suggest_categorical(full_name, list(options))
        return options[self.params[full_name]]


@dataclass(frozen=True)
class Given:
    """A trial whose choices are known: what `encode` gave, or the parameters of a row."""

    params: Mapping[str, Choice]

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        assert self.params[name] in choices, f"{name} has no choice {self.params[name]!r}"
        return self.params[name]


@dataclass(frozen=True)
class Match:
    """Takes the choice that stands for what is wanted: the same word, or the nearest size; keeps them in `params`.

    otherwise: what is wanted where nothing is said of a name, by the last word of that name.
    """

    wanted: Mapping[str, object]
    otherwise: Mapping[str, object] = field(default_factory=dict)
    params: dict[str, Choice] = field(default_factory=dict)

    def __call__(self, name: str, options: Mapping[Choice, Value], *, total: int | None = None) -> Value:
        known, last = self.wanted, name.rpartition(".")[2]
        choice = nearest(known[name] if name in known else self.otherwise[last], options)
        if not is_settled(options):
            self.params[name if total is None else f"{name}_of_{total}"] = choice
        return options[choice]


def is_settled(options: Mapping[Choice, object]) -> bool:
    """Whether all choices stand for the same."""
    return len(set(options.values())) == 1


def nearest(wanted: object, options: Mapping[Choice, object]) -> Choice:
    """The choice that stands for `wanted`; sizes go to the nearest on a log scale, everything else must be equal."""
    if isinstance(wanted, Real):
        sizes = {choice: float(value) for choice, value in options.items() if isinstance(value, Real)}
        return min(sizes, key=lambda choice: abs(log1p(sizes[choice]) - log1p(float(wanted))))
    for choice, value in options.items():
        if value == wanted:
            return choice
    raise OutsideSpaceError(f"{wanted!r} is not among {list(options)}.")
