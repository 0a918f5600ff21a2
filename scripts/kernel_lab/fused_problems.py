"""The fused neighbours of a mixer in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

Sizes are those of a 7 B hybrid: width 4096, 8192 tokens.
"""

from dataclasses import replace

from scripts.kernel_lab.forms import Named, in_all_forms
from scripts.kernel_lab.fused_operations import (
    GatedUnit,
    L2Norm,
    LinearCrossEntropy,
    RmsNorm,
    Rotation,
    ShortConvolution,
    ShortConvolutionStep,
)
from scripts.kernel_lab.operations import Operation


def benchmark_sizes() -> Named:
    return [
        ("B1 T8192 D8192 W4", ShortConvolution(B=1, T=8192, D=8192)),
        ("B8 T2048 D4096 W4", ShortConvolution(B=8, T=2048, D=4096)),
        ("B64 D8192 W4", ShortConvolutionStep(B=64, D=8192)),
        ("N16384 D4096", RmsNorm(N=16384, D=4096)),
        ("sum N16384 D4096", RmsNorm(N=16384, D=4096, residual=True)),
        ("heads behind a gate N524288 D128", RmsNorm(N=524288, D=128, gate="behind")),
        ("gate in front N16384 D4096", RmsNorm(N=16384, D=4096, gate="front")),
        ("N2048 D32768", RmsNorm(N=2048, D=32768)),
        ("silu N16384 D14336", GatedUnit(N=16384, D=14336)),
        ("B1 T16384 H40 D128", Rotation(B=1, T=16384, H=40, D=128)),
        ("B64 T1 H40 D128", Rotation(B=64, T=1, H=40, D=128)),
        ("N8192 D4096 V131072", LinearCrossEntropy(N=8192, D=4096, V=131072)),
        ("N32768 D512 V32768", LinearCrossEntropy(N=32768, D=512, V=32768)),
        ("heads N1048576 D128", L2Norm(N=1048576, D=128)),
    ]


def cpu_sizes() -> Named:
    return [
        ("B4 T256 D192 W4", ShortConvolution(B=4, T=256, D=192)),
        ("B1 D192 W4", ShortConvolutionStep(B=1, D=192)),
        ("N1024 D96", RmsNorm(N=1024, D=96)),
        ("gate behind N4096 D32", RmsNorm(N=4096, D=32, gate="behind")),
        ("silu N1024 D256", GatedUnit(N=1024, D=256)),
        ("B4 T256 H8 D32", Rotation(B=4, T=256, H=8, D=32)),
        ("N1024 D96 V1024", LinearCrossEntropy(N=1024, D=96, V=1024)),
        ("heads N8192 D32", L2Norm(N=8192, D=32)),
    ]


def launch_sizes() -> Named:
    """Every form of every kernel, at sizes that are no multiple of a block."""
    named: Named = []
    for width, T, D in ((2, 333, 40), (3, 77, 300), (4, 333, 128), (8, 77, 72)):
        named += in_all_forms(f"convolution W{width}", ShortConvolution(B=2, T=T, D=D, W=width))
        named += in_all_forms(f"convolution step W{width}", ShortConvolutionStep(B=3, D=D, W=width))
    for D in (20, 64, 128, 1000, 4096, 9000):
        named += [*in_all_forms(f"norm D{D}", RmsNorm(N=133, D=D)), (f"l2 norm D{D}", L2Norm(N=133, D=D))]
    named += [*in_all_forms("unit D1100", GatedUnit(N=77, D=1100)), ("unit D40", GatedUnit(N=333, D=40))]
    for D, turned in ((20, 20), (64, 64), (128, 128), (256, 64)):
        rotation = Rotation(B=2, T=77, H=5, D=D, turned=turned)
        named += [(f"rotation D{D}", rotation), (f"interleaved D{D}", replace(rotation, interleaved=True))]
    loss = LinearCrossEntropy(N=133, D=96, V=5000)
    return [*named, ("loss", loss), ("loss of capped logits", replace(loss, soft_cap=2.0))]


def tiny_sizes() -> Named:
    return [
        *in_all_forms("convolution", ShortConvolution(B=1, T=9, D=8)),
        *in_all_forms("step of convolution", ShortConvolutionStep(B=1, D=8)),
        *in_all_forms("norm", RmsNorm(N=9, D=8)),
        *in_all_forms("unit", GatedUnit(N=9, D=8)),
        ("rotation", Rotation(B=1, T=9, H=2, D=8, turned=4)),
        ("loss", LinearCrossEntropy(N=9, D=8, V=20)),
        ("l2 norm", L2Norm(N=9, D=8)),
    ]


def tuning_sizes() -> dict[str, Named]:
    """By family of kernels."""
    three_wide = ShortConvolution(B=2, T=4096, D=4096, W=3, state=True)
    return {
        "short_convolution": [
            *in_all_forms("convolution W4", ShortConvolution(B=2, T=4096, D=4096)),
            *in_all_forms("convolution step W4", ShortConvolutionStep(B=16, D=4096)),
            *in_all_forms("convolution W3", three_wide, but=("state",)),
            *in_all_forms("convolution step W3", ShortConvolutionStep(B=16, D=4096, W=3)),
        ],
        "glu": in_all_forms("unit", GatedUnit(N=16384, D=8192)),
        "rope": [
            ("rotation D128", Rotation(B=2, T=4096, H=40, D=128)),
            ("rotation D64", Rotation(B=2, T=4096, H=40, D=64)),
            ("interleaved D64 of 192", Rotation(B=2, T=4096, H=64, D=192, turned=64, interleaved=True)),
        ],
        "linear_cross_entropy": [
            ("loss V131072", LinearCrossEntropy(N=4096, D=2048, V=131072)),
            ("loss of capped logits V131072", LinearCrossEntropy(N=4096, D=2048, V=131072, soft_cap=30.0)),
        ],
        "rms_norm": [
            *in_all_forms("norm D4096", RmsNorm(N=16384, D=4096), but=("groups",)),
            *in_all_forms("norm of heads D128", RmsNorm(N=262144, D=128), but=("groups",)),
            ("l2 norm D128", L2Norm(N=262144, D=128)),
            ("norm D2048", RmsNorm(N=16384, D=2048)),
            ("norm of a sum D2048", RmsNorm(N=16384, D=2048, residual=True)),
            ("norm D32768", RmsNorm(N=2048, D=32768)),
        ],
    }


def small_size(one: Operation) -> Operation | None:
    """The same launches on little data; None for an operation of another file."""
    if isinstance(one, ShortConvolution):
        return replace(one, B=1, T=333, D=min(one.D, 320))
    if isinstance(one, ShortConvolutionStep):
        return replace(one, B=2, D=min(one.D, 320))
    if isinstance(one, LinearCrossEntropy):
        return replace(one, N=133, D=96, V=5000)
    if isinstance(one, Rotation):
        return replace(one, B=1, T=133)
    if isinstance(one, RmsNorm | L2Norm | GatedUnit):
        return replace(one, N=133)
    return None
