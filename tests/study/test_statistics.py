"""Means, intervals, powers and probabilities against SciPy, tables and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from nas.study.statistics import (
    Known,
    detectable_difference,
    estimate,
    pooled_sd,
    rank_agreement,
    ranks,
    sampled,
    shares_on_front,
)


def test_the_interval_of_a_mean_is_students() -> None:
    values = [2.31, 2.35, 2.29, 2.40]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.known.error == pytest.approx(stats.sem(values)) and found.known.degrees == 3


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(5.0, 2.0, (2000, 3))
    covered = [(one := estimate(list(row))).low <= 5.0 <= one.high for row in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_the_pooled_deviation_weighs_designs_by_their_degrees_of_freedom() -> None:
    one, other = estimate([0.0, 2.0]), estimate([1.0, 1.0, 1.0])
    assert pooled_sd([one, other]) == pytest.approx(math.sqrt(2.0 / 3))
    assert pooled_sd([one, one]) == pytest.approx(one.sd)


@pytest.mark.parametrize(("n", "shift"), [(17, 0.9914), (26, 0.7926), (64, 0.4991)])
def test_the_detectable_difference_is_that_of_cohens_tables(n: int, shift: float) -> None:
    """0.99, 0.79 and 0.5 standard deviations at 17, 26 and 64 a group are what power tables round (Cohen, 1988)."""
    assert detectable_difference(1.0, n) == pytest.approx(shift, abs=2e-3)
    assert detectable_difference(3.0, n) == pytest.approx(3 * detectable_difference(1.0, n))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_detectable_difference_is_found_in_four_of_five_simulated_comparisons(n: int) -> None:
    generator = np.random.default_rng(n)
    shift = detectable_difference(1.0, n)
    one, other = generator.normal(0, 1, (20_000, n)), generator.normal(shift, 1, (20_000, n))
    assert np.mean(np.asarray(stats.ttest_ind(one, other, axis=1)[1]) < 0.05) == pytest.approx(0.8, abs=0.012)


def test_no_spread_makes_every_difference_detectable() -> None:
    assert detectable_difference(0.0, 3) == 0.0


def test_draws_are_students_around_the_value_normal_where_the_error_is_certain_and_always_the_same() -> None:
    numbers = [[Known(value=1.0, error=0.1, degrees=4), Known(value=2.0, error=0.5), Known(value=3.0, error=0.0)]]
    draws = sampled(numbers)[:, 0]
    assert stats.kstest((draws[:, 0] - 1.0) / 0.1, stats.t(4).cdf).pvalue > 0.01
    assert stats.kstest((draws[:, 1] - 2.0) / 0.5, stats.norm.cdf).pvalue > 0.01
    assert np.all(draws[:, 2] == 3.0)
    assert np.array_equal(draws, sampled(numbers)[:, 0])


def test_the_chance_of_being_better_of_two_is_that_of_the_normal() -> None:
    draws = sampled([[Known(value=0.0, error=1.0)], [Known(value=1.0, error=1.0)]])
    expected = stats.norm.cdf(1 / math.sqrt(2))
    assert shares_on_front(draws) == pytest.approx([expected, 1 - expected], abs=0.02)


def test_a_design_is_on_the_front_where_no_other_is_as_good_in_all_and_better_in_one() -> None:
    draws = np.array([[[1.0, 3.0], [2.0, 2.0], [2.0, 3.0]], [[1.0, 1.0], [1.0, 1.0], [0.0, 2.0]]])
    assert shares_on_front(draws) == pytest.approx([1.0, 1.0, 0.5])


def test_who_does_not_take_part_is_on_no_front_and_beats_nobody() -> None:
    draws = np.array([[[1.0], [2.0]]])
    assert shares_on_front(draws, np.array([[False, True]])) == pytest.approx([0.0, 1.0])


def test_the_agreement_of_two_orders_is_kendalls_and_none_where_one_orders_nothing() -> None:
    assert rank_agreement([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert rank_agreement([1, 2], [5, 5]) is None and rank_agreement([1], [2]) is None


def test_equal_numbers_share_the_better_rank() -> None:
    assert ranks([0.3, 0.1, 0.3, 0.2]) == (3, 1, 3, 2)
