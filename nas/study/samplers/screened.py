"""Whole points instead of single choices: what is known, or breaks a limit by counting, is proposed again otherwise.

Optuna's samplers neither avoid what they have proposed before nor know of limits on what is counted before anything is
built. Around any of them, a point is drawn to its end, checked, and drawn again; when a sampler insists, one choice of
its point is changed until the point is new. Only then does a trial take it, so that no trial is wasted.

Requirements reach a sampler as constraint values of the trials. They follow from the bars of this run, not from those
of the run that stored the trial: bars may move between two runs, and a relative one is unknown until its reference is
trained.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture, canonical_id
from nas.study.samplers.genome import Choice, Genome
from nas.study.samplers.judged_study import JudgedStudy
from nas.study.samplers.known import ENQUEUED, Completed, Known, Space
from nas.study.samplers.moves import change_option

NEIGHBOURS = 100  # changes of single choices that are tried when the sampler itself has nothing new


class Screened(BaseSampler):
    """A sampler whose points are checked before a trial takes them.

    inner: proposes. tries: how often it may propose again; few where that takes long. `guide` adds limits and bars.
    """

    def __init__(self, inner: BaseSampler, space: Space, *, tries: int, seed: int) -> None:
        self.inner = inner
        self.space = space
        self.tries = tries
        self.random = Random(seed)
        self.known = Known(space)
        self.admits: Callable[[Architecture], bool] = lambda _: True
        self.constraints: Mapping[int, Mapping[str, float]] = {}
        self._points: dict[int, Mapping[str, Choice]] = {}

    def guide(self, *, admits: Callable[[Architecture], bool], constraints: Mapping[int, Mapping[str, float]]) -> None:
        """What the next proposals should heed.

        admits: whether an architecture keeps the limits that are known by counting. constraints: by trial and bar, how
        far the bar was missed; zero or less where it was not.
        """
        self.admits, self.constraints = admits, constraints

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        view = JudgedStudy(study, self.constraints)
        if trial.system_attrs.get(ENQUEUED):
            self.inner.before_trial(view, trial)
        else:
            self._points[trial.number] = self._point(view, trial)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert isinstance(param_distribution, CategoricalDistribution), "spaces ask for choices alone"
        point = self._points.get(trial.number, {})
        if param_name in point and point[param_name] in param_distribution.choices:
            return point[param_name]
        return self.inner.sample_independent(
            JudgedStudy(study, self.constraints), trial, param_name, param_distribution
        )

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._points.pop(trial.number, None)
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self.random.seed()
        self.inner.reseed_rng()

    def _point(self, study: optuna.Study, trial: FrozenTrial) -> Mapping[str, Choice]:
        known = self.known.ids(study.get_trials(deepcopy=False), but=trial.number)
        point = Completed({}, lambda _, d: d.choices[0])
        for _ in range(self.tries):
            point = self._proposal(study, trial)
            if self._is_welcome(point, known):
                return point.params
        for _ in range(NEIGHBOURS):
            changed = change_option(Genome.of(point.params), point.choices, self.random).params()
            neighbour = Completed(changed, lambda n, d: self.inner.sample_independent(study, trial, n, d))
            if self._is_welcome(neighbour, known):
                return neighbour.params
            point = neighbour
        return point.params

    def _proposal(self, study: optuna.Study, trial: FrozenTrial) -> Completed:
        self.inner.before_trial(study, trial)
        relative = self.inner.sample_relative(study, trial, self.inner.infer_relative_search_space(study, trial))
        return Completed(relative, lambda n, d: self.inner.sample_independent(study, trial, n, d))

    def _is_welcome(self, point: Completed, known: set[str]) -> bool:
        """Whether the architecture of a point, which is walked here, is new and keeps the limits."""
        architecture = self.space(point)
        return canonical_id(architecture) not in known and self.admits(architecture)
