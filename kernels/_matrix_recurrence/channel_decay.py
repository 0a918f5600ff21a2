"""Products of rows and keys inside a chunk under a decay per channel, for the portable recurrence.

Kept apart because it is the one place where the portable form writes its gradient by hand: autograd would keep a
scaled copy of rows and keys per level, and the gradient of the decay has a closed form, Σ rows·d rows - keys·d keys.
"""

import torch
from torch import Tensor


def channel_decayed_products(rows: Tensor, keys: Tensor, cumulative: Tensor) -> Tensor:
    """Σ_c rows_tc keys_ic exp(g_tc - g_ic) for i <= t, else zero: rows [..., C, R, K] -> [..., C, R, C].

    keys and cumulative (g, which never rises along C) are [..., C, K], all float32, and C is a power of two. Two
    neighbouring blocks of s tokens meet in one matrix product, with the decay split at the first token of the later
    block so that both factors are at most one; s doubles from 1 until the chunk is done.
    """
    return _ChannelDecayedProducts.apply(rows, keys, cumulative)


class _ChannelDecayedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, keys: Tensor, cumulative: Tensor) -> Tensor:
        ctx.save_for_backward(rows, keys, cumulative)
        products = rows.new_zeros(*rows.shape[:-1], keys.shape[-2])
        _diagonal(products).copy_((rows * keys.unsqueeze(-2)).sum(-1))
        size = 1
        while size < keys.shape[-2]:
            late_decay, early_decay = _split_decay(cumulative, size)
            late = (_late(rows, -3, size) * late_decay.unsqueeze(-2)).flatten(-3, -2)
            early = _early(keys, -2, size) * early_decay
            _below_diagonal(products, size).copy_((late @ early.transpose(-1, -2)).unflatten(-2, (size, -1)))
            size *= 2
        return products

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, keys, cumulative = ctx.saved_tensors
        d_rows, d_keys = torch.zeros_like(rows), torch.zeros_like(keys)
        size = 1
        while size < keys.shape[-2]:
            late_decay, early_decay = _split_decay(cumulative, size)
            late = (_late(rows, -3, size) * late_decay.unsqueeze(-2)).flatten(-3, -2)
            early = _early(keys, -2, size) * early_decay
            d_across = _below_diagonal(d_products, size).flatten(-3, -2)
            d_late = (d_across @ early).unflatten(-2, (size, -1))
            _late(d_rows, -3, size).addcmul_(d_late, late_decay.unsqueeze(-2))
            _early(d_keys, -2, size).addcmul_(d_across.transpose(-1, -2) @ late, early_decay)
            size *= 2
        # A token's product with itself does not decay: it is added once the gradient of the decay is known.
        d_cumulative = (rows * d_rows).sum(-2).sub_(keys * d_keys)
        d_diagonal = _diagonal(d_products).unsqueeze(-1)
        d_keys += (d_diagonal * rows).sum(-2)
        d_rows += d_diagonal * keys.unsqueeze(-2)
        return d_rows, d_keys, d_cumulative


def _late(x: Tensor, axis: int, size: int) -> Tensor:
    """The later block of each pair of blocks of `size` tokens along `axis`: [..., C, ...] -> [..., C/2s, s, ...]."""
    return x.unflatten(axis, (-1, 2, size)).select(axis - 1, 1)


def _early(x: Tensor, axis: int, size: int) -> Tensor:
    return x.unflatten(axis, (-1, 2, size)).select(axis - 1, 0)


def _split_decay(cumulative: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """exp(g_t - g_split) for the later and exp(g_split - g_i) for the earlier block of each pair."""
    late, early = _late(cumulative, -2, size), _early(cumulative, -2, size)
    split = late[..., :1, :]
    return (late - split).exp_(), (split - early).exp_()


def _diagonal(products: Tensor) -> Tensor:
    """[..., C, R, C] -> a view [..., C, R] of every token's product with itself."""
    return products.diagonal(dim1=-3, dim2=-1).transpose(-1, -2)


def _below_diagonal(products: Tensor, size: int) -> Tensor:
    """[..., C, R, C] -> a view [..., C/2s, s, R, s]: later block against earlier block of each pair."""
    blocks = products.unflatten(-1, (-1, 2, size))[..., 0, :].unflatten(-4, (-1, 2, size))[..., 1, :, :, :, :]
    return blocks.diagonal(dim1=-5, dim2=-2).movedim(-1, -4)
