"""The launches whose outer loop goes over keys, of the forward pass and of the gradient of queries.

So many lists at a time that what their pairs leave fits.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from kernels._block_sparse_attention.gpu_arguments import LOG2_E, constants_of, strides
from kernels._block_sparse_attention.gpu_dq_pairs import (
    sparse_delta_kernel,
    sparse_dq_pairs_kernel,
    sparse_dq_sum_kernel,
)
from kernels._block_sparse_attention.gpu_pairs import sparse_merge_kernel, sparse_pairs_kernel
from kernels._block_sparse_attention.launches import default_launch, delta_key, dq_sum_key, merge_key, sparse_key
from kernels._block_sparse_attention.lists import Inverse, Lists, invert, places_of
from kernels._block_sparse_attention.options import Options
from kernels.tuning import choose, run

PART_ELEMENTS = 2**30  # of the pairs' outputs at a time: 2 GiB in 16 bits


def forward_by_keys(q: Tensor, k: Tensor, v: Tensor, lists: Lists, options: Options) -> tuple[Tensor, Tensor]:
    """(o [B, Tq, Hq, Dv], natural log-sum-exp [B, Tq, Hq]); q, k and v as the kernels read them."""
    o = q.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    constants = constants_of(q, k, v, options)
    pairs_key = sparse_key("block_sparse_attention.pairs", q, v, options)
    sum_key = merge_key(v, rows_of(constants))
    with torch.cuda.device_of(q):
        for entries, earlier in _turns(lists, q, k, constants, v.shape[3]):
            inverse = invert(entries, k.shape[1], options.block_size, rows_of(constants))
            parts = _parts(q, k, entries, constants, v.shape[3])
            part_lse = lse.new_empty(parts.shape[:3])
            config = choose(pairs_key, sparse_pairs_kernel, default_launch, q.device)
            run(
                pairs_key, sparse_pairs_kernel, (inverse.row_of_chunk.shape[0], parts.shape[1]), q, k, v, parts,
                part_lse, *_of_inverse(inverse, q, k, entries, earlier), *strides(q, k, v), options.scale * LOG2_E,
                **constants, **config,
            )  # fmt: skip
            config = choose(sum_key, sparse_merge_kernel, default_launch, q.device)
            kept = {name: constants[name] for name in ("DV", "BDV", "GROUP", "QUERY_BLOCK")}
            run(
                sum_key, sparse_merge_kernel, _grid_of_sums(q, k, entries, constants, config), parts, part_lse,
                places_of(inverse, entries), o, lse, *_of_lists(q, k, entries, parts, earlier), **kept, **config,
            )  # fmt: skip
    return o, lse


def query_gradient_by_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor,
    dq: Tensor,
    delta: Tensor,
    lists: Lists,
    options: Options,
) -> None:
    """Fill dq, and delta [B, Tq, Hq], which the gradients of keys need too; all but q, k and v contiguous."""
    constants = constants_of(q, k, v, options)
    pairs_key = sparse_key("block_sparse_attention.pairs_dq", q, v, options)
    sum_key = dq_sum_key(q, rows_of(constants))
    with torch.cuda.device_of(q):
        key = delta_key(v)
        config, rows = choose(key, sparse_delta_kernel, default_launch, q.device), delta.numel()
        sizes = {name: constants[name] for name in ("DV", "BDV")}
        run(
            key, sparse_delta_kernel, (triton.cdiv(rows, config["BM"]),), o, do, dlse, delta, rows, **sizes, **config
        )  # fmt: skip
        for entries, earlier in _turns(lists, q, k, constants, q.shape[3]):
            inverse = invert(entries, k.shape[1], options.block_size, rows_of(constants))
            parts = _parts(q, k, entries, constants, q.shape[3])
            config = choose(pairs_key, sparse_dq_pairs_kernel, default_launch, q.device)
            run(
                pairs_key, sparse_dq_pairs_kernel, (inverse.row_of_chunk.shape[0], parts.shape[1]), q, k, v, lse,
                delta, do, parts, *_of_inverse(inverse, q, k, entries, earlier), *strides(q, k, v), options.scale,
                options.scale * LOG2_E, **constants, **config,
            )  # fmt: skip
            config = choose(sum_key, sparse_dq_sum_kernel, default_launch, q.device)
            kept = {name: constants[name] for name in ("D", "BD", "GROUP", "QUERY_BLOCK")}
            run(
                sum_key, sparse_dq_sum_kernel, _grid_of_sums(q, k, entries, constants, config), parts,
                places_of(inverse, entries), dq, *_of_lists(q, k, entries, parts, earlier), **kept, **config,
            )  # fmt: skip


def rows_of(constants: dict[str, Any]) -> int:
    """Queries times heads that read one list."""
    return constants["QUERY_BLOCK"] * constants["GROUP"]


def _turns(lists: Lists, q: Tensor, k: Tensor, constants: dict[str, Any], size: int) -> Iterator[tuple[Tensor, int]]:
    """Some lists [B', n, H', S] at a time, and how many come before them; a row of a pair leaves `size` numbers."""
    _, count, _, capacity = lists.entries.shape
    step = max(1, PART_ELEMENTS // (q.shape[0] * k.shape[2] * capacity * rows_of(constants) * size))
    for first in range(0, count, step):
        yield lists.entries[:, first : first + step].contiguous(), first


def _parts(q: Tensor, k: Tensor, entries: Tensor, constants: dict[str, Any], size: int) -> Tensor:
    """Room for what each pair leaves, [pairs, sequences and heads that share a list, rows of a list, size]."""
    sequences, _, heads, _ = entries.shape
    sharing = q.shape[0] // sequences * (k.shape[2] // heads)
    return q.new_empty(entries.numel(), sharing, rows_of(constants), size)


def _of_inverse(inverse: Inverse, q: Tensor, k: Tensor, entries: Tensor, earlier: int) -> tuple[Tensor | int, ...]:
    """Arguments of the kernels that go over pairs, up to `PAIRS_INTEGERS`."""
    lists = (inverse.members, inverse.starts, inverse.row_of_chunk, inverse.chunk_starts)
    counts = (q.shape[1], k.shape[1], k.shape[2], entries.shape[2], entries.shape[0])
    return *lists, *counts, inverse.rows, inverse.runs, inverse.chunk, earlier


def _of_lists(q: Tensor, k: Tensor, entries: Tensor, parts: Tensor, earlier: int) -> tuple[int, ...]:
    """`MERGE_INTEGERS`, in order."""
    sequences, count, heads, capacity = entries.shape
    return q.shape[1], k.shape[2], count, capacity, heads, sequences, parts.shape[1], earlier


def _grid_of_sums(
    q: Tensor, k: Tensor, entries: Tensor, constants: dict[str, Any], config: dict[str, int]
) -> tuple[int]:
    """A program for each tile of rows of each list."""
    return (triton.cdiv(rows_of(constants), config["BM"]) * entries.shape[1] * q.shape[0] * k.shape[2],)
