"""The recurrence over chunks of tokens as one differentiable function, in float32 matrix products: the forward pass.

Writing g for the running sum of log_decay inside a chunk, S for the state before the chunk, ~ for the decay from its
start and ^ for the decay to its end, the chunk reads and leaves

    o = Σ_(x, y) P_qy x + q~ S,        S' = exp(g_C) S + Σ_(x, y) y^ᵀ x,

over what its tokens write: values x at keys y, with P the decayed products of `chunk_products.py`. That is v at k
alone, or with erasing a value r = u - E S that depends on the state (the WY form):

    beta:   r at k alone (v is in it),  (I + β P_kk) (u, E) = β (v, k~);
    erase:  v at k and r at b,          (I - P_ab) (u, E) = (P_ak v, -a~), a taken before its token's decay.

P_kk and P_ab count strictly below the diagonal. A bonus reads q before its token's decay and adds (q·(u⊙k)) v. Sources:
Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", section 3, and "Gated Delta
Networks", section 3.3; with erase Peng et al., "RWKV-7 Goose", which is the same system with two keys.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels._matrix_recurrence.chunk_inverse import unit_lower_inverse
from kernels._matrix_recurrence.chunk_products import Row, decayed_products, shift_down, to_heads


class Chunks(NamedTuple):
    """Tokens in chunks: q (scaled), k [B, Hqk, N, C, K]; v [B, Hv, N, C, V]; g [B, Hv, N, C, 1 or K]; beta [..., 1];
    a, b as k but with Hv heads; bonus [Hv, K]; initial [B, Hv, K, V]."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    beta: Tensor | None
    a: Tensor | None
    b: Tensor | None
    bonus: Tensor | None
    initial: Tensor | None

    @property
    def erases(self) -> bool:
        return self.beta is not None or self.a is not None

    @property
    def reads_before(self) -> bool:
        return self.bonus is not None

    @property
    def keys(self) -> Tensor:
        """k for every head of v."""
        return to_heads(self.k, self.v.shape[1])

    @property
    def erasing_row(self) -> Row:
        """What recalls the values to erase, and whether it comes before its token's decay."""
        return (self.keys, False) if self.a is None else (self.a, True)

    @property
    def erasing_key(self) -> Tensor:
        """The key at which the erasing value is written."""
        return self.keys if self.b is None else self.b

    def rows_and_columns(self) -> tuple[list[Row], list[Tensor]]:
        """Whose products the chunk needs. Without a decay per channel, heads of v share those of their q and k."""
        per_channel = self.g is not None and self.g.shape[-1] > 1
        q, k = (to_heads(self.q, self.v.shape[1]), self.keys) if per_channel else (self.q, self.k)
        rows: list[Row] = [(q, self.reads_before)]
        if self.a is not None and self.b is not None:
            return [*rows, (self.a, True)], [k, self.b]
        return [*rows, (k, False)] if self.beta is not None else rows, [k]


class Kept(NamedTuple):
    """What the forward pass keeps for the backward pass: products, the erasing system's inverse, its solution (u, E),
    the values that erasing wrote, and the states before the chunks."""

    products: list[list[Tensor]]
    states: Tensor
    inverse: Tensor | None
    u: Tensor | None
    erased: Tensor | None
    written: Tensor | None


def forward(x: Chunks) -> tuple[Tensor, Tensor, Kept]:
    """Outputs [B, Hv, N, C, V], the last state [B, Hv, K, V], and what the backward pass needs."""
    products = decayed_products(*x.rows_and_columns(), x.g, x.v.shape[1])
    scores, v = products[0], x.v
    key_end = to_end(x.keys, x.g).transpose(-1, -2)
    inverse = u = erased = written = removal = None
    if x.erases:
        inverse, right_u, right_erased = _erasing_system(x, products[1])
        u, erased = inverse @ right_u, inverse @ right_erased
        end = key_end if x.b is None else to_end(x.b, x.g).transpose(-1, -2)
        removal, update = end @ erased, end @ u
        if x.b is not None:
            update += key_end @ v
    else:
        update = key_end @ v
    states, state = _pass_states(update, decay_of_chunks(x.g), removal, x.initial)
    outputs = from_start(to_heads(x.q, v.shape[1]), x.g, x.reads_before) @ states
    if u is not None and erased is not None:
        written = u - erased @ states
        outputs += scores[-1] @ written
    if x.beta is None:
        outputs += scores[0] @ v
    if x.bonus is not None:
        outputs += own_product(x, x.bonus) * v
    return outputs, state, Kept(products, states, inverse, u, erased, written)


def _erasing_system(x: Chunks, products: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse of the system's matrix and its two right sides."""
    start = from_start(x.erasing_row[0], x.g, x.erasing_row[1])
    if x.beta is not None:
        return unit_lower_inverse(x.beta * products[0]), x.beta * x.v, x.beta * start
    return unit_lower_inverse(-products[1]), products[0] @ x.v, -start


def _pass_states(
    updates: Tensor, whole: Tensor | None, removals: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The states before each chunk [B, H, N, K, V] and after the last: S' = whole·S - removal S + update."""
    batch, heads, chunks, key_size, value_size = updates.shape
    state = updates.new_zeros(batch, heads, key_size, value_size) if initial_state is None else initial_state
    before = []
    for n in range(chunks):
        before.append(state)
        state = step_state(state, updates[:, :, n], whole, removals, n)
    return torch.stack(before, dim=2), state


def step_state(state: Tensor, update: Tensor, whole: Tensor | None, removals: Tensor | None, n: int) -> Tensor:
    if removals is not None:
        update = update - removals[:, :, n] @ state
    return update + state if whole is None else torch.addcmul(update, whole[:, :, n], state)


def from_start(row: Tensor, g: Tensor | None, before: bool) -> Tensor:
    """row ⊙ exp(g), or exp of the g before its token."""
    return row if g is None else row * start_decay(g, before)


def to_end(column: Tensor, g: Tensor | None) -> Tensor:
    """column ⊙ exp(g_C - g)."""
    return column if g is None else column * end_decay(g)


def start_decay(g: Tensor, before: bool) -> Tensor:
    return (shift_down(g) if before else g).exp()


def end_decay(g: Tensor) -> Tensor:
    return (g[..., -1:, :] - g).exp_()


def decay_of_chunks(g: Tensor | None) -> Tensor | None:
    """exp(g_C) as [B, H, N, 1 or K, 1]."""
    return None if g is None else g[..., -1:, :].exp().transpose(-1, -2)


def own_product(x: Chunks, bonus: Tensor) -> Tensor:
    """q·(u⊙k) of every token, [B, H, N, C, 1]."""
    return (to_heads(x.q, x.v.shape[1]) * x.keys * bonus[:, None, None]).sum(-1, keepdim=True)
