"""The grouped product in PyTorch: one matrix product per group that has rows, forward and backward."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def grouped_matmul(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """[M, N] in the type of x; shapes as at the public door. Reads the group sizes on the host."""
    sizes = group_sizes.tolist()
    if min(sizes, default=0) < 0 or sum(sizes) > x.shape[0]:
        raise ValueError(
            f"group_sizes must be non-negative and sum to at most the {x.shape[0]} rows of x, but got {sizes}."
        )
    return _GroupedMatmul.apply(x, w, sizes)


class _GroupedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, sizes):
        ctx.save_for_backward(x, w)
        ctx.sizes = sizes
        return _rows_times_groups(x, w, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_x = _rows_times_groups(grad, w.transpose(1, 2), ctx.sizes) if ctx.needs_input_grad[0] else None
        grad_w = None
        if ctx.needs_input_grad[1]:
            grad_w = torch.empty_like(w)
            begin = 0
            for group, size in enumerate(ctx.sizes):
                torch.mm(x[begin : begin + size].T, grad[begin : begin + size], out=grad_w[group])
                begin += size
        return grad_x, grad_w, None


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
