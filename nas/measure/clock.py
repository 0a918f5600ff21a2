"""How long a call takes: wall time after warm-up, as median, 20th and 80th percentile and number of samples.

* Never a sum of profiler rows, which counts overlap twice and gaps not at all; never a mean, which one hiccup moves.
* Warm-up lasts until times are steady, not a fixed number of calls.
* Samples are taken until the median is known well enough or the time is up; `n` says how many that were.
* On a GPU, pairs of events bracket each sample and the host waits once per batch of samples: waiting after every call
  would measure the wait.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nas.measurement import Measurement

SHORTEST_SAMPLE_MS = 1.0
STEADY = 0.1
LEAST_SAMPLES = 5


def time_call(
    call: Callable[[], object], device: torch.device, *, seconds: float, precision: float = 0.01
) -> Measurement:
    """Milliseconds of one `call()` on `device`.

    seconds: time to spend, warm-up included; overrun by slow calls until there are a few samples. precision: stop early
    once the half-width of the median (spread over the square root of n) is below this share of it.
    """
    take = cuda_samples if device.type == "cuda" else cpu_samples
    start = time.perf_counter()
    with no_garbage_collection():
        steady = warm_up(call, take, seconds / 2)
        estimate = max(percentile(steady, 0.5), 1e-6)
        calls = max(1, math.ceil(SHORTEST_SAMPLE_MS / estimate))
        batch = max(1, min(LEAST_SAMPLES, int(seconds * 1e3 / 10 / (estimate * calls))))
        samples = steady if calls == 1 else []
        while not is_enough(samples, time.perf_counter() - start, seconds, precision):
            samples += take(call, calls, batch)
    return Measurement(
        value=percentile(samples, 0.5),
        unit="ms",
        low=percentile(samples, 0.2),
        high=percentile(samples, 0.8),
        n=len(samples),
    )


def warm_up(call: Callable[[], object], take: Callable[..., list[float]], seconds: float) -> list[float]:
    """Call until three times in a row agree within a tenth, or the time is up; the last times in milliseconds.

    The first call compiles and allocates, and is never among them.
    """
    start = time.perf_counter()
    take(call, 1, 1)
    recent = take(call, 1, 1)
    while time.perf_counter() - start < seconds:
        if len(recent) == 3 and max(recent) <= (1 + STEADY) * min(recent):
            break
        recent = [*recent[-2:], *take(call, 1, 1)]
    return recent


def is_enough(samples: list[float], spent: float, seconds: float, precision: float) -> bool:
    """Whether to stop: the median is known to `precision`, or the time is up; far over it one sample must do."""
    if len(samples) < LEAST_SAMPLES:
        return bool(samples) and spent > 2 * seconds
    return spent > seconds or half_width(samples) <= precision


def cpu_samples(call: Callable[[], object], calls: int, count: int) -> list[float]:
    """`count` samples of `calls` calls each: milliseconds per call."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) * 1e3 / calls)
    return samples


def cuda_samples(call: Callable[[], object], calls: int, count: int) -> list[float]:
    """As `cpu_samples`, on the current CUDA stream, with one synchronisation for all."""
    starts = [torch.cuda.Event(enable_timing=True) for _ in range(count)]
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(count)]
    for start, end in zip(starts, ends, strict=True):
        start.record()
        for _ in range(calls):
            call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / calls for start, end in zip(starts, ends, strict=True)]


def percentile(samples: list[float], share: float) -> float:
    """The value below which `share` of the samples lie, interpolated between neighbours."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def half_width(samples: list[float]) -> float:
    """How well the median is known, as a share of it."""
    spread = (percentile(samples, 0.8) - percentile(samples, 0.2)) / 2
    return spread / math.sqrt(len(samples)) / percentile(samples, 0.5)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a sample would be counted as the model's."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
