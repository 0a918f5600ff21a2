"""Every kernel at every default launch on this GPU, against the definition: values, gradients, unwritten memory;
once more as a CUDA graph; and whether two runs agree in every bit.

    python scripts/check_kernels.py --jobs 8 --out DIR

Needs torch, triton and yaml. The problems are shared out among processes, which compile side by side; a process that
the GPU ends (an illegal access spoils all that comes after it) is started again behind the problem that did it. What
is already checked like this with the same kernels is not checked again. Memory that a kernel allocates and does not
write reads as NaN. Exit code 1 when a kernel is wrong, fails, or ends its process.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import kernels
from nas.measure.graph import capture
from nas.measure.rivals import gpu_is_spoilt
from scripts.exit_codes import USAGE_ERROR
from scripts.kernel_lab.problem_lists import launch_problems
from scripts.kernel_lab.problems import Inputs, Problem, Result, worst

ROOT = Path(__file__).resolve().parent.parent
NEEDS_RESTART = 3  # exit code of a process whose GPU context is spoilt


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of one problem; error: the worst relative error, of the tensor `error_of`. source: of the kernels."""

    op: str
    problem: str
    dtype: str
    passes: bool
    error: float | None = None
    error_of: str = ""
    limit: float | None = None
    reason: str = ""
    seconds: float = 0.0
    source: str = ""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4, help="processes (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("outputs/check_kernels"), help="folder of the findings")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # numbers of problems, by commas
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("The kernels are checked on a GPU, but none is here; the tests check them in the interpreter.")
        return USAGE_ERROR
    if options.worker is not None:
        return work([int(number) for number in options.worker.split(",")], options.log)
    return share_out(options.jobs, options.out)


def share_out(jobs: int, out: Path) -> int:
    """Check every problem in `jobs` processes, print what is not right, and return the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    source = source_hash()
    known = {key(one): one for one in read_findings(out) if one.source == source}
    problems = launch_problems()
    left = [i for i, one in enumerate(problems) if (one.op, one.name, one.dtype) not in known]
    logs = [out / f"findings-{job}.jsonl" for job in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(check_slice, [left[job::jobs] for job in range(jobs)], logs))
    findings = [one for one in read_findings(out) if one.source == source]
    (out / "findings.json").write_text(json.dumps([asdict(one) for one in findings], indent=1) + "\n")
    bad = [one for one in findings if not one.passes]
    for one in bad:
        print(f"WRONG {one.op} {one.problem} {one.dtype}: {describe(one)}")
    missing = len(problems) - len(findings)
    print(f"{len(findings) - len(bad)} of {len(problems)} problems are right, {len(bad)} are not, {missing} unchecked")
    return 1 if bad or missing else 0


def check_slice(numbers: Sequence[int], log: Path) -> None:
    """Check these problems, one process after the other for as long as processes are ended on the way."""
    problems, left = launch_problems(), list(numbers)
    while left:
        before = len(log.read_text().splitlines()) if log.exists() else 0
        command = [sys.executable, __file__, "--worker", ",".join(map(str, left)), "--log", str(log)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        written = len(log.read_text().splitlines()) - before if log.exists() else 0
        left = left[written:]
        if ended.returncode not in (0, NEEDS_RESTART) and left:
            last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
            reason = f"the process ended with exit code {ended.returncode}: {last[0][:300]}"
            append(log, finding(problems[left.pop(0)], passes=False, reason=reason))


def work(numbers: Sequence[int], log: Path) -> int:
    """Check the problems of one process, one line each; the exit code says whether the next needs a new process."""
    problems = launch_problems()
    for number in numbers:
        one = check_problem(problems[number], torch.device("cuda"))
        append(log, one)
        if not one.passes and gpu_is_spoilt(torch.device("cuda")):
            return NEEDS_RESTART
    return 0


def check_problem(problem: Problem, device: torch.device) -> Finding:
    """Compare the Triton kernels with the right answer; on a CPU they run in the interpreter, where nothing replays."""
    start = time.perf_counter()
    # Whatever a kernel or its compiler raises is the finding; the other problems are checked all the same.
    try:
        inputs = problem.make_inputs(device)
        reference = problem.reference(inputs)
        with kernels.use_backend("gpu"), nan_filled_memory():
            result = problem.run(inputs)
        check = worst(problem.errors(result, reference))
        if check.passes and device.type == "cuda":
            check = worst(problem.errors(replayed(problem, inputs, device), reference))
        unlike = unlike_in_two_runs(problem, inputs) if check.passes else []
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return finding(problem, passes=False, reason=reason, seconds=time.perf_counter() - start)
    reason = "" if check.passes else f"worst row {check.worst_row:.2g}"
    if check.passes and unlike:
        reason = f"two runs differ in {', '.join(unlike)}"
    return finding(
        problem,
        passes=check.passes and not unlike,
        error=check.error,
        error_of=check.name,
        limit=check.limit,
        reason=reason,
        seconds=time.perf_counter() - start,
    )


def unlike_in_two_runs(problem: Problem, inputs: Inputs) -> list[str]:
    """The outputs and gradients that two runs do not agree on in every bit, asked as where PyTorch must repeat itself:
    the kernels here add nothing up in an order of chance, and hand over to PyTorch's fast attention only elsewhere."""
    with kernels.use_backend("gpu"), patch.object(torch, "are_deterministic_algorithms_enabled", lambda: True):
        first, second = problem.run(inputs), problem.run(inputs)
    unlike = [
        f"output {i}" for i, pair in enumerate(zip(first.outputs, second.outputs, strict=True)) if not equal(pair)
    ]
    return unlike + [f"d{name}" for name, one in first.gradients.items() if not equal((one, second.gradients[name]))]


def equal(pair: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(*(one.detach().reshape(-1).contiguous().view(torch.uint8) for one in pair))


def replayed(problem: Problem, inputs: Inputs, device: torch.device) -> Result:
    """The answer of a CUDA graph, whose memory is its own: nothing is computed in it before the replay.

    Raises CannotCapture where the host code of a kernel waits for the GPU.
    """
    answers: list[Result] = []
    with kernels.use_backend("gpu"):
        capture(lambda: answers.append(problem.run(inputs)), device)()
    torch.cuda.synchronize(device)
    return answers[-1]


@contextmanager
def nan_filled_memory() -> Iterator[None]:
    """Memory that is allocated and never written reads as NaN, so that a kernel which skips a row is found out."""

    def filled(allocate: Any) -> Any:
        def allocate_and_fill(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return allocate_and_fill

    with (
        patch.object(torch, "empty", filled(torch.empty)),
        patch.object(torch, "empty_like", filled(torch.empty_like)),
        patch.object(torch.Tensor, "new_empty", filled(torch.Tensor.new_empty)),
    ):
        yield


def finding(problem: Problem, *, passes: bool, **more: Any) -> Finding:
    return Finding(
        op=problem.op, problem=problem.name, dtype=problem.dtype, passes=passes, source=source_hash(), **more
    )


def describe(one: Finding) -> str:
    error = "" if one.error is None else f"relative error {one.error:.2g} of {one.error_of}, limit {one.limit:g} "
    return f"{error}{one.reason}"


def key(one: Finding) -> tuple[str, str, str]:
    return one.op, one.problem, one.dtype


def append(log: Path, one: Finding) -> None:
    with log.open("a") as file:
        file.write(json.dumps(asdict(one)) + "\n")


def read_findings(folder: Path) -> list[Finding]:
    lines = [line for log in sorted(folder.glob("findings-*.jsonl")) for line in log.read_text().splitlines()]
    return [Finding(**json.loads(line)) for line in lines]


@cache
def source_hash() -> str:
    """Of all that decides what a kernel answers and how that is judged: other findings do not count."""
    digest = hashlib.sha256()
    judges = (ROOT / "scripts" / "kernel_lab").rglob("*.py")
    for path in sorted([*(ROOT / "kernels").rglob("*.py"), *judges, ROOT / "scripts" / "check_kernels.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
