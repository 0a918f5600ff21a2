"""The clock: warm-up, percentiles, when it stops."""

import gc
import time

import pytest
import torch

from nas.measure.clock import Timed, half_width, is_enough, percentile, rotation, time_call, time_together, warm_up

CPU = torch.device("cpu")


def test_a_sleep_takes_as_long_as_it_sleeps() -> None:
    measured = time_call(lambda: time.sleep(0.005), CPU, seconds=1.0)
    assert measured.unit == "ms"
    assert 5.0 <= measured.low <= measured.value <= measured.high
    assert measured.value < 50.0
    assert measured.n >= 5


def test_short_calls_are_timed_many_at_a_time() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    measured = time_call(call, CPU, seconds=0.05)
    assert measured.value < 0.1
    assert calls > 100 * measured.n


def test_the_slow_first_call_is_not_a_sample() -> None:
    waits = iter([0.1])
    measured = time_call(lambda: time.sleep(next(waits, 0.002)), CPU, seconds=0.3)
    assert measured.high < 60.0


def test_warm_up_lasts_until_three_times_agree() -> None:
    times = iter([90.0, 50.0, 20.0, 10.0, 10.1, 10.2, 10.3, 10.4])
    timed = Timed(lambda: None)
    warm_up(timed, lambda timed, rounds: [[next(times)]], seconds=60)
    assert timed.samples == [10.0, 10.1, 10.2]
    assert timed.runs == 1


def test_warm_up_finds_how_many_runs_fill_a_sample() -> None:
    times = iter([90.0, 0.4, 0.3, 0.1, 0.1, 0.1, 0.1, 7.0])
    timed = Timed(lambda: None, buffers=4)
    warm_up(timed, lambda timed, rounds: [[next(times)]], seconds=60)
    assert timed.samples == [0.1, 0.1, 0.1]
    assert timed.runs == 12  # ten, and each buffer as often


def test_buffers_are_run_in_rotation() -> None:
    seen: list[int] = []
    measured = time_call([lambda i=i: seen.append(i) for i in range(3)], CPU, seconds=0.02)
    assert seen[:7] == [0, 1, 2, 0, 1, 2, 0]
    assert measured.value < 0.1
    with pytest.raises(ValueError, match="at least one call"):
        rotation([])


def test_compared_calls_are_sampled_in_turn() -> None:
    seen: list[str] = []

    def call(name: str, seconds: float) -> None:
        seen.append(name)
        time.sleep(seconds)

    calls = {"fast": lambda: call("fast", 0.002), "slow": lambda: call("slow", 0.006)}
    measured = time_together(calls, CPU, seconds=0.3, precision=1e-9)
    assert list(measured) == ["fast", "slow"]
    assert 2.0 <= measured["fast"].value < 6.0 <= measured["slow"].value
    assert seen[-6:] == ["fast", "slow"] * 3


def test_drift_hits_compared_calls_alike() -> None:
    clock = iter(range(10**6))

    def slower_and_slower() -> None:
        time.sleep(0.001 + 1e-5 * next(clock))

    measured = time_together({"a": slower_and_slower, "b": slower_and_slower}, CPU, seconds=0.4, precision=1e-9)
    assert measured["a"].value == pytest.approx(measured["b"].value, rel=0.05)
    assert measured["a"].high > 1.3 * measured["a"].low


def test_a_note_says_what_stopped_the_clock() -> None:
    assert time_call(lambda: time.sleep(0.005), CPU, seconds=1.0, precision=0.2).notes == ("spread within 20 %",)
    (note,) = time_call(lambda: time.sleep(0.005), CPU, seconds=0.1, precision=1e-9).notes
    assert note.startswith("stopped by the time limit, spread ")


def test_a_call_slower_than_the_time_allowed_is_still_measured() -> None:
    measured = time_call(lambda: time.sleep(0.05), CPU, seconds=0.04)
    assert measured.n >= 3
    assert measured.value >= 50.0


@pytest.mark.parametrize(
    ("samples", "spent", "enough"),
    [
        ([1.0] * 5, 0.3, True),  # known exactly
        ([1.0] * 5, 0.1, False),  # but in one moment alone
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.3, False),  # not well enough, and there is time
        ([1.0, 2.0, 3.0, 4.0, 5.0], 1.1, True),  # the time is up
        ([1.0, 1.0], 1.1, False),  # too few, a little over
        ([1.0, 1.0, 1.0], 2.1, True),  # twice over, three must do
        ([1.0, 1.0], 2.1, False),  # one or two are luck
        ([1.0], 10.1, True),  # ten times over
        ([], 10.1, False),
    ],
)
def test_the_clock_stops_when_the_median_is_known_or_the_time_is_up(samples, spent: float, enough: bool) -> None:
    assert is_enough(samples, spent, seconds=1.0, precision=0.01) is enough


def test_percentiles_of_a_known_sample() -> None:
    samples = [5.0, 1.0, 4.0, 2.0, 3.0, 6.0]
    assert percentile(samples, 0.5) == 3.5
    assert percentile(samples, 0.2) == 2.0
    assert percentile(samples, 0.8) == 5.0
    assert half_width([1.0, 2.0, 3.0, 4.0]) == pytest.approx((3.4 - 1.6) / 2 / 2 / 2.5)


def test_garbage_collection_is_off_while_timing_and_back_afterwards() -> None:
    seen = set()
    time_call(lambda: seen.add(gc.isenabled()), CPU, seconds=0.02)
    assert seen == {False}
    assert gc.isenabled()
