"""The loss in PyTorch, for processors: tokens that ask for nothing are left out, the others come in chunks.

An operator of its own, because it reads on the host who asks, which torch.compile does not follow.
"""

import torch
from torch import Tensor

from kernels._linear_cross_entropy import differentiation

_CHUNK_ELEMENTS = 1024 * 1024  # logits at a time


def summed_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, soft_cap: float | None, factors: Tensor | None
) -> Tensor:
    """The sum over the tokens that ask for something; x [N, d], targets [N], factors [N]."""
    return differentiation.call(_summed, x, weight, targets, ignore_index, soft_cap, factors)


@torch.library.custom_op("hybrid_nas::linear_cross_entropy_portable", mutates_args=())
def _summed(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    soft_cap: float,
    of_x: bool,
    of_weight: bool,
    factors: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum, and its gradients of x and weight (empty where they are not asked for)."""
    tokens = x.shape[0]
    rows = (targets != ignore_index).nonzero().squeeze(1)
    some = rows.numel() < tokens
    if some:
        x, targets = x.index_select(0, rows), targets.index_select(0, rows)
        factors = None if factors is None else factors.index_select(0, rows)
    _check_targets(targets, weight.shape[0], ignore_index)
    total, grad_x, grad_weight = _in_chunks(x, weight, targets, soft_cap, of_x, of_weight, factors)
    if some and of_x:
        grad_x = x.new_zeros(tokens, x.shape[1]).index_copy_(0, rows, grad_x)
    return total, grad_x, grad_weight


differentiation.register(_summed)


def _check_targets(targets: Tensor, words: int, ignore_index: int) -> None:
    """Raises ValueError where one is no word."""
    if targets.numel() > 0 and not (0 <= int(targets.min()) and int(targets.max()) < words):
        raise ValueError(
            f"targets must be below the {words} rows of weight, not negative, or {ignore_index}, but got "
            f"{int(targets.min())} to {int(targets.max())}."
        )


def _in_chunks(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    soft_cap: float,
    of_x: bool,
    of_weight: bool,
    factors: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    exact = differentiation.exact_type(x)
    total = x.new_zeros((), dtype=exact)
    grad_x = x.new_empty(x.shape if of_x else 0)
    grad_weight = weight.new_zeros(weight.shape if of_weight else 0, dtype=exact)
    count = max(1, _CHUNK_ELEMENTS // max(1, weight.shape[0]))
    for first in range(0, x.shape[0], count):
        part = slice(first, first + count)
        logits = torch.mm(x[part], weight.t()).to(exact)
        slope = None
        if soft_cap > 0:
            bent = logits.div_(soft_cap).tanh_()
            logits, slope = bent * soft_cap, 1 - bent.square()
        logs = logits.log_softmax(1)
        chosen = targets[part].unsqueeze(1)
        factor = None if factors is None else factors[part].unsqueeze(1)
        of_target = logs.gather(1, chosen)
        total -= (of_target if factor is None else of_target * factor).sum()
        if not (of_x or of_weight):
            continue
        grad = logs.exp_().scatter_add_(1, chosen, logs.new_full((1, 1), -1.0).expand_as(chosen))
        grad = grad if slope is None else grad.mul_(slope)
        grad = (grad if factor is None else grad.mul_(factor)).to(x.dtype)
        if of_x:
            torch.mm(grad, weight, out=grad_x[part])
        if of_weight:
            grad_weight += torch.mm(grad.t(), x[part])
    return total, grad_x, grad_weight
