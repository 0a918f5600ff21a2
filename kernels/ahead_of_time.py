"""Compile every kernel for GPUs that are not there, so that a machine without one can refuse what would not run there.

The Triton interpreter proves the arithmetic. This file proves what the interpreter cannot see: that the kernel compiles
for an architecture, that it keeps its values in registers, and that its shared memory fits. The compiler checks neither
of the last two, so both are read from the compiled code.

    python -m kernels.ahead_of_time [--op attention] [--arch 80,90,100] [--jobs 8] [--sparing | --record]

What was compiled is recorded in `kernels/compiled/` (`kernels/compiled_record.py`). `--record` compiles what is missing
there or has changed: whoever changes a kernel, a constant or a launch runs it and commits what it writes. `--sparing`
is for CI: it judges by the record, compiles what is not in it, and a share of the record again.

A kernel family offers in its `gpu.py` `ahead_of_time_cases() -> list[Case]`, with the launch configurations it uses by
default, and for the tuner `launch_candidates(key) -> list[Config]`, the default first, and `launch_case(key, config)`.
"""

import argparse
import hashlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.compiled_record import Entry, Resources, compiled_again, path_of, read_record, write_record
from kernels.source_hash import source_hash

OPS = (
    "attention",
    "block_sparse_attention",
    "matrix_recurrence",
    "selective_scan",
    "grouped_matmul",
    "moe",
    "route_top_k",
    "glu",
    "rms_norm",
    "linear_cross_entropy",
    "rope",
    "short_convolution",
    "vector_recurrence",
    "wkv",
)
ARCHITECTURES = (80, 90, 100)
REGISTERS = 255  # that a thread can have
# Per block: CUDA C++ programming guide, technical specifications per compute capability.
SHARED_LIMIT_BYTES = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}


@dataclass(frozen=True)
class Case:
    """One kernel with the types and constants of one launch.

    `signature` gives each runtime argument its Triton type ("*bf16", "*fp32", "i32", "fp32"), `constexprs` each
    constant its value (None for a pointer that this launch leaves out), `options` the launch options (`num_warps`,
    `num_stages`). Pointers are taken to be aligned to 16 bytes, as torch allocates them; `multiples_of_16` names the
    integers that are multiples of 16 in this launch, which Triton sees at run time and turns into wider loads.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, object] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)
    multiples_of_16: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What is known of a case: its resources by architecture, and what its record says where both are had."""

    case: Case
    by_arch: dict[int, Resources]
    compiled: bool = True
    recorded: Entry | None = None


def compile_case(case: Case, arch: int) -> Resources:
    """Compile for compute capability `arch`, such as 90, and read the resources from the machine code.

    Raises RuntimeError when the Triton interpreter is on, ValueError when the case does not give every argument once.
    """
    if not isinstance(case.kernel, triton.runtime.JITFunction):
        raise RuntimeError(
            f"Compiling ahead of time needs kernels as functions for the GPU, but {case.name} was decorated with the "
            "Triton interpreter on. Unset TRITON_INTERPRET before Python starts."
        )
    signature, attributes = _arguments(case)
    source = ASTSource(case.kernel, signature=signature, constexprs=dict(case.constexprs), attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(case.options))
    registers, stack_bytes = _registers_and_stack(compiled.asm["cubin"])
    matrix_units = re.search(r"mma\.sync|wgmma|tcgen05", compiled.asm["ptx"]) is not None
    return Resources(registers, stack_bytes, compiled.metadata.shared, matrix_units)


def _arguments(case: Case) -> tuple[dict[str, str], dict[tuple[int], list[list[object]]]]:
    """The type of every argument of the kernel in order, and of which numbers each is a multiple."""
    names = case.kernel.arg_names
    given = set(case.signature) | set(case.constexprs)
    if given != set(names) or len(given) != len(case.signature) + len(case.constexprs):
        raise ValueError(
            f"Case {case.name} must give every argument of its kernel once: missing {sorted(set(names) - given)}, "
            f"unknown {sorted(given - set(names))}, twice {sorted(set(case.signature) & set(case.constexprs))}."
        )
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    divisible = {name for name in names if signature[name].startswith("*") or name in case.multiples_of_16}
    return signature, {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in divisible}


def content_hash(case: Case) -> str:
    """Of all that the compiled code follows from, but the architecture and the version of Triton."""
    signature, attributes = _arguments(case)
    constants = {
        name: source_hash(value) if hasattr(value, "fn") else value for name, value in sorted(case.constexprs.items())
    }
    content = (source_hash(case.kernel), signature, attributes, constants, sorted(case.options.items()))
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def distinct(cases: list[Case]) -> dict[str, Case]:
    """By their hashes the cases that compile to different code, each as the first that does."""
    first: dict[str, Case] = {}
    for case in cases:
        first.setdefault(content_hash(case), case)
    return first


def _registers_and_stack(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes per thread, from the resource table that NVIDIA's object reader prints."""
    reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        table = subprocess.run([reader, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", table)
    assert found, f"no resource line in the output of cuobjdump: {table!r}"
    return int(found[1]), int(found[2])


def complaint(case: Case, arch: int, resources: Resources) -> str | None:
    """What forbids this launch on this architecture, as one sentence; None if nothing does."""
    where = f"{case.name} on sm_{arch} ({case.options})"
    if resources.stack_bytes > 0:
        return (
            f"{where} spills {resources.stack_bytes} bytes per thread at {resources.registers} registers: take smaller "
            "blocks or more warps."
        )
    if resources.shared_bytes > SHARED_LIMIT_BYTES[arch]:
        return (
            f"{where} needs {resources.shared_bytes} bytes of shared memory, above the {SHARED_LIMIT_BYTES[arch]} of "
            "the architecture: take smaller blocks or fewer stages."
        )
    return None


def check(case: Case, arch: int) -> str | None:
    """Compile one case and return what forbids it as one sentence, or None if it may be launched."""
    return complaint(case, arch, compile_case(case, arch))


def differs_elsewhere(resources: Resources) -> bool:
    """Whether a case with these resources on one architecture may spill or lack shared memory on another.

    Without matrix units the code of all architectures is nearly the same: one takes three quarters of the registers of
    another at least, and the same shared memory. So three quarters of all registers, and half of the least shared
    memory, are far enough from any limit.
    """
    least = min(SHARED_LIMIT_BYTES[arch] for arch in ARCHITECTURES)
    return resources.matrix_units or resources.registers > 0.75 * REGISTERS or resources.shared_bytes > least / 2


def compile_on(case: Case, archs: list[int], *, turn: int | None = None) -> dict[int, Resources]:
    """The resources by architecture.

    turn: only the architecture whose turn it is, where the others cannot differ, and of what uses matrix units, of
    which every kernel has several cases.
    """
    first = archs[(turn or 0) % len(archs)]
    found = {first: compile_case(case, first)}
    if turn is None or (differs_elsewhere(found[first]) and not found[first].matrix_units):
        found |= {arch: compile_case(case, arch) for arch in archs if arch != first}
    return dict(sorted(found.items()))


def compile_all(
    cases: Sequence[Case], archs: list[int], *, turns: Sequence[int | None] | None = None, jobs: int = 1
) -> Iterator[tuple[Case, dict[int, Resources]]]:
    """Every case with its resources, in order, compiled in `jobs` processes. turns: of each as in `compile_on`."""
    turns = turns or [None] * len(cases)
    if jobs == 1 or len(cases) < 2:
        yield from ((case, compile_on(case, archs, turn=turn)) for case, turn in zip(cases, turns, strict=True))
        return
    # Kernels cannot be sent to a process: a copy of this one has them already.
    global _shared
    _shared = cases
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        compiled = pool.map(partial(_compile_shared, archs), range(len(_shared)), turns)
        yield from zip(_shared, compiled, strict=True)


_shared: Sequence[Case] = []


def _compile_shared(archs: list[int], number: int, turn: int | None) -> dict[int, Resources]:
    return compile_on(_shared[number], archs, turn=turn)


def in_turn(count: int, archs: list[int]) -> list[int]:
    """Turns for so many cases: a step more after each round, because families offer their kernels in turn, too, often
    three of them."""
    return [number + number // len(archs) for number in range(count)]


def find_all(op: str, archs: list[int], jobs: int) -> Iterator[Finding]:
    """Compile every distinct case of an operation."""
    for case, by_arch in compile_all(list(distinct(cases_of(op)).values()), archs, jobs=jobs):
        yield Finding(case, by_arch)


def find_sparingly(op: str, archs: list[int], jobs: int) -> Iterator[Finding]:
    """Believe the record and compile what is not in it, on one architecture in turn where that is enough; then compile
    a share of the record again, on an architecture that the hash chooses."""
    cases = distinct(cases_of(op))
    record = _record_of(op, cases, archs)
    for content, entry in record.items():
        yield Finding(cases[content], {arch: entry.by_arch[arch] for arch in archs}, compiled=False)
    new, again = [content for content in cases if content not in record], compiled_again(record)
    turns = in_turn(len(new), archs) + [int(content, 16) for content in again]
    compiled = compile_all([cases[content] for content in new + again], archs, turns=turns, jobs=jobs)
    for content, (case, by_arch) in zip(new + again, compiled, strict=True):
        yield Finding(case, by_arch, recorded=record.get(content))


def find_and_record(op: str, archs: list[int], jobs: int) -> Iterator[Finding]:
    """Compile what the record lacks, and write it anew without the cases that are gone."""
    cases = distinct(cases_of(op))
    by_arch_of = {content: entry.by_arch for content, entry in _record_of(op, cases, archs).items()}
    for content, by_arch in by_arch_of.items():
        yield Finding(cases[content], by_arch, compiled=False)
    new = [content for content in cases if content not in by_arch_of]
    compiled = compile_all([cases[content] for content in new], archs, jobs=jobs)
    for content, (case, by_arch) in zip(new, compiled, strict=True):
        by_arch_of[content] = by_arch
        yield Finding(case, by_arch)
    write_record(op, {content: Entry(case.name, by_arch_of[content]) for content, case in cases.items()})


def _record_of(op: str, cases: Mapping[str, Case], archs: Sequence[int]) -> dict[str, Entry]:
    """The entries of these cases that know these architectures."""
    record = read_record(op)
    return {content: record[content] for content in cases
            if content in record and set(archs) <= set(record[content].by_arch)}  # fmt: skip


def gaps(op: str) -> list[str]:
    """What the record of an operation lacks and what it holds of cases that are gone, a sentence each."""
    cases, entries = distinct(cases_of(op)), read_record(op)
    names = {content: entry.name for content, entry in _record_of(op, cases, ARCHITECTURES).items()}
    lacking = [case.name for content, case in cases.items() if names.get(content) != case.name]
    gone = [entry.name for content, entry in entries.items() if content not in cases]
    return [f"The record lacks {name} as it is now." for name in lacking] + [
        f"The record has {name} as it was once." for name in gone
    ]


def contradiction(op: str, finding: Finding, arch: int) -> str | None:
    """Where the compiler does not say what the record says, as one sentence; None where it does, or only one speaks."""
    if finding.recorded is None or finding.recorded.by_arch[arch] == finding.by_arch[arch]:
        return None
    return (
        f"{finding.case.name} on sm_{arch} compiles to {finding.by_arch[arch]}, but the record says "
        f"{finding.recorded.by_arch[arch]}: delete {path_of(op)} and run `python -m kernels.ahead_of_time --record`."
    )


def cases_of(op: str) -> list[Case]:
    """The cases that the kernels of one operation offer. Raises ValueError for an unknown operation."""
    if op not in OPS:
        raise ValueError(f"An operation must be one of {', '.join(OPS)}, but got {op!r}.")
    return importlib.import_module(f"kernels._{op}.gpu").ahead_of_time_cases()


def main(arguments: list[str]) -> int:
    """Print the table of resources; return 1 when a case spills, exceeds the shared memory or belies its record.

    Raises ValueError when a record cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m kernels.ahead_of_time", description="Compile kernels without a GPU."
    )
    parser.add_argument("--op", choices=OPS, help="only this operation (default: all)")
    parser.add_argument("--arch", default=",".join(map(str, ARCHITECTURES)), help="compute capabilities, by commas")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--sparing",
        action="store_true",
        help="judge by the record; compile what is not in it, on one architecture in turn what uses matrix units or is "
        "far from every limit on all of them, and a share of the record again",
    )
    how.add_argument("--record", action="store_true", help="compile what is not in the record, and write it anew")
    options = parser.parse_args(arguments)
    archs = [int(arch) for arch in options.arch.split(",")]
    if unknown := [arch for arch in archs if arch not in SHARED_LIMIT_BYTES]:
        parser.error(f"an architecture must be one of {sorted(SHARED_LIMIT_BYTES)}, but got {unknown}")
    if options.record and archs != list(ARCHITECTURES):
        parser.error("--record compiles for all architectures: leave out --arch")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, but got {options.jobs}")
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        parser.error("unset TRITON_INTERPRET: interpreted kernels cannot be compiled")

    find = find_and_record if options.record else find_sparingly if options.sparing else find_all
    complaints = []
    print(f"{'case':<56}{'arch':>5}{'registers':>11}{'stack':>7}{'shared':>9}")
    for op in [options.op] if options.op else OPS:
        for finding in find(op, archs, options.jobs):
            for arch, resources in finding.by_arch.items():
                print(
                    f"{finding.case.name:<56}{arch:>5}{resources.registers:>11}{resources.stack_bytes:>7}"
                    f"{resources.shared_bytes:>9}{'' if finding.compiled else '  recorded'}",
                    flush=True,
                )
                problems = (complaint(finding.case, arch, resources), contradiction(op, finding, arch))
                complaints += [problem for problem in problems if problem]
    for problem in dict.fromkeys(complaints):
        print(problem, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
