"""Who goes on from a rung, and what a budget of whole trainings pays for."""

from dataclasses import replace

import pytest

from nas.measurement import Measurement
from nas.objectives import parse_objectives
from nas.study.crew import Crew
from nas.study.noise import REPEATS, rung_noise, stored_floors
from nas.study.rows import Row, Rung, standing_rows
from nas.study.rungs import Fidelity, Ladder, RungsError, Step, is_lucky
from tests.study.toys import FreeEvaluator, run_toy, space

FIDELITY = Fidelity(shares=(0.25, 1.0), decay=0.2)
LOSS, COST = parse_objectives(["text_loss", "decode_latency_ms"])
ARCHITECTURE = space(type("Given", (), {"suggest_categorical": lambda _, name, choices: choices[0]})())


def unlucky(number: int) -> str:
    """An id that does not go on by lot."""
    return next(name for name in (f"{number}-{i}" for i in range(100)) if not is_lucky(name, 0))


def row(number: int, loss: float, cost: float, *, error: float = 0.0, rungs: int = 1, name: str | None = None) -> Row:
    score = Measurement(value=loss, unit="bits/byte", low=loss - error, high=loss + error, n=9, source="scored")
    return Row(
        number=number,
        id=name or unlucky(number),
        state="complete" if rungs == 2 else "stopped",
        reason=None,
        origin="sampled",
        architecture=ARCHITECTURE,
        deployed=None,
        values={"text_loss": score, "decode_latency_ms": Measurement.exact(cost, "ms")},
        rungs=tuple(Rung(share=share, scores={"text_loss": score}) for share in FIDELITY.shares[:rungs]),
    )


def ladder(*taken: int) -> Ladder:
    return Ladder(fidelity=FIDELITY, qualities=[LOSS], costs=[COST], taken=taken)


def next_step(rows: list[Row], left: float, *taken: int, new: bool = True) -> Step | None:
    return ladder(*taken).next_step(rows, [r for r in rows if r.state == "stopped"], left, new=new)


def going_on(rows: list[Row]) -> set[int]:
    return {r.number for r in rows if r.state == "stopped" and ladder().goes_on(r, rows)}


def test_costs_are_in_full_trainings_and_decays_are_paid_for():
    assert Fidelity().cost(0, 0) == 1
    assert FIDELITY.cost(0, 0) == pytest.approx(0.25)
    assert FIDELITY.cost(1, 1) == pytest.approx(0.8 * 0.75 + 0.2)
    assert FIDELITY.cost(0, 1) == pytest.approx(FIDELITY.cost(0, 0) + FIDELITY.cost(1, 1)) == pytest.approx(1.05)


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.25, 1.0), (0.5, 0.5, 1.0), (0.0, 1.0), (0.5, 2.0), ("x", 1.0)])
def test_shares_that_do_not_rise_to_one_are_one_sentence(shares):
    with pytest.raises(RungsError, match=r"fidelity.shares must rise from above 0 to 1 at the end"):
        Fidelity(shares=shares)


def test_who_is_good_for_its_cost_goes_on_though_it_is_neither_best_nor_cheapest():
    cheap = [row(i, 3.0 + 0.1 * i, 1.0 + 0.01 * i) for i in range(8)]
    dear = [row(10 + i, 1.0 + 0.1 * i, 9.0 + 0.01 * i) for i in range(8)]
    # Of every four the best goes on, among those of its own cost; ranks over all objectives would keep every cheap one.
    assert going_on([*cheap, *dear]) == {0, 1, 10, 11}


def test_who_is_beaten_by_no_more_than_the_noise_goes_on_until_too_many_do():
    clear = [row(i, 1.0 + 0.1 * i, 1.0) for i in range(8)]
    noisy = [row(i, 1.0 + 0.1 * i, 1.0, error=0.15) for i in range(8)]
    assert going_on(clear) == {0, 1}
    assert {0, 1} < going_on(noisy)
    many = [row(i, 1.0, 1.0, error=9.0, rungs=2 if i < 4 else 1) for i in range(8)]
    assert going_on(many) == set(), "half of a rung has gone on already, where a quarter should"


def test_what_seeds_do_on_a_rung_is_noise_there_and_nowhere_else():
    rows = [row(i, 1.0 + 0.1 * i, 1.0) for i in range(8)]

    def on_with(noise):
        judge = replace(ladder(), noise=noise)
        return {r.number for r in rows if judge.goes_on(r, rows)}

    assert on_with({1.0: {"text_loss": 0.15}, 0.25: {"recall": 0.15}}) == going_on(rows) == {0, 1}
    assert on_with({0.25: {"text_loss": 0.15}}) > {0, 1}


def test_a_rung_with_few_architectures_lets_nobody_on_but_the_lucky():
    lucky = next(name for name in map(str, range(100)) if is_lucky(name, 0))
    rows = [row(0, 1.0, 1.0), row(1, 2.0, 1.0), row(2, 9.0, 1.0, name=lucky)]
    assert going_on(rows) == {2}
    assert 0.07 < sum(is_lucky(str(i), 0) for i in range(2000)) / 2000 < 0.13


def test_the_budget_is_kept_for_bringing_somebody_to_the_top():
    rows = [row(i, 1.0 + i, 1.0) for i in range(4)]
    assert next_step(rows, 9.0) == Step(cost=FIDELITY.cost(1, 1), row=rows[0])
    assert next_step(rows, 9.0, 0) == Step(cost=FIDELITY.cost(0, 0))
    assert next_step(rows, 1.04, 0) == Step(cost=FIDELITY.cost(1, 1), row=rows[1]), "no new one would get to the top"
    assert next_step(rows, 0.7) is None
    assert next_step(rows, 9.0, 0, new=False) == Step(cost=FIDELITY.cost(1, 1), row=rows[1])
    assert next_step([], 0.9) is None


def test_a_row_stands_for_those_that_it_went_on_from_unless_it_runs_again():
    first = row(0, 1.0, 1.0)
    later = Row(**{**vars(first), "number": 1, "state": "complete", "promoted_from": 0})
    again = Row(**{**vars(later), "state": "failed", "reason": "interrupted"})
    assert standing_rows([later, first], "interrupted") == [later]
    assert standing_rows([first, again], "interrupted") == [first, again]
    assert Row.from_dict(later.to_dict()) == later


class OnRungs(FreeEvaluator):
    """Remembers what share of which architecture was trained; the loss falls with it."""

    def __init__(self, on_measure=None):
        super().__init__(on_measure=on_measure)
        self.shares: list[tuple[str, float]] = []

    def train(self, candidate, seed, observer, share=1.0):
        self.shares.append((candidate.architecture.name, share))
        super().train(candidate, seed, observer, share)
        loss = candidate.scores["text_loss"].value + 1 - share
        candidate.scores["text_loss"] = Measurement.exact(loss, "bits/byte")


def test_a_search_on_rungs_stays_within_the_budget_and_trains_nothing_twice(tmp_path):
    evaluator = OnRungs()
    loop = run_toy(tmp_path, trials=6, evaluator=evaluator, fidelity=FIDELITY)
    assert len(evaluator.shares) == len(set(evaluator.shares))
    assert loop.spent == pytest.approx(sum(loop._read[n].trained for n in loop._read))
    assert 5.2 < loop.spent <= 6.0 + 1e-9
    complete = [r for r in loop.rows if r.state == "complete"]
    stopped = [r for r in loop.rows if r.state == "stopped"]
    assert len(complete) >= 3 and len(stopped) >= 2
    assert all([rung.share for rung in r.rungs] == [0.25, 1.0] for r in complete)
    assert all(r.reason == "left after 0.25 of the tokens" for r in stopped)
    assert len({r.id for r in loop.rows}) == len(loop.rows), "a row that went on stands for the earlier one"
    (reference,) = [r for r in loop.rows if r.origin == "reference: all-attention"]
    assert reference.state == "complete" and reference.promoted_from is None


def test_the_baseline_is_repeated_on_all_rungs_at_once_and_its_noise_is_the_margin_of_the_others(tmp_path):
    evaluator = OnRungs()
    loop = run_toy(tmp_path, trials=2, evaluator=evaluator, fidelity=FIDELITY, noise_seeds=3)
    assert evaluator.trained[:6] == [("aaaa", seed) for seed in (0, 0, 1, 1, 2, 2)], "before any other is judged"
    assert [share for _, share in evaluator.shares[:6]] == [0.25, 1.0] * 3
    baseline = loop.bars.reference_row(loop.rows)
    assert baseline is not None
    losses = {"text_loss": pytest.approx(0.001), "recall": 0.0}
    assert rung_noise(loop.study, baseline) == {0.25: losses, 1.0: losses}
    assert loop.allowance._ladder(loop.rows).noise == rung_noise(loop.study, baseline)
    (floor,) = (f for f in stored_floors(loop.study, baseline, loop.rows) if f.name == "text_loss")
    assert len(floor.values) == 3, "and they are the noise floor of the report"
    loop.repeat(baseline)
    assert len(evaluator.trained) == len(evaluator.shares) and evaluator.trained.count(("aaaa", 1)) == 2
    assert loop.spent <= 2, "repeats are no trials"
    assert rung_noise(loop.study, None) == {} == rung_noise(loop.study, replace(baseline, id="another"))


def test_repeats_that_were_interrupted_are_made_up_for_and_one_that_breaks_is_left_out(tmp_path):
    class Interrupted(OnRungs):
        def train(self, candidate, seed, observer, share=1.0):
            super().train(candidate, seed, observer, share)
            if seed == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, trials=2, evaluator=Interrupted(), fidelity=FIDELITY, noise_seeds=3)

    class Breaks(OnRungs):
        def train(self, candidate, seed, observer, share=1.0):
            super().train(candidate, seed, observer, share)
            if seed == 2:
                raise ArithmeticError("the loss is nan")

    evaluator = Breaks()
    loop = run_toy(tmp_path, trials=2, evaluator=evaluator, fidelity=FIDELITY, noise_seeds=3)
    assert evaluator.trained[:3] == [("aaaa", 1), ("aaaa", 1), ("aaaa", 2)], "before anything else"
    baseline = loop.bars.reference_row(loop.rows)
    assert baseline is not None
    assert set(rung_noise(loop.study, baseline)) == {0.25, 1.0}
    assert [r.get("failed") for r in loop.study.user_attrs[REPEATS]] == [None, "ArithmeticError: the loss is nan"]
    loop.repeat(baseline)
    assert evaluator.trained.count(("aaaa", 2)) == 1, "it would break again"


def test_one_worker_repeats_the_baseline_and_another_takes_over_when_it_is_gone(tmp_path):
    loop = run_toy(tmp_path, trials=2, evaluator=OnRungs(), fidelity=FIDELITY)
    baseline = loop.bars.reference_row(loop.rows)
    assert baseline is not None
    mine = replace(loop.repeats, seeds=2)
    with Crew(loop.study, index=1) as crew:
        other = replace(mine, crew=crew)
        assert other.claim(baseline, FIDELITY.shares)
        assert not mine.claim(baseline, FIDELITY.shares)
    assert mine.claim(baseline, FIDELITY.shares)
    mine.now = (baseline.id, 1)
    mine.give_up("TookTooLong: it hangs")
    assert not mine.claim(baseline, FIDELITY.shares), "what hangs is not tried again"


def test_what_goes_on_is_not_measured_again_and_a_resumed_study_goes_on_where_it_was(tmp_path):
    measured: list[str] = []
    evaluator = OnRungs(on_measure=measured.append)
    run_toy(tmp_path, trials=3, evaluator=evaluator, fidelity=FIDELITY)
    loop = run_toy(tmp_path, trials=5, evaluator=evaluator, fidelity=FIDELITY)
    assert len(measured) == len(set(measured))
    assert len(evaluator.shares) == len(set(evaluator.shares))
    assert 4.2 < loop.spent <= 5.0 + 1e-9


def test_a_training_that_breaks_on_a_later_rung_replaces_its_row(tmp_path):
    class Breaks(OnRungs):
        def train(self, candidate, seed, observer, share=1.0):
            if share == 1 and candidate.architecture.name != "aaaa":
                raise FloatingPointError("not finite")
            super().train(candidate, seed, observer, share)

    loop = run_toy(tmp_path, trials=3, evaluator=Breaks(), fidelity=FIDELITY)
    failed = [r for r in loop.rows if r.state == "failed"]
    assert failed and all(r.promoted_from is not None and len(r.rungs) == 1 for r in failed)
    assert not {r.promoted_from for r in failed} & {r.number for r in loop.rows}


def test_who_misses_a_requirement_on_cost_does_not_go_on(tmp_path):
    loop = run_toy(tmp_path, trials=4, evaluator=OnRungs(), fidelity=FIDELITY, require={"decode_latency_ms": 3.0})
    sampled = [r for r in loop.rows if r.state == "complete" and not r.is_reference]
    assert sampled and all(r.values["decode_latency_ms"].value <= 3.0 for r in sampled)


def test_interruption_on_a_later_rung_is_taken_up_on_that_rung(tmp_path):
    class Stops(OnRungs):
        stop = True

        def train(self, candidate, seed, observer, share=1.0):
            if share == 1 and candidate.architecture.name != "aaaa" and self.stop:
                self.stop = False
                raise KeyboardInterrupt
            super().train(candidate, seed, observer, share)

    evaluator = Stops()
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, trials=4, evaluator=evaluator, fidelity=FIDELITY)
    loop = run_toy(tmp_path, trials=4, evaluator=evaluator, fidelity=FIDELITY)
    assert len(evaluator.shares) == len(set(evaluator.shares))
    assert loop.spent <= 4.0 + 1e-9


def test_who_is_far_behind_need_not_be_kept_and_who_may_go_on_is():
    rows = [row(i, 1.0 + 0.1 * i, 1.0) for i in range(8)]
    assert [r.number for r in ladder().hopeless(rows, rows)] == [4, 5, 6, 7]
    assert [r.number for r in ladder(5).hopeless(rows, rows)] == [4, 6, 7], "somebody goes on from 5 now"
    assert [r.number for r in ladder().hopeless(rows, rows[1:])] == [0, 4, 5, 6, 7], "0 misses a requirement"
    lucky = next(name for name in map(str, range(100)) if is_lucky(name, 0))
    assert not ladder().hopeless([*rows[:4], row(9, 9.0, 1.0, name=lucky)], [row(9, 9.0, 1.0, name=lucky)])[4:]


def test_checkpoints_stay_for_those_that_may_go_on_and_for_no_others(tmp_path):
    evaluator = OnRungs()
    loop = run_toy(tmp_path, trials=6, evaluator=evaluator, fidelity=FIDELITY)
    gone = {identity for identity, ended in evaluator.let_gone if ended}
    assert {r.id for r in loop.rows if r.state == "complete"} <= gone
    hopeless = {r.id for r in loop.allowance.hopeless(loop.rows)}
    assert hopeless and hopeless <= gone
    waiting = {r.id for r in loop.rows if r.state == "stopped"}
    assert all((identity, False) in evaluator.let_gone for identity in waiting)
