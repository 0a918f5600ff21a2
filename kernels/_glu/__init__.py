"""The gate of a gated linear unit: act(gate) * up, in one pass over memory.

Source: Shazeer (arXiv 2002.05202), section 2.
"""

from types import ModuleType
from typing import Literal, get_args

from torch import Tensor

from kernels._glu import portable, reference
from kernels.arguments import check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.dtypes import check_dtype

GluActivation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid"]


def glu(gate: Tensor, up: Tensor, activation: GluActivation = "silu") -> Tensor:
    """act(gate) * up, element by element.

    Args:
        gate: [..., D]; any strides, so that the halves of one projection are read where they lie.
        up: [..., D], in the type of gate.
        activation: act, one of silu, gelu (exact), gelu_tanh (its approximation), relu, relu2 (the square of relu) and
            sigmoid.

    Returns [..., D] in the type of gate. Both receive gradients, once: the backward pass itself is not differentiable.

    Raises ValueError when shapes, types or devices differ or the activation is unknown.
    """
    check_tensors(gate=gate, up=up)
    if gate.dim() == 0 or gate.shape != up.shape:
        raise ValueError(f"gate and up must both be [..., D], but got {list(gate.shape)} and {list(up.shape)}.")
    if gate.dtype != up.dtype or gate.device != up.device:
        raise ValueError(
            f"gate and up must be of one type on one device, but got {gate.dtype} on {gate.device} and "
            f"{up.dtype} on {up.device}: convert one of them."
        )
    check_dtype("gate", gate)
    if activation not in get_args(GluActivation):
        raise ValueError(f"activation must be one of {', '.join(get_args(GluActivation))}, but got {activation!r}.")
    substituted = ask_substitute("glu", gate, up, activation=activation)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(gate).glu(gate, up, activation)


def _implementation(gate: Tensor) -> ModuleType:
    backend = choose_backend(gate)
    if backend == "gpu":
        from kernels._glu import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable
