"""The fused neighbours of a mixer in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

Sizes are those of a 7 B hybrid: width 4096, 8192 tokens.
"""

from dataclasses import replace

from scripts.kernel_lab.fused_operations import ShortConvolution, ShortConvolutionStep
from scripts.kernel_lab.operations import Operation

Named = list[tuple[str, Operation]]


def benchmark_sizes() -> Named:
    return [
        ("B1 T8192 D8192 W4", ShortConvolution(B=1, T=8192, D=8192)),
        ("B8 T2048 D4096 W4", ShortConvolution(B=8, T=2048, D=4096)),
        ("B64 D8192 W4", ShortConvolutionStep(B=64, D=8192)),
    ]


def cpu_sizes() -> Named:
    return [
        ("B4 T256 D192 W4", ShortConvolution(B=4, T=256, D=192)),
        ("B1 D192 W4", ShortConvolutionStep(B=1, D=192)),
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
    return named


def tiny_sizes() -> Named:
    return [
        ("convolution", ShortConvolution(B=1, T=9, D=8, state=True)),
        ("step of convolution", ShortConvolutionStep(B=1, D=8)),
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
    }


def small_size(one: Operation) -> Operation | None:
    """The same launches on little data; None for an operation of another file."""
    if isinstance(one, ShortConvolution):
        return replace(one, B=1, T=333, D=min(one.D, 320))
    if isinstance(one, ShortConvolutionStep):
        return replace(one, B=2, D=min(one.D, 320))
    return None
