"""Every architecture of the space once, and then the end.

The choices of a space depend on each other, so the points are the leaves of a tree that is only known by walking it.
They are visited depth first, the branches of each question in an order drawn from the seed. Points whose architecture
is known, because a run before or another worker took it or because another point means the same, are passed over; with
that the place in the tree follows from the study. So are those that break a limit which counting tells, up to so many
in a row that the loop hears of it before long.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nas.architecture import Architecture, canonical_id
from nas.study.samplers.genome import Choice
from nas.study.samplers.known import ENQUEUED, Completed, Known, Space

MOST_REFUSED = 500  # points that limits refuse, before one of them is proposed all the same


class Exhaustive(BaseSampler):
    """Proposes every architecture once; `exhausted` says that none is left."""

    def __init__(self, space: Space, seed: int) -> None:
        self.seed = seed
        self.space = space
        self.known = Known(space)
        self.admits: Callable[[Architecture], bool] = lambda _: True
        self.exhausted = False
        self._leaves = leaves(space, seed)
        self._next = next(self._leaves, None)
        self._points: dict[int, Mapping[str, Choice]] = {}

    def guide(self, *, admits: Callable[[Architecture], bool], constraints: Mapping[int, Mapping[str, float]]) -> None:
        """admits: whether an architecture keeps the limits that are known by counting. Bars change nothing here."""
        self.admits = admits

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        known = self.known.ids(study.get_trials(deepcopy=False), but=trial.number)
        if not trial.system_attrs.get(ENQUEUED):
            self._pass_over(known)
            if self._next is not None:
                identity, _, self._points[trial.number] = self._next
                known.add(identity)
        self._pass_over(known)
        self.exhausted = self._next is None

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert isinstance(param_distribution, CategoricalDistribution), "spaces ask for choices alone"
        return self._points.get(trial.number, {}).get(param_name, param_distribution.choices[0])

    def _pass_over(self, known: set[str]) -> None:
        refused = 0
        while self._next is not None:
            identity, architecture, _ = self._next
            if identity not in known:
                if refused == MOST_REFUSED or self.admits(architecture):
                    return
                refused += 1
            self._next = next(self._leaves, None)


def leaves(space: Space, seed: int) -> Iterator[tuple[str, Architecture, Mapping[str, Choice]]]:
    """Canonical id, architecture and parameters of every point, each once, in an order that follows from the seed."""
    path: dict[str, Choice] = {}
    while True:
        point = Completed(path, lambda name, d: ordered(d.choices, seed, name)[0])
        architecture = space(point)
        yield canonical_id(architecture), architecture, dict(point.params)
        path = dict(point.params)
        while path:  # the last question with another branch takes it, and those behind it are asked anew
            name, choice = path.popitem()
            order = ordered(point.choices[name], seed, name)
            if choice != order[-1]:
                path[name] = order[order.index(choice) + 1]
                break
        else:
            return


def ordered(choices: Sequence[Choice], seed: int, name: str) -> list[Choice]:
    order = list(choices)
    Random(f"{seed} {name}").shuffle(order)
    return order
