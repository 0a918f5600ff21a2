"""The short convolution in PyTorch, for processors: one shifted multiply-add for each column of the filter.

A few whole-tensor operations on a few sequences at a time, so that what one of them has written is still in the cache
when the next one reads it. The backward pass of PyTorch's grouped convolution takes two to four times as long.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._short_convolution.reference import short_convolution_step as short_convolution_step

_CACHED_ELEMENTS = 96 * 1024  # of one tensor in one round; several are in use at once


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """[B, T, D] in the type of x; shapes as at the public door."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    given = [None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias, state)]
    y = _Convolution.apply(*given)
    return (F.silu(y) if silu else y).to(x.dtype)


class _Convolution(torch.autograd.Function):
    """The sum with its bias, before the activation."""

    @staticmethod
    def forward(ctx, x, weight, bias, state):
        tokens, taps = x.shape[1], weight.t().contiguous()  # [W, D], the last one for the token itself
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        for part in _parts(x):
            x_part, y_part = x[part], y[part]
            if bias is None:
                torch.mul(x_part, taps[-1], out=y_part)
            else:
                torch.addcmul(bias, x_part, taps[-1], out=y_part)
            for age in range(1, min(len(taps), tokens)):
                y_part[:, age:].addcmul_(x_part[:, : tokens - age], taps[-1 - age])
        if state is not None:
            for age in range(1, len(taps)):
                y[:, :age].addcmul_(_before(state, age, tokens), taps[-1 - age])
        ctx.save_for_backward(x, taps, state)
        ctx.has_bias = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, taps, state = ctx.saved_tensors
        tokens = x.shape[1]
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        grad_taps = torch.zeros_like(taps)
        for part in _parts(x):
            x_part, g, g_x = x[part], grad[part], grad_x[part]
            torch.mul(g, taps[-1], out=g_x)
            grad_taps[-1] += (g * x_part).sum((0, 1))
            for age in range(1, min(len(taps), tokens)):
                g_x[:, : tokens - age].addcmul_(g[:, age:], taps[-1 - age])
                grad_taps[-1 - age] += (g[:, age:] * x_part[:, : tokens - age]).sum((0, 1))
        grad_state = None
        if state is not None:
            grad_state = torch.zeros_like(state)
            for age in range(1, len(taps)):
                first, before = grad[:, :age], _before(state, age, tokens)
                _before(grad_state, age, tokens).addcmul_(first, taps[-1 - age])
                grad_taps[-1 - age] += (first * before).sum((0, 1))
        return grad_x, grad_taps.t(), grad.sum((0, 1)) if ctx.has_bias else None, grad_state


def _parts(x: Tensor) -> list[slice]:
    """A few sequences at a time, as many as the cache holds."""
    count = max(1, _CACHED_ELEMENTS // max(1, x.shape[1] * x.shape[2]))
    return [slice(first, first + count) for first in range(0, x.shape[0], count)]


def _before(state: Tensor, age: int, tokens: int) -> Tensor:
    """Of the inputs before the first, those that the first `age` tokens see `age` tokens back."""
    first = state.shape[1] - age
    return state[:, first : first + min(age, tokens)]
