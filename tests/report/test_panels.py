from dataclasses import replace

import pytest

from nas.measurement import Measurement
from nas.objectives import parse_objectives
from nas.report.numbers import scale_for
from nas.report.panels import axis_title, columns, error, pairs, staircase, wide_range
from tests.report.examples import OBJECTIVES, REQUIREMENTS, result, rows


def names(panels):
    return [(None if p.x is None else p.x.name, p.y.name, p.has_staircase) for p in panels]


def test_each_quality_stands_against_each_cost_and_what_is_only_required_has_no_staircase():
    panels = pairs(OBJECTIVES, REQUIREMENTS)
    assert names(panels) == [
        ("time_per_output_token_ms", "text_loss", True),
        ("sequence_bytes", "text_loss", True),
        ("time_per_output_token_ms", "recall", False),
        ("sequence_bytes", "recall", False),
    ]
    assert columns(panels) == 2


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        (["text_loss"], [(None, "text_loss", False)]),
        (["parameters", "sequence_bytes"], [("sequence_bytes", "parameters", True)]),
        (["text_loss", "recall"], [("recall", "text_loss", True)]),
    ],
)
def test_without_a_quality_and_a_cost_all_pairs_stand_and_a_single_objective_stands_against_the_trials(
    objectives, expected
):
    assert names(pairs(parse_objectives(objectives), ())) == expected


@pytest.mark.parametrize(
    ("points", "maximize", "line"),
    [
        ([], (False, False), []),
        ([(1, 1)], (False, False), [(1, 1)]),
        ([(3, 1), (1, 3), (2, 4)], (False, False), [(1, 3), (3, 3), (3, 1)]),
        ([(3, 1), (1, 3), (2, 4)], (False, True), [(1, 3), (2, 3), (2, 4)]),
        ([(1, 3), (3, 1)], (True, True), [(3, 1), (1, 1), (1, 3)]),
    ],
)
def test_the_staircase_goes_through_the_points_that_no_other_beats_in_both_numbers(points, maximize, line):
    assert staircase(points, maximize_x=maximize[0], maximize_y=maximize[1]) == line


def test_the_error_of_a_score_is_at_least_the_spread_of_the_seeds_and_of_a_measurement_its_percentiles():
    loss, latency, memory = OBJECTIVES
    row = rows()[0]
    assert error(row, loss, result()) == pytest.approx((0.006, 0.006))
    assert error(row, latency, result()) == pytest.approx((31 * 0.02, 31 * 0.04))
    assert error(row, memory, result()) == error(row, None, result()) == (0, 0)


@pytest.mark.parametrize(("values", "wide"), [([], False), ([0, 9], False), ([1, 9], True), ([1, 2], False)])
def test_only_positive_numbers_of_a_wide_range_are_shown_on_a_logarithmic_axis(values, wide):
    assert wide_range(values) is wide


def test_an_axis_says_what_is_an_estimate():
    latency = OBJECTIVES[1]
    estimate = scale_for("ms", [replace(Measurement.exact(12.3, "ms"), source="estimate")])
    assert axis_title(latency, estimate) == "time per output token [ms] (estimate), less is better"
    assert axis_title(latency, scale_for("ms", [])) == "time per output token [ms], less is better"
    assert axis_title(None, scale_for("", [])) == "trial"
