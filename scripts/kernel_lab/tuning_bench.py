"""What the tuner asks of a process of its own: which launches a problem makes, whether one fits, is right, how fast.

The functions run in a `WorkerPool`. They work on a CPU too, where launches are interpreted, which is how they are
tested; such times say nothing.
"""

import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch

import kernels
from kernels.source_hash import source_hash
from kernels.tuned_table import Config, Key
from kernels.tuning import force_launches, implementation_source, is_choice, leave_out_launches, watch_launches
from scripts.kernel_lab.problems import WORST_ROW_FACTOR, Inputs, Problem, Result

Overrides = Sequence[tuple[Key, Config]]
Launch = Callable[[], object]

CHECKS = 2  # a race shows in one of several runs
FLUSHED_BYTES = 256 * 2**20  # several times the largest L2 there is
FLUSHES = 3  # together 0.16 ms on an H200, longer than it takes to launch what is timed
TIMED_SECONDS = 0.2  # for the samples of one key
FEWEST_ROUNDS, MOST_ROUNDS = 10, 50


def launch_candidates(key: Key) -> list[Config]:
    """The configurations worth trying, the default first."""
    return _family(key).launch_candidates(key)


def source_of(key: Key) -> str:
    """The hash of the kernel that a key launches, or of those that a choice of implementation was measured with."""
    if is_choice(key):
        return implementation_source(_family(key).IMPLEMENTATION_KERNELS)
    return source_hash(_family(key).launch_case(key, launch_candidates(key)[0]).kernel)


def complaint_of(key: Key, config: Config, arch: int) -> str | None:
    """What forbids a launch on an architecture, by compiling it ahead of time; None if nothing does."""
    if is_choice(key):
        return None  # there is nothing of ours to compile
    from kernels.ahead_of_time import check  # imports Triton

    return check(_family(key).launch_case(key, config), arch)


def launched_keys(problem: Problem, multiprocessors: int) -> list[Key]:
    """The keys that a problem launches on a GPU, in order; nothing is computed, so any machine can tell."""
    with leave_out_launches(multiprocessors) as keys, warnings.catch_warnings():
        # What is computed from memory that no launch has filled is rubbish, and may overflow.
        warnings.simplefilter("ignore")
        inputs = problem.make_inputs("cpu")
        problem.run(inputs)
        problem.forward(inputs)  # without a gradient somebody else may be the fastest
    return list(dict.fromkeys(keys))


def error_of(problem: Problem, overrides: Overrides, device: str) -> float:
    """The worst error of outputs and gradients as a share of its limit: right up to 1, infinite when not finite."""
    _use(device)
    inputs, reference = _prepared(problem, device)
    worst = 0.0
    for _ in range(CHECKS):
        result = _run(problem, inputs, overrides)
        for one in problem.errors(result, reference):
            share = max(one.error, one.worst_row / WORST_ROW_FACTOR) / one.limit
            worst = max(worst, float("inf") if share != share else share)
    return worst


def milliseconds_of(
    problem: Problem, overrides: Overrides, key: Key, configs: Sequence[Config], device: str
) -> list[float]:
    """Median milliseconds that the launches of one key take in a run of the problem, for each configuration.

    The launches are those of a whole run, on its real data, made again one after the other: samples of all
    configurations in turn, so that a drift of the clocks hits all alike, each after the L2 cache was overwritten.
    """
    _use(device)
    inputs = problem.make_inputs(device)
    launches = [_launches(problem, inputs, [*overrides, (key, config)], key) for config in configs]
    milliseconds = _interleaved(launches, torch.device(device))
    del launches, inputs
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # other processes check on the same GPU
    return milliseconds


def _launches(problem: Problem, inputs: Inputs, overrides: Overrides, wanted: Key) -> list[Launch]:
    """The launches of one key in a run of the problem; they keep their arguments alive.

    Of a choice of implementation it is the run itself, whoever computes.
    """
    if is_choice(wanted):
        return [lambda: _run(problem, inputs, overrides)]
    kept: list[Launch] = []

    def watch(key: Key, launch: Launch) -> None:
        launch()
        if key == wanted:
            kept.append(launch)

    with kernels.use_backend("gpu"), force_launches(dict(overrides)), watch_launches(watch):
        problem.run(inputs)
    assert kept, f"{problem.name} does not launch {wanted.label}"
    return kept


def _run(problem: Problem, inputs: Inputs, overrides: Overrides) -> Result:
    """The problem on the kernels, with gradients unless a choice for calls without them is forced."""
    forward_alone = any(is_choice(key) and not dict(key.flags)["training"] for key, _ in overrides)
    with kernels.use_backend("gpu"), force_launches(dict(overrides)):
        return problem.forward(inputs) if forward_alone else problem.run(inputs)


def _interleaved(candidates: list[list[Launch]], device: torch.device) -> list[float]:
    sample = _sample_on_gpu(device) if device.type == "cuda" else _sample_on_cpu
    started = time.perf_counter()
    _round(candidates, sample)
    _wait_for(device)
    seconds = time.perf_counter() - started
    rounds = min(max(int(TIMED_SECONDS / seconds), FEWEST_ROUNDS), MOST_ROUNDS)
    samples = [_round(candidates, sample) for _ in range(rounds)]
    _wait_for(device)
    # A sum of medians, not a median of sums: one launch that was disturbed spoils no other.
    return [
        sum(statistics.median(one[i][j]() for one in samples) for j in range(len(launches)))
        for i, launches in enumerate(candidates)
    ]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _use(device: str) -> None:
    """Launches made again go to the current device."""
    if device.startswith("cuda"):
        torch.cuda.set_device(device)


def _round(
    candidates: list[list[Launch]], sample: Callable[[Launch], Callable[[], float]]
) -> list[list[Callable[[], float]]]:
    """One sample of every launch; each answers with its milliseconds once the device is done."""
    return [[sample(launch) for launch in launches] for launches in candidates]


def _sample_on_cpu(launch: Launch) -> Callable[[], float]:
    started = time.perf_counter()
    launch()
    elapsed = 1e3 * (time.perf_counter() - started)
    return lambda: elapsed


def _sample_on_gpu(device: torch.device) -> Callable[[Launch], Callable[[], float]]:
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)

    def sample(launch: Launch) -> Callable[[], float]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Overwriting takes longer than a launch, so that the launch is waiting when the device gets to it.
        for _ in range(FLUSHES):
            flushed.zero_()
        start.record()
        launch()
        end.record()
        return lambda: start.elapsed_time(end)

    return sample


@lru_cache(maxsize=2)
def _prepared(problem: Problem, device: str) -> tuple[Inputs, Result]:
    inputs = problem.make_inputs(device)
    return inputs, problem.reference(inputs)


@cache
def _family_module(op: str):
    return importlib.import_module(f"kernels._{op}.gpu")


def _family(key: Key):
    return _family_module(key.kernel.split(".")[0])
