"""The noise floor: one architecture trained again on other seeds. Differences below it are none.

The repeats are not trials. They are stored in the study, so that a resumed run takes them up where it stopped.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.study.candidate import Candidate, Evaluator, describe
from nas.study.events import Observer
from nas.study.rows import NoiseFloor, Row

REPEATS = "noise"


def repeat_seeds(
    study: optuna.Study, evaluator: Evaluator, row: Row, seeds: int, observer: Observer
) -> list[dict[str, Measurement]]:
    """Scores of `row`'s architecture on `seeds` seeds, its own first. Trains only what the study does not hold yet."""
    stored: list[dict[str, Any]] = [r for r in study.user_attrs.get(REPEATS, []) if r["id"] == row.id]
    known = {r["seed"]: r["scores"] for r in stored}
    for seed in range(row.seed + 1, row.seed + seeds):
        if seed in known:
            continue
        observer.message(f"noise floor: {row.architecture.name} again on seed {seed}")
        candidate = Candidate(architecture=row.architecture, deployed=row.deployed or row.architecture)
        try:
            evaluator.train(candidate, seed, observer)
        except Exception as error:  # a repeat that breaks leaves one seed out of the noise floor, not the report
            observer.message(f"noise floor: seed {seed} is left out, its training failed ({describe(error)})")
            continue
        known[seed] = {name: m.to_dict() for name, m in candidate.scores.items()}
        stored.append({"id": row.id, "seed": seed, "scores": known[seed]})
        study.set_user_attr(REPEATS, stored)
        evaluator.let_go(row.id, ended=True)
    own = {name: m for name, m in row.values.items() if OBJECTIVES[name].stage == "train"}
    wanted = [seed for seed in range(row.seed + 1, row.seed + seeds) if seed in known]
    return [own, *({n: Measurement.from_dict(m) for n, m in known[seed].items()} for seed in wanted)]


def stored_floors(study: optuna.Study, row: Row | None, rows: Sequence[Row]) -> tuple[NoiseFloor, ...]:
    """The noise floors from what the study holds of `row`'s architecture; trains nothing."""
    if row is None:
        return ()
    stored = [r["scores"] for r in study.user_attrs.get(REPEATS, []) if r["id"] == row.id]
    own = {name: m for name, m in row.values.items() if OBJECTIVES[name].stage == "train"}
    return noise_floors([own, *({n: Measurement.from_dict(m) for n, m in scores.items()} for scores in stored)], rows)


def noise_floors(repeats: Sequence[Mapping[str, Measurement]], rows: Sequence[Row]) -> tuple[NoiseFloor, ...]:
    """For each score the values over seeds, their standard deviation, and that of the reference designs' values."""
    floors = []
    for name in repeats[0] if len(repeats) > 1 else ():
        values = tuple(r[name].value for r in repeats)
        designs = [row.values[name].value for row in rows if row.is_reference and row.state == "complete"]
        floors.append(
            NoiseFloor(
                name=name,
                unit=repeats[0][name].unit,
                values=values,
                sd=statistics.stdev(values),
                design_sd=statistics.stdev(designs) if len(designs) > 1 else None,
            )
        )
    return tuple(floors)
