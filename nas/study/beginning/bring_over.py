"""Rows of another study brought into this one as ended trials, so that samplers, duplicates and fronts know them.

From an earlier version of the study everything that settled an architecture comes over and counts as before. From
another study whose rows are comparable the trained ones come, and cost this one's budget nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture, from_dict
from nas.study.confirmation.costs import confirmed_rows
from nas.study.confirmation.retrained import PLANS, TRAINING
from nas.study.noise import REPEATS
from nas.study.rows import Row
from nas.study.samplers.known import Completed
from nas.study.storage.studies import DEFINITION, FORMAT
from nas.study.trials import (
    ARCHITECTURE,
    INTERRUPTED,
    ORIGIN,
    PROMOTED_FROM,
    RETRY_OF,
    ROW,
    SAMPLED,
    interrupted_trials,
    read_row,
    rows_of,
)

SOURCE = "brought_from"
STATES = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}  # all others end as pruned


class Encodes(Protocol):
    """A search space: the architecture of a trial, and the parameters of one, or None where it lies outside."""

    def __call__(self, trial: Any, /) -> Architecture: ...

    def encode(self, architecture: Architecture) -> dict[str, Any] | None: ...


def bring_version_over(study: optuna.Study, earlier: optuna.Study, space: Encodes) -> int:
    """What settled an architecture in the earlier version, with the noise floor and confirmations; how many came.

    Trials that were interrupted there are queued here. The earlier version has no worker any more, and one worker at a
    time may call this; called again, it adds nothing twice.
    """
    attrs = earlier.user_attrs
    for name, value in attrs.items():
        if name not in study.user_attrs and (name in (REPEATS, PLANS) or name.startswith(TRAINING)):
            study.set_user_attr(name, value)
    settled = [row for row in standing(earlier) if row.state != "duplicate" and row.reason != INTERRUPTED]
    read = {trial.number: read_row(trial) for trial in earlier.get_trials(deepcopy=False)}
    count = bring(study, earlier, [with_all_rungs(row, read) for row in settled], space)
    queue_interrupted(study, earlier, space)
    return count


def queue_interrupted(study: optuna.Study, earlier: optuna.Study, space: Encodes) -> None:
    """Queue what was begun in a version without workers and neither ended nor begun again there, each once.

    What went on from a rung is left out: its row on that rung comes over, and goes on from there.
    """
    here = {trial.user_attrs.get(SOURCE) for trial in study.get_trials(deepcopy=False)}
    trials = earlier.get_trials(deepcopy=False)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING and ROW not in trial.user_attrs]
    again = [
        trials[t.user_attrs[RETRY_OF]] for t in trials if t.state == TrialState.WAITING and RETRY_OF in t.user_attrs
    ]
    for trial in (*interrupted_trials(earlier), *running, *again):
        source = f"{earlier.study_name} {trial.number}"
        if source in here or ARCHITECTURE not in trial.user_attrs or PROMOTED_FROM in trial.user_attrs:
            continue
        params = space.encode(from_dict(trial.user_attrs[ARCHITECTURE]))
        if params is not None:
            attrs = {ORIGIN: trial.user_attrs.get(ORIGIN, SAMPLED), SOURCE: source}
            study.enqueue_trial(params, user_attrs=attrs)


def with_all_rungs(row: Row, read: Mapping[int, Row | None]) -> Row:
    """The row with what was trained on all of its rungs, also in the trials that it goes on from, so that the total of
    the study stays one. read: the rows of those trials by number."""
    trained, before = row.trained, row.promoted_from
    while before is not None and (earlier := read.get(before)) is not None:
        trained, before = trained + earlier.trained, earlier.promoted_from
    return replace(row, trained=trained)


def bring_trained_over(study: optuna.Study, other: optuna.Study, space: Encodes) -> int:
    """The trained rows of another study, which cost this one nothing; how many came."""
    trained = [replace(row, trained=0.0) for row in standing(other) if row.state == "complete"]
    return bring(study, other, trained, space)


def standing(study: optuna.Study) -> list[Row]:
    """The rows as their costs were confirmed."""
    return confirmed_rows(study, rows_of(study))


def bring(study: optuna.Study, other: optuna.Study, rows: Sequence[Row], space: Encodes) -> int:
    """Add the rows that lie in the space and are not here yet."""
    here = {trial.user_attrs.get(SOURCE) for trial in study.get_trials(deepcopy=False)}
    there = {trial.number: trial for trial in other.get_trials(deepcopy=False)}
    known = {row.id for row in rows_of(study)}
    count = 0
    for row in rows:
        source = f"{other.study_name} {row.number}"
        trial = trial_of(row, there[row.number], source, study.metric_names or (), space)
        if source not in here and row.id not in known and trial is not None:
            study.add_trial(trial)
            count += 1
    return count


def trial_of(
    row: Row, trial: FrozenTrial, source: str, objectives: Sequence[str], space: Encodes
) -> FrozenTrial | None:
    """A row as a trial of a study over that space; None where its architecture lies outside."""
    params = space.encode(from_dict(trial.user_attrs[ARCHITECTURE]))
    if params is None:
        return None
    point = Completed(params, lambda _, distribution: distribution.choices[0])
    space(point)
    attrs: dict[str, Any] = {ARCHITECTURE: trial.user_attrs[ARCHITECTURE], ORIGIN: row.origin, SOURCE: source}
    attrs[ROW] = replace(row, promoted_from=None).to_dict()
    return optuna.trial.create_trial(
        state=STATES.get(row.state, TrialState.PRUNED),
        params=point.params,
        distributions={name: CategoricalDistribution(choices) for name, choices in point.choices.items()},
        values=[row.values[name].value for name in objectives] if row.state == "complete" else None,
        user_attrs=attrs,
    )


def are_comparable(study: optuna.Study, other: optuna.Study) -> bool:
    """Whether the rows of another study mean the same here: all settings but space and limits are equal."""
    here, there = study.user_attrs[DEFINITION], other.user_attrs[DEFINITION]
    apart = ("search_space", "limits")
    equal = all(here.get(key) == there.get(key) for key in (*here, *there) if key not in apart)
    return equal and study.user_attrs.get(FORMAT) == other.user_attrs.get(FORMAT)
