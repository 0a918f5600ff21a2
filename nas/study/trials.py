"""Between Optuna's trials and our rows: what is written on a trial, and how it is read back.

A trial carries its architecture from the moment it was sampled and its row from the moment it ended. Optuna's states:
COMPLETE was trained to the full budget, PRUNED was rejected, is a duplicate or was left on a rung, FAIL broke or was
interrupted. A trial that goes on from a rung names the one that was left there (`promoted_from`).

An interrupted trial is queued again as a new one that names the old (`retry_of`). Ctrl-C may interrupt it as often as a
user likes; a trial during which two workers were killed may be what kills them, and is not tried a third time.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture, canonical_id, from_dict, to_dict
from nas.study.rows import Row, standing_rows

ARCHITECTURE, ORIGIN, ROW, RETRY_OF, REASON = "architecture", "origin", "row", "retry_of", "reason"
WORKER, KILLED = "worker", "killed"
PROXY = "proxy"  # the canonical id of the architecture that is trained, with its parameters matched
SAMPLED = "sampled"
INTERRUPTED = "interrupted"
DEADLY = "two workers were killed while it ran"
MOST_DEATHS = 2
# What a repeat inherits besides its parameters and its origin.
PROMOTED_FROM = "promoted_from"
KEPT_BY_RETRIES = (PROMOTED_FROM,)


class TakenAway(RuntimeError):
    """The others took this worker for dead and ended its trial; the trial runs again elsewhere, its row is lost."""


def note_start(trial: optuna.Trial, architecture: Architecture) -> str:
    """Write the sampled architecture on the trial; returns its origin."""
    trial.set_user_attr(ARCHITECTURE, to_dict(architecture))
    return trial.user_attrs.get(ORIGIN, SAMPLED)


def note_row(trial: optuna.Trial, row: Row) -> None:
    """Write the finished row on the trial. Raises TakenAway when the trial is over already."""
    try:
        trial.set_user_attr(ROW, row.to_dict())
    except UpdateFinishedTrialError:
        raise TakenAway(
            f"trial {trial.number} was given to another worker while this one could not be heard of; its result is lost"
        ) from None


def read_row(trial: FrozenTrial) -> Row | None:
    """The row of a trial that ended; None for one that never got an architecture or is not over."""
    if ROW in trial.user_attrs and trial.state != TrialState.RUNNING:
        return replace(Row.from_dict(trial.user_attrs[ROW]), number=trial.number)  # one brought over has another
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
        promoted_from=trial.user_attrs.get(PROMOTED_FROM),
    )


def rows_of(study: optuna.Study) -> tuple[Row, ...]:
    """Every row of the study that stands, in order of trial numbers."""
    rows = (read_row(trial) for trial in study.get_trials(deepcopy=False))
    return tuple(standing_rows((row for row in rows if row is not None), INTERRUPTED))


def deaths(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """How many workers were killed during this trial and those that it repeats."""
    before = trial.user_attrs.get(RETRY_OF)
    earlier = 0 if before is None else deaths(trials, trials[before])
    return earlier + (KILLED in trial.user_attrs)


def enqueue_references(study: optuna.Study, references: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Put the reference designs at the front of the queue, each once in the life of the study."""
    known = {trial.user_attrs.get(ORIGIN) for trial in study.get_trials(deepcopy=False)}
    for name, params in references:
        origin = f"reference: {name}"
        if origin not in known:
            study.enqueue_trial(params, user_attrs={ORIGIN: origin})


def go_on(study: optuna.Study, row: Row) -> None:
    """Queue the trial that trains a row's architecture further. One worker at a time may call this."""
    (trial,) = (trial for trial in study.get_trials(deepcopy=False) if trial.number == row.number)
    study.enqueue_trial(parameters(trial), user_attrs={ORIGIN: row.origin, PROMOTED_FROM: row.number})


def end_hung(study: optuna.Study, number: int, reason: str) -> None:
    """End a running trial as failed from another thread than its own; nothing where it has ended or has its row."""
    (trial,) = (trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    if trial.state == TrialState.RUNNING and ROW not in trial.user_attrs:
        study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def taken(study: optuna.Study) -> set[int]:
    """The trials that others go on from, or have gone on from."""
    found = (trial.user_attrs.get(PROMOTED_FROM) for trial in study.get_trials(deepcopy=False))
    return {number for number in found if number is not None}


def tell_row(study: optuna.Study, trial: optuna.Trial, row: Row) -> None:
    """Tell Optuna, and its sampler, how a trial of this process ended."""
    state, values = outcome(study, row)
    study.tell(trial, values, state)


def finish_as_row_says(study: optuna.Study, trial: FrozenTrial) -> None:
    """Tell Optuna what it did not hear any more: the state, and the values, of a trial whose row was written."""
    state, values = outcome(study, Row.from_dict(trial.user_attrs[ROW]))
    study._storage.set_trial_state_values(trial._trial_id, state, values)


def outcome(study: optuna.Study, row: Row) -> tuple[TrialState, list[float] | None]:
    """What a row is to Optuna: the state, and the values of a training to the full budget."""
    if row.state == "complete":
        return TrialState.COMPLETE, [row.values[name].value for name in study.metric_names or ()]
    return (TrialState.FAIL if row.state == "failed" else TrialState.PRUNED), None


def interrupted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were interrupted and that nobody has taken up yet."""
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL
        and trial.user_attrs.get(REASON) == INTERRUPTED
        and trial.number not in retried
        and parameters(trial)
    ]


def parameters(trial: FrozenTrial) -> dict[str, Any]:
    """What was sampled, or what was to be; empty for a trial that was killed before its first parameter."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def requeue_interrupted(study: optuna.Study, lost: Sequence[FrozenTrial], killed: Sequence[FrozenTrial] = ()) -> int:
    """Mark the `lost` trials, which run no more, as FAIL, and queue each interrupted trial again, once.

    killed: those of the lost during which a worker was killed. Returns how many were queued. One worker at a time may
    call this (`Crew.requeue` does).
    """
    trials = study.get_trials(deepcopy=False)
    numbers = {trial.number for trial in killed}
    for trial in lost:
        try:
            end_lost(study, trials, trial, killed=trial.number in numbers)
        except UpdateFinishedTrialError:
            continue  # it ended meanwhile: its worker was slow, not gone
    interrupted = interrupted_trials(study)
    for trial in interrupted:
        attrs = {ORIGIN: trial.user_attrs.get(ORIGIN, SAMPLED), RETRY_OF: trial.number}
        attrs |= {name: trial.user_attrs[name] for name in KEPT_BY_RETRIES if name in trial.user_attrs}
        study.enqueue_trial(parameters(trial), user_attrs=attrs)
    return len(interrupted)


def end_lost(study: optuna.Study, trials: Sequence[FrozenTrial], trial: FrozenTrial, *, killed: bool) -> None:
    """End a trial whose worker is gone: as its row says, or as interrupted or deadly where it has none."""
    if ROW in trial.user_attrs:
        finish_as_row_says(study, trial)
        return
    # Who ended it before may have been killed between two of these writes, so the mark may be there already.
    deadly = killed and deaths(trials, trial) + (KILLED not in trial.user_attrs) >= MOST_DEATHS
    if killed:
        study._storage.set_trial_user_attr(trial._trial_id, KILLED, True)
    study._storage.set_trial_user_attr(trial._trial_id, REASON, DEADLY if deadly else INTERRUPTED)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def is_final(row: Row) -> bool:
    """Whether a row settles its architecture: trained, rejected, or broken for a reason of its own."""
    return row.state in ("complete", "rejected", "stopped") or (row.state == "failed" and row.reason != INTERRUPTED)
