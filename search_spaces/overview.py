"""What a space asks, under which conditions, and how many points it has, seen from random walks through it.

Nothing here knows a particular space: whatever asks a trial can be looked at.
"""

import math
import random
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from search_spaces.every_point import every_point
from search_spaces.picks import Choice

MOST_COUNTED = 5_000
"""Spaces up to this size are counted; larger ones are estimated."""
ROUNDS = 2
LEAST_SHARE = 0.02
_PLACE = re.compile(r"^(layers|pattern|stages)\.\w+(?:\.\d+(?=\.))?")


@dataclass(frozen=True)
class Size:
    """Number of points. relative_error: standard error as a share of it; 0 where the points were counted."""

    points: float
    relative_error: float


@dataclass(frozen=True)
class Question:
    """name: of the choice, with `*` for a place such as a layer. places: how many of them ask. choices: all that was
    ever offered. always: whether every walk was asked this. conditions: each a name beside it and the choices there
    under which this is asked, and only then; none where it takes more to say."""

    name: str
    places: int
    choices: tuple[Choice, ...]
    always: bool
    conditions: tuple[tuple[str, tuple[Choice, ...]], ...]


class Walk:
    """A random walk that remembers what it was offered.

    shares: how often each choice of a `template` is taken; uniform where nothing is said. inverses: for each question
    the logarithm of one over the probability of the choice that was taken.
    """

    def __init__(self, seed: int, shares: Mapping[str, Mapping[Choice, float]] | None = None) -> None:
        self._random = random.Random(seed)
        self._shares = shares or {}
        self.params: dict[str, Choice] = {}
        self.offered: dict[str, tuple[Choice, ...]] = {}
        self.inverses: dict[str, float] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Choice], /) -> Choice:
        known = self._shares.get(template(name), {})
        weights = [known.get(choice, 1.0) for choice in choices]
        index = self._random.choices(range(len(choices)), weights)[0]
        self.inverses[name] = -math.log(weights[index] / sum(weights))
        self.offered[name] = tuple(choices)
        self.params[name] = choices[index]
        return choices[index]


def random_walks(
    space: Callable[[Any], object], count: int, shares: Mapping[str, Mapping[Choice, float]] | None = None
) -> list[Walk]:
    """Walks with the seeds 0, 1, ..."""
    walks = [Walk(seed, shares) for seed in range(count)]
    for walk in walks:
        space(walk)
    return walks


def size_of(space: Callable[[Any], Any], walks: Sequence[Walk]) -> Size:
    """Counted where the space is small; else the mean of one over the probability of a random walk, which is unbiased
    (Knuth, Estimating the efficiency of backtrack programs, 1975). New walks take choices as often as the last ones say
    that points lie behind them, which keeps the spread small."""
    counted = sum(1 for _ in islice(every_point(space), MOST_COUNTED + 1))
    if counted <= MOST_COUNTED:
        return Size(counted, 0.0)
    for _ in range(ROUNDS):
        walks = random_walks(space, len(walks), _shares_behind(walks))
    logs = [sum(walk.inverses.values()) for walk in walks]
    weights = [math.exp(log - max(logs)) for log in logs]  # the numbers themselves may fit no float
    mean = statistics.fmean(weights)
    error = statistics.stdev(weights) / math.sqrt(len(weights)) / mean
    return Size(math.exp(max(logs)) * mean, error)


def _shares_behind(walks: Sequence[Walk]) -> dict[str, dict[Choice, float]]:
    """For each template, how many points lie behind each choice, relative to the choice with most, never quite none.

    Questions of one place are taken to have nothing to do with those of another, which costs precision where it is not
    so, and nothing else.
    """
    behind: dict[str, dict[Choice, list[float]]] = defaultdict(lambda: defaultdict(list))
    for walk in walks:
        for name, log in _logs_behind(walk).items():
            behind[template(name)][walk.params[name]].append(log)
    shares: dict[str, dict[Choice, float]] = {}
    for form, choices in behind.items():
        most = max(max(logs) for logs in choices.values())
        means = {choice: statistics.fmean(math.exp(log - most) for log in logs) for choice, logs in choices.items()}
        shares[form] = {choice: max(mean / max(means.values()), LEAST_SHARE) for choice, mean in means.items()}
    return shares


def _logs_behind(walk: Walk) -> dict[str, float]:
    """For each question the sum of the inverses of those that came after it, of a place those of the place alone."""
    found: dict[str, float] = {}
    sums: dict[str, float] = defaultdict(float)
    for name, log in reversed(walk.inverses.items()):
        place = _PLACE.match(name)
        found[name] = sums[place.group() if place else ""]
        for key in {"", place.group() if place else ""}:
            sums[key] += log
    return found


def questions(walks: Sequence[Walk]) -> list[Question]:
    """Every question of the walks, in the order in which it first came up; places that ask the same stand together."""
    names: dict[str, set[str]] = defaultdict(set)
    offered: dict[str, dict[Choice, None]] = defaultdict(dict)
    for walk in walks:
        for name, choices in walk.offered.items():
            names[template(name)].add(name)
            offered[template(name)] |= dict.fromkeys(choices)
    found: list[Question] = []
    for form, places in names.items():
        place = sorted(places)[0]
        found.append(
            Question(
                name=form,
                places=len(places),
                choices=tuple(offered[form]),
                always=all(place in walk.params for walk in walks),
                conditions=_conditions(place, walks),
            )
        )
    return found


def template(name: str) -> str:
    """`layers.3.window` and `stages.early.1.window` as `layers.*.window` and `stages.*.window`."""
    return _PLACE.sub(r"\1.*", name)


def _conditions(name: str, walks: Sequence[Walk]) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
    """Questions of the same place or of the whole whose choices decide whether this is asked, the simplest account
    first: choices as they are, then with kinds in the place of their group."""
    asked = [walk for walk in walks if name in walk.params]
    if len(asked) == len(walks):
        return ()
    place = _PLACE.match(name)
    before = list(asked[0].params)[: list(asked[0].params).index(name)]  # what is asked later decides nothing
    nearby = [other for other in before if (m := _PLACE.match(other)) is None or (place and m.group() == place.group())]
    for answers in ([walk.params for walk in walks], [_with_kinds(walk.params) for walk in walks]):
        given = [answer for answer, walk in zip(answers, walks, strict=True) if name in walk.params]
        found: dict[str, dict[Choice, None]] = {}
        for other in nearby:
            if all(other in answer for answer in given):
                values = dict.fromkeys(answer[other] for answer in given)
                if set(values) != {answer[other] for answer in answers if other in answer}:
                    found[other] = values
        if not _explains(found, answers, len(given)):
            continue
        for other, values in found.items():
            if _explains({other: values}, answers, len(given)):
                return ((template(other), tuple(values)),)
        for other in list(found):
            without = {key: values for key, values in found.items() if key != other}
            if _explains(without, answers, len(given)):
                found = without
        return tuple((template(other), tuple(values)) for other, values in found.items())
    return ()


def _with_kinds(params: Mapping[str, Choice]) -> dict[str, Choice]:
    """A choice that is the name of a question beside it, a group of kinds, stands for the answer there."""
    beside = {name: f"{name.rpartition('.')[0]}.{choice}" for name, choice in params.items()}
    return {name: params.get(beside[name], choice) for name, choice in params.items()}


def _explains(
    conditions: Mapping[str, Mapping[Choice, None]], answers: Sequence[Mapping[str, Choice]], asked: int
) -> bool:
    """Whether the conditions hold in so many walks alone: those that asked are always among them."""
    held = sum(all(answer.get(key) in values for key, values in conditions.items()) for answer in answers)
    return held == asked
