"""Confirms a study by training: the baseline, the front and all that may belong to it, on fresh seeds, then judged.

(The costs of a front are confirmed by measuring, `nas.study.confirmation.costs`, and are taken as they are here.)
"""

from collections.abc import Mapping, Sequence

import optuna

from nas.objectives import Objective
from nas.study.bars import Bars
from nas.study.confirmation.costs import confirmed_rows
from nas.study.confirmation.judgement import Judgement, judge
from nas.study.confirmation.retrained import agree_on_plan, read_retrained
from nas.study.confirmation.retraining import Trains, retrain
from nas.study.errors import StudyError
from nas.study.events import Observer
from nas.study.noise import stored_floors
from nas.study.precision import near_front
from nas.study.rows import Row
from nas.study.trials import rows_of
from nas.tasks import Task


def confirm_study(
    study: optuna.Study,
    trainer: Trains,
    bars: Bars,
    *,
    seeds: int,
    tune: bool,
    deciding: Mapping[str, str],
    anew: bool,
    observer: Observer,
) -> Judgement:
    """Train what is near the front on `seeds` fresh seeds and judge it; what the study holds already is not repeated.

    deciding: by task, the score that chooses its rates. bars: those whose scores the study's tasks give. Raises
    StudyError where the study was begun to be confirmed otherwise, has nothing to confirm, or nothing of it held.
    """
    searched = confirmed_rows(study, rows_of(study))
    if not any(row.state == "complete" for row in searched):
        raise StudyError(f"The study {study.study_name!r} has no trained design yet, so there is nothing to confirm.")
    floors = {floor.name: floor for floor in stored_floors(study, bars.reference_row(searched), searched)}
    plan = agree_on_plan(study, searched, seeds=seeds, tune=tune, deciding=deciding, anew=anew)

    def choose(rows: Sequence[Row]) -> list[Row]:
        reference = bars.reference_row(rows)
        near = near_front(rows, bars.objectives, bars.applicable(rows), reference, floors)
        return near if reference is None or reference in near else [reference, *near]

    on_seeds = f"on seeds {plan.seeds[0]} to {plan.seeds[-1]}"
    rates = "at the table's rates" if plan.tuning_seed is None else "at the table's rates and at half and twice them"
    observer.message(f"{len(choose(searched))} designs may belong to the front; they are trained {on_seeds}, {rates}")
    rows = retrain(study, trainer, plan, searched, choose, observer)
    attrs = study.user_attrs
    found = {row.number: read_retrained(attrs, plan, row.id) for row in searched if row.state == "complete"}
    results = {number: result for number, result in found.items() if result is not None}
    if not any(row.state == "complete" and row.number in results for row in rows):
        reason = next(row.reason for row in rows if row.number in results)
        raise StudyError(f"None of the {len(results)} designs held on fresh seeds; the first of them: {reason}.")
    return judge(plan, rows, searched, results, bars.objectives, bars.applicable(rows), bars.reference_row(rows))


def deciding_scores(
    tasks: Mapping[str, Task], objectives: Sequence[Objective], required: Sequence[Objective]
) -> dict[str, str]:
    """By task, the first of its scores that is optimised, else required, else its first."""
    wanted = [objective.name for objective in (*objectives, *required)]
    return {
        task: next((name for name in wanted if name in names), names[0])
        for task, names in ((name, [metric.name for metric in task.metrics]) for name, task in tasks.items())
    }
