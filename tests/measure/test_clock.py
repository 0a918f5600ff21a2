"""The clock: warm-up, percentiles, when it stops. All but one test pass on a clock that their calls move on."""

import gc
import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from nas.measure import clock
from nas.measure.clock import Timed, is_enough, percentile, rotation, standard_error, time_call, time_together, warm_up

CPU = torch.device("cpu")
READING = 1e-7  # seconds that a look at the clock takes


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A call that takes so many seconds of a clock that nothing else moves."""
    now = 0.0

    def take(seconds: float) -> None:
        nonlocal now
        now += seconds

    def read() -> float:
        take(READING)
        return now

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=read))
    return take


def test_a_sleep_takes_as_long_as_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "time", time)
    measured = time_call(lambda: time.sleep(0.005), CPU, seconds=0.5)
    assert measured.unit == "ms"
    assert 5.0 <= measured.low <= measured.value <= measured.high


def test_short_calls_are_timed_many_at_a_time(take) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        take(1e-6)

    measured = time_call(call, CPU, seconds=0.05)
    assert measured.value == pytest.approx(1e-3, rel=1e-3)
    assert calls > 100 * measured.n


def test_the_slow_first_call_is_not_a_sample(take) -> None:
    waits = iter([0.1])
    measured = time_call(lambda: take(next(waits, 0.002)), CPU, seconds=0.3)
    assert measured.high == pytest.approx(2.0, rel=1e-3)


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


def test_buffers_are_run_in_rotation(take) -> None:
    seen: list[int] = []

    def call(index: int) -> None:
        seen.append(index)
        take(0.001 * (1 + index))

    measured = time_call([lambda i=i: call(i) for i in range(3)], CPU, seconds=0.2)
    assert seen[:7] == [0, 1, 2, 0, 1, 2, 0]
    assert measured.value == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(ValueError, match="at least one call"):
        rotation([])


def test_compared_calls_are_sampled_in_turn(take) -> None:
    seen: list[str] = []

    def call(name: str, seconds: float) -> None:
        seen.append(name)
        take(seconds)

    calls = {"fast": lambda: call("fast", 0.002), "slow": lambda: call("slow", 0.006)}
    measured = time_together(calls, CPU, seconds=0.3, precision=1e-9)
    assert list(measured) == ["fast", "slow"]
    assert (measured["fast"].value, measured["slow"].value) == pytest.approx((2.0, 6.0), rel=1e-3)
    assert seen[-6:] == ["fast", "slow"] * 3


def test_drift_hits_compared_calls_alike(take) -> None:
    turns = iter(range(10**6))

    def slower_and_slower() -> None:
        take(0.001 + 1e-5 * next(turns))

    measured = time_together({"a": slower_and_slower, "b": slower_and_slower}, CPU, seconds=0.4, precision=1e-9)
    assert measured["a"].value == pytest.approx(measured["b"].value, rel=0.01)
    assert measured["a"].high > 1.3 * measured["a"].low


def test_a_note_says_what_stopped_the_clock(take) -> None:
    turns = iter(range(10**6))

    def unsteady() -> None:
        take(0.005 + 0.0001 * (next(turns) % 3))

    assert time_call(unsteady, CPU, seconds=1.0, precision=0.2).notes == ("median known to 20 %",)
    (note,) = time_call(unsteady, CPU, seconds=0.1, precision=1e-9).notes
    assert note == "stopped by the time limit, median known to 0.7 %"


def test_a_call_slower_than_the_time_allowed_is_still_measured(take) -> None:
    measured = time_call(lambda: take(0.05), CPU, seconds=0.04)
    assert measured.n == 3
    assert measured.value == pytest.approx(50.0, rel=1e-3)


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
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(1.2533 * (3.4 - 1.6) / 1.6832 / 2 / 2.5, rel=1e-4)


def test_the_standard_error_of_a_median_is_what_medians_of_many_samples_scatter_by() -> None:
    draw = random.Random(0).gauss
    many = [[draw(100.0, 1.0) for _ in range(25)] for _ in range(2000)]
    scatter = statistics.stdev(percentile(samples, 0.5) for samples in many) / 100
    assert statistics.fmean(map(standard_error, many)) == pytest.approx(scatter, rel=0.1)


def test_garbage_collection_is_off_while_timing_and_back_afterwards() -> None:
    seen = set()
    time_call(lambda: seen.add(gc.isenabled()), CPU, seconds=0.02)
    assert seen == {False}
    assert gc.isenabled()
