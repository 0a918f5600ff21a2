"""The forward pass with the loop over keys outside: a program holds one block of keys and meets all lists that name it.

Where a list fills few rows, a block of keys weighs more than the queries that meet it: 64 keys and values of 128 are 32
KB, the 16 heads of one query 4 KB. Read once for many lists, the block costs next to nothing, and the queries fill
whole tiles. Each pair of list and block leaves an output and a log-sum-exp of its own, in the order of the inverted
lists; a second kernel weighs those of a list together, as the parts of a split cache are.

Source: Yan et al., FSA (arXiv 2508.18224), section 3, with outputs that are whole where they leave the first kernel.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._block_sparse_attention.gpu_kernels import LN_2, gather_tile, place_of, sequence_and_head

PAIRS_INTEGERS = ["queries", "keys", "kv_heads", "heads_listed", "sequences_listed", "rows", "runs", "chunk", "earlier"]
MERGE_INTEGERS = ["queries", "kv_heads", "lists", "capacity", "heads_listed", "sequences_listed", "sharing", "earlier"]


@triton.jit(do_not_specialize=PAIRS_INTEGERS)
def sparse_pairs_kernel(
    q, k, v, parts, part_lse, members, starts, row_of_chunk, chunk_starts,
    queries, keys, kv_heads, heads_listed, sequences_listed, rows, runs, chunk, earlier,
    q_batch, q_token, k_batch, k_token, k_head, v_batch, v_token, v_head, scale_log2,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, GROUP: tl.constexpr,
    QUERY_BLOCK: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one block of keys and one chunk of the lists that name it, of which `earlier` lists come before the
    first. parts [pairs, sharing, QUERY_BLOCK GROUP, DV]; part_lse [pairs, sharing, QUERY_BLOCK GROUP], in base 2."""
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
    dims = tl.arange(0, BDV)
    for start in tl.range(0, count, BM):
        m = start + tl.arange(0, BM)
        member, within = first + m // (QUERY_BLOCK * GROUP), m % (QUERY_BLOCK * GROUP)
        i = earlier + tl.load(members + member, mask=m < count, other=0)
        token = i * QUERY_BLOCK + within // GROUP
        inside = (m < count) & (token < queries)
        q_head = q + b * q_batch + (h * GROUP + within % GROUP)[:, None] * D
        q_tile = gather_tile(q_head, token, inside, q_token, D, BD)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
        sees = exists[None, :]
        if CAUSAL:
            sees = sees & (cols[None, :] <= token[:, None] + keys - queries)
        scores = tl.where(sees, scores, float("-inf"))
        peak = tl.max(scores, 1)
        base = tl.where(peak == float("-inf"), 0.0, peak)
        p = tl.exp2(scores - base[:, None])
        weight = tl.sum(p, 1)
        empty = weight == 0.0
        weight = tl.where(empty, 1.0, weight)
        out = tl.dot(p.to(v_tile.dtype), v_tile, input_precision=PRECISION) / weight[:, None]
        at = (member.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * (QUERY_BLOCK * GROUP) + within
        mask = (m < count)[:, None] & (dims < DV)[None, :]
        tl.store(parts + at[:, None] * DV + dims[None, :], out.to(parts.dtype.element_ty), mask=mask)
        tl.store(part_lse + at, tl.where(empty, float("-inf"), base + tl.log2(weight)), mask=m < count)


@triton.jit(do_not_specialize=MERGE_INTEGERS)
def sparse_merge_kernel(
    parts, part_lse, places, o, lse, queries, kv_heads, lists, capacity, heads_listed, sequences_listed, sharing,
    earlier, DV: tl.constexpr, BDV: tl.constexpr, GROUP: tl.constexpr, QUERY_BLOCK: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """One program: BM rows of one list, over its pairs, which lie at `places` [B or 1, lists, Hkv or 1, S], or nowhere
    where that is negative."""
    tiles = tl.cdiv(QUERY_BLOCK * GROUP, BM)
    i = tl.program_id(0) // tiles % lists
    h = tl.program_id(0) // tiles // lists % kv_heads
    b = (tl.program_id(0) // tiles // lists // kv_heads).to(tl.int64)
    m = tl.program_id(0) % tiles * BM + tl.arange(0, BM)
    token, head = (earlier + i) * QUERY_BLOCK + m // GROUP, h * GROUP + m % GROUP
    inside = (m < QUERY_BLOCK * GROUP) & (token < queries)
    share = b // sequences_listed * (kv_heads // heads_listed) + h // heads_listed
    dims = tl.arange(0, BDV)
    total = tl.zeros([BM, BDV], tl.float32)
    weight = tl.zeros([BM], tl.float32)
    peak = tl.full([BM], float("-inf"), tl.float32)
    entry = places + place_of(lists, heads_listed, sequences_listed, i, b, h) * capacity
    for _ in tl.range(0, capacity):
        place = tl.load(entry).to(tl.int64)
        entry += 1
        at = (place * sharing + share) * (QUERY_BLOCK * GROUP) + m
        counts = inside & (place >= 0)
        log_sum = tl.load(part_lse + at, mask=counts, other=float("-inf"))
        part = tl.load(parts + at[:, None] * DV + dims[None, :], mask=counts[:, None] & (dims < DV)[None, :], other=0.0)
        new_peak = tl.maximum(peak, log_sum)
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        own, decay = tl.exp2(log_sum - base), tl.exp2(peak - base)
        total = total * decay[:, None] + part.to(tl.float32) * own[:, None]
        weight = weight * decay + own
        peak = new_peak
    empty = weight == 0.0
    weight = tl.where(empty, 1.0, weight)
    row = (b * queries + token) * (kv_heads * GROUP) + head
    target = o + row.to(tl.int64)[:, None] * DV + dims[None, :]
    tl.store(target, (total / weight[:, None]).to(o.dtype.element_ty), mask=inside[:, None] & (dims < DV)[None, :])
    tl.store(lse + row, tl.where(empty, float("-inf"), (peak + tl.log2(weight)) * LN_2), mask=inside)
