"""The normalisations in PyTorch, for processors.

Forward, PyTorch has an operation of its own. Its derivative is made of a dozen passes over memory, and is replaced:
what the rows and the weight need of `grad * x` are two products of that one matrix with vectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    total = x if residual is None else x + residual
    s = _exact(total)
    opened = None
    if gate is not None:
        opened = F.silu(_exact(gate)) if activation == "silu" else _exact(gate).sigmoid()
    if opened is not None and gate_first:
        s = s * opened
    if weight is not None:
        weight = weight.to(s.dtype)
    if size < x.shape[-1]:
        s = s.unflatten(-1, (-1, size))
        weight = None if weight is None else weight.unflatten(-1, (-1, size))
    y = _Normalise.apply(s, weight, eps)
    if size < x.shape[-1]:
        y = y.flatten(-2)
    if opened is not None and not gate_first:
        y = y * opened
    return y.to(total.dtype), total


def l2_norm(x: Tensor, eps: float) -> Tensor:
    """As at the public door."""
    size = x.shape[-1]
    s = _exact(x)
    return _Normalise.apply(s, s.new_full((size,), size**-0.5), eps / max(1, size)).to(x.dtype)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Normalise(torch.autograd.Function):
    """s / sqrt(mean(s²) + eps) * weight; the weight is [D], or [G, D] beside s [..., G, D], or None."""

    @staticmethod
    def forward(ctx, s, weight, eps):
        ctx.save_for_backward(s, weight)
        ctx.eps = eps
        if weight is None or weight.dim() == 1:
            return F.rms_norm(s, (s.shape[-1],), weight, eps)
        return F.rms_norm(s, (s.shape[-1],), None, eps) * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        s, weight = ctx.saved_tensors
        size = s.shape[-1]
        inverse = torch.linalg.vector_norm(s, dim=-1, keepdim=True).square_().div_(size).add_(ctx.eps).rsqrt_()
        product = grad * s
        grad_weight = None
        if weight is None:
            along = product.sum(-1, keepdim=True)
        elif weight.dim() == 1:
            rows = product.reshape(-1, size)
            along = torch.mv(rows, weight).view(inverse.shape)
            if ctx.needs_input_grad[1]:
                grad_weight = torch.mv(rows.t(), inverse.reshape(-1))
        else:
            along = (product * weight).sum(-1, keepdim=True)
            grad_weight = (product * inverse).flatten(0, -3).sum(0)
        grad_s = grad * inverse
        if weight is not None:
            grad_s *= weight
        along.mul_(inverse.pow(3)).div_(-size)
        return grad_s.addcmul_(s, along), grad_weight, None
