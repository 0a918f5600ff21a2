"""A study as a sampler should see it: every trial with the constraint values that follow from the bars of this run."""

from collections.abc import Container, Mapping
from copy import copy
from copy import deepcopy as copied

import optuna
from optuna.trial import FrozenTrial, TrialState

CONSTRAINT = "constraints:"  # Optuna's prefix of a trial's constraint values


class JudgedStudy(optuna.Study):
    """The trials of a study at one moment, read once; all else is the study's.

    What a storage holds of a trial that is over cannot be changed, while the bars may move between two runs.
    constraints: by trial and bar, how far the bar was missed; a trial without an entry keeps what is stored.
    """

    def __init__(self, study: optuna.Study, constraints: Mapping[int, Mapping[str, float]]) -> None:
        self.__dict__.update(study.__dict__)
        self._judged = [judged(trial, constraints) for trial in study.get_trials(deepcopy=False)]

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._judged if states is None or trial.state in states]
        return copied(found) if deepcopy else found


def judged(trial: FrozenTrial, constraints: Mapping[int, Mapping[str, float]]) -> FrozenTrial:
    """The trial with these constraint values instead of the stored ones."""
    if trial.number not in constraints:
        return trial
    kept = {name: value for name, value in trial.system_attrs.items() if not name.startswith(CONSTRAINT)}
    changed = copy(trial)
    changed.system_attrs = kept | {CONSTRAINT + name: value for name, value in constraints[trial.number].items()}
    return changed
