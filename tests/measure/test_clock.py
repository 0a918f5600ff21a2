"""The clock: warm-up, percentiles, when it stops."""

import gc
import time

import pytest
import torch

from nas.measure.clock import half_width, is_enough, percentile, time_call, warm_up

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
    recent = warm_up(lambda: None, lambda call, calls, count: [next(times)], seconds=60)
    assert recent == [10.0, 10.1, 10.2]


def test_a_call_slower_than_the_time_allowed_is_still_measured() -> None:
    measured = time_call(lambda: time.sleep(0.05), CPU, seconds=0.02)
    assert measured.n >= 1
    assert measured.value >= 50.0


@pytest.mark.parametrize(
    ("samples", "spent", "enough"),
    [
        ([1.0] * 5, 0.1, True),  # known exactly
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.1, False),  # not well enough, and there is time
        ([1.0, 2.0, 3.0, 4.0, 5.0], 1.1, True),  # the time is up
        ([1.0, 1.0], 1.1, False),  # too few, a little over
        ([1.0], 2.1, True),  # far over
        ([], 2.1, False),
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
