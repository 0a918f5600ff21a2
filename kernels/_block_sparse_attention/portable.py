"""Attention over listed blocks in PyTorch alone, on any device: gathered where lists are short, masked where not.

* Gathered: each block of queries beside a copy of its blocks of keys; the cost follows the lists.
* Masked: a chunk of queries at a time beside all keys that any of it could see. Copying keys for every single query
  costs more than looking at keys in vain until lists are a small part of the sequence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels._block_sparse_attention.options import Options

QUERIES_PER_CHUNK = 128
GATHERED_ELEMENTS = 2**22  # of keys, at a time
KEPT_ELEMENTS = 2**28  # of copied keys, for a backward pass; beyond that they are copied again
# Of one key for one block of queries, in products of one query with one key: measured on a CPU core in float32, with
# gradients, heads of 64, T 512 to 2048.
COST_OF_A_COPY = 32.0


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, options: Options, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.block_sparse_attention`; the log-sum-exp is None where it is not asked for."""
    blocks = _checked(blocks, -(-k.shape[1] // options.block_size))
    heads, kv_heads = q.shape[2], k.shape[2]
    # [B, T, Hkv, G, D]: the heads of a group are rows of one key head, so that no key is copied for them.
    grouped = q.unflatten(2, (kv_heads, heads // kv_heads))
    run = _gathered if _gathering_pays(q, k, blocks.shape[3], options) else _masked
    o, lse = run(grouped, k, v, blocks, options, return_lse)
    return o.flatten(2, 3), None if lse is None else lse.flatten(2, 3)


@torch.library.custom_op("hybrid_nas::checked_blocks", mutates_args=())
def _checked(blocks: Tensor, count: int) -> Tensor:
    """The lists in int64, once they were read on the host, which torch.compile does not follow."""
    check_range(blocks, count)
    return blocks.to(torch.int64, copy=True)


@_checked.register_fake
def _(blocks, count):
    return blocks.to(torch.int64, copy=True)


def check_range(blocks: Tensor, count: int) -> None:
    """Raises ValueError where an entry is neither -1 nor a block of the keys."""
    low, high = (int(one) for one in blocks.aminmax())
    if low < -1 or high >= count:
        raise ValueError(
            f"blocks must name blocks of the keys, 0 to {count - 1}, or be -1 to fill up, but got {low} to {high}."
        )


def _gathering_pays(q: Tensor, k: Tensor, listed: int, options: Options) -> bool:
    """Whether copying `listed` blocks of keys for each block of queries is cheaper than looking at all of them."""
    queries, keys, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    looked_at = keys - queries / 2 if options.causal else float(keys)  # by a query, on average
    return listed * options.block_size * (1 + COST_OF_A_COPY / (options.query_block * group)) < looked_at


def _masked(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, options: Options, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """q [B, T, Hkv, G, D]. The mask never has more than chunk x Tk entries for a key head."""
    queries, keys, causal, block_size = q.shape[1], k.shape[1], options.causal, options.block_size
    count = -(-keys // block_size)
    listed = torch.zeros(*blocks.shape[:3], count + 1, dtype=torch.bool, device=q.device)
    listed.scatter_(-1, torch.where(blocks < 0, count, blocks), True)  # [B', Nq, H', blocks and one for -1]
    parts = []
    for start in range(0, queries, QUERIES_PER_CHUNK):
        stop = min(start + QUERIES_PER_CHUNK, queries)
        position = torch.arange(start, stop, device=q.device)
        key = torch.arange(keys - queries + stop if causal else keys, device=q.device)
        sees = listed[:, position // options.query_block][..., key // block_size].transpose(
            1, 2
        )  # [B', H', chunk, keys]
        if causal:
            sees = sees & (key <= (position + keys - queries).unsqueeze(1))
        sees = sees.unsqueeze(3).expand(-1, -1, -1, q.shape[3], -1).flatten(2, 3)
        rows = q[:, start:stop].permute(0, 2, 1, 3, 4).flatten(2, 3)
        k_seen, v_seen = (x[:, : len(key)].transpose(1, 2) for x in (k, v))
        parts.append(_attend(rows, k_seen, v_seen, sees, options.scale, return_lse))
    return _in_place(parts, q.shape[3], dim=2)


def _gathered(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, options: Options, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """q [B, T, Hkv, G, D]. Keys are copied for so many blocks of queries at a time that the copies stay in cache."""
    batch, queries, kv_heads, group, _ = q.shape
    keys, lists = k.shape[1], blocks.shape[1]
    block_size, query_block = options.block_size, options.query_block
    count = -(-keys // block_size)
    blocks = _without_twins(blocks).expand(batch, -1, kv_heads, -1).transpose(1, 2)  # [B, Hkv, Nq, S]
    # Blocks of all sequences and heads in one row, [B Hkv blocks, block_size D]: a gather of rows is a plain copy.
    rows = [F.pad(x, (0, 0, 0, 0, 0, count * block_size - keys)).transpose(1, 2) for x in (k, v)]
    rows = [x.reshape(batch * kv_heads * count, block_size * x.shape[3]) for x in rows]
    first = torch.arange(batch * kv_heads, device=q.device).view(batch, kv_heads, 1, 1) * count
    q = F.pad(q, (0, 0, 0, 0, 0, 0, 0, lists * query_block - queries))
    q = q.unflatten(1, (lists, query_block)).permute(0, 3, 1, 2, 4, 5)  # [B, Hkv, Nq, query_block, G, D]
    within = torch.arange(block_size, device=q.device)
    per_list = batch * kv_heads * blocks.shape[3] * block_size * k.shape[3]
    step = max(1, GATHERED_ELEMENTS // per_list)

    def part(start: int, *rows: Tensor) -> tuple[Tensor, Tensor | None]:
        chunk = blocks[:, :, start : start + step]
        index = (first + chunk.clamp(min=0)).flatten()
        listed = chunk.shape[3] * block_size
        k, v = (x.index_select(0, index).view(len(index) * block_size // listed, 1, listed, -1) for x in rows)
        key = (chunk.unsqueeze(-1) * block_size + within).flatten(3)  # [B, Hkv, n, S block_size]
        sees = ((chunk >= 0).unsqueeze(-1) & (within >= 0)).flatten(3) & (key < keys)
        sees = sees.unsqueeze(3)
        if options.causal:
            query = torch.arange(start * query_block, (start + chunk.shape[2]) * query_block, device=key.device)
            sees = sees & (key.unsqueeze(3) <= query.view(1, 1, -1, query_block, 1) + keys - queries)
        sees = sees.expand(-1, -1, -1, query_block, -1).unsqueeze(4).expand(-1, -1, -1, -1, group, -1)
        taken = q[:, :, start : start + step].flatten(3, 4).flatten(0, 2).unsqueeze(1)
        o, lse = _attend(taken, k, v, sees.flatten(3, 4).flatten(0, 2).unsqueeze(1), options.scale, return_lse)
        shape = (batch, kv_heads, chunk.shape[2] * query_block * group)
        return o.view(*shape, -1), None if lse is None else lse.view(shape)

    if per_list * lists > KEPT_ELEMENTS and torch.is_grad_enabled():
        parts = [checkpoint(part, start, *rows, use_reentrant=False) for start in range(0, lists, step)]
    else:
        parts = [part(start, *rows) for start in range(0, lists, step)]
    o, lse = _in_place(parts, group, dim=2)
    return o[:, :queries], None if lse is None else lse[:, :queries]


def _without_twins(blocks: Tensor) -> Tensor:
    """The lists in order, with -1 for every entry that repeats another."""
    ordered = blocks.sort(dim=-1).values
    twin = torch.zeros_like(ordered, dtype=torch.bool)
    twin[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return ordered.masked_fill(twin, -1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, sees: Tensor, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """[B, H, T, D] in and out; a row that sees nothing has output 0 and log-sum-exp -inf."""
    any_seen = sees.any(dim=-1, keepdim=True)
    if return_lse:
        scores = scale * (q.float() @ k.float().transpose(-1, -2))
        # The lowest finite number, not -inf: a row that sees nothing has gradients of zero, not NaN.
        scores = scores.masked_fill(~sees, torch.finfo(torch.float32).min)
        o = (scores.softmax(dim=-1) @ v.float()).to(q.dtype)
        lse = torch.where(any_seen.squeeze(-1), scores.logsumexp(dim=-1), float("-inf"))
        return torch.where(any_seen, o, 0.0), lse
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=sees | ~any_seen, scale=scale)
    return torch.where(any_seen, o, 0.0), None


def _in_place(parts: list[tuple[Tensor, Tensor | None]], group: int, dim: int) -> tuple[Tensor, Tensor | None]:
    """Parts [B, Hkv, rows of tokens and group, ...] side by side: o [B, T, Hkv, G, D], lse [B, T, Hkv, G]."""

    def joined(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors, dim=dim).unflatten(dim, (-1, group)).transpose(1, 2)

    lses = [lse for _, lse in parts if lse is not None]
    return joined([o for o, _ in parts]), joined(lses) if lses else None
