"""Times do not move with the pace of the machine."""

import time

import pytest

from nas.measure import metronome
from nas.measure.metronome import at_pace, beat, time_at_usual_pace, usual_beat
from nas.measurement import Measurement
from tests.measure.examples import CPU


def asleep(milliseconds: float) -> None:
    time.sleep(milliseconds / 1e3)


def test_a_call_on_a_machine_at_half_its_pace_is_given_half_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metronome, "beat", lambda: lambda: asleep(10))
    times = time_at_usual_pace({"a": lambda: asleep(20)}, CPU, usual=5.0, seconds=0.4, precision=0.05)
    assert list(times) == ["a"]
    assert 8 < times["a"].value < 12
    assert times["a"].low <= times["a"].value <= times["a"].high
    assert any(note.startswith("corrected for the machine's pace") for note in times["a"].notes)


def test_without_a_usual_pace_times_stay_as_they_are() -> None:
    times = time_at_usual_pace({"a": lambda: asleep(5)}, CPU, usual=None, seconds=0.2, precision=0.05)
    assert 5 <= times["a"].value < 8 and not any("pace" in note for note in times["a"].notes)


def test_the_usual_pace_is_not_worth_a_note() -> None:
    assert at_pace(Measurement.exact(3.0, "ms"), 1.001).notes == ()


def test_the_metronome_takes_about_the_same_time_again() -> None:
    beat()()
    first, second = usual_beat(0.2), usual_beat(0.2)
    assert 0.3 < first / second < 3
