"""Rotary positions: each pair of channels of a query or key is turned by the angle of its token.

Source: Su et al. (arXiv 2104.09864), section 3.2; a fraction of the channels: GPT-NeoX (arXiv 2204.06745), section 2.1.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._rope import portable, reference
from kernels.arguments import check_switches, check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.dtypes import check_dtype


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """(a, b) becomes (a cos - b sin, b cos + a sin) for each of R / 2 pairs of channels; the others stay as they are.

    Args:
        x: [B, T, H, D]; any strides. A decode step is T = 1.
        cos: [T, R / 2], or [B, T, R / 2] where sequences stand at different positions, in float32; R at most D.
        sin: as cos. Tables may be scaled (YaRN).
        interleaved: pairs are the channels (2i, 2i + 1); otherwise (i, i + R / 2), the layout of Llama.

    Returns [B, T, H, D] in the type of x, computed in float32. x receives gradients; the tables do not.

    Raises ValueError when shapes, types or devices do not belong together.
    """
    check_tensors(x=x, cos=cos, sin=sin)
    check_switches(interleaved=interleaved)
    _check(x, cos, sin)
    substituted = ask_substitute("rope", x, cos, sin, interleaved=interleaved)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(x).rope(x, cos, sin, interleaved)


def _implementation(x: Tensor) -> ModuleType:
    backend = choose_backend(x)
    if backend == "gpu":
        from kernels._rope import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be [B, T, H, D], but got {list(x.shape)}.")
    check_dtype("x", x)
    if cos.shape != sin.shape or list(cos.shape[:-1]) not in ([x.shape[1]], list(x.shape[:2])):
        raise ValueError(
            f"cos and sin must both be [T, R / 2] or [B, T, R / 2] beside x {list(x.shape)}, but got {list(cos.shape)} "
            f"and {list(sin.shape)}."
        )
    if not 1 <= cos.shape[-1] <= x.shape[-1] // 2:
        raise ValueError(
            f"R must be between 2 and the {x.shape[-1]} channels of a head, but the tables turn {2 * cos.shape[-1]}."
        )
    for name, table in (("cos", cos), ("sin", sin)):
        if table.dtype != torch.float32 or table.device != x.device:
            raise ValueError(
                f"{name} must be torch.float32 on {x.device}, where x is, but got {table.dtype} on {table.device} of "
                f"shape {list(table.shape)}: convert it first."
            )
