"""What fresh seeds say: means, ranks at both rates, who is probably on the front, what could not be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from nas.measurement import Measurement
from nas.objectives import parse_objectives, parse_requirements
from nas.report.confirmed import as_data, confirmation_text
from nas.study.confirmation.judgement import Judgement, judge
from nas.study.confirmation.retrained import Plan, Retrained, with_scores
from nas.study.rows import Row
from nas.study.statistics import detectable_difference, estimate
from tests.study.test_recommendation import row as searched_row

OBJECTIVES = parse_objectives(["text_loss", "decode_latency_ms"])
PLAN = Plan(seeds=(11, 12, 13), tuning_seed=10, deciding={"text": "text_loss", "recall": "recall"})
NOISE = (-0.01, 0.0, 0.01)


def around(value: float, noise: Sequence[float] = NOISE) -> tuple[float, ...]:
    return tuple(value + one for one in noise)


def result(loss: float, recall: float, fixed: float | None = None, failures: tuple[str, ...] = ()) -> Retrained:
    recalls = around(recall)
    return Retrained(
        factors={"text": 2.0, "recall": 1.0},
        fixed={"text_loss": around(loss if fixed is None else fixed), "recall": recalls},
        tuned={"text_loss": around(loss), "recall": recalls},
        failures=failures,
    )


def row(number: int, ms: float, origin: str = "sampled") -> Row:
    plain = searched_row(number, 1.0, 1.0, ms, origin=origin)
    exact = Measurement.exact(ms, "ms")
    return replace(plain, values=plain.values | {"decode_latency_ms": exact})


def judged(rows: list[Row], results: Mapping[int, Retrained], bars: dict[str, float] | None = None) -> Judgement:
    new = [with_scores(one, results[one.number]) for one in rows]
    reference = next((one for one in new if one.is_reference), None)
    return judge(PLAN, new, rows, results, OBJECTIVES, parse_requirements(bars or {}), reference)


REFERENCE = row(0, 9.0, "reference: all-attention")


def test_means_intervals_and_the_smallest_difference_are_those_of_the_seeds() -> None:
    found = judged([row(1, 1.0), row(2, 2.0)], {1: result(2.0, 0.9), 2: result(1.0, 0.5)})
    (one,) = (one for one in found.designs if one.row.number == 1)
    assert one.tuned["text_loss"] == estimate(around(2.0)) and one.fixed == one.tuned
    assert found.sd["text_loss"] == pytest.approx(0.01)
    assert found.detectable["text_loss"] == pytest.approx(detectable_difference(0.01, 3))
    assert one.searched["text_loss"].value == 1.0


def test_ranks_are_told_at_the_tables_rates_and_at_tuned_ones_with_how_far_they_agree() -> None:
    rows = [row(1, 1.0), row(2, 1.0), row(3, 1.0)]
    results = {1: result(1.0, 0.1, fixed=2.0), 2: result(1.1, 0.2, fixed=1.9), 3: result(1.2, 0.3, fixed=2.1)}
    found = judged(rows, results)
    by_number = {one.row.number: one for one in found.designs}
    assert [by_number[n].rank_tuned["text_loss"] for n in (1, 2, 3)] == [1, 2, 3]
    assert [by_number[n].rank_fixed["text_loss"] for n in (1, 2, 3)] == [2, 1, 3]
    assert [by_number[n].rank_tuned["recall"] for n in (1, 2, 3)] == [3, 2, 1], "more recall is better"
    assert found.agreement["text_loss"] == pytest.approx(1 / 3)


def test_who_is_clearly_beaten_is_on_no_front_and_who_cannot_be_told_apart_shares_it() -> None:
    results = {n: result(loss, 0.9) for n, loss in ((1, 1.0), (2, 1.0), (3, 3.0))}
    found = judged([row(1, 1.0), row(2, 1.0), row(3, 1.0)], results)
    shares = {one.row.number: one.on_front for one in found.designs}
    assert shares[1] == pytest.approx(0.5, abs=0.05) and shares[2] == pytest.approx(0.5, abs=0.05)
    assert shares[3] < 0.01 and found.front == (1,), "of equal designs the first"
    assert found.designs[-1].row.number == 3 and found.designs[0].meets is None


def test_a_relative_bar_moves_with_the_baseline_which_always_meets_its_own_whole_level() -> None:
    rows = [REFERENCE, row(1, 1.0), row(2, 2.0)]
    results = {0: result(2.0, 0.9), 1: result(1.5, 0.9), 2: result(1.8, 0.95)}
    found = judged(rows, results, {"recall": 1.0})
    meets = {one.row.number: one.meets for one in found.designs}
    assert meets[0] == 1.0
    assert meets[1] == pytest.approx(0.5, abs=0.03) and 0.9 < (meets[2] or 0) < 1
    required = {one.row.number: one.on_required_front for one in found.designs}
    assert 0.4 < (required[2] or 0) < 0.6, "on the front only where design 1, better in all, misses the bar"
    assert found.front == (1,) and found.front_required == (1,)


def test_an_absolute_bar_keeps_designs_off_the_front_of_those_that_meet_it() -> None:
    found = judged([row(1, 1.0), row(2, 2.0)], {1: result(1.0, 0.9), 2: result(2.0, 0.9)}, {"decode_latency_ms": 1.5})
    assert [one.meets for one in found.designs] == [1.0, 0.0]
    assert found.front_required == (1,)


def test_a_design_that_did_not_hold_is_told_and_not_judged() -> None:
    broken = Retrained(factors={}, fixed={}, tuned={"text_loss": (1.0,)}, failures=("text on seed 11 broke",))
    found = judged([row(1, 1.0), row(2, 1.0)], {1: result(1.0, 0.9), 2: broken})
    assert [one.number for one in found.broken] == [2] and [one.row.number for one in found.designs] == [1]
    assert "Trial 2 (AAAA) did not hold: trained anew, it broke: text on seed 11 broke." in confirmation_text(
        "s", found
    )


def test_the_text_has_means_intervals_probabilities_ranks_and_what_could_be_seen() -> None:
    rows = [REFERENCE, row(1, 1.0)]
    results = {0: result(2.0, 0.9), 1: result(1.5, 0.6, failures=("text on seed 12 at 2 times the rate: nan",))}
    found = judged(rows, results, {"recall": 0.5})
    text = confirmation_text("toy", found)
    assert "again on seeds 11, 12, 13, whose number was fixed beforehand" in text and "on seed 10 alone" in text
    assert "Front by confirmed numbers: trial 1." in text
    assert "Trial 1, text on seed 12 at 2 times the rate: nan; that seed is left out." in text
    (line,) = (line for line in text.splitlines() if line.startswith("| 1 "))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("1", "AAAA", "1.500 [1.475, 1.525]", "0.6000 [0.5752, 0.6248]", "1 ms", "yes", "100%", "100%", "100%")
    ]
    assert "mean at tuned rates" in text and "Kendall's tau" in text
    untuned = replace(found, plan=replace(PLAN, tuning_seed=None))
    assert "tuned rates" not in confirmation_text("toy", untuned)


def test_the_data_hold_every_number_of_every_seed() -> None:
    found = judged([row(1, 1.0)], {1: result(1.5, 0.6, fixed=2.0)})
    (design,) = as_data("toy", found)["designs"]
    assert design["tuned"]["text_loss"]["values"] == list(around(1.5))
    assert design["fixed"]["text_loss"]["values"] == list(around(2.0))
    assert design["values"]["text_loss"]["source"] == "confirmed"
