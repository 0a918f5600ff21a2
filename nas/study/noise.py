"""The noise floor: one architecture trained again on other seeds. Differences below it are none.

The repeats are not trials. They are stored in the study, so that a resumed run takes them up where it stopped. Where
training stops on rungs, the baseline is repeated on all of them once it is trained: what seeds do on a rung is part of
the margin there (nas/study/rungs.py).
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.study.candidate import Candidate, Evaluator, describe
from nas.study.events import Observer
from nas.study.rows import NoiseFloor, Row, Rung

REPEATS = "noise"


def repeat_seeds(
    study: optuna.Study,
    evaluator: Evaluator,
    row: Row,
    seeds: int,
    observer: Observer,
    shares: Sequence[float] = (1.0,),
) -> list[dict[str, Measurement]]:
    """Scores of `row`'s architecture on `seeds` seeds, its own first. Trains only what the study does not hold yet.

    shares: of the tokens, the rungs on which each is scored on its way; the last one is 1.
    """
    stored: list[dict[str, Any]] = [r for r in study.user_attrs.get(REPEATS, []) if r["id"] == row.id]
    known = {r["seed"]: r["scores"] for r in stored}
    for seed in range(row.seed + 1, row.seed + seeds):
        if seed in known:
            continue
        observer.message(f"noise floor: {row.architecture.name} again on seed {seed}")
        candidate = Candidate(architecture=row.architecture, deployed=row.deployed or row.architecture)
        passed: list[Rung] = []
        try:
            for share in shares:
                evaluator.train(candidate, seed, observer, share)
                passed.append(Rung(share=share, scores=dict(candidate.scores)))
        except Exception as error:  # a repeat that breaks leaves one seed out of the noise floor, not the report
            observer.message(f"noise floor: seed {seed} is left out, its training failed ({describe(error)})")
            continue
        known[seed] = {name: m.to_dict() for name, m in candidate.scores.items()}
        rungs = [rung.to_dict() for rung in passed]
        stored.append({"id": row.id, "seed": seed, "scores": known[seed], "rungs": rungs})
        study.set_user_attr(REPEATS, stored)
        evaluator.let_go(row.id, ended=True)
    own = {name: m for name, m in row.values.items() if OBJECTIVES[name].stage == "train"}
    wanted = [seed for seed in range(row.seed + 1, row.seed + seeds) if seed in known]
    return [own, *({n: Measurement.from_dict(m) for n, m in known[seed].items()} for seed in wanted)]


def rung_noise(study: optuna.Study, row: Row | None) -> dict[float, dict[str, float]]:
    """By the share of the tokens, the standard deviation of each score of `row`'s architecture over the seeds that were
    scored there; nothing where its own is the only one."""
    if row is None:
        return {}
    stored = [repeat for repeat in study.user_attrs.get(REPEATS, []) if repeat["id"] == row.id]
    others = [Rung.from_dict(rung) for repeat in stored for rung in repeat.get("rungs", ())]
    found = {}
    for rung in row.rungs:
        alike = [rung.scores, *(other.scores for other in others if other.share == rung.share)]
        if len(alike) > 1:
            found[rung.share] = {name: statistics.stdev(s[name].value for s in alike) for name in rung.scores}
    return found


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
