"""The backward kernels of attention: one for dq, one for dk and dv. No atomics, so that gradients repeat bit for bit.

Both recompute p = exp2(scores - lse). Where keys are the rows of the result, the transposed product is computed as
such (k qᵀ, not (q kᵀ)ᵀ) and only tiles fresh from memory are transposed: transposing a product that is then rounded to
16 bits is miscompiled for Hopper by Triton 3.4 to 3.7.

Source: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1.2, with the loops split into two kernels.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._attention.gpu_forward import RUNTIME_INTEGERS
from kernels._attention.gpu_tiles import key_range, load_tile, query_range, selected, store_tile, visible


@triton.jit
def _dq_over_keys(
    dq, q_tile, do_tile, lse_row, delta_row, k_head, v_head, mask, low, high, first, k_token, v_token, queries, keys,
    kv_heads, blocks, block_size, shift, window, scale_log2,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SELECTED: tl.constexpr, ONE_BLOCK: tl.constexpr,
    MASKED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    rows = first + tl.arange(0, BM)[:, None]
    for start in tl.range(low, high, BN):
        cols = start + tl.arange(0, BN)[None, :]
        sees = visible(rows, cols, keys, shift, window, CAUSAL, WINDOWED)
        if SELECTED:
            chosen = selected(mask, rows, start + tl.zeros([1, 1], tl.int32) if ONE_BLOCK else cols, queries, kv_heads,
                              blocks, block_size)  # fmt: skip
            if tl.max(tl.max(chosen, 1), 0) > 0:
                dq = _dq_of_tile(dq, q_tile, do_tile, lse_row, delta_row, k_head, v_head, start, k_token, v_token, keys,
                                 sees & (chosen > 0), scale_log2, D, MASKED, BN, BD, PRECISION)  # fmt: skip
        else:
            dq = _dq_of_tile(dq, q_tile, do_tile, lse_row, delta_row, k_head, v_head, start, k_token, v_token, keys,
                             sees, scale_log2, D, MASKED, BN, BD, PRECISION)  # fmt: skip
    return dq


@triton.jit
def _dq_of_tile(
    dq, q_tile, do_tile, lse_row, delta_row, k_head, v_head, start, k_token, v_token, keys, sees, scale_log2,
    D: tl.constexpr, MASKED: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    k_tile = load_tile(k_head, start, k_token, keys, BN, D, BD)
    v_tile = load_tile(v_head, start, v_token, keys, BN, D, BD)
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
    p = tl.exp2(scores - lse_row[:, None])
    if MASKED:
        p = tl.where(sees, p, 0.0)
    dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
    ds = p * (dp - delta_row[:, None])
    return tl.dot(ds.to(k_tile.dtype), k_tile, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def attention_bwd_dq_kernel(
    q, k, v, block_mask, o, lse, do, dq, delta,
    q_batch, q_token, k_batch, k_token, v_batch, v_token,
    queries, keys, heads, kv_heads, window, blocks, block_size, scale, scale_log2,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SELECTED: tl.constexpr, ONE_BLOCK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dq for BM queries of one head, and delta = sum(o do), [B, Hq, Tq], which the other kernel reads."""
    tiles = tl.cdiv(queries, BM)
    first = (tiles - 1 - tl.program_id(0) % tiles) * BM
    sequence_head = tl.program_id(0) // tiles
    b = tl.cast(sequence_head // heads, tl.int64)
    h = sequence_head % heads
    kv_h = h // (heads // kv_heads)

    out_head = (b * queries * heads + h) * D
    stat_head = (b * heads + h) * queries
    rows = first + tl.arange(0, BM)
    q_tile = load_tile(q + (b * q_batch + h) * D, first, q_token, queries, BM, D, BD)
    do_tile = load_tile(do + out_head, first, heads, queries, BM, D, BD)
    o_tile = load_tile(o + out_head, first, heads, queries, BM, D, BD)
    delta_row = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    tl.store(delta + stat_head + rows, delta_row, mask=rows < queries)
    lse_row = tl.load(lse + stat_head + rows, mask=rows < queries, other=float("inf"))

    k_head = k + (b * k_batch + kv_h) * D
    v_head = v + (b * v_batch + kv_h) * D
    mask = block_mask
    if SELECTED:
        mask = block_mask + (b * queries * kv_heads + kv_h) * blocks
    low, full, edge, high, shift = key_range(first, queries, keys, window, CAUSAL, WINDOWED, BM, BN)
    grad = tl.zeros([BM, BD], tl.float32)
    if SELECTED or WINDOWED:
        grad = _dq_over_keys(
            grad, q_tile, do_tile, lse_row, delta_row, k_head, v_head, mask, low, high if SELECTED else full, first,
            k_token, v_token, queries, keys, kv_heads, blocks, block_size, shift, window, scale_log2,
            D, CAUSAL, WINDOWED, SELECTED, ONE_BLOCK, True, BM, BN, BD, PRECISION,
        )  # fmt: skip
    if not SELECTED:
        grad = _dq_over_keys(
            grad, q_tile, do_tile, lse_row, delta_row, k_head, v_head, mask, full, edge, first,
            k_token, v_token, queries, keys, kv_heads, blocks, block_size, shift, window, scale_log2,
            D, CAUSAL, WINDOWED, SELECTED, ONE_BLOCK, False, BM, BN, BD, PRECISION,
        )  # fmt: skip
        grad = _dq_over_keys(
            grad, q_tile, do_tile, lse_row, delta_row, k_head, v_head, mask, edge, high, first,
            k_token, v_token, queries, keys, kv_heads, blocks, block_size, shift, window, scale_log2,
            D, CAUSAL, WINDOWED, SELECTED, ONE_BLOCK, True, BM, BN, BD, PRECISION,
        )  # fmt: skip
    store_tile(dq + out_head, grad * scale, first, heads, queries, BM, D, BD)


@triton.jit
def _dkv_of_tile(
    dk, dv, k_tile, v_tile, q_head, do_head, lse_head, delta_head, start, q_token, heads, queries, sees, scale_log2,
    D: tl.constexpr, MASKED: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    rows = start + tl.arange(0, BM)
    q_tile = load_tile(q_head, start, q_token, queries, BM, D, BD)
    do_tile = load_tile(do_head, start, heads, queries, BM, D, BD)
    lse_row = tl.load(lse_head + rows, mask=rows < queries, other=float("inf"))
    delta_row = tl.load(delta_head + rows, mask=rows < queries, other=0.0)
    scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * scale_log2  # [BN, BM]
    p = tl.exp2(scores - lse_row[None, :])
    if MASKED:
        p = tl.where(sees, p, 0.0)
    dv = tl.dot(p.to(do_tile.dtype), do_tile, dv, input_precision=PRECISION)
    dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
    ds = p * (dp - delta_row[None, :])
    return tl.dot(ds.to(q_tile.dtype), q_tile, dk, input_precision=PRECISION), dv


@triton.jit
def _dkv_over_queries(
    dk, dv, k_tile, v_tile, q_group, do_group, lse_group, delta_group, mask, low, high, first, q_token, heads, kv_heads,
    queries, keys, blocks, block_size, shift, window, scale_log2,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SELECTED: tl.constexpr, ONE_BLOCK: tl.constexpr,
    MASKED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    cols = first + tl.arange(0, BN)[:, None]
    # One loop over the tiles of all heads of the group: a loop inside a loop costs registers.
    tiles = tl.cdiv(tl.maximum(high - low, 0), BM)
    for i in tl.range(0, tiles * (heads // kv_heads)):
        h = i // tiles
        start = low + i % tiles * BM
        q_head, do_head = q_group + h * D, do_group + h * D
        lse_head, delta_head = lse_group + h * queries, delta_group + h * queries
        rows = start + tl.arange(0, BM)[None, :]
        sees = visible(rows, cols, keys, shift, window, CAUSAL, WINDOWED)
        if SELECTED:
            chosen = selected(mask, rows, first + tl.zeros([1, 1], tl.int32) if ONE_BLOCK else cols, queries, kv_heads,
                              blocks, block_size)  # fmt: skip
            if tl.max(tl.max(chosen, 1), 0) > 0:
                dk, dv = _dkv_of_tile(dk, dv, k_tile, v_tile, q_head, do_head, lse_head, delta_head, start, q_token,
                                      heads, queries, sees & (chosen > 0), scale_log2, D, MASKED, BM, BD,
                                      PRECISION)  # fmt: skip
        else:
            dk, dv = _dkv_of_tile(dk, dv, k_tile, v_tile, q_head, do_head, lse_head, delta_head, start, q_token,
                                  heads, queries, sees, scale_log2, D, MASKED, BM, BD, PRECISION)  # fmt: skip
    return dk, dv


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def attention_bwd_dkv_kernel(
    q, k, v, block_mask, lse, do, delta, dk, dv,
    q_batch, q_token, k_batch, k_token, v_batch, v_token,
    queries, keys, heads, kv_heads, window, blocks, block_size, scale, scale_log2,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SELECTED: tl.constexpr, ONE_BLOCK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv for BN keys of one key head, summed over the query heads that read it, in order."""
    tiles = tl.cdiv(keys, BN)
    first = tl.program_id(0) % tiles * BN
    sequence_head = tl.program_id(0) // tiles
    b = tl.cast(sequence_head // kv_heads, tl.int64)
    kv_h = sequence_head % kv_heads
    group = heads // kv_heads

    k_tile = load_tile(k + (b * k_batch + kv_h) * D, first, k_token, keys, BN, D, BD)
    v_tile = load_tile(v + (b * v_batch + kv_h) * D, first, v_token, keys, BN, D, BD)
    mask = block_mask
    if SELECTED:
        mask = block_mask + (b * queries * kv_heads + kv_h) * blocks
    low, full, edge, high, shift = query_range(first, queries, keys, window, CAUSAL, WINDOWED, BM, BN)
    k_grad = tl.zeros([BN, BD], tl.float32)
    v_grad = tl.zeros([BN, BD], tl.float32)
    q_group = q + (b * q_batch + kv_h * group) * D
    do_group = do + (b * queries * heads + kv_h * group) * D
    lse_group = lse + (b * heads + kv_h * group) * queries
    delta_group = delta + (b * heads + kv_h * group) * queries
    k_grad, v_grad = _dkv_over_queries(
        k_grad, v_grad, k_tile, v_tile, q_group, do_group, lse_group, delta_group, mask, low,
        high if SELECTED else full, first, q_token, heads, kv_heads, queries, keys, blocks, block_size, shift,
        window, scale_log2, D, CAUSAL, WINDOWED, SELECTED, ONE_BLOCK, True, BM, BN, BD, PRECISION,
    )  # fmt: skip
    if not SELECTED:
        k_grad, v_grad = _dkv_over_queries(
            k_grad, v_grad, k_tile, v_tile, q_group, do_group, lse_group, delta_group, mask, full, edge, first,
            q_token, heads, kv_heads, queries, keys, blocks, block_size, shift, window, scale_log2,
            D, CAUSAL, WINDOWED, SELECTED, ONE_BLOCK, False, BM, BN, BD, PRECISION,
        )  # fmt: skip
    if WINDOWED and not SELECTED:
        k_grad, v_grad = _dkv_over_queries(
            k_grad, v_grad, k_tile, v_tile, q_group, do_group, lse_group, delta_group, mask, edge, high, first,
            q_token, heads, kv_heads, queries, keys, blocks, block_size, shift, window, scale_log2,
            D, CAUSAL, WINDOWED, SELECTED, ONE_BLOCK, True, BM, BN, BD, PRECISION,
        )  # fmt: skip
    out_head = (b * keys * kv_heads + kv_h) * D
    store_tile(dk + out_head, k_grad * scale, first, kv_heads, keys, BN, D, BD)
    store_tile(dv + out_head, v_grad, first, kv_heads, keys, BN, D, BD)
