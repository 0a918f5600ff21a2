"""A sampler that learns from results, preceded by some random samples that follow a prior."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState


class AfterStartup(BaseSampler):
    """`first` proposes until `trials` of the study are complete; then `then` does."""

    def __init__(self, first: BaseSampler, then: BaseSampler, trials: int) -> None:
        self.first = first
        self.then = then
        self.trials = trials
        self._starting: set[int] = set()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < self.trials:
            self._starting.add(trial.number)
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)
        self._starting.discard(trial.number)

    def reseed_rng(self) -> None:
        self.first.reseed_rng()
        self.then.reseed_rng()

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        return self.first if trial.number in self._starting else self.then
