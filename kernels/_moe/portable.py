"""A mixture of experts in PyTorch: choices sorted by expert, one matrix product for each expert that has any.

What reads the choices on the host, which torch.compile does not follow, is an operator of its own.
"""

import torch
from torch import Tensor

from kernels._grouped_matmul.portable import grouped_matmul
from kernels._moe.expert import Expert


def moe_ffn(
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_index: Tensor,
    expert_weight: Tensor,
    b_in: Tensor | None,
    b_out: Tensor | None,
    expert: Expert,
) -> Tensor:
    """See `kernels.moe_ffn`."""
    choices = expert_index.shape[1]
    order, sizes = _sort_by_expert(expert_index, w_in.shape[0])
    expert_of_row = expert_index.flatten().index_select(0, order).clamp(min=0)
    rows = x.index_select(0, order // choices)
    hidden = expert.hidden(_add(grouped_matmul(rows, w_in, sizes), b_in, expert_of_row))
    y = _add(grouped_matmul(hidden, w_out, sizes), b_out, expert_of_row)
    # Back in the order of the tokens by a gather, which unlike adding into place gives the same sum every time.
    y = y.index_select(0, order.argsort()).unflatten(0, (-1, choices))
    # What chooses no expert has a bias for its output, which counts nothing.
    weight = torch.where(expert_index < 0, 0.0, expert_weight.float())
    return torch.einsum("tkd,tk->td", y.float(), weight).to(x.dtype)


@torch.library.custom_op("hybrid_nas::sort_by_expert_portable", mutates_args=())
def _sort_by_expert(expert_index: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """(the choices in the order of their experts, [T K]; how many each expert has, [E]), both int64.

    Those that choose no expert come behind all others, where the grouped product is zero.
    """
    check_range(expert_index, experts)
    flat = expert_index.flatten()
    order = torch.where(flat < 0, experts, flat).argsort(stable=True)
    return order, torch.bincount(flat[flat >= 0], minlength=experts)


@_sort_by_expert.register_fake
def _(expert_index, experts):
    return tuple(expert_index.new_empty(size, dtype=torch.int64) for size in (expert_index.numel(), experts))


def _add(rows: Tensor, bias: Tensor | None, expert_of_row: Tensor) -> Tensor:
    """rows [M, n] plus the bias [E, n] of the expert of each."""
    return rows if bias is None else rows + bias.index_select(0, expert_of_row)


def check_range(expert_index: Tensor, experts: int) -> None:
    """Raises ValueError where an index is neither -1 nor that of an expert."""
    if expert_index.numel() == 0:
        return
    low, high = (int(one) for one in expert_index.aminmax())
    if low < -1 or high >= experts:
        raise ValueError(
            f"expert_index must lie between 0 and {experts - 1}, or be -1 for no expert, but got {low} to {high}."
        )
