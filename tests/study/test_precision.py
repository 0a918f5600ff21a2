"""How well numbers are known, and which rows may belong to the front."""

from dataclasses import replace

import pytest

from nas.measurement import Measurement, Source
from nas.objectives import parse_objectives, parse_requirements
from nas.study.precision import basis, known, near_front
from nas.study.rows import NoiseFloor, Row
from tests.study.test_recommendation import row as plain_row

OBJECTIVES = parse_objectives(["text_loss", "sequence_bytes"])
FLOORS = {"text_loss": NoiseFloor(name="text_loss", unit="bits/byte", values=(1, 2, 3), sd=0.01, design_sd=None)}
STEP = 2 * 0.01 * 2**0.5  # two standard errors of the difference of two single trainings


def number(value: float, half: float, source: Source, n: int = 3) -> Measurement:
    return Measurement(value=value, unit="", low=value - half, high=value + half, n=n, source=source)


def row(place: int, loss: float, size: float, recall: float = 1.0, source: Source = "scored") -> Row:
    values = {
        "text_loss": number(loss, 0.001, source),
        "sequence_bytes": Measurement.exact(size, "bytes"),
        "recall": number(recall, 0.05, "scored"),
    }
    return replace(plain_row(place, 0.0, 0.0, 0.0), values=values)


def numbers(rows: list[Row]) -> list[int]:
    return [one.number for one in rows]


def near(rows: list[Row], bars: dict[str, float] | None = None) -> list[int]:
    reference = next((one for one in rows if one.number == 0), None)
    return numbers(near_front(rows, OBJECTIVES, parse_requirements(bars or {}), reference, FLOORS))


def test_a_single_score_is_known_by_the_noise_floor_and_a_confirmed_one_by_its_own_seeds() -> None:
    single = known("text_loss", number(2.0, 0.5, "scored"), FLOORS)
    assert (single.error, single.degrees) == (0.01, 2)
    confirmed = known("text_loss", number(2.0, 0.5, "confirmed", 4), FLOORS)
    assert (confirmed.error, confirmed.degrees) == (0.5, 3)
    assert known("text_loss", number(2.0, 0.5, "scored"), {}).error == 0.5


def test_a_measured_time_has_the_deviation_that_its_percentiles_imply_and_a_counted_number_none() -> None:
    """A normal has its 20th and 80th percentile 0.8416 deviations from the middle."""
    assert known("decode_latency_ms", number(9.0, 0.8416, "measured"), {}).error == pytest.approx(1.0, abs=1e-3)
    assert known("sequence_bytes", Measurement.exact(5, "bytes"), {}).error == 0.0


def test_what_an_error_rests_on_is_said_in_words() -> None:
    assert basis("text_loss", number(1, 0.1, "confirmed", 5), FLOORS) == "5 fresh seeds"
    assert basis("text_loss", number(1, 0.1, "scored"), FLOORS) == "noise floor of 3 seeds"
    assert basis("text_loss", number(1, 0.1, "scored"), {}) == "spread over the held-out data, seeds not known"
    assert basis("decode_latency_ms", number(1, 0.1, "measured"), {}) == "spread of its samples"
    assert basis("sequence_bytes", Measurement.exact(1, "bytes"), {}) == "taken as exact"


def test_designs_within_two_standard_errors_of_the_front_are_near_it_and_others_are_not() -> None:
    rows = [row(1, 2.0, 10), row(2, 2.0 + 0.99 * STEP, 10), row(3, 2.0 + 1.01 * STEP, 10), row(4, 1.5, 20)]
    assert near(rows) == [1, 2, 4]


def test_a_worse_counted_number_is_no_matter_of_luck() -> None:
    assert near([row(1, 2.0, 10), row(2, 2.0, 11)]) == [1, 2], "its loss may be the better one"
    assert near([row(1, 2.0, 10), row(2, 2.0 + 1.01 * STEP, 11)]) == [1]


def test_a_confirmed_number_is_held_to_its_own_error() -> None:
    far = row(2, 2.0 + 0.8 * STEP, 10)
    assert near([row(1, 2.0, 10), far]) == [1, 2]
    assert near(
        [
            row(1, 2.0, 10, source="confirmed"),
            replace(far, values=row(2, 2.0 + 0.8 * STEP, 10, source="confirmed").values),
        ]
    ) == [1]


def test_only_trained_rows_are_near_the_front() -> None:
    assert near([row(1, 2.0, 10), replace(row(2, 1.0, 1), state="failed")]) == [1]


def test_a_row_beaten_only_by_those_that_miss_a_bar_is_near_the_front_of_the_others() -> None:
    rows = [row(0, 3.0, 30, recall=1.0), row(1, 2.0, 10, recall=0.2), row(2, 2.5, 20, recall=0.9)]
    assert near(rows) == [1]
    assert near(rows, {"recall": 0.8}) == [1, 2]


def test_a_row_that_misses_a_bar_within_two_standard_errors_counts_as_one_that_may_meet_it() -> None:
    rows = [row(0, 3.0, 30), row(1, 2.0, 10, recall=0.2), row(2, 2.5, 20, recall=0.75)]
    # The distance to the bar, 0.05, has the error of both recalls, 0.05 and 0.8 times 0.05.
    assert near(rows, {"recall": 0.8}) == [0, 1, 2], "the reference alone meets the bar for certain"
    assert near([*rows[:2], row(2, 2.5, 20, recall=0.6)], {"recall": 0.8}) == [0, 1]
