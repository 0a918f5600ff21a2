"""The forward kernel of attention: one pass over the keys with a running softmax.

Source: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1. Scores are kept in base 2: the scale carries log2(e).
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._attention.gpu_tiles import (
    LOG2_E,
    key_range,
    load_tail,
    load_tile,
    product,
    store_tile,
    tanh,
    visible,
)


@triton.jit
def fold_tile(total, weight, peak, scores, v_tile, sees, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """Fold the scores [M, N] of one tile of keys, in base 2, into the running softmax: total [M, BV], weight [M],
    peak [M] (largest score so far)."""
    if MASKED:
        scores = tl.where(sees, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    base = new_peak
    if MASKED:
        # A row that has seen no key yet has peak -inf, and -inf - -inf would be NaN.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    p = tl.exp2(scores - base[:, None])
    decay = tl.exp2(peak - base)
    total = tl.dot(p.to(v_tile.dtype), v_tile, total * decay[:, None], input_precision=PRECISION)
    return total, weight * decay + tl.sum(p, 1), new_peak


@triton.jit
def start_softmax(logit, SINK: tl.constexpr, M: tl.constexpr, BV: tl.constexpr):
    """The running softmax before the first key: empty, or with sinks of these logits, whose value is zero."""
    total = tl.zeros([M, BV], tl.float32)
    weight = tl.zeros([M], tl.float32)
    peak = tl.full([M], float("-inf"), tl.float32)
    if SINK:
        peak = tl.zeros([M], tl.float32) + logit * LOG2_E
        weight += 1.0
    return total, weight, peak


@triton.jit
def finish(total, weight, peak):
    """Output [M, BV] and log-sum-exp [M] in base 2; a row without a key has output 0 and log-sum-exp +inf."""
    empty = weight == 0.0
    weight = tl.where(empty, 1.0, weight)
    return total / weight[:, None], tl.where(empty, float("inf"), peak + tl.log2(weight))


@triton.jit
def _fold_keys(
    total, weight, peak, q_tile, q_tail, k_head, v_head, c_row, c_head, low, high, first, k_token, v_token, queries,
    keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D: tl.constexpr, V: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr, SOFTCAP: tl.constexpr, FORGET: tl.constexpr,
    MASKED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    rows = first + tl.arange(0, BM)[:, None]
    for start in tl.range(low, high, BN):
        cols = start + tl.arange(0, BN)
        sees = visible(rows, cols[None, :], keys, shift, window, num_global, prefix, CAUSAL, WINDOWED, GLOBAL)
        k_tile = load_tile(k_head, start, k_token, keys, BN, D, BD)
        k_tail = load_tail(k_tile, k_head, start, k_token, keys, BN, D, BD, BT)
        v_tile = load_tile(v_head, start, v_token, keys, BN, V, BV)
        scores = product(q_tile, q_tail, k_tile, k_tail, BT, PRECISION)
        if SOFTCAP:
            scores = tanh(scores * tanh_scale) * scale_log2
        else:
            scores = scores * scale_log2
        if FORGET:
            c_col = tl.load(c_head + cols, mask=cols < keys, other=0.0) * LOG2_E
            scores += c_row[:, None] - c_col[None, :]
        total, weight, peak = fold_tile(total, weight, peak, scores, v_tile, sees, MASKED, PRECISION)
    return total, weight, peak


RUNTIME_INTEGERS = [
    "q_batch", "q_token", "k_batch", "k_token", "v_batch", "v_token",
    "queries", "keys", "heads", "kv_heads", "window", "num_global", "prefix",
]  # fmt: skip


# Nothing is specialised on a length or a count: a new batch or sequence never compiles again.
@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def attention_fwd_kernel(
    q, k, v, sink, forgotten, o, lse,
    q_batch, q_token, k_batch, k_token, v_batch, v_token,
    queries, keys, heads, kv_heads, window, num_global, prefix, scale_log2, tanh_scale,
    D: tl.constexpr, V: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr,
    SOFTCAP: tl.constexpr, SINK: tl.constexpr, FORGET: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM queries of one head. q [B, Tq, Hq, D]; k [B, Tk, Hkv, D]; v [B, Tk, Hkv, V]; sink [Hq];
    forgotten [B, Hq, Tk], running sums of log forget gates; o [B, Tq, Hq, V]; lse [B, Hq, Tq]."""
    tiles = tl.cdiv(queries, BM)
    # The last queries see the most keys: they start first, so that no long program runs alone at the end.
    first = (tiles - 1 - tl.program_id(0) % tiles) * BM
    sequence_head = tl.program_id(0) // tiles
    b = tl.cast(sequence_head // heads, tl.int64)
    h = sequence_head % heads
    kv_h = h // (heads // kv_heads)

    k_head = k + (b * k_batch + kv_h) * D
    v_head = v + (b * v_batch + kv_h) * V
    q_head = q + (b * q_batch + h) * D
    q_tile = load_tile(q_head, first, q_token, queries, BM, D, BD)
    q_tail = load_tail(q_tile, q_head, first, q_token, queries, BM, D, BD, BT)
    rows = first + tl.arange(0, BM)
    low, full, edge, high, shift = key_range(first, queries, keys, window, prefix, CAUSAL, WINDOWED, GLOBAL, BM, BN)
    c_head, c_row, logit = forgotten, first, 0.0
    if SINK:
        logit = tl.load(sink + h).to(tl.float32)
    if FORGET:
        c_head = forgotten + (b * heads + h) * keys
        c_row = tl.load(c_head + shift + rows, mask=rows < queries, other=0.0) * LOG2_E
    total, weight, peak = start_softmax(logit, SINK, BM, BV)
    if GLOBAL and WINDOWED:
        total, weight, peak = _fold_keys(
            total, weight, peak, q_tile, q_tail, k_head, v_head, c_row, c_head, 0, tl.minimum(num_global, low), first,
            k_token, v_token, queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D, V, CAUSAL,
            WINDOWED, GLOBAL, SOFTCAP, FORGET, True, BM, BN, BD, BT, BV, PRECISION,
        )  # fmt: skip
    if WINDOWED:
        total, weight, peak = _fold_keys(
            total, weight, peak, q_tile, q_tail, k_head, v_head, c_row, c_head, low, full, first, k_token, v_token,
            queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D, V, CAUSAL, WINDOWED, GLOBAL,
            SOFTCAP, FORGET, True, BM, BN, BD, BT, BV, PRECISION,
        )  # fmt: skip
    total, weight, peak = _fold_keys(
        total, weight, peak, q_tile, q_tail, k_head, v_head, c_row, c_head, full, edge, first, k_token, v_token,
        queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D, V, CAUSAL, WINDOWED, GLOBAL,
        SOFTCAP, FORGET, False, BM, BN, BD, BT, BV, PRECISION,
    )  # fmt: skip
    total, weight, peak = _fold_keys(
        total, weight, peak, q_tile, q_tail, k_head, v_head, c_row, c_head, edge, high, first, k_token, v_token,
        queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D, V, CAUSAL, WINDOWED, GLOBAL,
        SOFTCAP, FORGET, True, BM, BN, BD, BT, BV, PRECISION,
    )  # fmt: skip
    out, log_sum = finish(total, weight, peak)
    store_tile(o + (b * queries * heads + h) * V, out, first, heads, queries, BM, V, BV)
    tl.store(lse + (b * heads + h) * queries + rows, log_sum, mask=rows < queries)
