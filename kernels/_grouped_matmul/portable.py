"""The grouped product in PyTorch: one matrix product per group that has rows, forward and backward.

Both are operators of their own, because they read the group sizes on the host, which torch.compile does not follow.
"""

from typing import Any

import torch
from torch import Tensor


def grouped_matmul(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """[M, N] in the type of x; shapes as at the public door."""
    return _forward(x, w, group_sizes)


@torch.library.custom_op("hybrid_nas::grouped_matmul_portable", mutates_args=())
def _forward(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    return _rows_times_groups(x, w, _sizes(group_sizes, x.shape[0]))


@_forward.register_fake
def _(x, w, group_sizes):
    return x.new_empty(x.shape[0], w.shape[2])


@torch.library.custom_op("hybrid_nas::grouped_matmul_portable_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, w: Tensor, group_sizes: Tensor, of_x: bool, of_w: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and w; nothing for one that is not asked for."""
    sizes = _sizes(group_sizes, x.shape[0])
    grad_x = _rows_times_groups(grad, w.transpose(1, 2), sizes) if of_x else x.new_empty(0)
    grad_w = w.new_empty(w.shape if of_w else 0)
    begin = 0
    for group, size in enumerate(sizes if of_w else ()):
        torch.mm(x[begin : begin + size].T, grad[begin : begin + size], out=grad_w[group])
        begin += size
    return grad_x, grad_w


@_backward.register_fake
def _(grad, x, w, group_sizes, of_x, of_w):
    return x.new_empty(x.shape if of_x else 0), w.new_empty(w.shape if of_w else 0)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_w, _ = ctx.needs_input_grad
    grad_x, grad_w = _backward(grad, *ctx.saved_tensors, of_x, of_w)
    return grad_x if of_x else None, grad_w if of_w else None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _sizes(group_sizes: Tensor, rows: int) -> list[int]:
    """Raises ValueError where they do not fit the rows."""
    sizes = group_sizes.tolist()
    if min(sizes, default=0) < 0 or sum(sizes) > rows:
        raise ValueError(f"group_sizes must be non-negative and sum to at most the {rows} rows of x, but got {sizes}.")
    return sizes


def _rows_times_groups(x: Tensor, w: Tensor, sizes: list[int]) -> Tensor:
    """out[row] = x[row] @ w[group of row]; zero in rows that belong to no group."""
    out = x.new_empty(x.shape[0], w.shape[2])
    begin = 0
    for group, size in enumerate(sizes):
        if size > 0:
            torch.mm(x[begin : begin + size], w[group], out=out[begin : begin + size])
            begin += size
    out[begin:] = 0
    return out
