"""The short causal convolution in front of a recurrence: each channel mixes its last few tokens, then SiLU.

Source: Fu et al., H3 (arXiv 2212.14052), section 3.1; with SiLU after it: Gu and Dao, Mamba (arXiv 2312.00752),
section 3.4.
"""

from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from kernels._short_convolution import portable, reference
from kernels.arguments import check_optional_tensors, check_switches, check_tensors
from kernels.backend import Backend, ask_substitute, choose_backend, choose_step_backend
from kernels.dtypes import check_dtype, require_state

ConvolutionActivation = Literal["silu"]
LARGEST_WIDTH = 8  # wider filters do not keep to registers; published ones have 3 or 4


def short_convolution(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    activation: ConvolutionActivation | None = "silu",
    initial_state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y_t = act(bias + sum_i weight[:, i] x_{t - W + 1 + i}): the last column of the weight meets the token itself.

    Args:
        x: [B, T, D]; any strides, so that a slice of a projection is read where it lies.
        weight: [D, W], W from 1 to 8.
        bias: [D]; left out, there is none.
        activation: "silu", or None for the sum itself.
        initial_state: [B, W - 1, D] in the type of x, the inputs before the first; left out, zeros.
        return_state: also return the last W - 1 inputs.

    Returns y [B, T, D] in the type of x, or (y, state [B, W - 1, D]). Sums are in float32. Weight and bias have the
    type of x or float32. Every tensor given receives gradients, once: the backward pass itself is not differentiable.

    Raises ValueError when shapes, types or devices do not belong together.
    """
    check_switches(return_state=return_state)
    _check(x, weight, bias, activation, initial_state, dims=3)
    options = {"bias": bias, "activation": activation, "initial_state": initial_state, "return_state": return_state}
    substituted = ask_substitute("short_convolution", x, weight, **options)
    if substituted is not NotImplemented:
        return substituted
    y = _implementation(choose_backend(x)).short_convolution(x, weight, bias, initial_state, activation == "silu")
    return (y, _last_inputs(x, weight.shape[1] - 1, initial_state)) if return_state else y


def short_convolution_step(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    activation: ConvolutionActivation | None = "silu",
) -> tuple[Tensor, Tensor]:
    """One token of `short_convolution`, for decoding: x [B, D], state [B, W - 1, D].

    Returns (y [B, D], new state); the given state is left as it was. It is differentiable: where a gradient is asked
    for, the portable implementation runs in the place of the Triton kernel, which has none. Raises ValueError as
    `short_convolution` does, and TypeError without a state.
    """
    require_state(state, "[B, W - 1, D]", "zeros")
    _check(x, weight, bias, activation, state, dims=2)
    substituted = ask_substitute("short_convolution_step", x, state, weight, bias=bias, activation=activation)
    if substituted is not NotImplemented:
        return substituted
    step = _implementation(choose_step_backend(x, state, weight, bias)).short_convolution_step
    return step(x, state, weight, bias, activation == "silu")


def _implementation(backend: Backend) -> ModuleType:
    if backend == "gpu":
        from kernels._short_convolution import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _last_inputs(x: Tensor, count: int, state: Tensor | None) -> Tensor:
    """The last `count` inputs, from the state where x is shorter; memory of its own."""
    tokens = x.shape[1]
    if tokens >= count:
        return x[:, tokens - count :].clone()
    before = x.new_zeros(x.shape[0], count - tokens, x.shape[2]) if state is None else state[:, tokens:]
    return torch.cat((before, x), dim=1)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor | None, *, dims: int
) -> None:
    state_name = "initial_state" if dims == 3 else "state"
    check_tensors(x=x, weight=weight)
    check_optional_tensors(bias=bias, **{state_name: state})
    if x.dim() != dims or weight.dim() != 2 or not 1 <= weight.shape[1] <= LARGEST_WIDTH:
        wanted = "[B, T, D]" if dims == 3 else "[B, D]"
        raise ValueError(
            f"x must be {wanted} and weight [D, W] with W from 1 to {LARGEST_WIDTH}, but got x {list(x.shape)} and "
            f"weight {list(weight.shape)}."
        )
    check_dtype("x", x)
    if activation not in ("silu", None):
        raise ValueError(f"activation must be 'silu' or None, but got {activation!r}.")
    channels, width = x.shape[-1], weight.shape[1]
    expected = {
        "weight": (weight, [channels, width], (x.dtype, torch.float32)),
        "bias": (bias, [channels], (x.dtype, torch.float32)),
        state_name: (state, [x.shape[0], width - 1, channels], (x.dtype,)),
    }
    for name, (tensor, shape, dtypes) in expected.items():
        if tensor is None:
            continue
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape} beside x {list(x.shape)} and weight {list(weight.shape)}, but got "
                f"{list(tensor.shape)}."
            )
        if tensor.dtype not in dtypes or tensor.device != x.device:
            wanted = " or ".join(str(dtype) for dtype in dict.fromkeys(dtypes))
            raise ValueError(
                f"{name} must be {wanted} on {x.device}, as x is, but got {tensor.dtype} on {tensor.device}: convert "
                "it first."
            )
