"""The Triton kernels of attention over listed blocks: forward, and backward for queries and for keys.

A tile of rows is the queries of one list times the query heads of one key head, so that all of them share the keys that
are gathered, and a list for each single query fills a tile too. A tile of columns is a run of listed keys, wherever
they lie; blocks may be of any size. Scores are kept in base 2: the scale carries log2(e).

Where keys are the rows of the result, the transposed product is computed as such (k qᵀ, not (q kᵀ)ᵀ) and only tiles
fresh from memory are transposed: transposing a product that is then rounded to 16 bits is miscompiled for Hopper by
Triton 3.4 to 3.7. No atomics: gradients repeat bit for bit.

Source: Yuan et al., NSA (arXiv 2502.11089), section 3.4, with the loops of FlashAttention-2 (arXiv 2307.08691).
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def gather_tile(head, index, inside, stride, D: tl.constexpr, BD: tl.constexpr):
    """Rows `index` [N] of one head, [N, BD]; zeros where not `inside` and from column D on."""
    dims = tl.arange(0, BD)
    at = head + index.to(tl.int64)[:, None] * stride + dims[None, :]
    return tl.load(at, mask=inside[:, None] & (dims < D)[None, :], other=0.0)


@triton.jit
def listed_keys(entries, start, total, keys, BLOCK: tl.constexpr, BN: tl.constexpr):
    """(positions, which of them exist) of listed keys start .. start + BN of `total`."""
    n = start + tl.arange(0, BN)
    block = tl.load(entries + n // BLOCK, mask=n < total, other=-1)
    cols = block * BLOCK + n % BLOCK
    exists = (block >= 0) & (cols < keys)
    return tl.where(exists, cols, 0), exists


@triton.jit
def place_of(lists, heads_listed, sequences_listed, i, b, h):
    """Where list i of sequence b and key head h lies among [B or 1, lists, Hkv or 1]."""
    return ((b % sequences_listed).to(tl.int64) * lists + i) * heads_listed + h % heads_listed


INTEGERS = [
    "queries", "keys", "kv_heads", "lists", "capacity", "heads_listed", "sequences_listed", "q_batch", "q_token",
    "k_batch", "k_token", "k_head", "v_batch", "v_token", "v_head",
]  # fmt: skip


@triton.jit(do_not_specialize=INTEGERS[:7])
def sparse_fwd_kernel(
    q, k, v, entries, slots, o, lse, queries, keys, kv_heads, lists, capacity, heads_listed, sequences_listed,
    q_batch, q_token, k_batch, k_token, k_head, v_batch, v_token, v_head, scale_log2,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, GROUP: tl.constexpr,
    QUERY_BLOCK: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM rows of one list. q [B, Tq, Hkv GROUP, D], whole heads side by side; lse [B, Tq, Hq], natural."""
    tiles = tl.cdiv(QUERY_BLOCK * GROUP, BM)
    # The last queries see the most: they start first, so that no long program runs alone at the end.
    i = lists - 1 - tl.program_id(0) // tiles % lists
    h = tl.program_id(0) // tiles // lists % kv_heads
    b = (tl.program_id(0) // tiles // lists // kv_heads).to(tl.int64)
    m = tl.program_id(0) % tiles * BM + tl.arange(0, BM)
    token, head = i * QUERY_BLOCK + m // GROUP, h * GROUP + m % GROUP
    inside = (m < QUERY_BLOCK * GROUP) & (token < queries)
    place = place_of(lists, heads_listed, sequences_listed, i, b, h)
    q_tile = gather_tile(q + b * q_batch + head[:, None] * D, token, inside, q_token, D, BD)
    total = tl.zeros([BM, BDV], tl.float32)
    weight = tl.zeros([BM], tl.float32)
    peak = tl.full([BM], float("-inf"), tl.float32)
    end = tl.load(slots + place) * BLOCK
    k_from, v_from = k + b * k_batch + h * k_head, v + b * v_batch + h * v_head
    for start in tl.range(0, end, BN):
        cols, exists = listed_keys(entries + place * capacity, start, end, keys, BLOCK, BN)
        k_tile = gather_tile(k_from, cols, exists, k_token, D, BD)
        v_tile = gather_tile(v_from, cols, exists, v_token, DV, BDV)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
        sees = exists[None, :]
        if CAUSAL:
            sees = sees & (cols[None, :] <= token[:, None] + keys - queries)
        scores = tl.where(sees, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        # A row that has seen no key yet has peak -inf, and -inf - -inf would be NaN.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        p = tl.exp2(scores - base[:, None])
        decay = tl.exp2(peak - base)
        total = tl.dot(p.to(v_tile.dtype), v_tile, total * decay[:, None], input_precision=PRECISION)
        weight = weight * decay + tl.sum(p, 1)
        peak = new_peak
    empty = weight == 0.0
    weight = tl.where(empty, 1.0, weight)
    row = (b * queries + token) * (kv_heads * GROUP) + head
    dims = tl.arange(0, BDV)
    target = o + row.to(tl.int64)[:, None] * DV + dims[None, :]
    tl.store(target, (total / weight[:, None]).to(o.dtype.element_ty), mask=inside[:, None] & (dims < DV)[None, :])
    tl.store(lse + row, tl.where(empty, float("-inf"), (peak + tl.log2(weight)) * LN_2), mask=inside)


@triton.jit(do_not_specialize=INTEGERS[:7])
def sparse_dq_kernel(
    q, k, v, entries, slots, o, lse, do, dlse, dq, delta, queries, keys, kv_heads, lists, capacity, heads_listed,
    sequences_listed, q_batch, q_token, k_batch, k_token, k_head, v_batch, v_token, v_head, scale, scale_log2,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, GROUP: tl.constexpr,
    QUERY_BLOCK: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq for BM rows of one list, and delta = sum(o do) - dlse, [B, Tq, Hq], which the other kernel reads."""
    tiles = tl.cdiv(QUERY_BLOCK * GROUP, BM)
    i = lists - 1 - tl.program_id(0) // tiles % lists
    h = tl.program_id(0) // tiles // lists % kv_heads
    b = (tl.program_id(0) // tiles // lists // kv_heads).to(tl.int64)
    m = tl.program_id(0) % tiles * BM + tl.arange(0, BM)
    token, head = i * QUERY_BLOCK + m // GROUP, h * GROUP + m % GROUP
    inside = (m < QUERY_BLOCK * GROUP) & (token < queries)
    place = place_of(lists, heads_listed, sequences_listed, i, b, h)
    row = (b * queries + token) * (kv_heads * GROUP) + head
    q_tile = gather_tile(q + b * q_batch + head[:, None] * D, token, inside, q_token, D, BD)
    do_tile = gather_tile(do, row, inside, DV, DV, BDV)
    o_tile = gather_tile(o, row, inside, DV, DV, BDV)
    delta_row = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    delta_row -= tl.load(dlse + row, mask=inside, other=0.0)
    tl.store(delta + row, delta_row, mask=inside)
    lse_row = tl.load(lse + row, mask=inside, other=float("-inf"))
    lse_row = tl.where(lse_row == float("-inf"), float("inf"), lse_row * LOG2_E)
    grad = tl.zeros([BM, BD], tl.float32)
    end = tl.load(slots + place) * BLOCK
    k_from, v_from = k + b * k_batch + h * k_head, v + b * v_batch + h * v_head
    for start in tl.range(0, end, BN):
        cols, exists = listed_keys(entries + place * capacity, start, end, keys, BLOCK, BN)
        k_tile = gather_tile(k_from, cols, exists, k_token, D, BD)
        v_tile = gather_tile(v_from, cols, exists, v_token, DV, BDV)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
        sees = exists[None, :]
        if CAUSAL:
            sees = sees & (cols[None, :] <= token[:, None] + keys - queries)
        p = tl.where(sees, tl.exp2(scores - lse_row[:, None]), 0.0)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
        ds = p * (dp - delta_row[:, None])
        grad = tl.dot(ds.to(k_tile.dtype), k_tile, grad, input_precision=PRECISION)
    dims = tl.arange(0, BD)
    target = dq + row.to(tl.int64)[:, None] * D + dims[None, :]
    tl.store(target, (grad * scale).to(dq.dtype.element_ty), mask=inside[:, None] & (dims < D)[None, :])


@triton.jit
def sequence_and_head(listed, kv_heads, heads_listed, sequences_listed):
    """The sequence and the key head of a program of the grid (_, those that share lists, ..): they share the inverse of
    their lists, `listed` of [sequences_listed, heads_listed]."""
    shared_heads = kv_heads // heads_listed
    b = (listed // heads_listed + tl.program_id(1) // shared_heads * sequences_listed).to(tl.int64)
    return b, listed % heads_listed + tl.program_id(1) % shared_heads * heads_listed


@triton.jit(
    do_not_specialize=["queries", "keys", "kv_heads", "heads_listed", "sequences_listed", "rows", "runs", "chunk"]
)
def sparse_dkv_kernel(
    q, k, v, lse, delta, do, dk, dv, partial_dk, partial_dv, members, bits, starts, row_of_chunk, chunk_starts,
    partial_starts, queries, keys, kv_heads, heads_listed, sequences_listed, rows, runs, chunk,
    q_batch, q_token, k_batch, k_token, k_head, v_batch, v_token, v_head, scale, scale_log2,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, GROUP: tl.constexpr,
    QUERY_BLOCK: tl.constexpr, BLOCK: tl.constexpr, JOINED: tl.constexpr, CAUSAL: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv for BN keys of a run and one chunk of the lists that name it."""
    row = tl.load(row_of_chunk + tl.program_id(0))
    if row >= rows:
        return
    b, h = sequence_and_head(row // runs, kv_heads, heads_listed, sequences_listed)
    n = tl.program_id(2) * BN + tl.arange(0, BN)  # within the run
    cols = row % runs * (JOINED * BLOCK) + n
    exists = (n < JOINED * BLOCK) & (cols < keys)
    k_tile = gather_tile(k + b * k_batch + h * k_head, cols, exists, k_token, D, BD)
    v_tile = gather_tile(v + b * v_batch + h * v_head, cols, exists, v_token, DV, BDV)
    nth = tl.program_id(0) - tl.load(chunk_starts + row)
    first = tl.load(starts + row) + nth * chunk
    count = tl.minimum(tl.load(starts + row + 1) - first, chunk) * (QUERY_BLOCK * GROUP)
    k_grad = tl.zeros([BN, BD], tl.float32)
    v_grad = tl.zeros([BN, BDV], tl.float32)
    for start in tl.range(0, count, BM):
        m = start + tl.arange(0, BM)
        member = first + m // (QUERY_BLOCK * GROUP)
        token = tl.load(members + member, mask=m < count, other=0) * QUERY_BLOCK + m % (QUERY_BLOCK * GROUP) // GROUP
        head = h * GROUP + m % GROUP
        inside = (m < count) & (token < queries)
        at = (b * queries + token) * (kv_heads * GROUP) + head
        q_tile = gather_tile(q + b * q_batch + head[:, None] * D, token, inside, q_token, D, BD)
        do_tile = gather_tile(do, at, inside, DV, DV, BDV)
        lse_row = tl.load(lse + at, mask=inside, other=float("-inf"))
        lse_row = tl.where(lse_row == float("-inf"), float("inf"), lse_row * LOG2_E)
        delta_row = tl.load(delta + at, mask=inside, other=0.0)
        sees = exists[:, None] & inside[None, :]
        if JOINED > 1:
            named = tl.load(bits + member, mask=m < count, other=0)
            sees = sees & (((named[None, :] >> (n // BLOCK)[:, None]) & 1) != 0)
        if CAUSAL:
            sees = sees & (cols[:, None] <= token[None, :] + keys - queries)
        scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * scale_log2  # [BN, BM]
        p = tl.where(sees, tl.exp2(scores - lse_row[None, :]), 0.0)
        v_grad = tl.dot(p.to(do_tile.dtype), do_tile, v_grad, input_precision=PRECISION)
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
        ds = p * (dp - delta_row[None, :])
        k_grad = tl.dot(ds.to(q_tile.dtype), q_tile, k_grad, input_precision=PRECISION)
    k_grad *= scale
    dims, dims_v = tl.arange(0, BD), tl.arange(0, BDV)
    partial = tl.load(partial_starts + row)
    if tl.load(partial_starts + row + 1) > partial:
        at = ((partial + nth).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2)
        at = (at + tl.program_id(2)) * BN + tl.arange(0, BN)
        tl.store(partial_dk + at[:, None] * BD + dims[None, :], k_grad)
        tl.store(partial_dv + at[:, None] * BDV + dims_v[None, :], v_grad)
    else:
        at = (b * keys + cols) * kv_heads + h
        mask = exists[:, None] & (dims < D)[None, :]
        tl.store(dk + at[:, None] * D + dims[None, :], k_grad.to(dk.dtype.element_ty), mask=mask)
        mask = exists[:, None] & (dims_v < DV)[None, :]
        tl.store(dv + at[:, None] * DV + dims_v[None, :], v_grad.to(dv.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["keys", "kv_heads", "heads_listed", "sequences_listed", "runs"])
def sparse_sum_kernel(
    partial, grad, partial_starts, keys, kv_heads, heads_listed, sequences_listed, runs, RUN: tl.constexpr,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradient of keys whose lists came in chunks: the sums of the chunks in their order."""
    row = tl.program_id(0)
    low, high = tl.load(partial_starts + row), tl.load(partial_starts + row + 1)
    if low == high:
        return
    shared_heads = kv_heads // heads_listed
    b = (row // runs // heads_listed + tl.program_id(1) // shared_heads * sequences_listed).to(tl.int64)
    h = row // runs % heads_listed + tl.program_id(1) % shared_heads * heads_listed
    n, dims = tl.program_id(2) * BN + tl.arange(0, BN), tl.arange(0, BD)
    cols = row % runs * RUN + n
    total = tl.zeros([BN, BD], tl.float32)
    # Partial sums [chunks, sharing, tiles, BN, BD].
    at = (low.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    tile = partial + at * BN * BD + (tl.arange(0, BN)[:, None] * BD + dims[None, :])
    for _ in tl.range(low, high):
        total += tl.load(tile)
        tile += tl.num_programs(1) * tl.num_programs(2) * (BN * BD)
    target = grad + ((b * keys + cols) * kv_heads + h)[:, None] * D + dims[None, :]
    mask = ((n < RUN) & (cols < keys))[:, None] & (dims < D)[None, :]
    tl.store(target, total.to(grad.dtype.element_ty), mask=mask)
