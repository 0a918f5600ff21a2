"""The decode kernels of attention: one new token over a cache, split along the cache so that one sequence fills a GPU.

The query heads of a group are the rows of one tile, so that each key is read once for all of them. Each split writes
its own output and log-sum-exp; a second kernel weighs them together. How the slots are split follows from a length that
may lie on the device, so that one captured graph serves all lengths.

Source: Dao et al., Flash-Decoding (2023); the running softmax: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._attention.gpu_forward import finish, fold_tile, start_softmax
from kernels._attention.gpu_tiles import LOG2_E, load_rows, load_tail, load_tile, product, store_tile, tanh

STEP_INTEGERS = [
    "k_batch", "k_token", "v_batch", "v_token", "length", "length_stride", "slots", "heads", "kv_heads", "read",
    "listed_batch", "listed_head",
]  # fmt: skip


@triton.jit(do_not_specialize=STEP_INTEGERS)
def attention_step_kernel(
    q, k, v, keep, sink, bias, lengths, listed, o, lse,
    k_batch, k_token, v_batch, v_token, length, length_stride, slots, heads, kv_heads, read, listed_batch, listed_head,
    scale_log2, tanh_scale,
    D: tl.constexpr, V: tl.constexpr, KEEP: tl.constexpr, SINK: tl.constexpr, BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr, SHARED: tl.constexpr, LENGTHS: tl.constexpr, LISTED: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM query heads of one key head over one part of the slots.

    q [B, Hq, D]; k [B, S, Hkv, D]; v [B, S, Hkv, V], or SHARED the first V numbers of k, whose tile is then read once;
    keep [B, Hkv, S]; sink [Hq]; bias [B, Hq, S]; lengths one or [B]; listed [B or 1, Hkv or 1, read], LISTED the slots
    that are read instead of the first ones; o [B, splits, Hq, V]; lse [B, splits, Hq].
    """
    group = heads // kv_heads
    parts = tl.cdiv(group, BM)
    first = tl.program_id(0) % parts * BM
    sequence_head = tl.program_id(0) // parts
    b = tl.cast(sequence_head // kv_heads, tl.int64)
    kv_h = sequence_head % kv_heads
    if LENGTHS:
        length = tl.minimum(tl.load(lengths + b * length_stride), slots).to(tl.int32)
    count = length
    if LISTED:
        count = read
    split = tl.cdiv(tl.cdiv(count, tl.num_programs(1)), BN) * BN
    low = tl.program_id(1) * split
    high = tl.minimum(low + split, count)

    k_head = k + (b * k_batch + kv_h) * D
    v_head = v + (b * v_batch + kv_h) * V
    q_head = q + (b * heads + kv_h * group) * D
    q_tile = load_tile(q_head, first, 1, group, BM, D, BD)
    q_tail = load_tail(q_tile, q_head, first, 1, group, BM, D, BD, BT)
    rows = first + tl.arange(0, BM)
    logit = 0.0
    if SINK:
        # The first part counts the sinks; to the others they weigh nothing.
        logit = tl.load(sink + kv_h * group + rows, mask=rows < group, other=0.0).to(tl.float32)
        logit = tl.where(tl.program_id(1) == 0, logit, float("-inf"))
    total, weight, peak = start_softmax(logit, SINK, BM, BV)
    for start in tl.range(low, high, BN):
        cols = start + tl.arange(0, BN)
        sees = cols < high
        if LISTED:
            cols = tl.load(listed + b * listed_batch + kv_h * listed_head + cols, mask=sees, other=-1)
            sees = (cols >= 0) & (cols < length)
            cols = tl.where(sees, cols, 0)
        if KEEP:
            sees = tl.load(keep + (b * kv_heads + kv_h) * slots + cols, mask=sees, other=0) > 0
        if LISTED:
            k_tile = load_rows(k_head, cols, k_token, D, BD)
            k_tail = k_tile
            if BT > 0:
                k_tail = load_rows(k_head, cols, k_token, D, BT, BD)
        else:
            k_tile = load_tile(k_head, start, k_token, high, BN, D, BD)
            k_tail = load_tail(k_tile, k_head, start, k_token, high, BN, D, BD, BT)
        if SHARED and BV == BD:
            v_tile = k_tile
        elif SHARED and LISTED:
            v_tile = load_rows(k_head, cols, k_token, D, BV)
        elif LISTED:
            v_tile = load_rows(v_head, cols, v_token, V, BV)
        elif SHARED:
            v_tile = load_tile(k_head, start, k_token, high, BN, D, BV)
        else:
            v_tile = load_tile(v_head, start, v_token, high, BN, V, BV)
        scores = product(q_tile, q_tail, k_tile, k_tail, BT, PRECISION)
        if SOFTCAP:
            scores = tanh(scores * tanh_scale) * scale_log2
        else:
            scores = scores * scale_log2
        if BIAS:
            entries = (b * heads + kv_h * group + rows[:, None]) * slots + cols[None, :]
            inside = (rows < group)[:, None] & sees[None, :]
            scores += tl.load(bias + entries, mask=inside, other=0.0).to(tl.float32) * LOG2_E
        total, weight, peak = fold_tile(total, weight, peak, scores, v_tile, sees[None, :], True, PRECISION)
    out, log_sum = finish(total, weight, peak)
    partial = (b * tl.num_programs(1) + tl.program_id(1)) * heads + kv_h * group
    store_tile(o + partial * V, out, first, 1, group, BM, V, BV)
    tl.store(lse + partial + rows, log_sum, mask=rows < group)


@triton.jit(do_not_specialize=["splits", "heads"])
def attention_combine_kernel(
    partial, partial_lse, o, lse, splits, heads, D: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr
):
    """One program: one query head. partial [B, splits, Hq, D], partial_lse [B, splits, Hq]; o [B, Hq, D]; lse [B, Hq]
    in base 2."""
    b = tl.cast(tl.program_id(0) // heads, tl.int64)
    h = tl.program_id(0) % heads
    s = tl.arange(0, BS)
    log_sum = tl.load(partial_lse + (b * splits + s) * heads + h, mask=s < splits, other=float("inf"))
    # A split without a slot is marked by +inf and weighs nothing.
    log_sum = tl.where(log_sum == float("inf"), float("-inf"), log_sum)
    peak = tl.max(log_sum, 0)
    weight = tl.exp2(log_sum - tl.where(peak == float("-inf"), 0.0, peak))
    rows = load_tile(partial + (b * splits * heads + h) * D, 0, heads, splits, BS, D, BD)
    weights = tl.sum(weight, 0)
    total = tl.sum(rows * weight[:, None], 0) / tl.maximum(weights, 1e-30)
    dims = tl.arange(0, BD)
    tl.store(o + (b * heads + h) * D + dims, total.to(o.dtype.element_ty), mask=dims < D)
    empty = weights == 0.0
    tl.store(lse + b * heads + h, tl.where(empty, float("inf"), peak + tl.log2(tl.where(empty, 1.0, weights))))
