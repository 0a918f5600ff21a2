"""Measures the members of a front whose costs were predicted, before they are reported.

What is confirmed is stored in the study, beside the rows, which stay as they were when the trial ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import optuna

from nas.measurement import Measurement
from nas.study.candidate import Candidate, Evaluator, Rejected
from nas.study.events import Observer
from nas.study.rows import Row

CONFIRMED = "confirmed"


def confirmed_rows(study: optuna.Study, rows: Sequence[Row]) -> list[Row]:
    """The rows with the measured costs of those that were confirmed."""
    known: dict[str, Any] = study.user_attrs.get(CONFIRMED, {})
    return [confirmed(row, known[str(row.number)]) if str(row.number) in known else row for row in rows]


def confirmed(row: Row, data: dict[str, Any]) -> Row:
    """A row with what confirming it gave: measured costs, or the reason why it cannot be deployed."""
    if data["reason"] is not None:
        return replace(row, state="rejected", reason=data["reason"])
    values = {name: Measurement.from_dict(m) for name, m in data["values"].items()}
    return replace(row, values=row.values | values, costs=data["costs"])


def is_predicted(row: Row) -> bool:
    """Whether a number of the row is a prediction from a table."""
    return any(m.source == "table" for m in row.values.values())


def confirm_members(
    study: optuna.Study,
    evaluator: Evaluator,
    rows: list[Row],
    members: Callable[[Sequence[Row]], set[int]],
    observer: Observer,
) -> int:
    """Measure members of the front until all of them are measured; changes `rows`. Returns how many were.

    A measured cost may push a member off and let another in, which then is measured too.
    """
    stored: dict[str, Any] = dict(study.user_attrs.get(CONFIRMED, {}))
    count = 0
    while True:
        front = members(rows)
        predicted = [
            i
            for i, row in enumerate(rows)
            if row.number in front and is_predicted(row) and str(row.number) not in stored
        ]
        if not predicted:
            return count
        for i in predicted:
            row = rows[i]
            assert row.deployed is not None, "what was measured was deployed"
            candidate = Candidate(architecture=row.architecture, deployed=row.deployed)
            observer.message(f"measuring trial {row.number}, a member of the front, as a whole")
            reason = None
            try:
                if not evaluator.confirm(candidate):
                    return count
            except Rejected as rejection:
                reason = str(rejection)
            known = {n: m for n, m in candidate.measurements.items() if n in row.values}
            stored[str(row.number)] = {
                "reason": reason,
                "values": {name: m.to_dict() for name, m in known.items()},
                "costs": candidate.costs,
            }
            study.set_user_attr(CONFIRMED, stored)
            rows[i] = confirmed(row, stored[str(row.number)])
            count += 1
