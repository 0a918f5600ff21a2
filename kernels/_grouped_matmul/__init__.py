"""The grouped matrix product of mixture-of-experts layers: tokens sorted by expert, each times its expert's matrix.

Source: the "dropless" formulation of Gale et al., MegaBlocks (arXiv 2211.15841), section 3.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._grouped_matmul import portable, reference
from kernels.arguments import check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.dtypes import DTYPES, as_autocast


def grouped_matmul(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """Multiply consecutive groups of rows of x by one matrix each.

    Args:
        x: [M, K], rows sorted by group.
        w: [E, K, N], one matrix per group, in the type of x; under autocast both are cast to its type.
        group_sizes: [E] int32 or int64, rows per group; zero is fine. Rows of x beyond their sum belong to no group:
            their output and their gradient are zero.

    Returns [M, N] in the type of x, accumulated in float32. x and w receive gradients.

    Raises ValueError when shapes or types do not belong together. That sizes are at least 0 and sum to at most M is
    checked by every backend but the gpu one: it would have to wait for it, takes a negative size as 0, and ignores
    what lies beyond M.
    """
    check_tensors(x=x, w=w, group_sizes=group_sizes)
    x, w = as_autocast(x, x.device), as_autocast(w, x.device)
    if x.dim() != 2 or w.dim() != 3 or x.shape[1] != w.shape[1]:
        raise ValueError(f"x must be [M, K] and w [E, K, N], but got x {list(x.shape)} and w {list(w.shape)}.")
    if x.dtype != w.dtype:
        raise ValueError(
            f"x and w must have one type, but got x {list(x.shape)} of {x.dtype} and w {list(w.shape)} of {w.dtype}: "
            "cast one of them."
        )
    if x.dtype not in DTYPES:
        raise ValueError(
            f"x and w must be float32, float16 or bfloat16, but got x {list(x.shape)} and w {list(w.shape)} of "
            f"{x.dtype}."
        )
    if list(group_sizes.shape) != [w.shape[0]] or group_sizes.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"group_sizes must be [{w.shape[0]}] of int32 or int64, one per matrix of w, but got "
            f"{list(group_sizes.shape)} of {group_sizes.dtype}."
        )
    if len({x.device, w.device, group_sizes.device}) > 1:
        raise ValueError(
            f"x, w and group_sizes must lie on one device, but got x {list(x.shape)} on {x.device}, w {list(w.shape)} "
            f"on {w.device} and group_sizes {list(group_sizes.shape)} on {group_sizes.device}."
        )
    substituted = ask_substitute("grouped_matmul", x, w, group_sizes)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(x).grouped_matmul(x, w, group_sizes)


def _implementation(x: Tensor) -> ModuleType:
    backend = choose_backend(x)
    if backend == "gpu":
        from kernels._grouped_matmul import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable
