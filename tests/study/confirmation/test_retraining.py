"""Designs trained anew: fresh seeds only, a plan fixed beforehand, nothing lost and nothing repeated."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from nas.architecture import Architecture, Attention
from nas.measure import DeviceGone
from nas.measurement import Measurement
from nas.study.confirmation.confirming import confirm_study, deciding_scores
from nas.study.confirmation.judgement import Judgement
from nas.study.confirmation.retrained import (
    FIRST_SEED,
    Training,
    agree_on_plan,
    current_plan,
    read_retrained,
    retrained_rows,
)
from nas.study.confirmation.retraining import Retrainer, alone, retrain
from nas.study.errors import StudyError
from nas.study.events import Observer
from nas.study.loop import Loop
from nas.study.rows import Row
from nas.study.training.outcomes import Outcome
from nas.study.training.task_training import Job
from nas.study.trials import rows_of
from nas.tasks import make_tasks
from tests.study.toys import OBJECTIVES, run_toy

DECIDING = {"text": "text_loss", "recall": "recall"}
SEEDS = (FIRST_SEED + 1, FIRST_SEED + 2, FIRST_SEED + 3)


class Quiet(Observer):
    """Hears nothing."""


@dataclass
class FreeTrainer:
    """The toy's scores, worse than the search's by a bit; twice the rate is best for text. Stops after `until`."""

    fails: frozenset[str] = frozenset()
    until: float = math.inf
    trained: list[tuple[str, str, int, float]] = field(default_factory=list)

    def __call__(
        self, architecture: Architecture, seed: int, factors: Mapping[str, float], observer: Any
    ) -> Iterator[Training]:
        for task, factor in factors.items():
            if len(self.trained) >= self.until:
                raise KeyboardInterrupt
            self.trained.append((architecture.name, task, seed, factor))
            layers = sum(isinstance(m, Attention) for m in architecture.mixers)
            scores = {
                "text": {
                    "text_loss": Measurement.exact(4.0 - 0.1 * layers - 0.01 * factor + 1e-3 * (seed % 5), "bits/byte")
                },
                "recall": {"recall": Measurement.exact(layers / 4, "share")},
            }[task]
            broke = architecture.name in self.fails and seed >= FIRST_SEED + 2
            reason = "NonFiniteScore: text_loss is nan" if broke else None
            yield Training(
                task=task, seed=seed, factor=factor, scores={} if broke else scores, failed=reason, seconds=1.0
            )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    return run_toy(tmp_path_factory.mktemp("searched") / "toy", trials=6)


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return run_toy(tmp_path / "toy", trials=4, require={"recall": 0.4})


def confirmed(loop: Loop, trainer: FreeTrainer, **options: Any) -> Judgement:
    settings: dict[str, Any] = {"seeds": 3, "tune": True, "anew": False} | options
    return confirm_study(loop.study, trainer, loop.bars, deciding=DECIDING, observer=Quiet(), **settings)


def test_every_design_trains_on_the_same_fresh_seeds_and_its_rates_are_chosen_on_another(loop) -> None:
    trainer = FreeTrainer()
    judgement = confirmed(loop, trainer)
    assert judgement.plan.seeds == SEEDS and judgement.plan.tuning_seed == FIRST_SEED
    assert {row.seed for row in loop.rows} == {0}
    for one in judgement.designs:
        own = {
            (task, seed, factor) for name, task, seed, factor in trainer.trained if name == one.row.architecture.name
        }
        tuning = {(task, FIRST_SEED, factor) for task in DECIDING for factor in (0.5, 1.0, 2.0)}
        # The text is best at twice the rate; recall is the same at all, and stays at the table's.
        assert own == tuning | {("text", s, f) for s in SEEDS for f in (1.0, 2.0)} | {("recall", s, 1.0) for s in SEEDS}
        assert one.result.factors == {"text": 2.0, "recall": 1.0}


def test_seeds_of_the_search_of_its_noise_floor_and_of_earlier_plans_are_never_taken(loop) -> None:
    rows = [replace(row, seed=FIRST_SEED + 7) for row in rows_of(loop.study)]
    loop.study.set_user_attr("noise", [{"id": rows[0].id, "seed": FIRST_SEED + 9, "scores": {}}])
    first = agree_on_plan(loop.study, rows, seeds=2, tune=True, deciding=DECIDING, anew=False)
    assert (first.tuning_seed, first.seeds) == (FIRST_SEED + 10, (FIRST_SEED + 11, FIRST_SEED + 12))
    second = agree_on_plan(loop.study, rows, seeds=2, tune=False, deciding=DECIDING, anew=True)
    assert second.tuning_seed is None and min(second.seeds) > max(first.seeds)


def test_the_scores_of_the_search_are_discarded(loop) -> None:
    judgement = confirmed(loop, FreeTrainer())
    rows = {row.number: row for row in retrained_rows(loop.study, rows_of(loop.study))}
    for one in judgement.designs:
        layers = sum(isinstance(m, Attention) for m in one.row.architecture.mixers)
        mean = 4.0 - 0.1 * layers - 0.02 + 1e-3 * sum(seed % 5 for seed in SEEDS) / 3
        score = one.row.values["text_loss"]
        assert (score.value, score.source, score.n) == (pytest.approx(mean), "confirmed", 3)
        assert one.searched["text_loss"].value == pytest.approx(3.0 - 0.1 * layers)
        assert rows[one.row.number].values == one.row.values


def test_the_number_of_seeds_is_fixed_beforehand(loop) -> None:
    trainer = FreeTrainer(until=3)
    with pytest.raises(KeyboardInterrupt):
        confirmed(loop, trainer)
    for other in ({"seeds": 4}, {"tune": False}):
        with pytest.raises(StudyError, match="seeds=3 tune=true, and that is fixed beforehand, but got"):
            confirmed(loop, trainer, **other)
    judgement = confirmed(loop, FreeTrainer(), seeds=4, tune=False, anew=True)
    assert len(judgement.plan.seeds) == 4 and min(judgement.plan.seeds) > max(SEEDS)


@pytest.mark.parametrize("until", [1, 8, 20])
def test_an_interrupted_confirmation_goes_on_without_repeating_a_training(loop, until) -> None:
    trainer = FreeTrainer(until=until)
    with pytest.raises(KeyboardInterrupt):
        confirmed(loop, trainer)
    trainer.until = math.inf
    judgement = confirmed(loop, trainer)
    assert len(trainer.trained) == len(set(trainer.trained))
    count = len(trainer.trained)
    assert confirmed(loop, trainer) == judgement and len(trainer.trained) == count, "a third call trains nothing"


def test_a_design_that_breaks_is_reported_and_is_on_no_front(loop) -> None:
    name = next(row.architecture.name for row in loop.rows if row.origin == "sampled" and row.state == "complete")
    judgement = confirmed(loop, FreeTrainer(fails=frozenset({name})))
    (broken,) = judgement.broken
    assert broken.architecture.name == name
    assert broken.reason == (
        f"trained anew, it broke: text on seed {SEEDS[1]} at 1 times the rate: NonFiniteScore: text_loss is nan"
    )
    assert broken.number not in (*judgement.front, *(one.row.number for one in judgement.designs))


def test_where_nothing_held_one_sentence_says_so(loop) -> None:
    names = frozenset(row.architecture.name for row in loop.rows)
    with pytest.raises(
        StudyError, match=r"None of the \d designs held on fresh seeds; the first of them: trained anew"
    ):
        confirmed(loop, FreeTrainer(fails=names))


def test_a_rate_at_which_seeds_break_gives_way_to_the_tables(loop) -> None:
    class Fragile(FreeTrainer):
        def __call__(self, architecture, seed, factors, observer):
            for training in super().__call__(architecture, seed, factors, observer):
                breaks = training.factor == 2.0 and seed in SEEDS[1:]
                yield replace(training, scores={}, failed="ArithmeticError: nan") if breaks else training

    for one in confirmed(loop, Fragile()).designs:
        assert one.result.factors["text"] == 1.0 and one.result.tuned == one.result.fixed
        assert len(one.result.failures) == 2


def test_a_new_score_may_let_in_a_design_that_seemed_beaten_which_then_trains_too(searched) -> None:
    rows = [row for row in searched.rows if row.state == "complete"]
    plan = agree_on_plan(searched.study, rows, seeds=2, tune=False, deciding=DECIDING, anew=True)

    def best_two(known: list[Row]) -> list[Row]:
        return sorted(known, key=lambda row: row.values["text_loss"].value)[:2]

    trainer = FreeTrainer()
    known = retrain(searched.study, trainer, plan, rows, best_two, Quiet())  # type: ignore[arg-type]
    assert len({name for name, *_ in trainer.trained}) > 2, "new scores are worse by a bit, so others came first"
    attrs = searched.study.user_attrs
    assert all(read_retrained(attrs, plan, row.id) is not None for row in best_two(known))


def test_a_study_without_a_trained_design_has_nothing_to_confirm(tmp_path) -> None:
    loop = run_toy(tmp_path / "toy", trials=1)
    loop.study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(StudyError, match="no trained design yet"):
        confirmed(loop, FreeTrainer())
    assert current_plan(loop.study) is None


def test_one_process_at_a_time_confirms_a_study(tmp_path) -> None:
    with alone(tmp_path):
        with pytest.raises(StudyError, match="Another process is confirming the study"):
            with alone(tmp_path):
                pass
    with alone(tmp_path):
        pass


def test_what_decides_on_a_tasks_rates_is_its_score_that_is_optimised_else_required_else_its_first() -> None:
    tasks = make_tasks({"runs": {"text": {"name": "text"}, "recall": {"name": "recall"}}})
    assert deciding_scores(tasks, OBJECTIVES, ()) == {"text": "text_loss", "recall": "recall"}


@dataclass
class Trainer:
    """Breaks on the seeds of `breaks`; remembers its jobs."""

    breaks: frozenset[int] = frozenset()
    jobs: list[Job] = field(default_factory=list)

    def __call__(self, job: Job, on_step: Any) -> Outcome:
        self.jobs.append(job)
        if job.seed in self.breaks:
            raise FloatingPointError("the loss is not finite")
        assert job.checkpoints is not None
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        return Outcome(scores={"recall": Measurement.exact(0.5, "share")}, weights={"w": torch.ones(1)}, seconds=2.0)


def test_training_here_gives_scores_or_the_reason_and_forgets_its_checkpoints(searched, tmp_path) -> None:
    trainer = Trainer(breaks=frozenset({8}))
    retrainer = Retrainer(trainers={"recall": trainer}, workers=None, checkpoints=tmp_path, seconds=9.0)  # type: ignore[dict-item]
    architecture = searched.rows[0].architecture
    (sound,) = retrainer(architecture, 7, {"recall": 2.0}, Quiet())
    assert (sound.scores["recall"].value, sound.failed, sound.seconds) == (0.5, None, 2.0)
    (broken,) = retrainer(architecture, 8, {"recall": 1.0}, Quiet())
    assert (broken.scores, broken.failed) == ({}, "FloatingPointError: the loss is not finite")
    assert [(job.seed, job.rate, job.share, job.seconds) for job in trainer.jobs] == [
        (7, 2.0, 1.0, 9.0),
        (8, 1.0, 1.0, 9.0),
    ]
    assert list(tmp_path.iterdir()) == []

    def gone(job: Job, on_step: Any) -> Outcome:
        raise DeviceGone("cuda does not answer any more")

    with pytest.raises(DeviceGone):
        list(replace(retrainer, trainers={"recall": gone})(architecture, 9, {"recall": 1.0}, Quiet()))  # type: ignore[dict-item]
