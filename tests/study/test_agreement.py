"""Agreement of a cheap number with an expensive one, on examples that can be counted by hand."""

import math

import numpy as np
import pytest

from nas.study.agreement import agreement, bootstrap, pairs_beyond, regret

TRUTH = np.array([1.0, 2.0, 3.0, 4.0])


def test_agreement_is_the_share_of_pairs_in_the_same_order():
    assert agreement(TRUTH, TRUTH) == 1.0
    assert agreement(-TRUTH, TRUTH) == 0.0
    assert agreement(np.array([2.0, 1.0, 3.0, 4.0]), TRUTH) == pytest.approx(5 / 6)


def test_a_guess_that_knows_nothing_is_right_half_of_the_time():
    assert agreement(np.zeros(4), TRUTH) == 0.5


def test_pairs_within_the_margin_are_not_judged():
    guess = np.array([2.0, 1.0, 4.0, 3.0])
    assert agreement(guess, TRUTH, margin=1.0) == 1.0
    assert pairs_beyond(TRUTH, 1.0) == 3
    assert math.isnan(agreement(guess, TRUTH, margin=10.0))


def test_regret_is_how_much_worse_the_choice_is_than_the_best():
    assert regret(TRUTH, TRUTH) == 0.0
    assert regret(np.array([9.0, 9.0, 1.0, 9.0]), TRUTH) == 2.0
    assert regret(np.zeros(4), TRUTH) == 1.5


def test_an_interval_holds_its_value_and_shrinks_with_more_architectures():
    generator = np.random.default_rng(1)
    widths = []
    for n in (10, 80):
        truth = generator.normal(size=n)
        found = bootstrap(agreement, truth + generator.normal(size=n), truth)
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0]
