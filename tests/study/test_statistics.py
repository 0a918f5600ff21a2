"""What a few seeds can tell."""

import numpy as np
import pytest
from scipy import stats

from nas.study.statistics import (
    Known,
    detectable_difference,
    difference,
    estimate,
    pooled_sd,
    probability_positive,
    rank_agreement,
    ranks,
    sampled,
    shares_on_front,
)


def test_the_interval_is_students_and_covers_the_truth_nineteen_times_in_twenty():
    one = estimate([1.0, 2.0, 4.0])
    assert (one.low, one.high) == pytest.approx(stats.t.interval(0.95, 2, one.mean, stats.sem([1.0, 2.0, 4.0])))
    draws = np.random.default_rng(0).normal(5.0, 2.0, size=(2000, 3))
    covered = [(found := estimate(list(row))).low <= 5.0 <= found.high for row in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_the_smallest_difference_is_found_in_four_of_five_cases():
    least = detectable_difference(1.0, 5)
    generator = np.random.default_rng(0)
    found = stats.ttest_ind(generator.normal(0, 1, (4000, 5)), generator.normal(least, 1, (4000, 5)), axis=1)
    assert np.mean(np.asarray(found.pvalue) < 0.05) == pytest.approx(0.8, abs=0.02)
    assert detectable_difference(3.0, 5) == pytest.approx(3 * least) and detectable_difference(1.0, 20) < least


def test_spreads_are_pooled_by_their_degrees_of_freedom():
    assert pooled_sd([estimate([0.0, 2.0]), estimate([0.0, 0.0, 0.0])]) == pytest.approx(np.sqrt(2 / 3))


def test_a_difference_has_welchs_degrees_and_its_probability_is_that_of_the_t_test():
    first, second = [3.0, 3.4, 3.1], [2.0, 2.9, 2.6]
    apart = difference(estimate(first).known, estimate(second).known)
    test = stats.ttest_ind(first, second, equal_var=False, alternative="less")
    assert probability_positive(apart) == pytest.approx(float(test.pvalue))  # type: ignore[attr-defined]
    assert probability_positive(Known(value=0.0, error=0.0)) == 0.5


def test_who_is_clearly_better_is_on_the_front_and_who_cannot_be_told_apart_shares_it():
    def line(value: float, error: float) -> list[Known]:
        return [Known(value=value, error=error), Known(value=1.0, error=0.0)]

    shares = shares_on_front(sampled([line(1.0, 0.01), line(2.0, 0.01)]))
    assert shares.tolist() == [1.0, 0.0]
    shares = shares_on_front(sampled([line(1.0, 0.1), line(1.0, 0.1)]))
    assert shares == pytest.approx([0.5, 0.5], abs=0.05)
    able = np.zeros((4000, 2), dtype=bool)
    able[:, 1] = True
    assert shares_on_front(sampled([line(1.0, 0.01), line(2.0, 0.01)]), able).tolist() == [0.0, 1.0]


def test_ranks_share_the_better_place_and_agreement_needs_an_order():
    assert ranks([2.0, 1.0, 2.0]) == (2, 1, 2)
    assert rank_agreement([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == -1.0
    assert rank_agreement([1.0, 1.0], [1.0, 2.0]) is None
