"""Root-mean-square normalisation and what mixers put around it: residual sums, gates in both orders, groups, and the
L2 normalisation of queries and keys.

Source: Zhang and Sennrich (arXiv 1910.07467), equation 4. With a gate behind it: Yang et al., GLA (arXiv 2312.06635),
section 4.4; with the gate in front: Dao and Gu, Mamba-2 (arXiv 2405.21060), section 7.1.
"""

from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from kernels._rms_norm import portable, reference
from kernels.arguments import check_number, check_optional_tensors, check_switches, check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.dtypes import DTYPES, check_dtype
from kernels.whole_numbers import check_whole_number

NormGate = Literal["silu", "sigmoid"]


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float = 1e-6,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    gate_activation: NormGate = "silu",
    gate_first: bool = False,
    group_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """s / sqrt(mean(s²) + eps) * weight over the last axis, or over groups of it.

    Args:
        x: [..., D]; any strides, so that heads and slices of a projection are read where they lie.
        weight: [D]; left out, there is none. Heads share one when they are an axis of x.
        eps: added to the mean of the squares.
        residual: [..., D]; s = x + residual, which is returned as well. Not together with a gate.
        gate: [..., D], the z of y = norm(x) act(z), or of y = norm(x act(z)) with `gate_first`.
        gate_activation: act, "silu" or "sigmoid".
        group_size: normalise each `group_size` channels by themselves (Mamba-2's groups); a divisor of D.

    Returns y [..., D], or (y, s) with a residual; in the type of x, or that to which x and the residual promote. Gate
    and x have one type; the weight has that of x or float32. All arithmetic is in float32. Every tensor given receives
    gradients, once: the backward pass itself is not differentiable.

    Raises ValueError when shapes, types or devices do not belong together.
    """
    check_optional_tensors(weight=weight, residual=residual, gate=gate)
    check_switches(gate_first=gate_first)
    size = _check(x, weight, residual, gate, gate_activation, gate_first, group_size, eps)
    options = {
        "eps": eps,
        "residual": residual,
        "gate": gate,
        "gate_activation": gate_activation,
        "gate_first": gate_first,
        "group_size": group_size,
    }
    substituted = ask_substitute("rms_norm", x, weight, **options)
    if substituted is not NotImplemented:
        return substituted
    activation = None if gate is None else gate_activation
    arguments = (x, weight, residual, gate, eps, size, activation, gate_first)
    y, total = _implementation(x, residual).rms_norm(*arguments)
    return y if residual is None else (y, total)


def l2_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """x / sqrt(sum(x²) + eps) over the last axis of x [..., D]; in the type of x, computed in float32.

    x receives gradients, once. Raises ValueError when x has no axis, no channels or another type than float32,
    float16 and bfloat16, and for an eps below 0.
    """
    _check(x, None, None, None, "silu", False, None, eps)
    substituted = ask_substitute("l2_norm", x, eps=eps)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(x).l2_norm(x, eps)


def _implementation(x: Tensor, residual: Tensor | None = None) -> ModuleType:
    backend = choose_backend(x, residual)
    if backend == "gpu":
        from kernels._rms_norm import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_activation: str,
    gate_first: bool,
    group_size: int | None,
    eps: float,
) -> int:
    """How many channels are normalised together."""
    check_tensors(x=x)
    check_number("eps", eps)
    if eps < 0:
        raise ValueError(f"eps must be at least 0, as it is added to a mean of squares, but got {eps}.")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must be [..., D] with D at least 1, but got {list(x.shape)}.")
    check_dtype("x", x)
    if gate_activation not in get_args(NormGate):
        raise ValueError(f"gate_activation must be 'silu' or 'sigmoid', but got {gate_activation!r}.")
    if residual is not None and gate is not None:
        raise ValueError("rms_norm takes a residual or a gate, but got both: add the residual to x first.")
    if gate_first and gate is None:
        raise ValueError(
            f"gate_first needs a gate, which it puts in front of the norm of x {list(x.shape)}, but got none."
        )
    channels = x.shape[-1]
    if group_size is not None:
        check_whole_number("group_size", group_size)
    if group_size is not None and (group_size < 1 or channels % group_size):
        raise ValueError(
            f"group_size must divide the {channels} channels of x {list(x.shape)}, but got {group_size}: take a "
            "divisor."
        )
    expected = {
        "weight": (weight, [channels], (x.dtype, torch.float32)),
        "residual": (residual, list(x.shape), DTYPES),
        "gate": (gate, list(x.shape), (x.dtype,)),
    }
    for name, (tensor, shape, dtypes) in expected.items():
        if tensor is None:
            continue
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} beside x {list(x.shape)}, but got {list(tensor.shape)}.")
        if tensor.dtype not in dtypes or tensor.device != x.device:
            wanted = " or ".join(str(dtype) for dtype in dict.fromkeys(dtypes))
            raise ValueError(
                f"{name} must be {wanted} on {x.device}, beside x, but got {list(tensor.shape)} of {tensor.dtype} on "
                f"{tensor.device}: convert it first."
            )
    return channels if group_size is None else group_size
