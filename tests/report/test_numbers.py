import pytest

from nas.measurement import Measurement
from nas.report.numbers import in_full, scale_for, short, with_spread


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
    assert in_full("decode_latency_ms", measured) == "decode_latency_ms 12.30 ± 0.2 ms (n=16)"


def test_a_measured_number_that_happens_to_be_whole_keeps_its_decimals():
    measured = Measurement(value=14.0, unit="ms", low=13.0, high=15.0, n=16)
    assert in_full("latency", measured) == "latency 14.00 ± 1 ms (n=16)"
