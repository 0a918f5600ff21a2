"""Products of rows and columns inside a chunk, decayed by what lies between their tokens, and their gradients.

For rows x, columns y and g, the running sum of log_decay inside the chunk:

    P_ti = Σ_c x_tc y_ic exp(g_tc - g_ic)        for i <= t, else zero;
    P_ti = Σ_c x_tc y_ic exp(g_(t-1)c - g_ic)    for i < t, else zero, where the row comes before its token's decay.

Only differences that cannot be positive are exponentiated, so nothing overflows at any decay. Without decay or with one
number per head, P is a matrix product times a matrix of decays. With one per channel, two neighbouring blocks of s
tokens meet in one matrix product, the decay split at the first token of the later block so that both factors are at
most one; s doubles from 1 until the chunk is done. Everything is float32 [B, H, N, C, .], C a power of two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

Row = tuple[Tensor, bool]  # x, and whether it comes before its token's decay


def decayed_products(
    rows: Sequence[Row], columns: Sequence[Tensor], g: Tensor | None, heads: int
) -> list[list[Tensor]]:
    """P for each row and column, [B, heads, N, C, C].

    g is None, [..., 1] or [..., K]. In the first two cases rows and columns may have fewer heads, which then share
    their products; in the last all must have as many.
    """
    if g is not None and g.shape[-1] > 1:
        stacked = _channel_products(_stack_rows(rows), torch.stack(tuple(columns), dim=-2), g)
        return [
            [_after(stacked[..., r, s, :], before) for s in range(len(columns))] for r, (_, before) in enumerate(rows)
        ]
    chunk = columns[0].shape[-2]
    decays = {before: _decay(g, chunk, before, columns[0]) for before in {before for _, before in rows}}
    return [[to_heads(_plain_product(x, y), heads) * decays[before] for y in columns] for x, before in rows]


def decayed_product_grads(
    rows: Sequence[Row],
    columns: Sequence[Tensor],
    g: Tensor | None,
    products: Sequence[Sequence[Tensor]],
    d_products: Sequence[Sequence[Tensor]],
) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
    """Gradients of rows, columns and g. What `d_products` holds where products are zero by definition is ignored."""
    if g is not None and g.shape[-1] > 1:
        return _channel_grads(rows, columns, g, d_products)
    d_rows: list[Tensor] = [torch.zeros_like(x) for x, _ in rows]
    d_columns: list[Tensor] = [torch.zeros_like(y) for y in columns]
    d_g = None if g is None else torch.zeros_like(g)
    for r, (x, before) in enumerate(rows):
        decay = _decay(g, x.shape[-2], before, x)
        for s, y in enumerate(columns):
            decayed = d_products[r][s] * decay
            if d_g is not None:
                through_decay = d_products[r][s] * products[r][s]
                by_row = through_decay.sum(-1, keepdim=True)
                d_g += (shift_up(by_row) if before else by_row) - through_decay.sum(-2).unsqueeze(-1)
            decayed = sum_heads(decayed, max(x.shape[1], y.shape[1]))
            d_rows[r] += sum_heads(decayed @ to_heads(y, decayed.shape[1]), x.shape[1])
            d_columns[s] += sum_heads(decayed.transpose(-1, -2) @ to_heads(x, decayed.shape[1]), y.shape[1])
    return d_rows, d_columns, d_g


def to_heads(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def sum_heads(x: Tensor, heads: int) -> Tensor:
    """The adjoint of to_heads."""
    return x if x.shape[1] == heads else x.unflatten(1, (heads, -1)).sum(2)


def shift_down(x: Tensor) -> Tensor:
    """Every token gets what belonged to the one before it, the first token zeros."""
    return pad(x[..., :-1, :], (0, 0, 1, 0))


def shift_up(x: Tensor) -> Tensor:
    return pad(x[..., 1:, :], (0, 0, 0, 1))


def _plain_product(x: Tensor, y: Tensor) -> Tensor:
    heads = max(x.shape[1], y.shape[1])
    return to_heads(x, heads) @ to_heads(y, heads).transpose(-1, -2)


def _decay(g: Tensor | None, chunk: int, before: bool, like: Tensor) -> Tensor:
    """The factor of every pair, [C, C] without decay and [B, H, N, C, C] with one number per head."""
    seen = like.new_ones(chunk, chunk).tril(-1 if before else 0)
    if g is None:
        return seen
    rows = shift_down(g) if before else g
    return (rows - g.transpose(-1, -2)).add_(seen.log()).exp_()


def _stack_rows(rows: Sequence[Row]) -> Tensor:
    """[..., C, R, K]; a row that comes before its token's decay stands at the token before, whose g it needs."""
    return torch.stack([shift_up(x) if before else x for x, before in rows], dim=-2)


def _after(products: Tensor, before: bool) -> Tensor:
    return shift_down(products) if before else products


def _channel_products(rows: Tensor, columns: Tensor, g: Tensor) -> Tensor:
    """rows [..., C, R, K], columns [..., C, S, K] -> [..., C, R, S, C]."""
    count, chunk = columns.shape[-2], columns.shape[-3]
    products = rows.new_zeros(*rows.shape[:-1], count, chunk)
    _diagonal(products).copy_((rows.unsqueeze(-2) * columns.unsqueeze(-3)).sum(-1))
    size = 1
    while size < chunk:
        late_decay, early_decay = _split_decay(g, size)
        late = (_late(rows, -3, size) * late_decay).flatten(-3, -2)
        early = (_early(columns, -3, size) * early_decay).flatten(-3, -2)
        across = (late @ early.transpose(-1, -2)).unflatten(-2, (size, -1)).unflatten(-1, (size, count))
        _below_diagonal(products, size).copy_(across.transpose(-1, -2))
        size *= 2
    return products


def _channel_grads(
    rows: Sequence[Row], columns: Sequence[Tensor], g: Tensor, d_products: Sequence[Sequence[Tensor]]
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    stacked, stacked_columns = _stack_rows(rows), torch.stack(tuple(columns), dim=-2)
    d_stacked = torch.stack(
        [
            torch.stack([shift_up(d) if before else d for d in d_row], dim=-2)
            for d_row, (_, before) in zip(d_products, rows, strict=True)
        ],
        dim=-3,
    )
    d_rows, d_columns = torch.zeros_like(stacked), torch.zeros_like(stacked_columns)
    size = 1
    while size < g.shape[-2]:
        late_decay, early_decay = _split_decay(g, size)
        late = (_late(stacked, -3, size) * late_decay).flatten(-3, -2)
        early = (_early(stacked_columns, -3, size) * early_decay).flatten(-3, -2)
        d_across = _below_diagonal(d_stacked, size).transpose(-1, -2).flatten(-2, -1).flatten(-3, -2)
        d_late = (d_across @ early).unflatten(-2, (size, -1))
        d_early = (d_across.transpose(-1, -2) @ late).unflatten(-2, (size, -1))
        _late(d_rows, -3, size).addcmul_(d_late, late_decay)
        _early(d_columns, -3, size).addcmul_(d_early, early_decay)
        size *= 2
    # Σ x·dx - y·dy; a token's product with itself does not decay, so it is added once that is known.
    d_g = (stacked * d_rows).sum(-2).sub_((stacked_columns * d_columns).sum(-2))
    d_diagonal = _diagonal(d_stacked).unsqueeze(-1)
    d_columns += (d_diagonal * stacked.unsqueeze(-2)).sum(-3)
    d_rows += (d_diagonal * stacked_columns.unsqueeze(-3)).sum(-2)
    return (
        [shift_down(d_rows[..., r, :]) if before else d_rows[..., r, :] for r, (_, before) in enumerate(rows)],
        list(d_columns.unbind(-2)),
        d_g,
    )


def _late(x: Tensor, axis: int, size: int) -> Tensor:
    """The later block of each pair of blocks of `size` tokens along `axis`: [..., C, ...] -> [..., C/2s, s, ...]."""
    return x.unflatten(axis, (-1, 2, size)).select(axis - 1, 1)


def _early(x: Tensor, axis: int, size: int) -> Tensor:
    return x.unflatten(axis, (-1, 2, size)).select(axis - 1, 0)


def _split_decay(g: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """exp(g_t - g_split) for the later and exp(g_split - g_i) for the earlier block of each pair: [..., s, 1, K]."""
    late, early = _late(g, -2, size), _early(g, -2, size)
    split = late[..., :1, :]
    return (late - split).exp_().unsqueeze(-2), (split - early).exp_().unsqueeze(-2)


def _diagonal(products: Tensor) -> Tensor:
    """[..., C, R, S, C] -> a view [..., C, R, S] of every token's product with itself."""
    return products.diagonal(dim1=-4, dim2=-1).movedim(-1, -3)


def _below_diagonal(products: Tensor, size: int) -> Tensor:
    """[..., C, R, S, C] -> a view [..., C/2s, s, R, S, s]: later block against earlier block of each pair."""
    blocks = _early(products, -1, size)
    blocks = _late(blocks, -5, size)
    return blocks.diagonal(dim1=-6, dim2=-2).movedim(-1, -5)
