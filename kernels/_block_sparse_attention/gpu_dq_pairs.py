"""The gradient of the queries with the loop over keys outside, as `gpu_pairs.py` has the forward pass.

Each pair of list and block leaves a gradient of its own, rounded to the type of q, and a second kernel adds those of a
list up in the order of the list: no atomics, so that gradients repeat bit for bit.

Source: Yan et al., FSA (arXiv 2508.18224), section 3.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._block_sparse_attention.gpu_kernels import LOG2_E, gather_tile, place_of, sequence_and_head
from kernels._block_sparse_attention.gpu_pairs import MERGE_INTEGERS, PAIRS_INTEGERS


@triton.jit(do_not_specialize=["rows"])
def sparse_delta_kernel(o, do, dlse, delta, rows, DV: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr):
    """delta = sum(o do) - dlse of BM rows; o, do [rows, DV]; dlse, delta [rows]."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = row < rows
    o_tile, do_tile = gather_tile(o, row, inside, DV, DV, BDV), gather_tile(do, row, inside, DV, DV, BDV)
    total = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    tl.store(delta + row, total - tl.load(dlse + row, mask=inside, other=0.0), mask=inside)


@triton.jit(do_not_specialize=PAIRS_INTEGERS)
def sparse_dq_pairs_kernel(
    q, k, v, lse, delta, do, parts, members, starts, row_of_chunk, chunk_starts,
    queries, keys, kv_heads, heads_listed, sequences_listed, rows, runs, chunk, earlier,
    q_batch, q_token, k_batch, k_token, k_head, v_batch, v_token, v_head, scale, scale_log2,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, GROUP: tl.constexpr,
    QUERY_BLOCK: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one block of keys and one chunk of the lists that name it, of which `earlier` lists come before the
    first. parts [pairs, sharing, QUERY_BLOCK GROUP, D]; lse (natural) and delta [B, Tq, Hq]; do [B, Tq, Hq, DV]."""
    row = tl.load(row_of_chunk + tl.program_id(0))
    if row >= rows:
        return
    b, h = sequence_and_head(row // runs, kv_heads, heads_listed, sequences_listed)
    n = tl.arange(0, BN)
    cols = row % runs * BLOCK + n
    exists = (n < BLOCK) & (cols < keys)
    k_tile = gather_tile(k + b * k_batch + h * k_head, cols, exists, k_token, D, BD)
    v_tile = gather_tile(v + b * v_batch + h * v_head, cols, exists, v_token, DV, BDV)
    first = tl.load(starts + row) + (tl.program_id(0) - tl.load(chunk_starts + row)) * chunk
    count = tl.minimum(tl.load(starts + row + 1) - first, chunk) * (QUERY_BLOCK * GROUP)
    dims = tl.arange(0, BD)
    for start in tl.range(0, count, BM):
        m = start + tl.arange(0, BM)
        member, within = first + m // (QUERY_BLOCK * GROUP), m % (QUERY_BLOCK * GROUP)
        token = (earlier + tl.load(members + member, mask=m < count, other=0)) * QUERY_BLOCK + within // GROUP
        inside = (m < count) & (token < queries)
        head = h * GROUP + within % GROUP
        at = (b * queries + token) * (kv_heads * GROUP) + head
        q_tile = gather_tile(q + b * q_batch + head[:, None] * D, token, inside, q_token, D, BD)
        do_tile = gather_tile(do, at, inside, DV, DV, BDV)
        lse_row = tl.load(lse + at, mask=inside, other=float("-inf"))
        lse_row = tl.where(lse_row == float("-inf"), float("inf"), lse_row * LOG2_E)
        delta_row = tl.load(delta + at, mask=inside, other=0.0)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
        sees = exists[None, :]
        if CAUSAL:
            sees = sees & (cols[None, :] <= token[:, None] + keys - queries)
        p = tl.where(sees, tl.exp2(scores - lse_row[:, None]), 0.0)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
        ds = p * (dp - delta_row[:, None])
        grad = tl.dot(ds.to(k_tile.dtype), k_tile, input_precision=PRECISION) * scale
        place = (member.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * (QUERY_BLOCK * GROUP) + within
        mask = (m < count)[:, None] & (dims < D)[None, :]
        tl.store(parts + place[:, None] * D + dims[None, :], grad.to(parts.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=MERGE_INTEGERS)
def sparse_dq_sum_kernel(
    parts, places, dq, queries, kv_heads, lists, capacity, heads_listed, sequences_listed, sharing, earlier,
    D: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr, QUERY_BLOCK: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """One program: BM rows of one list, over its pairs, which lie at `places` [B or 1, lists, Hkv or 1, S], or nowhere
    where that is negative. dq [B, Tq, Hq, D]."""
    tiles = tl.cdiv(QUERY_BLOCK * GROUP, BM)
    i = tl.program_id(0) // tiles % lists
    h = tl.program_id(0) // tiles // lists % kv_heads
    b = (tl.program_id(0) // tiles // lists // kv_heads).to(tl.int64)
    m = tl.program_id(0) % tiles * BM + tl.arange(0, BM)
    token, head = (earlier + i) * QUERY_BLOCK + m // GROUP, h * GROUP + m % GROUP
    inside = (m < QUERY_BLOCK * GROUP) & (token < queries)
    share = b // sequences_listed * (kv_heads // heads_listed) + h // heads_listed
    dims = tl.arange(0, BD)
    total = tl.zeros([BM, BD], tl.float32)
    entry = places + place_of(lists, heads_listed, sequences_listed, i, b, h) * capacity
    for _ in tl.range(0, capacity):
        place = tl.load(entry).to(tl.int64)
        entry += 1
        at = (place * sharing + share) * (QUERY_BLOCK * GROUP) + m
        mask = (inside & (place >= 0))[:, None] & (dims < D)[None, :]
        total += tl.load(parts + at[:, None] * D + dims[None, :], mask=mask, other=0.0).to(tl.float32)
    row = (b * queries + token) * (kv_heads * GROUP) + head
    target = dq + row.to(tl.int64)[:, None] * D + dims[None, :]
    tl.store(target, total.to(dq.dtype.element_ty), mask=inside[:, None] & (dims < D)[None, :])
