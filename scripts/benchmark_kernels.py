"""Each kernel beside the other implementations at hand: right first, then how fast.

    python scripts/benchmark_kernels.py                            on the GPU if there is one, else on the CPU
    python scripts/benchmark_kernels.py --op attention --out DIR

All implementations of a problem are measured in one process, with their samples in turn and their inputs rotated
through more memory than the cache holds. An answer is compared with float32 before it is timed, and no time is taken
for a wrong one. `kernels.json` and `kernels.md` are written after every problem: a run that is stopped leaves what it
has, and the same command at the same commit goes on from there. On a GPU one large copy is timed, too: its bandwidth is
what byte-bound kernels are compared with beside the roofline. Exit code 1 when a kernel of ours is wrong or fails, 3
when the time was up first.

Needs torch alone; `fla-core` where its recurrences are to be compared.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# How long a waiting thread spins (scripts/benchmark_waiting.py); must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import kernels
from nas.devices import DeviceSpec, find_spec, spec_from
from nas.measure.clock import time_call, time_together
from nas.measure.device import choose_device, describe_device
from nas.measure.graph import CannotCapture, capture
from nas.measure.rivals import Rival, gpu_is_spoilt, refused_rivals, verified_rivals
from nas.workload import WorkloadError
from scripts.exit_codes import UNFINISHED
from scripts.kernel_lab.problem_lists import FUNCTIONS, benchmark_problems, tiny_problems
from scripts.kernel_lab.problems import DTYPES, Inputs, Problem, Result, worst
from scripts.kernel_lab.rows import COPY, OURS, Row, bad_row, done_already, key_of, read, right_row, write
from scripts.provenance import commit

CACHES = 3  # the rotated inputs fill the cache so many times
MOST_BUFFERS = {False: 64, True: 8}  # of decode steps, which take microseconds, and of what has a backward pass
CPU_CACHE_BYTES = 32e6
COPY_BYTES = 2**29  # of each buffer of the large copy: several times the cache of any GPU


@dataclass(frozen=True)
class Settings:
    """seconds: for the samples of all implementations of one problem in one direction. copy: GB/s of a large copy."""

    device: torch.device
    spec: DeviceSpec | None
    seconds: float
    copy: float | None


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        device = choose_device(options.device)
    except WorkloadError as error:
        print(error, file=sys.stderr)
        return 2
    described: dict[str, object] = {**describe_device(device), "commit": commit()}
    spec = find_spec(str(described["name"]))
    if options.tflops is not None:
        spec = spec_from({"tflops": options.tflops, "bandwidth": options.bandwidth, "memory": 1})
    problems = tiny_problems() if options.tiny else benchmark_problems(device.type)
    problems = [one for one in problems if options.op in (None, one.op)]
    rows, copy = ([], None) if options.again else read(options.out, described)
    start = time.monotonic()
    if copy is None and device.type == "cuda":
        copy = copy_bandwidth(device, options.seconds)
    if copy is not None:
        described[COPY] = copy
    for problem in problems:
        if key_of(problem) in done_already(rows):
            continue
        if options.limit is not None and time.monotonic() - start > options.limit:
            print(f"The time is up before {problem.op} {problem.name}; the same command goes on from there.")
            return UNFINISHED
        found = compare(problem, Settings(device, spec, options.seconds, copy))
        rows += found
        write(rows, described, options.out)
        show(found)
        if gpu_is_spoilt(device):
            print(
                "An illegal access has spoilt the GPU for this process; the same command goes on behind this problem."
            )
            return 1
        free_memory(device)
    if not options.tiny:
        for name, reason in refused_rivals(device, DTYPES[problems[0].dtype]).items():
            print(f"not compared with {name}: {reason}")
    print(f"written: {options.out / 'kernels.md'} and kernels.json beside it")
    bad = [
        row for row in rows if row.name == OURS and row.status in ("wrong", "failed") and options.op in (None, row.op)
    ]
    return 1 if bad else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=FUNCTIONS, help="only this function (default: all)")
    parser.add_argument("--out", type=Path, default=Path("outputs/kernels"), help="folder (default: outputs/kernels)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of samples a problem and direction (default: 1)")
    parser.add_argument("--limit", type=float, help="begin no further problem after so many seconds")
    parser.add_argument("--tflops", type=float, help="peak TFLOP/s of a device that nas/devices does not describe")
    parser.add_argument("--bandwidth", type=float, help="its memory bandwidth in GB/s")
    parser.add_argument("--tiny", action="store_true", help="small problems, for a look at the command itself")
    parser.add_argument("--again", action="store_true", help="measure what an earlier run has measured, too")
    options = parser.parse_args(arguments)
    if (options.tflops is None) != (options.bandwidth is None):
        parser.error("--tflops and --bandwidth belong together: give both or neither")
    return options


def copy_bandwidth(device: torch.device, seconds: float, size: int = COPY_BYTES) -> float:
    """GB/s that a large `copy_` reads and writes together, by the clock of all rows and with buffers in rotation.

    What byte-bound kernels can reach: no program moves all that the memory's data sheet says.
    """
    pairs = [torch.zeros(2, size, dtype=torch.uint8, device=device) for _ in range(2)]
    timing = time_call([partial(pair[0].copy_, pair[1]) for pair in pairs], device, seconds=seconds)
    del pairs
    free_memory(device)
    return round(2 * size / timing.value / 1e6, 1)


def compare(problem: Problem, settings: Settings) -> list[Row]:
    """The rows of one problem in each of its directions."""
    try:
        inputs = problem.make_inputs(settings.device)
        reference = problem.reference(inputs)
    except torch.OutOfMemoryError:
        return [bad_row(problem, "forward", OURS, "skipped", "the right answer does not fit the device's memory")]
    directions = ["forward", "forward_backward"] if problem.has_backward else ["forward"]
    rows: list[Row] = []
    for direction in directions:
        rows += compare_direction(problem, direction, inputs, reference, settings)
        if gpu_is_spoilt(settings.device):
            break
    return rows


def compare_direction(
    problem: Problem, direction: str, inputs: Inputs, reference: Result, settings: Settings
) -> list[Row]:
    """Check every implementation, then time together those that are right."""
    device = settings.device
    verified = verified_rivals(device, DTYPES[problem.dtype], gradients=direction == "forward_backward")
    rows, checks, launches = [], {}, {}
    # Where a function has no kernels of its own, no rival stands in its place.
    contenders: dict[str, Rival | None] = {OURS: None, **{rival.name: rival for rival in verified.get(problem.op, [])}}
    for name, rival in list(contenders.items()):
        # Whatever an implementation raises is its result here, and the others are measured all the same.
        try:
            result, launches[name] = attempt(problem, direction, inputs, rival)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            rows.append(bad_row(problem, direction, name, "failed", reason))
            if gpu_is_spoilt(device):
                return rows
            free_memory(device)
            continue
        if result is None:
            continue
        checks[name] = worst(problem.errors(result, reference))
        if not checks[name].passes:
            reason = f"limit {checks[name].limit:g}, worst row {checks[name].worst_row:.1e}"
            rows.append(bad_row(problem, direction, name, "wrong", reason, checks[name]))
            del checks[name]
    more = buffer_count(problem, inputs, settings) - 1
    buffers = [inputs, *(problem.make_inputs(device, seed=1 + i) for i in range(more))]
    calls = {
        name: [partial(timed_call, problem, direction, one, contenders[name]) for one in buffers] for name in checks
    }
    timings = time_together(calls, device, seconds=settings.seconds) if calls else {}
    for name, timing in timings.items():
        check, launched = checks[name], launches[name]
        rows.append(right_row(problem, direction, name, check, timing, settings.spec, launched, settings.copy))
    if device.type == "cuda" and not problem.has_backward:
        captured = {name: graphs for name, one in calls.items() if (graphs := captured_calls(one, device))}
        timings = time_together(captured, device, seconds=settings.seconds) if captured else {}
        for name, timing in timings.items():
            check, launched = checks[name], launches[name]
            graphed = "forward in a graph"
            rows.append(right_row(problem, graphed, name, check, timing, settings.spec, launched, settings.copy))
    return rows


def attempt(
    problem: Problem, direction: str, inputs: Inputs, rival: Rival | None
) -> tuple[Result | None, dict[str, str]]:
    """The answer of an implementation and how our kernels were launched; None from one that declines."""
    declined: list[bool] = []

    def observed(*tensors: Any, **options: Any) -> Any:
        assert rival is not None
        answer = rival.call(*tensors, **options)
        declined.append(answer is NotImplemented)
        return answer

    substitutes = {} if rival is None else {problem.op: observed}
    with kernels.use_substitutes(substitutes), own_kernels(rival, inputs), kernels.record_launches() as launches:
        result = run(problem, direction, inputs)
    if any(declined):
        return None, {}
    return result, dict(launches)


def timed_call(problem: Problem, direction: str, inputs: Inputs, rival: Rival | None) -> None:
    """Ours goes through the same door at the same cost, with nobody in its place."""
    with kernels.use_substitutes({} if rival is None else {problem.op: rival.call}), own_kernels(rival, inputs):
        run(problem, direction, inputs)


def own_kernels(rival: Rival | None, inputs: Inputs) -> AbstractContextManager[object]:
    """Ours on a GPU are our kernels, even where the table of this GPU says that somebody else's are faster."""
    on_gpu = any(isinstance(one, torch.Tensor) and one.is_cuda for one in inputs.arguments.values())
    return kernels.use_backend("gpu") if rival is None and on_gpu else nullcontext()


def run(problem: Problem, direction: str, inputs: Inputs) -> Result:
    return problem.forward(inputs) if direction == "forward" else problem.forward_backward(inputs)


def captured_calls(calls: list[partial[None]], device: torch.device) -> list[Callable[[], object]]:
    """The same calls as graphs, without the host's work; none where one of them cannot be captured."""
    try:
        return [capture(call, device) for call in calls]
    except CannotCapture:
        return []


def buffer_count(problem: Problem, inputs: Inputs, settings: Settings) -> int:
    """How many sets of inputs it takes until each has left the cache when its turn comes again."""
    tensors = [one for one in inputs.arguments.values() if isinstance(one, torch.Tensor)]
    one_set = sum(one.numel() * one.element_size() for one in tensors)
    cache = settings.spec.cache_mb * 1e6 if settings.spec is not None else 0.0
    return int(min(MOST_BUFFERS[problem.has_backward], 1 + CACHES * (cache or CPU_CACHE_BYTES) // one_set))


def show(rows: list[Row]) -> None:
    for row in rows:
        time_taken = row.status if row.milliseconds is None else f"{row.milliseconds[0]:.4g} ms"
        share = "" if row.roofline is None else f"{row.roofline:.0%} of roofline"
        share += "" if row.copy_share is None else f", {row.copy_share:.0%} of a copy"
        print(f"{row.op} {row.problem} {row.direction}: {row.name} {time_taken} {share} {row.reason}", flush=True)


def free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
