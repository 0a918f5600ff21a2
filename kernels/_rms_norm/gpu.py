"""The normalisations on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_kernels.py` and `gpu_wide.py`. Launch configurations are looked up, with the defaults of
`launches.py`; nothing is tuned in passing.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from kernels._rms_norm.cases import ahead_of_time_cases as ahead_of_time_cases
from kernels._rms_norm.cases import launch_case as launch_case
from kernels._rms_norm.gpu_kernels import backward_kernel, forward_kernel
from kernels._rms_norm.gpu_wide import wide_backward_kernel, wide_forward_kernel, wide_weight_kernel
from kernels._rms_norm.launches import default_launch, is_wide, launch_key
from kernels._rms_norm.launches import launch_candidates as launch_candidates
from kernels.tuning import choose, run

GATES = {None: 0, "silu": 1, "sigmoid": 2}
MOST_PROGRAMS, FEWEST_ROWS = 1024, 16  # of a backward pass: each keeps one partial gradient of the weight


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
    eps: float,
    size: int,
    activation: str | None,
    gate_first: bool,
) -> tuple[Tensor, Tensor]:
    """(y, s) as at the public door; size: how many channels are normalised together."""
    arguments = (x, weight, residual, gate, eps, 1.0, size, GATES[activation], gate_first)
    y, total, _ = _forward(*arguments)
    return y, total


def l2_norm(x: Tensor, eps: float) -> Tensor:
    """As at the public door: a norm without a weight, of which a factor makes the other one."""
    size = x.shape[-1]
    return _forward(x, None, None, None, eps / max(1, size), max(1, size) ** -0.5, size, 0, False)[0]


@dataclass(frozen=True)
class _Layout:
    """The tensors of one call as [N, G, D]; weight_group: 0 where the groups share one weight of D, D where not."""

    groups: int
    size: int
    weight_group: int

    def view(self, tensor: Tensor | None) -> Tensor | None:
        """Where it lies if that can be, with the channels side by side."""
        if tensor is None:
            return None
        rows = tensor.reshape(-1, self.groups, self.size)
        return rows if rows.stride(2) == 1 else rows.contiguous()


def _layout(x: Tensor, gate: Tensor | None, size: int) -> _Layout:
    channels = x.shape[-1]
    if size < channels:
        return _Layout(channels // size, size, size)
    plain = x.dim() < 2 or all(_is_matrix(tensor) for tensor in (x, gate) if tensor is not None)
    return _Layout(1 if plain else x.shape[-2], size, 0)


def _is_matrix(tensor: Tensor) -> bool:
    """Whether all axes but the last are one, by strides; a slice of heads is not."""
    outer = [(size, stride) for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True) if size > 1]
    return all(one[1] == inner[0] * inner[1] for one, inner in itertools.pairwise(outer))


def _strides(tensor: Tensor | None) -> tuple[int, int]:
    return (0, 0) if tensor is None else (tensor.stride(0), tensor.stride(1))


@torch.library.custom_op("hybrid_nas::rms_norm", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
    eps: float,
    scale: float,
    size: int,
    gate_kind: int,
    gate_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the sum with the residual (empty without one), and r of every row [N, G]; without a weight y is n scale."""
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    y = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    total = x.new_empty(0, dtype=dtype) if residual is None else torch.empty_like(y)
    layout = _layout(x, gate, size)
    inverse = x.new_empty(x.numel() // max(1, layout.groups * size), layout.groups, dtype=torch.float32)
    if x.numel() == 0:
        return y, total, inverse
    x, residual, gate = (layout.view(tensor) for tensor in (x, residual, gate))  # type: ignore[assignment]
    weight = None if weight is None else weight.contiguous()
    wide = is_wide(size, gate_first)
    kernel = wide_forward_kernel if wide else forward_kernel
    name = "wide_forward" if wide else "forward"
    flags = {"residual": residual is not None, **_flags(weight, gate_kind, gate_first)}
    key = launch_key(name, y.element_size(), size, **flags)
    config = choose(key, kernel, default_launch, x.device)
    tokens = inverse.shape[0]
    grid = (tokens if wide else triton.cdiv(tokens, config["BLOCK_R"]), layout.groups)
    with torch.cuda.device_of(x):
        run(
            key, kernel, grid, x, residual, gate, weight, y, None if residual is None else total, inverse, tokens, size,
            *_strides(x), *_strides(residual), *_strides(gate), layout.weight_group, eps, scale,
            GATE=gate_kind, FIRST=gate_first, **config,
        )  # fmt: skip
    return y, total, inverse


@_forward.register_fake
def _(x, weight, residual, gate, eps, scale, size, gate_kind, gate_first):
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    y = x.new_empty(x.shape, dtype=dtype)
    groups = _layout(x, gate, size).groups
    inverse = x.new_empty(x.numel() // max(1, groups * size), groups, dtype=torch.float32)
    return y, x.new_empty(0, dtype=dtype) if residual is None else x.new_empty(x.shape, dtype=dtype), inverse


@torch.library.custom_op("hybrid_nas::rms_norm_backward", mutates_args=())
def _backward(
    grad: Tensor,
    grad_total: Tensor | None,
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor | None,
    inverse: Tensor,
    scale: float,
    size: int,
    gate_kind: int,
    gate_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (the sum, where there was a residual), gate and weight (empty where these are absent)."""
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_gate = x.new_empty(0) if gate is None else torch.empty_like(gate, memory_format=torch.contiguous_format)
    tokens, groups = inverse.shape
    layout = _Layout(groups, size, size if size < x.shape[-1] else 0)
    if x.numel() == 0:
        return grad_x, grad_gate, x.new_empty(0) if weight is None else torch.zeros_like(weight)
    grad, grad_total, x, gate = (layout.view(tensor) for tensor in (grad, grad_total, x, gate))  # type: ignore[assignment]
    programs = min(MOST_PROGRAMS, triton.cdiv(tokens, FEWEST_ROWS))
    sums = None if weight is None else x.new_empty(programs, groups, size, dtype=torch.float32)
    flags = _flags(weight, gate_kind, gate_first)
    wide = is_wide(size, gate_first)
    kernel = wide_backward_kernel if wide else backward_kernel
    key = launch_key(
        "wide_backward" if wide else "backward", x.element_size(), size, total=grad_total is not None, **flags
    )
    config = choose(key, kernel, default_launch, x.device)
    constants = {"GATE": gate_kind, "FIRST": gate_first}
    outputs = (grad_x, None if gate is None else grad_gate)
    strides = (*_strides(grad), *_strides(grad_total), *_strides(x), *_strides(gate))
    with torch.cuda.device_of(x):
        run(
            key, kernel, (tokens if wide else programs, groups),
            grad, grad_total, x, gate, None if weight is None else weight.contiguous(), inverse, *outputs,
            *(() if wide else (sums,)), tokens, size, *strides, layout.weight_group, scale, **constants, **config,
        )  # fmt: skip
        if wide and sums is not None:
            _wide_weight(grad, x, gate, inverse, sums, gate_kind, gate_first)
    if weight is None or sums is None:
        return grad_x, grad_gate, x.new_empty(0)
    summed = sums.sum(0).flatten() if layout.weight_group else sums.sum((0, 1))
    return grad_x, grad_gate, summed.to(weight.dtype)


@_backward.register_fake
def _(grad, grad_total, x, gate, weight, inverse, scale, size, gate_kind, gate_first):
    optional = [x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape) for tensor in (gate, weight)]
    return (x.new_empty(x.shape), *optional)


def _wide_weight(
    grad: Tensor, x: Tensor, gate: Tensor | None, inverse: Tensor, sums: Tensor, gate_kind: int, gate_first: bool
) -> None:
    """Fill `sums` [programs, G, D] with the weight's gradient over the rows of each program."""
    programs, groups, size = sums.shape
    key = launch_key("wide_weight", x.element_size(), size, gate=gate_kind, first=gate_first)
    config = choose(key, wide_weight_kernel, default_launch, x.device)
    run(
        key, wide_weight_kernel, (programs, triton.cdiv(size, config["BLOCK_D"]), groups),
        grad, x, gate, inverse, sums, inverse.shape[0], size, *_strides(grad), *_strides(x), *_strides(gate), 1.0,
        GATE=gate_kind, FIRST=gate_first, **config,
    )  # fmt: skip


def _flags(weight: Tensor | None, gate_kind: int, gate_first: bool) -> dict[str, int]:
    return {"weight": weight is not None, "gate": gate_kind, "first": gate_first}


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, residual, gate, _, ctx.scale, *ctx.how = inputs
    _, total, inverse = output
    ctx.has_residual = residual is not None
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.x_dtype = x.dtype
    ctx.save_for_backward(x if residual is None else total, gate, weight, inverse)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, grad_total: Tensor | None, _: Tensor | None) -> tuple:
    x, gate, weight, inverse = ctx.saved_tensors
    rest = (None,) * 5
    if grad is None:  # only the sum was used
        of_x = None if grad_total is None else grad_total.to(ctx.x_dtype)
        return of_x, None, None if grad_total is None else grad_total.to(ctx.residual_dtype), None, *rest
    grad_total = grad_total if ctx.has_residual else None
    grad_x, grad_gate, grad_weight = _backward(grad, grad_total, x, gate, weight, inverse, ctx.scale, *ctx.how)
    return (
        grad_x.to(ctx.x_dtype),
        None if weight is None else grad_weight,
        grad_x.to(ctx.residual_dtype) if ctx.has_residual else None,
        None if gate is None else grad_gate,
        *rest,
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
