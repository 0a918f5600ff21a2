"""The loss of a language model from what enters its head: logits exist for a few tokens at a time, never for all.

The gradients are computed along with the loss, while the logits are at hand, and scaled in the backward pass: memory
grows with tokens times width, not with tokens times vocabulary. Source: the chunked formulation of Hsu et al., Liger
Kernel (arXiv 2410.10989), section 3.2.
"""

from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from kernels._linear_cross_entropy import portable, reference
from kernels.arguments import check_number, check_optional_tensors, check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.dtypes import as_autocast, check_dtype
from kernels.whole_numbers import check_whole_number


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    soft_cap: float | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    factors: Tensor | None = None,
) -> Tensor:
    """-ln softmax(x weightᵀ)[target], over the tokens that ask for something.

    Args:
        x: [..., d].
        weight: [V, d], in the type of x; under autocast both are cast to its type.
        targets: int64 [...], between 0 and V - 1; `ignore_index` asks for nothing, and such tokens cost nothing on a
            CPU.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap); left out, they stay.
        reduction: the mean over the tokens that ask for something (NaN where none does), or the sum.
        factors: float32 [...], multiplies the loss of each token of a sum; left out, each counts once. No gradient.

    Returns a float32 scalar in nats. x and weight receive gradients, once: the backward pass itself is not
    differentiable. Softmax and sums are in float32.

    Raises ValueError when shapes, types or devices do not belong together. That targets lie between 0
    and V - 1 is checked by the portable backend only, as a GPU would have to wait for it: there, any other target but
    `ignore_index` makes the loss and its gradients NaN.
    """
    check_tensors(x=x, weight=weight, targets=targets)
    check_whole_number("ignore_index", ignore_index)
    x, weight = as_autocast(x, x.device), as_autocast(weight, x.device)
    _check(x, weight, targets, soft_cap, reduction)
    check_optional_tensors(factors=factors)
    if factors is not None:
        _check_factors(factors, targets, reduction)
        factors = factors.detach().reshape(-1)
    options = {"ignore_index": ignore_index, "soft_cap": soft_cap, "reduction": reduction}
    if factors is not None:
        options["factors"] = factors
    substituted = ask_substitute("linear_cross_entropy", x, weight, targets, **options)
    if substituted is not NotImplemented:
        return substituted
    rows, asked = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    total = _implementation(x).summed_cross_entropy(rows, weight, asked, ignore_index, soft_cap, factors)
    return total if reduction == "sum" else total / (asked != ignore_index).sum()


def _check_factors(factors: Tensor, targets: Tensor, reduction: str) -> None:
    if reduction != "sum":
        raise ValueError(f"factors are of the tokens of a sum, reduction='sum', but got reduction={reduction!r}.")
    if factors.shape != targets.shape or factors.dtype != torch.float32 or factors.device != targets.device:
        raise ValueError(
            f"factors must be {list(targets.shape)} of torch.float32 on {targets.device}, as targets, but got "
            f"{list(factors.shape)} of {factors.dtype} on {factors.device}."
        )


def _implementation(x: Tensor) -> ModuleType:
    backend = choose_backend(x)
    if backend == "gpu":
        from kernels._linear_cross_entropy import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check(x: Tensor, weight: Tensor, targets: Tensor, soft_cap: float | None, reduction: str) -> None:
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must be [..., d] and weight [V, d], but got {list(x.shape)} and {list(weight.shape)}.")
    if 0 in weight.shape:
        raise ValueError(f"d and V must be at least 1, but got x {list(x.shape)} and weight {list(weight.shape)}.")
    if targets.shape != x.shape[:-1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets must be {list(x.shape[:-1])} of torch.int64 beside x {list(x.shape)}, but got "
            f"{list(targets.shape)} of {targets.dtype}."
        )
    if x.dtype != weight.dtype or len({x.device, weight.device, targets.device}) > 1:
        raise ValueError(
            f"x, weight and targets must be on one device, x and weight of one type, but got x {list(x.shape)} of "
            f"{x.dtype} on {x.device}, weight {list(weight.shape)} of {weight.dtype} on {weight.device} and targets "
            f"{list(targets.shape)} on {targets.device}: convert them first."
        )
    check_dtype("x", x)
    if soft_cap is not None:
        check_number("soft_cap", soft_cap)
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"soft_cap must be positive or None, but got {soft_cap}.")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', but got {reduction!r}.")
