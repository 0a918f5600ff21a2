"""The launches of the forward pass whose outer loop goes over keys: so many lists at a time that their pairs fit."""

import torch
import triton
from torch import Tensor

from kernels._block_sparse_attention.gpu_arguments import LOG2_E, constants_of, strides
from kernels._block_sparse_attention.gpu_pairs import sparse_merge_kernel, sparse_pairs_kernel
from kernels._block_sparse_attention.launches import default_launch, merge_key, sparse_key
from kernels._block_sparse_attention.lists import Lists, invert, places_of
from kernels._block_sparse_attention.options import Options
from kernels.tuning import choose, run

PART_ELEMENTS = 2**30  # of the pairs' outputs at a time: 2 GiB in 16 bits


def forward_by_keys(q: Tensor, k: Tensor, v: Tensor, lists: Lists, options: Options) -> tuple[Tensor, Tensor]:
    """(o [B, Tq, Hq, Dv], natural log-sum-exp [B, Tq, Hq]); q, k and v as the kernels read them."""
    o = q.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    rows_per_list = options.query_block * (q.shape[2] // k.shape[2])
    count, capacity = lists.entries.shape[1], lists.entries.shape[3]
    step = max(1, PART_ELEMENTS // (q.shape[0] * k.shape[2] * capacity * rows_per_list * v.shape[3]))
    for first in range(0, count, step):
        entries = lists.entries[:, first : first + step].contiguous()
        _some_lists(q, k, v, entries, first, rows_per_list, o, lse, options)
    return o, lse


def _some_lists(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    entries: Tensor,
    earlier: int,
    rows_per_list: int,
    o: Tensor,
    lse: Tensor,
    options: Options,
) -> None:
    """Fill o and lse for the queries of these lists [B', n, H', S], before which `earlier` others come."""
    keys, kv_heads, (sequences, count, heads, capacity) = k.shape[1], k.shape[2], entries.shape
    sharing = q.shape[0] // sequences * (kv_heads // heads)
    inverse = invert(entries, keys, options.block_size, rows_per_list)
    parts = q.new_empty(entries.numel(), sharing, rows_per_list, v.shape[3])
    part_lse = lse.new_empty(parts.shape[:3])
    constants = constants_of(q, k, v, options)
    key = sparse_key("block_sparse_attention.pairs", q, v, options)
    config = choose(key, sparse_pairs_kernel, default_launch, q.device)
    with torch.cuda.device_of(q):
        run(
            key, sparse_pairs_kernel, (inverse.row_of_chunk.shape[0], sharing), q, k, v, parts, part_lse,
            inverse.members, inverse.starts, inverse.row_of_chunk, inverse.chunk_starts, q.shape[1], keys, kv_heads,
            heads, sequences, inverse.rows, inverse.runs, inverse.chunk, earlier, *strides(q, k, v),
            options.scale * LOG2_E, **constants, **config,
        )  # fmt: skip
        key = merge_key(v, rows_per_list)
        config = choose(key, sparse_merge_kernel, default_launch, q.device)
        tiles = triton.cdiv(rows_per_list, config["BM"])
        kept = {name: constants[name] for name in ("DV", "BDV", "GROUP", "QUERY_BLOCK")}
        run(
            key, sparse_merge_kernel, (tiles * count * q.shape[0] * kv_heads,), parts, part_lse,
            places_of(inverse, entries), o, lse, q.shape[1], kv_heads, count, capacity, heads, sequences, sharing,
            earlier, **kept, **config,
        )  # fmt: skip
