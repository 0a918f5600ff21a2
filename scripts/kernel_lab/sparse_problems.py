"""The sparse operations in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

Expert layers are those of published rows: model 2048, experts 768, 8 of 128 a token (Liger Kernel's benchmark data).
"""

from dataclasses import replace

from scripts.kernel_lab.operations import Operation
from scripts.kernel_lab.sparse_operations import MoeFfn

Named = list[tuple[str, Operation]]

EXPERTS = MoeFfn(T=32768, E=128, H=2048, I=768, K=8)


def benchmark_sizes() -> Named:
    return [
        ("T32768 E128 H2048 I768 K8", EXPERTS),
        ("T8192 E128 H2048 I768 K8", replace(EXPERTS, T=8192)),
        ("T8192 E128 H2048 I768 K8 zipf", replace(EXPERTS, T=8192, zipf=True)),
        ("T8192 E8 H2048 I768 K8", replace(EXPERTS, T=8192, E=8)),
        ("T1024 E128 H2048 I768 K8", replace(EXPERTS, T=1024)),
        ("T1 E128 H2048 I768 K8", replace(EXPERTS, T=1)),
    ]


def cpu_sizes() -> Named:
    return [("T256 E8 H192 I128 K2", MoeFfn(T=256, E=8, H=192, I=128, K=2))]


def launch_sizes() -> Named:
    """Every form of every kernel, at sizes that are no multiple of a block."""
    return [
        ("experts, multiples of 16", MoeFfn(T=333, E=6, H=96, I=80, K=2)),
        ("experts, odd widths", MoeFfn(T=150, E=5, H=50, I=70, K=3, zipf=True, activation="gelu")),
        ("more experts than choices", MoeFfn(T=3, E=64, H=128, I=64, K=2, activation="relu2")),
    ]


def tiny_sizes() -> Named:
    return [("experts", MoeFfn(T=20, E=3, H=32, I=16, K=2))]


def tuning_sizes() -> dict[str, Named]:
    """By family of kernels."""
    return {
        "moe": [
            ("experts H2048 I768", replace(EXPERTS, E=64)),
            ("experts H512 I256", replace(EXPERTS, E=16, H=512, I=256, K=2)),
        ]
    }


def small_size(one: Operation) -> Operation | None:
    """The same launches on little data; None for an operation of another file."""
    if isinstance(one, MoeFfn):
        return replace(one, T=350, E=6, H=min(one.H, 320), I=min(one.I, 320), K=2)
    return None
