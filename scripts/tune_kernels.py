"""Measure which launch configuration of each kernel is fastest on this GPU, and write the table that launches look up.

    python scripts/tune_kernels.py [--op attention] [--gpu auto] [--out FILE] [--seconds 500] [--again]
    python scripts/tune_kernels.py --dry-run [--op attention] [--arch 90]

What is tuned is listed in scripts/kernel_lab/tuning_problems.py; at most six candidates a kernel stand beside the
defaults in kernels/*/launches.py. Every candidate is compiled ahead of time for the GPU, then checked against the
float32 answer, value and gradients, and only then timed. The table is written after each problem: a run that is cut off
or out of time leaves what it has, and the next takes up from there. Results count from the next start of a program on.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# So that `python scripts/tune_kernels.py` finds the packages beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from kernels import tuned_table
from kernels.ahead_of_time import OPS, SHARED_LIMIT_BYTES
from kernels.tuned_table import Config, Entry, Key, read_entries, slug, triton_version, write_entries
from scripts.exit_codes import UNFINISHED
from scripts.kernel_lab import tuning_bench
from scripts.kernel_lab.problem_lists import launch_problems
from scripts.kernel_lab.problems import Problem
from scripts.kernel_lab.tuning_problems import small, tuning_problems
from scripts.kernel_lab.tuning_search import Overrides, check_at_other_sizes, tune
from scripts.kernel_lab.worker_pool import CallFailed, WorkerPool

SECONDS_PER_CALL = 120.0  # a call that takes longer hangs; compiling and checking takes a few seconds
MOST_WORKERS = 8
# Of functions that are not called as the family of their kernels is.
FAMILIES = {"mlstm": "matrix_recurrence", "mlstm_step": "matrix_recurrence", "l2_norm": "rms_norm"}
# Of a dry run: A100, A10, L4, H100, B200 and RTX 5090.
MULTIPROCESSORS = {80: 108, 86: 72, 89: 58, 90: 132, 100: 148, 120: 170}
INTERPRETED = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
COMPILED = {"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}


@dataclass
class ProcessBench:
    """Tries launches out in processes of their own: several at once where nothing is timed, one where something is."""

    pool: WorkerPool
    device: str
    arch: int
    multiprocessors: int = MULTIPROCESSORS[90]
    failures: list[str] = field(default_factory=list)

    def candidates(self, key: Key) -> list[Config]:
        return tuning_bench.launch_candidates(key)

    def source(self, key: Key) -> str:
        return tuning_bench.source_of(key)

    def complaints(self, launches: Sequence[tuple[Key, Config]]) -> list[str | None]:
        calls = [(key, config, self.arch) for key, config in launches]
        found = self.pool.map(tuning_bench.complaint_of, calls, seconds=SECONDS_PER_CALL)
        return [f"does not compile: {one}" if isinstance(one, CallFailed) else one for one in found]

    def errors(self, problem: Problem, overrides: Sequence[Overrides]) -> list[float | str]:
        calls = [(small(problem), one, self.device) for one in overrides]
        found = self.pool.map(tuning_bench.error_of, calls, seconds=SECONDS_PER_CALL)
        return [str(one) if isinstance(one, CallFailed) else one for one in found]

    def milliseconds(
        self, problem: Problem, overrides: Overrides, key: Key, configs: Sequence[Config]
    ) -> list[float] | None:
        if not configs:
            return []
        arguments = (problem, overrides, key, configs, self.device)
        try:
            return self.pool.call(tuning_bench.milliseconds_of, arguments, seconds=SECONDS_PER_CALL)
        except CallFailed as failure:
            self.failures.append(f"{key.label} could not be timed in {problem.name}: {failure}.")
            return None


@dataclass
class SmallBench(ProcessBench):
    """The same for problems that are small already."""

    def errors(self, problem: Problem, overrides: Sequence[Overrides]) -> list[float | str]:
        calls = [(problem, one, self.device) for one in overrides]
        found = self.pool.map(tuning_bench.error_of, calls, seconds=SECONDS_PER_CALL)
        return [str(one) if isinstance(one, CallFailed) else one for one in found]


def keys_of(problems: Sequence[Problem], multiprocessors: int) -> list[list[Key]]:
    """The keys that each problem launches on a GPU of so many multiprocessors. None is needed: launches are prepared by
    the interpreter and not made."""
    calls = [(problem, multiprocessors) for problem in problems]
    with WorkerPool(1, INTERPRETED) as pool:
        found = pool.map(tuning_bench.launched_keys, calls, seconds=SECONDS_PER_CALL)
    keys: list[list[Key]] = []
    for one in found:
        if isinstance(one, CallFailed):
            raise one
        keys.append(one)
    return keys


def dry_run(problems: Sequence[Problem], arch: int, workers: int) -> int:
    """Print which candidates fit an architecture; 1 if some key has none."""
    found = keys_of([small(one) for one in problems], MULTIPROCESSORS[arch])
    keys = list(dict.fromkeys(key for of_problem in found for key in of_problem))
    launches = [(key, config) for key in keys for config in tuning_bench.launch_candidates(key)]
    with WorkerPool(workers, COMPILED) as pool:
        complaints = ProcessBench(pool, "cpu", arch).complaints(launches)
    for key in keys:
        print(key.label)
        for (owner, config), complaint in zip(launches, complaints, strict=True):
            if owner == key:
                print(f"    {_text(config):<60} {complaint or 'fits'}")
    fitting = {key for (key, _), complaint in zip(launches, complaints, strict=True) if complaint is None}
    print(f"{len(keys)} keys, {len(launches)} candidates, {complaints.count(None)} fit sm_{arch}.")
    if empty := [key.label for key in keys if key not in fitting]:
        print(f"Nothing fits for: {'; '.join(empty)}", file=sys.stderr)
    return 1 if empty else 0


def tune_all(
    problems: Sequence[Problem], bench: ProcessBench, path: Path, gpu: str, *, again: bool, seconds: float
) -> tuple[dict[Key, Entry], bool]:
    """Tune what the table does not have yet; returns the whole table, written too, and whether the time was enough."""
    deadline = time.monotonic() + seconds
    known = {entry.key: entry for entry in read_entries(path)}
    found = keys_of([small(problem) for problem in problems], bench.multiprocessors)
    # Entries that no longer count are tuned again, and so is everything if asked, each key once.
    wanted = {key for keys in found for key in keys if key in known and not again}
    valid = {key: known[key] for key in wanted if known[key].counts(bench.source(key))}
    for number, (problem, keys) in enumerate(zip(problems, found, strict=True), start=1):
        missing = [key for key in keys if key not in valid]
        if not missing:
            continue
        if time.monotonic() > deadline:
            print(f"Out of time before {problem.name}: run again to go on.", flush=True)
            return known | valid, False
        for entry in tune(bench, problem, missing, triton_version()):
            valid[entry.key] = entry
            print(f"[{number}/{len(problems)}] {_summary(entry)}", flush=True)
        write_entries(path, gpu, list((known | valid).values()))
    finished = _serve_other_sizes(valid, bench, deadline)
    table = known | valid
    write_entries(path, gpu, list(table.values()))
    return table, finished


def _serve_other_sizes(entries: dict[Key, Entry], bench: ProcessBench, deadline: float) -> bool:
    """Check tuned launches where they may serve as nearest; whether the time was enough."""
    problems = [problem for problem in launch_problems() if problem.dtype == "bfloat16"]
    families = tuple({key.kernel.split(".")[0] for key in entries})
    problems = [problem for problem in problems if FAMILIES.get(problem.op, problem.op).startswith(families)]
    small_bench = SmallBench(bench.pool, bench.device, bench.arch, bench.multiprocessors)
    for problem, keys in zip(problems, keys_of(problems, bench.multiprocessors), strict=True):
        if time.monotonic() > deadline:
            print("Out of time while checking tuned launches at other sizes: run again to go on.", flush=True)
            return False
        check_at_other_sizes(small_bench, problem, keys, entries)
    return True


def _summary(entry: Entry) -> str:
    if entry.config is None:
        return f"{entry.key.label}: NO LAUNCH IS RIGHT ({len(entry.refused)} refused)"
    gain = "" if not entry.default_milliseconds else f" ({entry.default_milliseconds:.4f} ms by default)"
    return f"{entry.key.label}: {_text(entry.config)} {entry.milliseconds:.4f} ms{gain}, {len(entry.refused)} refused"


def _text(config: Config) -> str:
    return " ".join(f"{name}={value}" for name, value in config.items())


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 if some key has no right launch or could not be timed, 2 without a GPU, 3 if time ran out."""
    parser = argparse.ArgumentParser(
        prog="scripts/tune_kernels.py", description="Measure the fastest launch configuration of each kernel."
    )
    parser.add_argument("--op", choices=OPS, help="only this family of kernels (default: all)")
    parser.add_argument("--gpu", default="auto", help="which GPU: auto, the first, or such as cuda:1")
    parser.add_argument("--out", type=Path, help="the table (default: kernels/tuned/<name of the GPU>.json)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no problem after that many seconds")
    parser.add_argument("--again", action="store_true", help="tune also what the table has already")
    parser.add_argument("--workers", type=int, help="processes that compile and check (default: by cores, at most 8)")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: which candidates fit")
    parser.add_argument("--arch", type=int, choices=sorted(SHARED_LIMIT_BYTES), help="of a dry run without a GPU (90)")
    options = parser.parse_args(arguments)
    workers = options.workers or max(1, min(MOST_WORKERS, (os.cpu_count() or 1) - 1))
    problems = tuning_problems(options.op)
    if options.dry_run:
        return dry_run(problems, options.arch or 90, workers)
    if not torch.cuda.is_available():
        print(
            "Tuning needs a GPU, but torch sees none: run it where one is, or add --dry-run to see which candidates "
            "would fit.",
            file=sys.stderr,
        )
        return 2

    device = "cuda:0" if options.gpu == "auto" else options.gpu
    gpu = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    arch = 10 * major + minor
    if arch not in SHARED_LIMIT_BYTES:
        known = ", ".join(f"sm_{one}" for one in sorted(SHARED_LIMIT_BYTES))
        print(
            f"Tuning needs a GPU of {known}, but {gpu} is sm_{arch}: launch with the defaults there.", file=sys.stderr
        )
        return 2
    path = options.out or tuned_table.FOLDER / f"{slug(gpu)}.json"
    with WorkerPool(workers, COMPILED) as pool:
        count = torch.cuda.get_device_properties(device).multi_processor_count
        bench = ProcessBench(pool, device, arch, count)
        try:
            table, finished = tune_all(problems, bench, path, gpu, again=options.again, seconds=options.seconds)
        except KeyboardInterrupt:
            print(f"Stopped: {path} has every problem that was finished; run again to go on.", file=sys.stderr)
            return 130
    broken = [entry.key.label for entry in table.values() if entry.config is None]
    print(f"{len(table)} keys in {path}, {sum(len(entry.refused) for entry in table.values())} candidates refused.")
    if broken:
        print(f"No launch is right for: {'; '.join(broken)}", file=sys.stderr)
    for failure in bench.failures:
        print(failure, file=sys.stderr)
    if broken or bench.failures:
        return 1
    return 0 if finished else UNFINISHED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
