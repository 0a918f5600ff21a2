"""How long a call takes: wall time after warm-up, as median, 20th and 80th percentile and number of samples.

* Never a sum of profiler rows, which counts overlap twice and gaps not at all; never a mean, which one hiccup moves.
* A sample takes a millisecond or longer, so that short calls are timed many at a time.
* Warm-up lasts until samples are steady, not a fixed number of calls.
* Samples are taken until the median is known well enough or the time is up; `n` says how many that were, and a note
  which of the two it was.
* Calls that are compared are sampled in turn, so that a machine that slows down slows all of them alike.
* On a GPU, pairs of events bracket each sample and the host waits once per batch of samples: waiting after every call
  would measure the wait.
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from nas.measurement import Measurement

Call = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)

SHORTEST_SAMPLE_MS = 1.0
STEADY = 0.1
LEAST_SAMPLES = 5
FEWEST_SAMPLES = 3  # below that a median is one sample's luck
FAR_OVER = 10.0  # times the seconds allowed: after them fewer must do
MIDDLE_WIDTH = 1.6832  # standard deviations of a normal distribution between its p20 and its p80
MEDIAN_ERROR = math.sqrt(math.pi / 2)  # of a standard deviation over the square root of n
LEAST_SHARE = 0.25  # of the time is spent in any case: a few milliseconds show one state of the machine alone


@dataclass
class Timed:
    """A call, how often it runs in one sample, and its samples in milliseconds per call.

    buffers: the call goes through that many equal calls in turn; a sample of several runs holds each as often.
    """

    call: Call
    buffers: int = 1
    runs: int = 1
    samples: list[float] = field(default_factory=list)


Sampler = Callable[[Sequence[Timed], int], list[list[float]]]


def time_call(
    call: Call | Sequence[Call], device: torch.device, *, seconds: float, precision: float = 0.01
) -> Measurement:
    """Milliseconds of one `call()` on `device`.

    call: one call, or several that do the same work on buffers of their own and are run in rotation, so that no run
    finds its data in a cache where the run before left it; the time is that of one. seconds: time to spend, warm-up
    included; overrun by slow calls until there are a few samples. precision: stop early once the standard error of the
    median is below this share of it. The measurement's note says which of the two bounds stopped it.
    """
    return time_together({"call": call}, device, seconds=seconds, precision=precision)["call"]


def time_together(
    calls: Mapping[Key, Call | Sequence[Call]], device: torch.device, *, seconds: float, precision: float = 0.01
) -> dict[Key, Measurement]:
    """Milliseconds of several calls that are to be compared, by their keys: as `time_call`, with their samples in turn.

    seconds: for all of them together. Sampling stops when every median is known to `precision`.
    """
    sampler = cuda_samples if device.type == "cuda" else cpu_samples
    timed = [rotation(call) for call in calls.values()]
    start = time.perf_counter()
    with no_garbage_collection(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for one in timed:
            warm_up(one, sampler, seconds / 2 / len(timed))
        round_ms = sum(one.samples[-1] * one.runs for one in timed)
        rounds = max(1, min(LEAST_SAMPLES, int(seconds * 1e3 / 10 / max(round_ms, 1e-6))))
        while not all(is_enough(one.samples, time.perf_counter() - start, seconds, precision) for one in timed):
            # Looking at all samples after every few would cost more than taking them.
            for one, samples in zip(timed, sampler(timed, max(rounds, len(timed[0].samples) // 10)), strict=True):
                one.samples += samples
    return {name: measurement(one.samples, precision) for name, one in zip(calls, timed, strict=True)}


def rotation(call: Call | Sequence[Call]) -> Timed:
    """One call that runs the given ones in turn. Raises ValueError for none."""
    if callable(call):
        return Timed(call)
    if not call:
        raise ValueError("Timing needs at least one call, but got an empty list.")
    turns = itertools.cycle(call)
    return Timed(lambda: next(turns)(), buffers=len(call))


def warm_up(timed: Timed, sampler: Sampler, seconds: float) -> None:
    """Sample until three times in a row agree within a tenth, or the time is up; those last times are kept.

    The first run of each buffer compiles and allocates, and is never among them. Sets the number of runs that fill the
    shortest sample.
    """
    start = time.perf_counter()
    sampler([Timed(timed.call, runs=timed.buffers)], 1)
    recent = sampler([timed], 1)[0]
    while time.perf_counter() - start < seconds:
        if len(recent) == 3 and max(recent) <= (1 + STEADY) * min(recent):
            break
        wanted = math.ceil(SHORTEST_SAMPLE_MS / max(recent[-1], 1e-6))
        if wanted > (1 + STEADY) * timed.runs:
            timed.runs = math.ceil(wanted / timed.buffers) * timed.buffers
            recent = []
        recent = [*recent[-2:], *sampler([timed], 1)[0]]
    timed.samples = recent


def is_enough(samples: list[float], spent: float, seconds: float, precision: float) -> bool:
    """Whether to stop: the median is known to `precision`, or the time is up; far over it fewer must do."""
    if len(samples) < FEWEST_SAMPLES:
        return bool(samples) and spent > FAR_OVER * seconds
    if len(samples) < LEAST_SAMPLES:
        return spent > 2 * seconds
    return spent > seconds or (spent >= LEAST_SHARE * seconds and standard_error(samples) <= precision)


def measurement(samples: list[float], precision: float) -> Measurement:
    """The samples' median with its spread, and what stopped the sampling as a note."""
    known = standard_error(samples)
    within = len(samples) >= LEAST_SAMPLES and known <= precision
    if within:
        note = f"median known to {100 * precision:g} %"
    elif len(samples) < LEAST_SAMPLES:
        note = f"stopped by the time limit after {len(samples)} samples, too few to know the spread"
    else:
        note = f"stopped by the time limit, median known to {100 * known:.1f} %"
    return Measurement(
        value=percentile(samples, 0.5),
        unit="ms",
        low=percentile(samples, 0.2),
        high=percentile(samples, 0.8),
        n=len(samples),
        notes=(note,),
    )


def cpu_samples(timed: Sequence[Timed], rounds: int) -> list[list[float]]:
    """For each call `rounds` samples in milliseconds per run, taken in turn."""
    samples: list[list[float]] = [[] for _ in timed]
    for _ in range(rounds):
        for one, taken in zip(timed, samples, strict=True):
            call = one.call
            start = time.perf_counter()
            for _ in range(one.runs):
                call()
            taken.append((time.perf_counter() - start) * 1e3 / one.runs)
    return samples


def cuda_samples(timed: Sequence[Timed], rounds: int) -> list[list[float]]:
    """As `cpu_samples`, on the current CUDA stream, with one synchronisation for all."""
    events = [[(cuda_event(), cuda_event()) for _ in range(rounds)] for _ in timed]
    for turn in range(rounds):
        for one, pairs in zip(timed, events, strict=True):
            start, end = pairs[turn]
            start.record()
            for _ in range(one.runs):
                one.call()
            end.record()
    torch.cuda.synchronize()
    return [
        [start.elapsed_time(end) / one.runs for start, end in pairs] for one, pairs in zip(timed, events, strict=True)
    ]


def cuda_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def percentile(samples: list[float], share: float) -> float:
    """The value below which `share` of the samples lie, interpolated between neighbours."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def standard_error(samples: list[float]) -> float:
    """Of the median, as a share of it: from the middle three fifths, as if the samples were normal but for outliers."""
    deviation = (percentile(samples, 0.8) - percentile(samples, 0.2)) / MIDDLE_WIDTH
    return MEDIAN_ERROR * deviation / math.sqrt(len(samples)) / percentile(samples, 0.5)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a sample would be counted as the model's.

    None is made before either: one takes as long as many a measurement.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
