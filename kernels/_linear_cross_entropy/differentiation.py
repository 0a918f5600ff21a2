"""What torch.compile and autograd are told of the loss, whichever operator computes it.

An operator takes (x [N, d], weight [V, d], targets [N], ignore_index, soft_cap or 0, whether x and whether weight ask
for gradients, factors of the tokens [N] or None) and returns the sum and its gradients of x and weight: they are
computed with it, while the logits are at hand. The sum and the gradient of weight are float32, or float64 with inputs
of that; what nobody asks for is empty.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef


def call(
    operator: CustomOpDef,
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    soft_cap: float | None,
    factors: Tensor | None,
) -> Tensor:
    """The sum alone."""
    wanted = torch.is_grad_enabled()
    of_x, of_weight = wanted and x.requires_grad, wanted and weight.requires_grad
    cap = 0.0 if soft_cap is None else soft_cap
    return operator(x, weight, targets, ignore_index, cap, of_x, of_weight, factors)[0]


def register(operator: CustomOpDef) -> None:
    operator.register_fake(_fake)
    operator.register_autograd(_differentiate, setup_context=_setup_context)


def exact_type(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _fake(x, weight, targets, ignore_index, soft_cap, of_x, of_weight, factors):
    return (
        x.new_empty((), dtype=exact_type(x)),
        x.new_empty(x.shape if of_x else 0),
        weight.new_empty(weight.shape if of_weight else 0, dtype=exact_type(x)),
    )


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.of_x, ctx.of_weight, ctx.weight_dtype = inputs[5], inputs[6], inputs[1].dtype
    ctx.save_for_backward(*output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
    grad_x, grad_weight = ctx.saved_tensors
    of_x = (grad_x * grad).to(grad_x.dtype) if ctx.of_x else None
    return of_x, (grad_weight * grad).to(ctx.weight_dtype) if ctx.of_weight else None, *(None,) * 6
