"""Patterns that depend on content as lists for `block_sparse_attention`: who is picked, without waiting for the device.

Picking has no gradient: every function here runs without one. Scores are never held for all queries at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kernels._block_sparse_attention import selection_checks as checks

SCORES_AT_A_TIME = 2**26  # elements
TIE = 1e-30  # for each position: orders sums of zero and is lost in any other


@torch.no_grad()
def top_blocks(scores: Tensor, own: Tensor, top_k: int, *, first: int = 0, last: int = 1) -> Tensor:
    """The own block, forced ones, and the best-scored of the blocks before it: `top_k` in all.

    Args:
        scores: [B, T, Hkv, N], of blocks for queries; -inf for one that cannot be picked.
        own: [T] or [B, T], the block that each query lies in, 0 to N - 1; a GPU is not waited for to check it.
        first, last: so many blocks at the start, and so many up to the own one, are taken whatever their scores.

    Returns lists [B, T, Hkv, min(top_k, N)] int64, -1 where fewer can be seen. MoBA's rule is `first=0, last=1` (Lu et
    al., arXiv 2502.13189, section 2.2), NSA's `first=1, last=2` (Yuan et al., arXiv 2502.11089, section 3.3.2).

    Raises ValueError when shapes do not belong together, or top_k is less than the blocks that are forced.
    """
    checks.check_floats("scores", scores, "[B, T, Hkv, N]", scores)
    checks.check_own(own, scores)
    own = checks.within("own", own, scores.shape[-1])
    checks.check_sizes(top_k=top_k, last=last)
    checks.check_sizes(least=0, first=first)
    if top_k < first + last:
        raise ValueError(
            f"top_k must be at least the {first + last} blocks that are forced, the own one among them, but got "
            f"top_k={top_k}, first={first}, last={last}."
        )
    block = torch.arange(scores.shape[-1], device=scores.device)
    own = own.view(1 if own.dim() == 1 else own.shape[0], -1, 1, 1)
    forced = (block < first) | (block > own - last)
    scores = scores.float().masked_fill(forced, float("inf")).masked_fill(block > own, float("-inf"))
    best = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
    return best.indices.masked_fill(best.values == float("-inf"), -1)


@torch.no_grad()
def moba_blocks(
    q: Tensor, means: Tensor, keys: int, *, block_size: int, top_k: int, position: Tensor | None = None
) -> Tensor:
    """MoBA: for each query the own block and the best of those before it by the product of query and mean key.

    Args:
        q: [B, Tq, Hq, D], the last Tq of `keys` positions.
        means: [B, keys // block_size, Hkv, D], the mean keys of the complete blocks, in the type of q or float32.
        position: as for `nsa_blocks`.

    Scores of the heads of a group are added, in float32. Returns lists [B, Tq, Hkv, S] of up to top_k blocks for lists
    of single queries. Source: Lu et al. (arXiv 2502.13189), section 2.2. Raises ValueError when shapes and sizes do not
    belong together.
    """
    checks.check_sizes(keys=keys, block_size=block_size, top_k=top_k)
    checks.check_heads(q, means, "means", or_float32=True)
    checks.check_position(position, q, keys)
    if means.shape[1] != keys // block_size:
        raise ValueError(
            f"means must be of the {keys // block_size} complete blocks of {block_size} among {keys} keys, but got "
            f"shape {list(means.shape)}."
        )
    kv_heads, count = means.shape[2], -(-keys // block_size)
    own, means = checks.positions(position, q, keys) // block_size, means.float()

    def pick(start: int, stop: int) -> Tensor:
        grouped = q[:, start:stop].float().unflatten(2, (kv_heads, -1)).sum(3)
        scores = torch.einsum("bthd,bnhd->bthn", grouped, means).float()
        return top_blocks(_padded(scores, count), own[start:stop], top_k)

    return _in_parts(q.shape[1], q.shape[0] * kv_heads * count, pick)


@torch.no_grad()
def nsa_blocks(
    q: Tensor,
    k_compressed: Tensor,
    keys: int,
    *,
    block_size: int,
    top_k: int,
    compressed_size: int,
    compressed_stride: int,
    scale: float | None = None,
    first: int = 1,
    last: int = 2,
    position: Tensor | None = None,
) -> Tensor:
    """NSA: for each query the blocks that hold most of its attention to compressed keys, and those that are forced.

    Args:
        q: [B, Tq, Hq, D], the last Tq of `keys` positions.
        position: [Tq] int64 on the device of q, where the queries stand instead, 0 to keys - 1; `keys` is then how
            many there is room for. A GPU is not waited for to check it.
        k_compressed: [B, N, Hkv, D]; number n stands for keys n compressed_stride to that plus compressed_size, and is
            seen once all of them are past.

    A block's score is the attention of all compressed keys that overlap it, once for each stride of the overlap, summed
    over the heads of a group (equations 9 and 10). Returns lists [B, Tq, Hkv, S] for lists of single queries. Source:
    Yuan et al. (arXiv 2502.11089), section 3.3.2. Raises ValueError when shapes do not belong together, or strides and
    sizes do not divide.
    """
    checks.check_heads(q, k_compressed, "k_compressed")
    checks.check_sizes(keys=keys)
    checks.check_factor(scale)
    checks.check_position(position, q, keys)
    checks.check_sizes(block_size=block_size, compressed_size=compressed_size, compressed_stride=compressed_stride)
    if block_size % compressed_stride != 0 or compressed_size % compressed_stride != 0:
        raise ValueError(
            f"compressed_stride must divide compressed_size and block_size, but got {compressed_stride} beside "
            f"{compressed_size} and {block_size}."
        )
    kv_heads, number = k_compressed.shape[2], k_compressed.shape[1]
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    position = checks.positions(position, q, keys)
    ends = torch.arange(number, device=q.device) * compressed_stride + compressed_size - 1
    count, strides = -(-keys // block_size), block_size // compressed_stride

    def pick(start: int, stop: int) -> Tensor:
        grouped = q[:, start:stop].float().unflatten(2, (kv_heads, -1))
        scores = factor * torch.einsum("bthgd,bnhd->bthgn", grouped, k_compressed.float()).float()
        sees = (ends <= position[start:stop].unsqueeze(1)).view(1, stop - start, 1, 1, number)
        # The lowest finite number: where nothing is past yet, the product with `sees` leaves zeros, not NaN.
        weights = scores.masked_fill(~sees, torch.finfo(torch.float32).min).softmax(-1) * sees
        weights = _padded(weights.sum(3), count * strides, 0.0)
        # Compressed key n lies in the strides n to n + size / stride - 1, and each of these in one block.
        of_stride = weights.clone()
        for shift in range(1, compressed_size // compressed_stride):
            of_stride[..., shift:] += weights[..., :-shift]
        of_block, own = of_stride.unflatten(-1, (count, strides)).sum(-1), position[start:stop] // block_size
        return top_blocks(of_block, own, top_k, first=first, last=last)

    return _in_parts(q.shape[1], q.shape[0] * q.shape[2] * max(number, count * strides), pick)


@torch.no_grad()
def indexed_tokens(
    q: Tensor, k: Tensor, weight: Tensor, top_k: int, *, scale: float | None = None, position: Tensor | None = None
) -> Tensor:
    """DSA: for each query the `top_k` keys with the largest sum_h weight_h relu(scale q_h . k), of those up to it.

    q [B, Tq, H, D] and k [B, Tk, D] are those of the indexer, with one key for all of its heads; weight [B, Tq, H]; in
    one type. Queries are the last Tq of the Tk positions, or stand at `position` [Tq] int64 on the device of q.
    Of keys that no head likes, whose sum is exactly zero, the latest go first, so that a choice does not depend on how
    many queries are asked about. Returns lists [B, Tq, 1, min(top_k, Tk)] of blocks of one key, for all heads. Source:
    DeepSeek-V3.2 (arXiv 2512.02556), section 2.1, equation 1. Raises ValueError when shapes do not belong together.
    """
    checks.check_floats("q", q, "[B, Tq, H, D]", q)
    checks.check_floats("k", k, "[B, Tk, D]", q)
    checks.check_floats("weight", weight, "[B, Tq, H]", q)
    if (k.shape[0], k.shape[2], weight.shape) != (q.shape[0], q.shape[3], q.shape[:3]):
        raise ValueError(
            f"k must be [B, Tk, D] and weight [B, Tq, H] beside q {list(q.shape)}, but got {list(k.shape)} and "
            f"{list(weight.shape)}."
        )
    checks.check_position(position, q, k.shape[1])
    checks.check_sizes(top_k=top_k)
    checks.check_factor(scale)
    queries, keys = q.shape[1], k.shape[1]
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    position = checks.positions(position, q, keys).view(-1, 1)
    key = torch.arange(keys, device=q.device)

    def pick(start: int, stop: int) -> Tensor:
        scores = torch.relu(factor * torch.einsum("bthd,bnd->bthn", q[:, start:stop].float(), k.float()))
        summed = torch.einsum("bthn,bth->btn", scores.float(), weight[:, start:stop].float()).float()
        summed = (summed + key * TIE).masked_fill(key > position[start:stop], float("-inf"))
        best = summed.topk(min(top_k, keys), dim=-1)
        return best.indices.masked_fill(best.values == float("-inf"), -1).unsqueeze(2)

    return _in_parts(queries, q.shape[0] * q.shape[2] * keys, pick)


def _padded(scores: Tensor, count: int, value: float = float("-inf")) -> Tensor:
    """The last axis cut or filled up to `count`."""
    kept = scores[..., :count]
    return torch.nn.functional.pad(kept, (0, count - kept.shape[-1]), value=value)


def _in_parts(queries: int, per_query: int, pick: Callable[[int, int], Tensor]) -> Tensor:
    step = max(1, SCORES_AT_A_TIME // per_query)
    return torch.cat([pick(start, min(start + step, queries)) for start in range(0, queries, step)], dim=1)
