"""The gradient of the recurrence over chunks, by hand; names as in `chunks.py`.

The gradient of g has a closed form, for each place in which a decay appears the product of a tensor with its gradient,
where autograd would keep and reduce every matrix of decays; and erasing shares its triangular inverse with the forward
pass.
"""

import torch
from torch import Tensor

from kernels._matrix_recurrence.chunk_products import decayed_product_grads, shift_up, sum_heads, to_heads
from kernels._matrix_recurrence.chunks import (
    Chunks,
    Kept,
    decay_of_chunks,
    end_decay,
    forward,
    from_start,
    own_product,
    start_decay,
    step_state,
    to_end,
)


def run_chunks(x: Chunks) -> tuple[Tensor, Tensor]:
    """Outputs [B, Hv, N, C, V] and the last state [B, Hv, K, V]; differentiable, once, in every argument."""
    return _Chunked.apply(*x)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments: Tensor | None) -> tuple[Tensor, Tensor]:
        x = Chunks(*arguments)  # pyright: ignore[reportArgumentType]
        outputs, state, kept = forward(x)
        ctx.columns = len(kept.products[0])
        ctx.save_for_backward(*x, *kept[1:], *(one for row in kept.products for one in row))
        return outputs, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_outputs: Tensor, d_state: Tensor):
        given, kept = len(Chunks._fields), len(Kept._fields) - 1
        x, rest = Chunks(*ctx.saved_tensors[:given]), ctx.saved_tensors[given:]
        flat = list(rest[kept:])
        products = [flat[i : i + ctx.columns] for i in range(0, len(flat), ctx.columns)]
        return backward(x, Kept(products, *rest[:kept]), d_outputs, d_state)


def backward(x: Chunks, kept: Kept, d_outputs: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of what `x` holds, in its order; None for what it does not hold."""
    grads, scores, states_t = _Gradients(x), kept.products[0], kept.states.transpose(-1, -2)
    q_start = from_start(to_heads(x.q, x.v.shape[1]), x.g, x.reads_before)
    updates, removals, d_written = q_start.transpose(-1, -2) @ d_outputs, None, None
    end = to_end(x.erasing_key, x.g)
    if kept.erased is not None:
        d_written = scores[-1].transpose(-1, -2) @ d_outputs
        updates -= kept.erased.transpose(-1, -2) @ d_written
        removals = kept.erased.transpose(-1, -2) @ end
    d_states, d_initial = _pass_grads(updates, decay_of_chunks(x.g), removals, d_final)

    grads.through_chunks(kept.states, d_states)
    grads.through_start(0, d_outputs @ states_t, q_start)
    d_states_t, d_scores, d_system = d_states.transpose(-1, -2), [], []
    if x.beta is None:
        grads.d_v += scores[0].transpose(-1, -2) @ d_outputs + to_end(x.keys, x.g) @ d_states
        grads.through_end(0, x.v @ d_states_t)
        d_scores.append(d_outputs @ x.v.transpose(-1, -2))
    if d_written is not None and kept.written is not None:
        d_written += end @ d_states
        grads.through_end(-1, kept.written @ d_states_t)
        d_scores.append(d_outputs @ kept.written.transpose(-1, -2))
        d_system.append(_erasing_grads(x, kept, grads, d_written))
    grads.through_products(kept.products, [d_scores, *d_system])
    if x.bonus is not None:
        grads.through_bonus(x.bonus, d_outputs)
    return grads.in_order(d_initial)


def _pass_grads(
    updates: Tensor, whole: Tensor | None, removals: Tensor | None, d_final: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the state after each chunk [B, H, N, K, V] and before the first."""
    after, d_state = [], d_final
    for n in reversed(range(updates.shape[2])):
        after.append(d_state)
        d_state = step_state(d_state, updates[:, :, n], whole, removals, n)
    return torch.stack(after[::-1], dim=2), d_state


def _erasing_grads(x: Chunks, kept: Kept, grads: "_Gradients", d_written: Tensor) -> list[Tensor]:
    """Through r = u - E S and its system; returns the gradients of the products that the system is made of."""
    inverse, u, erased = kept.inverse, kept.u, kept.erased
    assert inverse is not None and u is not None and erased is not None
    d_right_u = inverse.transpose(-1, -2) @ d_written
    d_right_erased = -inverse.transpose(-1, -2) @ (d_written @ kept.states.transpose(-1, -2))
    d_matrix = -(d_right_u @ u.transpose(-1, -2) + d_right_erased @ erased.transpose(-1, -2)).tril_(-1)
    start = from_start(x.erasing_row[0], x.g, x.erasing_row[1])
    if x.beta is not None:
        d_beta = (d_right_u * x.v).sum(-1) + (d_right_erased * start).sum(-1)
        grads.d_beta = (d_beta + (d_matrix * kept.products[1][0]).sum(-1)).unsqueeze(-1)
        grads.d_v += x.beta * d_right_u
        grads.through_start(1, x.beta * d_right_erased, start)
        return [x.beta * d_matrix]
    grads.d_v += kept.products[1][0].transpose(-1, -2) @ d_right_u
    grads.through_start(1, -d_right_erased, start)
    return [d_right_u @ x.v.transpose(-1, -2), -d_matrix]


class _Gradients:
    """The gradients of one backward pass as they add up; rows are q and k or a, columns k and b."""

    def __init__(self, x: Chunks) -> None:
        self.x = x
        self.rows, self.columns = x.rows_and_columns()
        self.d_rows = [torch.zeros_like(row) for row, _ in self.rows]
        self.d_columns = [torch.zeros_like(column) for column in self.columns]
        self.d_v = torch.zeros_like(x.v)
        self.d_g = None if x.g is None else torch.zeros_like(x.g)
        self.d_beta: Tensor | None = None
        self.d_bonus: Tensor | None = None

    def through_chunks(self, states: Tensor, d_states: Tensor) -> None:
        """Through the decay of the state over a whole chunk, which is g of its last token."""
        if self.d_g is not None and self.x.g is not None:
            decayed = (states * d_states).sum(-1, keepdim=True) * self.x.g[..., -1:, :].exp().mT
            self.d_g[..., -1:, :] += self._like_g(decayed.transpose(-1, -2))

    def through_start(self, row: int, d_start: Tensor, start: Tensor) -> None:
        before = self.rows[row][1]
        if self.d_g is not None and self.x.g is not None:
            through_decay = self._like_g(d_start * start)
            self.d_g += shift_up(through_decay) if before else through_decay
            d_start = d_start * start_decay(self.x.g, before)
        self.d_rows[row] += sum_heads(d_start, self.d_rows[row].shape[1])

    def through_end(self, column: int, d_end: Tensor) -> None:
        if self.d_g is not None and self.x.g is not None:
            d_end = d_end * end_decay(self.x.g)
            through_decay = self._like_g(d_end * to_heads(self.columns[column], d_end.shape[1]))
            self.d_g -= through_decay
            self.d_g[..., -1:, :] += through_decay.sum(-2, keepdim=True)
        self.d_columns[column] += sum_heads(d_end, self.d_columns[column].shape[1])

    def through_products(self, products: list[list[Tensor]], d_products: list[list[Tensor]]) -> None:
        d_rows, d_columns, d_g = decayed_product_grads(self.rows, self.columns, self.x.g, products, d_products)
        for total, part in zip((*self.d_rows, *self.d_columns), (*d_rows, *d_columns), strict=True):
            total += part
        if self.d_g is not None and d_g is not None:
            self.d_g += d_g

    def through_bonus(self, bonus: Tensor, d_outputs: Tensor) -> None:
        x = self.x
        q, heads = to_heads(x.q, x.v.shape[1]), self.d_rows[0].shape[1]
        d_own = (d_outputs * x.v).sum(-1, keepdim=True)
        self.d_v += own_product(x, bonus) * d_outputs
        self.d_rows[0] += sum_heads(d_own * x.keys * bonus[:, None, None], heads)
        self.d_columns[0] += sum_heads(d_own * q * bonus[:, None, None], heads)
        self.d_bonus = (d_own * q * x.keys).sum((0, 2, 3))

    def in_order(self, d_initial: Tensor) -> tuple[Tensor | None, ...]:
        x, d_a, d_b = self.x, None, None
        d_q, d_k = self.d_rows[0], self.d_columns[0]
        if x.a is not None:
            d_a, d_b = self.d_rows[1], self.d_columns[1]
        elif x.beta is not None:
            d_k = d_k + self.d_rows[1]
        d_q, d_k = (sum_heads(d, x.q.shape[1]) for d in (d_q, d_k))
        return (
            d_q,
            d_k,
            self.d_v,
            self.d_g,
            self.d_beta,
            d_a,
            d_b,
            self.d_bonus,
            None if x.initial is None else d_initial,
        )

    def _like_g(self, tensor: Tensor) -> Tensor:
        assert self.d_g is not None
        return tensor.sum(-1, keepdim=True) if self.d_g.shape[-1] == 1 else tensor
