"""The forward kernel of attention: one pass over the keys with a running softmax.

Source: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1. Scores are kept in base 2: the scale carries log2(e).
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._attention.gpu_tiles import key_range, load_tile, selected, store_tile, visible


@triton.jit
def fold_tile(total, weight, peak, q, k_tile, v_tile, sees, scale_log2, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """Fold one tile of keys into the running softmax: total [M, BD], weight [M], peak [M] (largest score so far)."""
    scores = tl.dot(q, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
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
def finish(total, weight, peak):
    """Output [M, BD] and log-sum-exp [M] in base 2; a row without a key has output 0 and log-sum-exp +inf."""
    empty = weight == 0.0
    weight = tl.where(empty, 1.0, weight)
    return total / weight[:, None], tl.where(empty, float("inf"), peak + tl.log2(weight))


@triton.jit
def _fold_keys(
    total, weight, peak, q_tile, k_head, v_head, low, high, first, k_token, v_token, keys, shift, window, scale_log2,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, MASKED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    rows = first + tl.arange(0, BM)[:, None]
    for start in tl.range(low, high, BN):
        cols = start + tl.arange(0, BN)[None, :]
        sees = visible(rows, cols, keys, shift, window, CAUSAL, WINDOWED)
        k_tile = load_tile(k_head, start, k_token, keys, BN, D, BD)
        v_tile = load_tile(v_head, start, v_token, keys, BN, D, BD)
        total, weight, peak = fold_tile(
            total, weight, peak, q_tile, k_tile, v_tile, sees, scale_log2, MASKED, PRECISION
        )
    return total, weight, peak


@triton.jit
def _fold_selected_keys(
    total, weight, peak, q_tile, k_head, v_head, mask, low, high, first, k_token, v_token, queries, keys, kv_heads,
    blocks, block_size, shift, window, scale_log2,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, ONE_BLOCK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    rows = first + tl.arange(0, BM)[:, None]
    for start in tl.range(low, high, BN):
        cols = start + tl.arange(0, BN)[None, :]
        # Where a tile lies in one block, one entry a row decides for it.
        chosen = selected(mask, rows, start + tl.zeros([1, 1], tl.int32) if ONE_BLOCK else cols, queries, kv_heads,
                          blocks, block_size)  # fmt: skip
        if tl.max(tl.max(chosen, 1), 0) > 0:
            sees = visible(rows, cols, keys, shift, window, CAUSAL, WINDOWED) & (chosen > 0)
            k_tile = load_tile(k_head, start, k_token, keys, BN, D, BD)
            v_tile = load_tile(v_head, start, v_token, keys, BN, D, BD)
            total, weight, peak = fold_tile(
                total, weight, peak, q_tile, k_tile, v_tile, sees, scale_log2, True, PRECISION
            )
    return total, weight, peak


RUNTIME_INTEGERS = [
    "q_batch", "q_token", "k_batch", "k_token", "v_batch", "v_token",
    "queries", "keys", "heads", "kv_heads", "window", "blocks", "block_size",
]  # fmt: skip


# Nothing is specialised on a length or a count: a new batch or sequence never compiles again.
@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def attention_fwd_kernel(
    q, k, v, block_mask, o, lse,
    q_batch, q_token, k_batch, k_token, v_batch, v_token,
    queries, keys, heads, kv_heads, window, blocks, block_size, scale_log2,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SELECTED: tl.constexpr, ONE_BLOCK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM queries of one head. q [B, Tq, Hq, D]; k, v [B, Tk, Hkv, D]; o like q; lse [B, Hq, Tq]."""
    tiles = tl.cdiv(queries, BM)
    # The last queries see the most keys: they start first, so that no long program runs alone at the end.
    first = (tiles - 1 - tl.program_id(0) % tiles) * BM
    sequence_head = tl.program_id(0) // tiles
    b = tl.cast(sequence_head // heads, tl.int64)
    h = sequence_head % heads
    kv_h = h // (heads // kv_heads)

    k_head = k + (b * k_batch + kv_h) * D
    v_head = v + (b * v_batch + kv_h) * D
    q_tile = load_tile(q + (b * q_batch + h) * D, first, q_token, queries, BM, D, BD)
    total = tl.zeros([BM, BD], tl.float32)
    weight = tl.zeros([BM], tl.float32)
    peak = tl.full([BM], float("-inf"), tl.float32)
    low, full, edge, high, shift = key_range(first, queries, keys, window, CAUSAL, WINDOWED, BM, BN)
    if SELECTED:
        mask = block_mask + (b * queries * kv_heads + kv_h) * blocks
        total, weight, peak = _fold_selected_keys(
            total, weight, peak, q_tile, k_head, v_head, mask, low, high, first, k_token, v_token, queries, keys,
            kv_heads, blocks, block_size, shift, window, scale_log2,
            D, CAUSAL, WINDOWED, ONE_BLOCK, BM, BN, BD, PRECISION,
        )  # fmt: skip
    else:
        if WINDOWED:
            total, weight, peak = _fold_keys(
                total, weight, peak, q_tile, k_head, v_head, low, full, first, k_token, v_token, keys, shift, window,
                scale_log2, D, CAUSAL, WINDOWED, True, BM, BN, BD, PRECISION,
            )  # fmt: skip
        total, weight, peak = _fold_keys(
            total, weight, peak, q_tile, k_head, v_head, full, edge, first, k_token, v_token, keys, shift, window,
            scale_log2, D, CAUSAL, WINDOWED, False, BM, BN, BD, PRECISION,
        )  # fmt: skip
        total, weight, peak = _fold_keys(
            total, weight, peak, q_tile, k_head, v_head, edge, high, first, k_token, v_token, keys, shift, window,
            scale_log2, D, CAUSAL, WINDOWED, True, BM, BN, BD, PRECISION,
        )  # fmt: skip
    out, log_sum = finish(total, weight, peak)
    store_tile(o + (b * queries * heads + h) * D, out, first, heads, queries, BM, D, BD)
    rows = first + tl.arange(0, BM)
    tl.store(lse + (b * heads + h) * queries + rows, log_sum, mask=rows < queries)
