"""The fused neighbours of a mixer in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

Sizes are those of a 7 B hybrid: width 4096, 8192 tokens.
"""

from dataclasses import replace

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

Named = list[tuple[str, Operation]]


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
    for width, D in ((2, 40), (3, 300), (4, 128), (8, 72)):
        convolution = ShortConvolution(B=2, T=333, D=D, W=width)
        named += [
            (f"convolution W{width}", convolution),
            (f"convolution from a state W{width}", replace(convolution, T=77, state=True)),
            (f"convolution step W{width}", ShortConvolutionStep(B=3, D=D, W=width)),
        ]
    for D in (20, 64, 128, 1000, 4096, 9000):
        norm = RmsNorm(N=133, D=D)
        named += [
            (f"norm D{D}", norm),
            (f"norm of a sum D{D}", replace(norm, residual=True)),
            (f"norm behind a gate D{D}", replace(norm, gate="front")),
            (f"norm before a gate D{D}", replace(norm, gate="behind")),
            (f"l2 norm D{D}", L2Norm(N=133, D=D)),
        ]
    for activation in ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid"):
        named.append((f"{activation} D1100", GatedUnit(N=77, D=1100, activation=activation)))
    named.append(("silu D40", GatedUnit(N=333, D=40)))
    for D, turned in ((20, 20), (64, 64), (128, 128), (256, 64)):
        rotation = Rotation(B=2, T=77, H=5, D=D, turned=turned)
        named += [(f"rotation D{D}", rotation), (f"interleaved D{D}", replace(rotation, interleaved=True))]
    loss = LinearCrossEntropy(N=133, D=96, V=5000)
    named += [("loss", loss), ("loss of capped logits", replace(loss, soft_cap=2.0))]
    named.append(("norm of groups behind a gate", RmsNorm(N=133, D=512, gate="front", groups=4)))
    return named


def tiny_sizes() -> Named:
    return [
        ("convolution", ShortConvolution(B=1, T=9, D=8, state=True)),
        ("step of convolution", ShortConvolutionStep(B=1, D=8)),
        ("norm", RmsNorm(N=9, D=8, residual=True)),
        ("gate", GatedUnit(N=9, D=8)),
        ("rotation", Rotation(B=1, T=9, H=2, D=8, turned=4)),
        ("loss", LinearCrossEntropy(N=9, D=8, V=20)),
        ("l2 norm", L2Norm(N=9, D=8)),
    ]


def tuning_sizes() -> dict[str, Named]:
    """By family of kernels."""
    convolution = ShortConvolution(B=2, T=4096, D=4096, state=True)
    return {
        "short_convolution": [
            ("convolution W4", convolution),
            ("convolution W4 without a state", replace(convolution, state=False)),
            ("convolution step W4", ShortConvolutionStep(B=16, D=4096)),
        ],
        "glu": [(one, GatedUnit(N=16384, D=8192, activation=one)) for one in ("silu", "gelu", "gelu_tanh", "relu2")],
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
            ("norm D4096", RmsNorm(N=16384, D=4096)),
            ("norm of a sum D4096", RmsNorm(N=16384, D=4096, residual=True)),
            ("norm of heads D128 before a gate", RmsNorm(N=262144, D=128, gate="behind")),
            ("norm D4096 behind a gate", RmsNorm(N=16384, D=4096, gate="front")),
            ("l2 norm D128", L2Norm(N=262144, D=128)),
            ("norm D2048", RmsNorm(N=16384, D=2048)),
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
