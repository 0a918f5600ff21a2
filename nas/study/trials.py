"""Between Optuna's trials and our rows: what is written on a trial, and how it is read back.

A trial carries its architecture from the moment it was sampled and its row from the moment it ended. Optuna's states:
COMPLETE was trained to the full budget, PRUNED was rejected or is a duplicate, FAIL broke or was interrupted.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture, canonical_id, from_dict, to_dict
from nas.study.rows import Row

ARCHITECTURE, ORIGIN, ROW, RETRY_OF, REASON = "architecture", "origin", "row", "retry_of", "reason"
SAMPLED = "sampled"
INTERRUPTED = "interrupted"
MOST_RETRIES = 2


def note_start(trial: optuna.Trial, architecture: Architecture) -> str:
    """Write the sampled architecture on the trial; returns its origin."""
    trial.set_user_attr(ARCHITECTURE, to_dict(architecture))
    return trial.user_attrs.get(ORIGIN, SAMPLED)


def note_row(trial: optuna.Trial, row: Row) -> None:
    """Write the finished row on the trial."""
    trial.set_user_attr(ROW, row.to_dict())


def read_row(trial: FrozenTrial) -> Row | None:
    """The row of a trial that ended; None for one that never got an architecture or is not over."""
    if ROW in trial.user_attrs and trial.state != TrialState.RUNNING:
        return Row.from_dict(trial.user_attrs[ROW])
    if trial.state != TrialState.FAIL or ARCHITECTURE not in trial.user_attrs:
        return None
    architecture = from_dict(trial.user_attrs[ARCHITECTURE])
    return Row(
        number=trial.number,
        id=canonical_id(architecture),
        state="failed",
        reason=trial.user_attrs.get(REASON, INTERRUPTED),
        origin=trial.user_attrs.get(ORIGIN, SAMPLED),
        architecture=architecture,
        deployed=None,
        values={},
    )


def rows_of(study: optuna.Study) -> tuple[Row, ...]:
    """Every row of the study in order of trial numbers."""
    rows = (read_row(trial) for trial in study.get_trials(deepcopy=False))
    return tuple(row for row in rows if row is not None)


def retries(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """How many interrupted trials this one repeats."""
    before = trial.user_attrs.get(RETRY_OF)
    return 0 if before is None else 1 + retries(trials, trials[before])


def enqueue_references(study: optuna.Study, references: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Put the reference designs at the front of the queue, each once in the life of the study."""
    known = {trial.user_attrs.get(ORIGIN) for trial in study.get_trials(deepcopy=False)}
    for name, params in references:
        origin = f"reference: {name}"
        if origin not in known:
            study.enqueue_trial(params, user_attrs={ORIGIN: origin})


def finish_as_row_says(study: optuna.Study, trial: FrozenTrial) -> None:
    """Tell Optuna what it did not hear any more: the state, and the values, of a trial whose row was written."""
    row = Row.from_dict(trial.user_attrs[ROW])
    names = study.metric_names or []
    if row.state == "complete":
        values = [row.values[name].value for name in names]
        study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, values)
    else:
        state = TrialState.FAIL if row.state == "failed" else TrialState.PRUNED
        study._storage.set_trial_state_values(trial._trial_id, state)


def requeue_interrupted(study: optuna.Study) -> int:
    """Mark what a killed process left running as FAIL, and queue each interrupted trial again, once.

    Returns how many were queued. Hold the study's lock: a running trial must not belong to a living process.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if ROW in trial.user_attrs:
            finish_as_row_says(study, trial)
        else:
            study._storage.set_trial_user_attr(trial._trial_id, REASON, INTERRUPTED)
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    count = 0
    for trial in trials:
        interrupted = trial.state == TrialState.FAIL and trial.user_attrs.get(REASON) == INTERRUPTED
        # A trial whose repeat was interrupted too may be what kills the process: it is not tried a third time.
        if interrupted and trial.number not in retried and retries(trials, trial) < MOST_RETRIES:
            params = trial.params or trial.system_attrs.get("fixed_params", {})
            study.enqueue_trial(
                params, user_attrs={ORIGIN: trial.user_attrs.get(ORIGIN, SAMPLED), RETRY_OF: trial.number}
            )
            count += 1
    return count
