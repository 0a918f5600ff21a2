"""The definition of the normalisations, in float32, differentiated by autograd."""

import torch
from torch import Tensor


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
    s = total.float()
    opened = None
    if gate is not None:
        opened = gate.float().sigmoid()
        if activation == "silu":
            opened = opened * gate.float()
    if opened is not None and gate_first:
        s = s * opened
    groups = s.unflatten(-1, (-1, size))
    y = (groups / torch.sqrt((groups * groups).mean(-1, keepdim=True) + eps)).flatten(-2)
    if weight is not None:
        y = y * weight.float()
    if opened is not None and not gate_first:
        y = y * opened
    return y.to(total.dtype), total


def l2_norm(x: Tensor, eps: float) -> Tensor:
    """As at the public door."""
    return (x.float() / torch.sqrt((x.float() * x.float()).sum(-1, keepdim=True) + eps)).to(x.dtype)
