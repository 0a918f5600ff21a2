"""What training anew to confirm a study gave, as its storage holds it: plan, trainings, and the rows' new numbers.

A front is chosen by its scores, so its scores are luck in part. The designs on it and near it are trained again, on
seeds that the search never saw, and only what these give counts. The number of seeds is fixed before the first of them:
who looks and then adds some will find what he looks for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna

from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.study.errors import StudyError
from nas.study.noise import REPEATS
from nas.study.rows import Row
from nas.study.statistics import estimate

PLANS, TRAINING = "retraining_plans", "retrained:"
FACTORS = (0.5, 1.0, 2.0)  # on the rates of the table
FIRST_SEED = 1_000_000  # beyond those that searches use


@dataclass(frozen=True, kw_only=True)
class Plan:
    """seeds: on which every design is trained. tuning_seed: on which its rates are chosen; None leaves them alone.

    deciding: by the name of each task's run, the score that chooses its rate.
    """

    seeds: tuple[int, ...]
    tuning_seed: int | None
    deciding: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {"seeds": list(self.seeds), "tuning_seed": self.tuning_seed, "deciding": dict(self.deciding)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        return cls(seeds=tuple(data["seeds"]), tuning_seed=data["tuning_seed"], deciding=data["deciding"])


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of one task's copy: its scores, or why it broke (`failed`)."""

    task: str
    seed: int
    factor: float
    scores: Mapping[str, Measurement]
    failed: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """One design's trainings. factors: the chosen factor on the rates of each task.

    fixed and tuned: by score, the numbers of the seeds at the table's rates and at the chosen ones; seeds that broke
    are left out and told in `failures`.
    """

    factors: Mapping[str, float]
    fixed: Mapping[str, tuple[float, ...]]
    tuned: Mapping[str, tuple[float, ...]]
    failures: tuple[str, ...]


def current_plan(study: optuna.Study) -> Plan | None:
    """The plan under which the study was confirmed last; None where it was not."""
    plans = study.user_attrs.get(PLANS, [])
    return Plan.from_dict(plans[-1]) if plans else None


def agree_on_plan(
    study: optuna.Study,
    rows: Sequence[Row],
    *,
    seeds: int,
    tune: bool,
    deciding: Mapping[str, str],
    anew: bool,
) -> Plan:
    """The plan to go on with, or a new one on seeds that nobody has used; it is written down.

    Raises StudyError where another plan was begun and `anew` does not put it away.
    """
    plans: list[dict[str, Any]] = list(study.user_attrs.get(PLANS, []))
    if plans and not anew:
        plan = Plan.from_dict(plans[-1])
        tuned = plan.tuning_seed is not None
        if (len(plan.seeds), tuned) != (seeds, tune):
            raise StudyError(
                f"This study is being confirmed with seeds={len(plan.seeds)} tune={str(tuned).lower()}, and that is "
                f"fixed beforehand, but got seeds={seeds} tune={str(tune).lower()}; go on with the former, or put it "
                "away and take other seeds with anew=true."
            )
        return plan
    used = {row.seed for row in rows} | {repeat["seed"] for repeat in study.user_attrs.get(REPEATS, [])}
    for earlier in map(Plan.from_dict, plans):
        used |= {*earlier.seeds, earlier.tuning_seed or 0}
    fresh = max(FIRST_SEED, 1 + max(used, default=0))
    plan = Plan(
        seeds=tuple(range(fresh + 1, fresh + 1 + seeds)),
        tuning_seed=fresh if tune else None,
        deciding=dict(deciding),
    )
    study.set_user_attr(PLANS, [*plans, plan.to_dict()])
    return plan


def key(identity: str, task: str, seed: int, factor: float) -> str:
    """The attribute of the study that holds a training."""
    return f"{TRAINING}{identity}:{task}:{seed}:{factor:g}"


def store(study: optuna.Study, identity: str, training: Training) -> None:
    """Write a training down; one attribute each, so that nothing written before can be lost."""
    data = {
        "scores": {name: number.to_dict() for name, number in training.scores.items()},
        "failed": training.failed,
        "seconds": training.seconds,
    }
    study.set_user_attr(key(identity, training.task, training.seed, training.factor), data)


def stored(attrs: Mapping[str, Any], identity: str, task: str, seed: int, factor: float) -> Training | None:
    """A training that is done; attrs: the user attributes of the study."""
    data = attrs.get(key(identity, task, seed, factor))
    if data is None:
        return None
    scores = {name: Measurement.from_dict(number) for name, number in data["scores"].items()}
    return Training(task=task, seed=seed, factor=factor, scores=scores, failed=data["failed"], seconds=data["seconds"])


def chosen_factor(attrs: Mapping[str, Any], plan: Plan, identity: str, task: str) -> float | None:
    """The factor with the best deciding score, the table's own where it is no worse; None while that is not known."""
    if plan.tuning_seed is None:
        return 1.0
    trainings = [stored(attrs, identity, task, plan.tuning_seed, factor) for factor in FACTORS]
    if any(training is None for training in trainings):
        return None
    name = plan.deciding[task]
    sign = 1.0 if OBJECTIVES[name].direction == "minimize" else -1.0

    def loss(training: Training) -> tuple[float, float]:
        value = sign * training.scores[name].value if training.failed is None else math.inf
        return value, abs(math.log(training.factor))

    return min((training for training in trainings if training is not None), key=loss).factor


def read_retrained(attrs: Mapping[str, Any], plan: Plan, identity: str) -> Retrained | None:
    """What a design's trainings gave; None until all of them are done."""
    factors: dict[str, float] = {}
    fixed: dict[str, tuple[float, ...]] = {}
    tuned: dict[str, tuple[float, ...]] = {}
    failures: list[str] = []
    for task in plan.deciding:
        factor = chosen_factor(attrs, plan, identity, task)
        if factor is None:
            return None
        at_rates = {rate: trainings_at(attrs, plan, identity, task, rate) for rate in dict.fromkeys((1.0, factor))}
        if any(len(done) < len(plan.seeds) for done in at_rates.values()):
            return None
        for rate, done in at_rates.items():
            broken = [t for t in done if t.failed]
            failures += [f"{task} on seed {t.seed} at {rate:g} times the rate: {t.failed}" for t in broken]
            if len(done) - len(broken) < 2:  # a rate at which it breaks was no good choice
                factor = 1.0
        factors[task] = factor
        fixed |= by_score(at_rates[1.0])
        tuned |= by_score(at_rates[factor])
    return Retrained(factors=factors, fixed=fixed, tuned=tuned, failures=tuple(failures))


def trainings_at(attrs: Mapping[str, Any], plan: Plan, identity: str, task: str, factor: float) -> list[Training]:
    """The trainings on the plan's seeds that are done."""
    found = (stored(attrs, identity, task, seed, factor) for seed in plan.seeds)
    return [training for training in found if training is not None]


def by_score(trainings: Iterable[Training]) -> dict[str, tuple[float, ...]]:
    """The numbers of the seeds by score."""
    found: dict[str, tuple[float, ...]] = {}
    for training in trainings:
        for name, number in training.scores.items():
            found[name] = (*found.get(name, ()), number.value)
    return found


def retrained_rows(study: optuna.Study, rows: Sequence[Row]) -> list[Row]:
    """The rows, those of designs that were trained anew with these scores instead of the search's."""
    plan = current_plan(study)
    return list(rows) if plan is None else with_new_scores(study.user_attrs, plan, rows)


def with_new_scores(attrs: Mapping[str, Any], plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """As `retrained_rows`, from the user attributes of the study."""
    found = []
    for row in rows:
        result = read_retrained(attrs, plan, row.id) if row.state == "complete" else None
        found.append(row if result is None else with_scores(row, result))
    return found


def with_scores(row: Row, result: Retrained) -> Row:
    """The row with the means over the fresh seeds, plus and minus one standard error.

    A score with fewer than two seeds left has no mean that could be judged, so the design did not hold: it is failed.
    """
    if any(len(result.tuned.get(name, ())) < 2 for name in row.values if OBJECTIVES[name].is_quality):
        return replace(row, state="failed", reason=f"trained anew, it broke: {result.failures[0]}")
    values = dict(row.values)
    for name, numbers in result.tuned.items():
        known = estimate(numbers).known
        values[name] = Measurement(
            value=known.value,
            unit=OBJECTIVES[name].unit,
            low=known.value - known.error,
            high=known.value + known.error,
            n=len(numbers),
            source="confirmed",
        )
    return replace(row, values=values)
