"""The scans of vector and diagonal states in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

The first size of vector states is that of published figures (accelerated-scan). Sequences of 131072 tokens show whether
time per token grows with the length.
"""

from dataclasses import replace

from scripts.kernel_lab.forms import Named, in_all_forms
from scripts.kernel_lab.operations import Operation
from scripts.kernel_lab.scan_operations import (
    SelectiveScan,
    SelectiveScanStep,
    VectorRecurrence,
    VectorRecurrenceStep,
    Wkv,
    WkvStep,
)


def benchmark_sizes() -> Named:
    return [
        ("B8 T8192 D1536", VectorRecurrence(B=8, T=8192, D=1536)),
        ("B1 T131072 D1536", VectorRecurrence(B=1, T=131072, D=1536)),
        ("B8 T8192 D1536 backwards", VectorRecurrence(B=8, T=8192, D=1536, reverse=True)),
        ("B64 D4096", VectorRecurrenceStep(B=64, D=4096)),
        ("B8 T8192 D1536", Wkv(B=8, T=8192, D=1536)),
        ("B1 T131072 D1536", Wkv(B=1, T=131072, D=1536)),
        ("B64 D4096", WkvStep(B=64, D=4096)),
        ("B1 T8192 D4096 N16", SelectiveScan(B=1, T=8192, Dm=4096, N=16)),
        ("B8 T2048 D4096 N16", SelectiveScan(B=8, T=2048, Dm=4096, N=16)),
        ("B1 T131072 D1536 N16", SelectiveScan(B=1, T=131072, Dm=1536, N=16)),
        ("step B1 D4096 N16", SelectiveScanStep(B=1, Dm=4096, N=16)),
        ("step B64 D4096 N16", SelectiveScanStep(B=64, Dm=4096, N=16)),
    ]


def cpu_sizes() -> Named:
    return [
        ("B2 T2048 D256", VectorRecurrence(B=2, T=2048, D=256)),
        ("B1 D256", VectorRecurrenceStep(B=1, D=256)),
        ("B2 T512 D256", Wkv(B=2, T=512, D=256)),
        ("B1 D256", WkvStep(B=1, D=256)),
        ("B1 T512 D512 N16", SelectiveScan(B=1, T=512, Dm=512, N=16)),
        ("step B1 D512 N16", SelectiveScanStep(B=1, Dm=512, N=16)),
    ]


def launch_sizes() -> Named:
    """Every form of every kernel, at sizes that are no multiple of a block; whole sequences in a program and cut."""
    return [
        *in_all_forms("vectors", VectorRecurrence(B=2, T=333, D=72)),
        *in_all_forms("whole sequences", VectorRecurrence(B=64, T=77, D=1000)),
        *in_all_forms("vectors step", VectorRecurrenceStep(B=3, D=72)),
        *in_all_forms("wkv", Wkv(B=2, T=333, D=72)),
        *in_all_forms("wkv of whole sequences", Wkv(B=64, T=77, D=1000)),
        ("wkv step", WkvStep(B=3, D=72)),
        *in_all_forms("channels", SelectiveScan(B=2, T=200, Dm=72, N=16)),
        ("channels, long", SelectiveScan(B=2, T=1100, Dm=40, N=16, state=True)),
        ("odd channels", SelectiveScan(B=1, T=77, Dm=21, N=10)),
        ("one state", SelectiveScan(B=1, T=77, Dm=24, N=1, state=True)),
        ("64 states", SelectiveScan(B=1, T=77, Dm=24, N=64, state=True)),
        *in_all_forms("channels step", SelectiveScanStep(B=3, Dm=72, N=16)),
        *((f"channels step of {N} states", SelectiveScanStep(B=3, Dm=72, N=N)) for N in (1, 10, 64)),
    ]


def tiny_sizes() -> Named:
    return [
        *in_all_forms("vectors", VectorRecurrence(B=1, T=20, D=4)),
        *in_all_forms("step of vectors", VectorRecurrenceStep(B=1, D=4)),
        *in_all_forms("wkv", Wkv(B=1, T=20, D=4)),
        ("step of wkv", WkvStep(B=1, D=4)),
        *in_all_forms("scan", SelectiveScan(B=1, T=20, Dm=16, N=4)),
        *in_all_forms("step of scan", SelectiveScanStep(B=1, Dm=16, N=4)),
    ]


def tuning_sizes() -> dict[str, Named]:
    """By family of kernels."""
    return {
        "vector_recurrence": [
            *in_all_forms("vectors", VectorRecurrence(B=2, T=8192, D=2048), but=("state",)),
            *in_all_forms("vectors step", VectorRecurrenceStep(B=64, D=4096)),
        ],
        "wkv": [
            ("wkv", Wkv(B=2, T=8192, D=2048, state=True)),
            ("wkv step", WkvStep(B=64, D=4096)),
        ],
        "selective_scan": [
            *in_all_forms("scan N16", SelectiveScan(B=2, T=4096, Dm=2048, N=16), but=("state", "groups")),
            *in_all_forms("scan step N16", SelectiveScanStep(B=16, Dm=4096, N=16), but=("groups",)),
            ("scan step N64", SelectiveScanStep(B=16, Dm=4096, N=64)),
        ],
    }


def small_size(one: Operation) -> Operation | None:
    """The same launches on little data; None for an operation of another file."""
    if isinstance(one, SelectiveScan):  # more chunks than any tile has of those that its carry takes at once
        return replace(one, B=1, T=1100)
    if isinstance(one, SelectiveScanStep):
        return replace(one, B=2)
    if isinstance(one, VectorRecurrence | Wkv):
        return replace(one, B=1, T=330, D=min(one.D, 320))
    if isinstance(one, VectorRecurrenceStep | WkvStep):
        return replace(one, B=2, D=min(one.D, 320))
    return None
