"""Rotary positions in PyTorch: one product with the cosines, and a multiply-add in place for each half of the pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """As at the public door."""
    return _Turn.apply(x, cos, sin, interleaved, 1)


class _Turn(torch.autograd.Function):
    """By the angles of the tables, or (sign -1) back by them: one is the derivative of the other."""

    @staticmethod
    def forward(ctx, x, cos, sin, interleaved, sign):
        ctx.save_for_backward(cos, sin)
        ctx.how = (interleaved, sign)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        size, s = 2 * cos.shape[-1], sin.unsqueeze(-2)
        y = exact * _of_channels(cos, x.shape[-1], interleaved)
        (a, b), (y_a, y_b) = _pairs(exact[..., :size], interleaved), _pairs(y[..., :size], interleaved)
        y_a.addcmul_(b, s, value=-sign)
        y_b.addcmul_(a, s, value=sign)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        interleaved, sign = ctx.how
        return _Turn.apply(grad, *ctx.saved_tensors, interleaved, -sign), None, None, None, None


def _of_channels(cos: Tensor, size: int, interleaved: bool) -> Tensor:
    """The cosine of every channel, [..., T, 1, size]; one where nothing is turned."""
    both = cos.repeat_interleave(2, -1) if interleaved else torch.cat((cos, cos), -1)
    return F.pad(both, (0, size - both.shape[-1]), value=1.0).unsqueeze(-2)


def _pairs(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """The first and the second channel of every pair, as views."""
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
