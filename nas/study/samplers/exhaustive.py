"""Every point of the space once, and then the end."""

from collections.abc import Sequence

import optuna
from optuna.samplers import BruteForceSampler
from optuna.trial import FrozenTrial, TrialState


class Exhaustive(BruteForceSampler):
    """Optuna's, which stops the loop of `Study.optimize` at the end; `exhausted` says it to a loop of our own."""

    exhausted = False

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        try:
            super().after_trial(study, trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True
