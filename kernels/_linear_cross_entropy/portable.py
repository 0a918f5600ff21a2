"""The loss in PyTorch, for processors: tokens that ask for nothing are left out, the others come in chunks."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1024 * 1024  # logits at a time


def summed_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, soft_cap: float | None
) -> Tensor:
    """The sum over the tokens that ask for something; x [N, d], targets [N]."""
    rows = (targets != ignore_index).nonzero().squeeze(1)
    if rows.numel() < targets.numel():
        x, targets = x.index_select(0, rows), targets.index_select(0, rows)
    if targets.numel() > 0 and not (0 <= int(targets.min()) and int(targets.max()) < weight.shape[0]):
        raise ValueError(
            f"targets must be below the {weight.shape[0]} rows of weight, not negative, or {ignore_index}, but got "
            f"{int(targets.min())} to {int(targets.max())}."
        )
    return _Summed.apply(x, weight, targets, soft_cap)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets, soft_cap):
        of_x, of_weight = ctx.needs_input_grad[:2]
        exact = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=exact)
        grad_x = torch.empty_like(x) if of_x else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if of_weight else None
        count = max(1, _CHUNK_ELEMENTS // max(1, weight.shape[0]))
        for first in range(0, x.shape[0], count):
            part = slice(first, first + count)
            logits = torch.mm(x[part], weight.t()).to(exact)
            slope = None
            if soft_cap is not None:
                bent = logits.div_(soft_cap).tanh_()
                logits, slope = bent * soft_cap, 1 - bent.square()
            logs = logits.log_softmax(1)
            chosen = targets[part].unsqueeze(1)
            total -= logs.gather(1, chosen).sum()
            if grad_x is None and grad_weight is None:
                continue
            grad = logs.exp_().scatter_add_(1, chosen, logs.new_full((1, 1), -1.0).expand_as(chosen))
            grad = (grad if slope is None else grad.mul_(slope)).to(x.dtype)
            if grad_x is not None:
                torch.mm(grad, weight, out=grad_x[part])
            if grad_weight is not None:
                grad_weight += torch.mm(grad.t(), x[part])
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_x, grad_weight = ctx.saved_tensors
        return (
            None if grad_x is None else grad_x * grad.to(grad_x.dtype),
            None if grad_weight is None else (grad_weight * grad).to(ctx.weight_dtype),
            None,
            None,
        )
