"""A mixture of experts in PyTorch: choices sorted by expert, one matrix product for each expert that has any."""

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
    """See `kernels.moe_ffn`. Reads the choices on the host."""
    experts, choices = w_in.shape[0], expert_index.shape[1]
    check_range(expert_index, experts)
    flat = expert_index.flatten()
    # Those that choose no expert are sorted behind the last group, where the product is zero.
    order = torch.where(flat < 0, experts, flat).argsort(stable=True)
    sizes = torch.bincount(flat[flat >= 0], minlength=experts)
    expert_of_row = flat.index_select(0, order).clamp(min=0)
    rows = x.index_select(0, order // choices)
    hidden = expert.hidden(_add(grouped_matmul(rows, w_in, sizes), b_in, expert_of_row))
    y = _add(grouped_matmul(hidden, w_out, sizes), b_out, expert_of_row)
    # Back in the order of the tokens by a gather, which unlike adding into place gives the same sum every time.
    y = y.index_select(0, order.argsort()).unflatten(0, (-1, choices))
    # What chooses no expert has a bias for its output, which counts nothing.
    weight = torch.where(expert_index < 0, 0.0, expert_weight.float())
    return torch.einsum("tkd,tk->td", y.float(), weight).to(x.dtype)


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
