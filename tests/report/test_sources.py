from dataclasses import replace
from typing import get_args

import pytest

from nas.measure.clock import measurement
from nas.measure.conditions import CpuReading, clock_flags, cpu_flags
from nas.measure.nvidia_smi import GpuState
from nas.measurement import Measurement, Source
from nas.report.sources import LABELS, flag_sentences, flags, source_label, tilde
from tests.report.examples import BUSY, from_source, rows

BEFORE = CpuReading(when=0.0, busy=0.0, own=0.0, throttled=0, swapped=0, faults=0)


def taken(*sources: Source) -> list[Measurement]:
    return [replace(Measurement.exact(1.0, "ms"), source=source) for source in sources]


@pytest.mark.parametrize(
    ("sources", "label"),
    [
        ((), ""),
        (("measured", "counted", "scored"), ""),
        (("estimate", "estimate"), "estimate"),
        (("table",), "predicted"),
        (("measured", "table"), "partly predicted"),
        (("estimate", "table"), "estimate and predicted"),
    ],
)
def test_a_label_says_what_is_no_measurement_and_whether_all_are_so(sources, label):
    assert source_label(taken(*sources)) == label


def test_every_source_has_a_label_or_stands_bare():
    assert {source for source in get_args(Source) if not tilde(*taken(source))} == set(get_args(Source)) - set(LABELS)


def test_disturbed_times_are_counted_one_sentence_for_each_way():
    noted = [(BUSY, BUSY), (BUSY,), ("stopped by the time limit, median known to 3.1 %",), ("median known to 1 %",)]
    assert flag_sentences([with_notes(row, notes) for row, notes in zip(rows(), noted, strict=False)]) == [
        "2 of 4 measured times were taken while other processes used the CPU.",
        "1 of 4 measured times was stopped by the time limit before the median was known as well as asked.",
    ]


def test_only_measured_times_are_counted():
    given = [with_notes(rows()[0], (BUSY,)), *(from_source(row, "table") for row in rows()[1:])]
    assert flag_sentences(given) == ["1 of 1 measured time was taken while other processes used the CPU."]


def test_a_study_without_disturbed_times_has_no_sentence():
    assert flag_sentences([]) == flag_sentences([with_notes(row, ()) for row in rows()[:5]]) == []


def with_notes(row, notes):
    time = replace(row.values["time_per_output_token_ms"], notes=notes)
    return replace(row, values=row.values | {"time_per_output_token_ms": time})


@pytest.mark.parametrize(
    ("notes", "is_flag"),
    [
        (cpu_flags(BEFORE, replace(BEFORE, when=1.0, busy=1e6)), True),
        (cpu_flags(BEFORE, replace(BEFORE, when=1.0, throttled=3, swapped=9)), True),
        (cpu_flags(BEFORE, replace(BEFORE, when=1.0, faults=10_000)), True),
        (clock_flags(GpuState(utilisation=0.9, clock=900.0, highest_clock=1980.0, reasons=0)), True),
        (measurement([1.0, 2.0], 0.01).notes, True),
        (measurement([1.0, 2.0] * 5, 0.01).notes, True),
        (measurement([1.0] * 9, 0.01).notes, False),
    ],
)
def test_what_measuring_notes_is_recognised(notes, is_flag):
    assert notes
    assert flags(replace(Measurement.exact(1.0, "ms"), notes=notes)) == (notes if is_flag else ())
