"""Compile every kernel for GPUs that are not there, so that a machine without one can refuse what would not run there.

The Triton interpreter proves the arithmetic. This file proves what the interpreter cannot see: that the kernel compiles
for an architecture, that it keeps its values in registers, and that its shared memory fits. The compiler checks neither
of the last two, so both are read from the compiled code.

    python -m kernels.ahead_of_time [--op attention] [--arch 80,90,100] [--jobs 8] [--sparing]

A kernel family offers in its `gpu.py` `ahead_of_time_cases() -> list[Case]`, with the launch configurations it uses by
default, and for the tuner `launch_candidates(key) -> list[Config]`, the default first, and `launch_case(key, config)`.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

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
    kernel: object
    signature: dict[str, str]
    constexprs: dict[str, object] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)
    multiples_of_16: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers per thread, stack bytes per thread (spills), shared bytes per block.

    matrix_units: whether it uses them, and so instructions that each architecture has its own of.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    matrix_units: bool = True


def compile_case(case: Case, arch: int) -> Resources:
    """Compile for compute capability `arch`, such as 90, and read the resources from the machine code.

    Raises RuntimeError when the Triton interpreter is on, ValueError when the case does not give every argument once.
    """
    if not isinstance(case.kernel, triton.runtime.JITFunction):
        raise RuntimeError(
            f"Compiling ahead of time needs kernels as functions for the GPU, but {case.name} was decorated with the "
            "Triton interpreter on. Unset TRITON_INTERPRET before Python starts."
        )
    names = case.kernel.arg_names
    given = set(case.signature) | set(case.constexprs)
    if given != set(names) or len(given) != len(case.signature) + len(case.constexprs):
        raise ValueError(
            f"Case {case.name} must give every argument of its kernel once: missing {sorted(set(names) - given)}, "
            f"unknown {sorted(given - set(names))}, twice {sorted(set(case.signature) & set(case.constexprs))}."
        )
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    divisible = {name for name in names if signature[name].startswith("*") or name in case.multiples_of_16}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in divisible}
    source = ASTSource(case.kernel, signature=signature, constexprs=dict(case.constexprs), attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(case.options))
    registers, stack_bytes = _registers_and_stack(compiled.asm["cubin"])
    matrix_units = re.search(r"mma\.sync|wgmma|tcgen05", compiled.asm["ptx"]) is not None
    return Resources(registers, stack_bytes, compiled.metadata.shared, matrix_units)


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
    cases: list[Case], archs: list[int], *, sparing: bool, jobs: int
) -> Iterator[tuple[Case, dict[int, Resources]]]:
    """Every case with its resources, in order; what compiles to the same code is compiled once, in `jobs` processes."""
    first: dict[object, Case] = {}
    for case in cases:
        first.setdefault(_identity(case), case)
    distinct = list(first.values())
    # A step more after each round: families offer their kernels in turn, too, often three of them.
    turns = [n + n // len(archs) for n in range(len(distinct))] if sparing else [None] * len(distinct)
    if jobs == 1:
        yield from ((case, compile_on(case, archs, turn=turn)) for case, turn in zip(distinct, turns, strict=True))
        return
    # Kernels cannot be sent to a process: a copy of this one has them already.
    global _shared
    _shared = distinct
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        compiled = pool.map(partial(_compile_shared, archs), range(len(_shared)), turns)
        yield from zip(_shared, compiled, strict=True)


_shared: list[Case] = []


def _compile_shared(archs: list[int], number: int, turn: int | None) -> dict[int, Resources]:
    return compile_on(_shared[number], archs, turn=turn)


def _identity(case: Case) -> tuple[object, ...]:
    """What the compiled code depends on."""
    return (
        case.kernel, *(str(sorted(x.items(), key=str)) for x in (case.signature, case.constexprs, case.options)),
        case.multiples_of_16,
    )  # fmt: skip


def cases_of(op: str) -> list[Case]:
    """The cases that the kernels of one operation offer. Raises ValueError for an unknown operation."""
    if op not in OPS:
        raise ValueError(f"An operation must be one of {', '.join(OPS)}, but got {op!r}.")
    return importlib.import_module(f"kernels._{op}.gpu").ahead_of_time_cases()


def main(arguments: list[str]) -> int:
    """Print the table of resources; return 1 when a case spills or exceeds the shared memory, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.ahead_of_time", description="Compile kernels without a GPU."
    )
    parser.add_argument("--op", choices=OPS, help="only this operation (default: all)")
    parser.add_argument("--arch", default=",".join(map(str, ARCHITECTURES)), help="compute capabilities, by commas")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--sparing",
        action="store_true",
        help="on one architecture, in turn, what uses matrix units or is far from every limit on all of them",
    )
    options = parser.parse_args(arguments)
    archs = [int(arch) for arch in options.arch.split(",")]
    if unknown := [arch for arch in archs if arch not in SHARED_LIMIT_BYTES]:
        parser.error(f"an architecture must be one of {sorted(SHARED_LIMIT_BYTES)}, but got {unknown}")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, but got {options.jobs}")
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        parser.error("unset TRITON_INTERPRET: interpreted kernels cannot be compiled")

    complaints = []
    print(f"{'case':<56}{'arch':>5}{'registers':>11}{'stack':>7}{'shared':>9}")
    for op in [options.op] if options.op else OPS:
        compiled = compile_all(cases_of(op), archs, sparing=options.sparing, jobs=options.jobs)
        for case, by_arch in compiled:
            for arch, resources in by_arch.items():
                print(
                    f"{case.name:<56}{arch:>5}{resources.registers:>11}{resources.stack_bytes:>7}"
                    f"{resources.shared_bytes:>9}",
                    flush=True,
                )
                if problem := complaint(case, arch, resources):
                    complaints.append(problem)
    for problem in complaints:
        print(problem, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
