"""The scans of vector states in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

The first size is that of published figures (accelerated-scan); the second shows whether time per token grows with the
length.
"""

from dataclasses import replace

from scripts.kernel_lab.operations import Operation
from scripts.kernel_lab.scan_operations import VectorRecurrence, VectorRecurrenceStep, Wkv, WkvStep

Named = list[tuple[str, Operation]]


def benchmark_sizes() -> Named:
    return [
        ("B8 T8192 D1536", VectorRecurrence(B=8, T=8192, D=1536)),
        ("B1 T131072 D1536", VectorRecurrence(B=1, T=131072, D=1536)),
        ("B8 T8192 D1536 backwards", VectorRecurrence(B=8, T=8192, D=1536, reverse=True)),
        ("B64 D4096", VectorRecurrenceStep(B=64, D=4096)),
        ("B8 T8192 D1536", Wkv(B=8, T=8192, D=1536)),
        ("B1 T131072 D1536", Wkv(B=1, T=131072, D=1536)),
        ("B64 D4096", WkvStep(B=64, D=4096)),
    ]


def cpu_sizes() -> Named:
    return [
        ("B2 T2048 D256", VectorRecurrence(B=2, T=2048, D=256)),
        ("B1 D256", VectorRecurrenceStep(B=1, D=256)),
        ("B2 T512 D256", Wkv(B=2, T=512, D=256)),
        ("B1 D256", WkvStep(B=1, D=256)),
    ]


def launch_sizes() -> Named:
    """Every form of every kernel, at sizes that are no multiple of a block; whole sequences in a program and cut."""
    named: Named = []
    for half_decay in (False, True):
        name = ", decays as short as inputs" if half_decay else ""
        cut = VectorRecurrence(B=2, T=333, D=72, state=True, half_decay=half_decay)
        named += [
            (f"vectors{name}", cut),
            (f"vectors backwards{name}", replace(cut, reverse=True)),
            (f"whole sequences{name}", replace(cut, B=64, T=77, D=1000, state=False)),
            (f"whole sequences backwards{name}", replace(cut, B=64, T=77, D=1000, reverse=True)),
            (f"vectors step{name}", VectorRecurrenceStep(B=3, D=72, half_decay=half_decay)),
        ]
    return [
        *named,
        ("wkv", Wkv(B=2, T=333, D=72, state=True)),
        ("wkv of whole sequences", Wkv(B=64, T=77, D=1000)),
        ("wkv step", WkvStep(B=3, D=72)),
    ]


def tiny_sizes() -> Named:
    return [
        ("vectors", VectorRecurrence(B=1, T=20, D=4, state=True)),
        ("step of vectors", VectorRecurrenceStep(B=1, D=4)),
        ("wkv", Wkv(B=1, T=20, D=4, state=True)),
        ("step of wkv", WkvStep(B=1, D=4)),
    ]


def tuning_sizes() -> dict[str, Named]:
    """By family of kernels."""
    vectors = VectorRecurrence(B=2, T=8192, D=2048, state=True)
    return {
        "vector_recurrence": [
            ("vectors", vectors),
            ("vectors backwards", replace(vectors, reverse=True)),
            ("vectors, decays as short as inputs", replace(vectors, half_decay=True)),
            ("vectors step", VectorRecurrenceStep(B=64, D=4096)),
        ],
        "wkv": [
            ("wkv", Wkv(B=2, T=8192, D=2048, state=True)),
            ("wkv step", WkvStep(B=64, D=4096)),
        ],
    }


def small_size(one: Operation) -> Operation | None:
    """The same launches on little data; None for an operation of another file."""
    if isinstance(one, VectorRecurrence | Wkv):
        return replace(one, B=1, T=330, D=min(one.D, 320))
    if isinstance(one, VectorRecurrenceStep | WkvStep):
        return replace(one, B=2, D=min(one.D, 320))
    return None
