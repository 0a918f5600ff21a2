from dataclasses import replace

import pytest

from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.report.numbers import full_name, heading, in_full, scale_for, short, unit_beside, with_spread, words


def counted(*values: float) -> list[Measurement]:
    return [Measurement.exact(value, "") for value in values]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.0, "12"),
        (2.3141, "2.314"),
        (31234567.0, "31,234,567"),
        (123456.7, "123,457"),
        (0.00012345, "0.000123"),
        (-2.5, "-2.500"),
    ],
)
def test_a_number_has_four_digits_and_no_exponent_where_there_is_room(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("unit", "largest", "scaled"),
    [("bytes", 3 * 2**30, "GiB"), ("bytes", 100, "bytes"), ("parameters", 5e6, "M"), ("ms", 1e9, "ms")],
)
def test_a_column_takes_the_unit_of_its_largest_number(unit, largest, scaled):
    assert scale_for(unit, counted(1, -largest)).unit == scaled


def test_the_numbers_of_a_column_share_their_decimals():
    scale = scale_for("ms", counted(9.1, 31.0, 14.25))
    assert [scale.show(v) for v in (9.1, 31.0)] == ["9.10", "31.00"]
    assert scale_for("layers", counted(4.0, 12.0)).show(4.0) == "4"


def test_a_column_without_numbers_keeps_its_unit():
    assert scale_for("bytes", []).unit == "bytes"


def test_a_counted_number_shows_no_spread_and_a_measured_one_does():
    assert with_spread(Measurement.exact(3 * 2**20, "bytes"), scale_for("bytes", counted(2**20))) == "3"
    measured = Measurement(value=12.3, unit="ms", low=12.1, high=12.5, n=16)
    assert in_full("time_per_output_token_ms", measured) == "time_per_output_token_ms 12.30 ± 0.2 ms (n=16)"


def test_a_measured_number_that_happens_to_be_whole_keeps_its_decimals():
    measured = Measurement(value=14.0, unit="ms", low=13.0, high=15.0, n=16)
    assert in_full("latency", measured) == "latency 14.00 ± 1 ms (n=16)"


def test_an_estimate_and_a_prediction_are_never_shown_as_a_measurement():
    estimate = replace(Measurement.exact(12.3, "ms"), source="estimate")
    assert in_full("time_per_output_token_ms", estimate) == "time_per_output_token_ms ~12.30 ms (estimate)"
    predicted = Measurement(value=12.3, unit="ms", low=12.1, high=12.5, n=16, source="table")
    assert in_full("time_per_output_token_ms", predicted).endswith(" ~12.30 ± 0.2 ms (predicted, n=16)")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("time_to_first_token_ms", "time to first token [ms]"),
        ("train_step_ms", "training step [ms]"),
        ("sequence_bytes", "memory per sequence [bytes]"),
        ("train_peak_memory_bytes", "training peak memory [bytes]"),
        ("sequences_that_fit", "sequences that fit"),
        ("active_parameters", "active parameters"),
        ("flops_per_token", "FLOPs per token"),
    ],
)
def test_a_name_is_readable_and_its_unit_is_not_said_twice(name, title):
    assert full_name(name, scale_for(OBJECTIVES[name].unit, [])) == title


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_has_a_name_without_a_unit_in_it(objective):
    assert not {"ms", "bytes", "_"} & {*words(objective.name).split(), *words(objective.name)}
    assert unit_beside(objective.name, "MiB") == "MiB"


def test_the_head_of_a_column_is_narrow_and_says_what_is_an_estimate():
    estimate = scale_for("ms", [replace(Measurement.exact(12.3, "ms"), source="estimate")])
    head = heading(OBJECTIVES["time_per_output_token_ms"], estimate)
    assert head.splitlines() == ["time per", "output token", "ms ↓", "(estimate)"]
