"""The backward kernels of attention: one for dq, one for dk and dv. No atomics, so that gradients repeat bit for bit.

Both recompute p = exp2(scores - lse). Where keys are the rows of the result, the transposed product is computed as
such (k qᵀ, not (q kᵀ)ᵀ) and only tiles fresh from memory are transposed: transposing a product that is then rounded to
16 bits is miscompiled for Hopper by Triton 3.4 to 3.7.

With a cap, scores are c tanh(s / c), and the tanh t gives the slope 1 - t². Gradients of sinks need no kernel, and
those of forget gates only the sums of ds over queries, which the second kernel has at hand.

Source: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1.2, with the loops split into two kernels.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._attention.gpu_forward import RUNTIME_INTEGERS
from kernels._attention.gpu_tiles import (
    LOG2_E,
    key_range,
    load_tail,
    load_tile,
    product,
    query_range,
    store_tile,
    tanh,
    visible,
)


@triton.jit
def _dq_over_keys(
    dq, dq_tail, q_tile, q_tail, do_tile, lse_row, delta_row, k_head, v_head, c_row, c_head, low, high, first, k_token,
    v_token, queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D: tl.constexpr, V: tl.constexpr,
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
            slope = tanh(scores * tanh_scale)
            scores = slope * scale_log2
            slope = 1.0 - slope * slope
        else:
            scores = scores * scale_log2
        if FORGET:
            c_col = tl.load(c_head + cols, mask=cols < keys, other=0.0) * LOG2_E
            scores += c_row[:, None] - c_col[None, :]
        p = tl.exp2(scores - lse_row[:, None])
        if MASKED:
            p = tl.where(sees, p, 0.0)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
        ds = p * (dp - delta_row[:, None])
        if SOFTCAP:
            ds = ds * slope
        ds = ds.to(k_tile.dtype)
        if BT > 0:
            dq_tail = tl.dot(ds, k_tail, dq_tail, input_precision=PRECISION)
        dq = tl.dot(ds, k_tile, dq, input_precision=PRECISION)
    return dq, dq_tail


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def attention_bwd_dq_kernel(
    q, k, v, forgotten, o, lse, do, dlse, dq, delta,
    q_batch, q_token, k_batch, k_token, v_batch, v_token,
    queries, keys, heads, kv_heads, window, num_global, prefix, scale, scale_log2, tanh_scale,
    D: tl.constexpr, V: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr,
    SOFTCAP: tl.constexpr, FORGET: tl.constexpr, DLSE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dq for BM queries of one head, and delta, [B, Hq, Tq], which the other kernel reads: sum(o do) less
    the gradient dlse of the natural log-sum-exp, where there is one."""
    tiles = tl.cdiv(queries, BM)
    first = (tiles - 1 - tl.program_id(0) % tiles) * BM
    sequence_head = tl.program_id(0) // tiles
    b = tl.cast(sequence_head // heads, tl.int64)
    h = sequence_head % heads
    kv_h = h // (heads // kv_heads)

    out_head = (b * queries * heads + h) * V
    stat_head = (b * heads + h) * queries
    rows = first + tl.arange(0, BM)
    q_head = q + (b * q_batch + h) * D
    q_tile = load_tile(q_head, first, q_token, queries, BM, D, BD)
    q_tail = load_tail(q_tile, q_head, first, q_token, queries, BM, D, BD, BT)
    do_tile = load_tile(do + out_head, first, heads, queries, BM, V, BV)
    o_tile = load_tile(o + out_head, first, heads, queries, BM, V, BV)
    delta_row = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    if DLSE:
        delta_row -= tl.load(dlse + stat_head + rows, mask=rows < queries, other=0.0)
    tl.store(delta + stat_head + rows, delta_row, mask=rows < queries)
    lse_row = tl.load(lse + stat_head + rows, mask=rows < queries, other=float("inf"))

    k_head = k + (b * k_batch + kv_h) * D
    v_head = v + (b * v_batch + kv_h) * V
    low, full, edge, high, shift = key_range(first, queries, keys, window, prefix, CAUSAL, WINDOWED, GLOBAL, BM, BN)
    c_head, c_row = forgotten, first
    if FORGET:
        c_head = forgotten + (b * heads + h) * keys
        c_row = tl.load(c_head + shift + rows, mask=rows < queries, other=0.0) * LOG2_E
    grad = tl.zeros([BM, BD], tl.float32)
    tail = tl.zeros([1], tl.float32)
    if BT > 0:
        tail = tl.zeros([BM, BT], tl.float32)
    if GLOBAL and WINDOWED:
        grad, tail = _dq_over_keys(
            grad, tail, q_tile, q_tail, do_tile, lse_row, delta_row, k_head, v_head, c_row, c_head, 0,
            tl.minimum(num_global, low), first, k_token, v_token, queries, keys, shift, window, num_global, prefix,
            scale_log2, tanh_scale, D, V, CAUSAL, WINDOWED, GLOBAL, SOFTCAP, FORGET, True, BM, BN, BD, BT, BV,
            PRECISION,
        )  # fmt: skip
    if WINDOWED:
        grad, tail = _dq_over_keys(
            grad, tail, q_tile, q_tail, do_tile, lse_row, delta_row, k_head, v_head, c_row, c_head, low, full, first,
            k_token, v_token, queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D, V, CAUSAL,
            WINDOWED, GLOBAL, SOFTCAP, FORGET, True, BM, BN, BD, BT, BV, PRECISION,
        )  # fmt: skip
    grad, tail = _dq_over_keys(
        grad, tail, q_tile, q_tail, do_tile, lse_row, delta_row, k_head, v_head, c_row, c_head, full, edge, first,
        k_token, v_token, queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D, V, CAUSAL,
        WINDOWED, GLOBAL, SOFTCAP, FORGET, False, BM, BN, BD, BT, BV, PRECISION,
    )  # fmt: skip
    grad, tail = _dq_over_keys(
        grad, tail, q_tile, q_tail, do_tile, lse_row, delta_row, k_head, v_head, c_row, c_head, edge, high, first,
        k_token, v_token, queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale, D, V, CAUSAL,
        WINDOWED, GLOBAL, SOFTCAP, FORGET, True, BM, BN, BD, BT, BV, PRECISION,
    )  # fmt: skip
    dq_head = dq + (b * queries * heads + h) * D
    store_tile(dq_head, grad * scale, first, heads, queries, BM, D, BD)
    if BT > 0:
        store_tile(dq_head, tail * scale, first, heads, queries, BM, D, BT, BD)


@triton.jit
def _dkv_over_queries(
    dk, dk_tail, dv, dc, k_tile, k_tail, v_tile, q_group, do_group, lse_group, delta_group, c_col, c_head, low, high,
    first, q_token, heads, readers, queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale,
    D: tl.constexpr, V: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr,
    SOFTCAP: tl.constexpr, FORGET: tl.constexpr, MASKED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    cols = first + tl.arange(0, BN)[:, None]
    # One loop over the tiles of all heads of the group: a loop inside a loop costs registers.
    tiles = tl.cdiv(tl.maximum(high - low, 0), BM)
    for i in tl.range(0, tiles * readers):
        h = i // tiles
        start = low + i % tiles * BM
        q_head, do_head = q_group + h * D, do_group + h * V
        lse_head, delta_head = lse_group + h * queries, delta_group + h * queries
        rows = start + tl.arange(0, BM)
        sees = visible(rows[None, :], cols, keys, shift, window, num_global, prefix, CAUSAL, WINDOWED, GLOBAL)
        q_tile = load_tile(q_head, start, q_token, queries, BM, D, BD)
        q_tail = load_tail(q_tile, q_head, start, q_token, queries, BM, D, BD, BT)
        do_tile = load_tile(do_head, start, heads, queries, BM, V, BV)
        lse_row = tl.load(lse_head + rows, mask=rows < queries, other=float("inf"))
        delta_row = tl.load(delta_head + rows, mask=rows < queries, other=0.0)
        scores = product(k_tile, k_tail, q_tile, q_tail, BT, PRECISION)  # [BN, BM]
        if SOFTCAP:
            slope = tanh(scores * tanh_scale)
            scores = slope * scale_log2
            slope = 1.0 - slope * slope
        else:
            scores = scores * scale_log2
        if FORGET:
            c_row = tl.load(c_head + shift + rows, mask=rows < queries, other=0.0) * LOG2_E
            scores += c_row[None, :] - c_col[:, None]
        p = tl.exp2(scores - lse_row[None, :])
        if MASKED:
            p = tl.where(sees, p, 0.0)
        dv = tl.dot(p.to(do_tile.dtype), do_tile, dv, input_precision=PRECISION)
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
        ds = p * (dp - delta_row[None, :])
        if FORGET:
            dc -= tl.sum(ds, 1)
        if SOFTCAP:
            ds = ds * slope
        ds = ds.to(q_tile.dtype)
        if BT > 0:
            dk_tail = tl.dot(ds, q_tail, dk_tail, input_precision=PRECISION)
        dk = tl.dot(ds, q_tile, dk, input_precision=PRECISION)
    return dk, dk_tail, dv, dc


@triton.jit(do_not_specialize=[*RUNTIME_INTEGERS, "readers"])
def attention_bwd_dkv_kernel(
    q, k, v, forgotten, lse, do, delta, dk, dv, dforgotten,
    q_batch, q_token, k_batch, k_token, v_batch, v_token,
    queries, keys, heads, kv_heads, window, num_global, prefix, readers, scale, scale_log2, tanh_scale,
    D: tl.constexpr, V: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr,
    SOFTCAP: tl.constexpr, FORGET: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv, [B, Tk, Hq / readers, .], for BN keys of one key head, summed in order over `readers` of
    the query heads that read it: all of them, or with forget gates, whose gradient [B, Hq, Tk] is by head, one."""
    tiles = tl.cdiv(keys, BN)
    first = tl.program_id(0) % tiles * BN
    parts = heads // readers
    b = tl.cast(tl.program_id(0) // tiles // parts, tl.int64)
    part = tl.program_id(0) // tiles % parts
    h = part * readers
    kv_h = h // (heads // kv_heads)

    k_head = k + (b * k_batch + kv_h) * D
    k_tile = load_tile(k_head, first, k_token, keys, BN, D, BD)
    k_tail = load_tail(k_tile, k_head, first, k_token, keys, BN, D, BD, BT)
    v_tile = load_tile(v + (b * v_batch + kv_h) * V, first, v_token, keys, BN, V, BV)
    cols = first + tl.arange(0, BN)
    c_head, c_col = forgotten, first
    if FORGET:
        c_head = forgotten + (b * heads + h) * keys
        c_col = tl.load(c_head + cols, mask=cols < keys, other=0.0) * LOG2_E
    low, full, edge, high, shift = query_range(
        first, queries, keys, window, num_global, prefix, CAUSAL, WINDOWED, GLOBAL, BM, BN
    )
    dc = tl.zeros([BN], tl.float32)
    k_grad = tl.zeros([BN, BD], tl.float32)
    tail = tl.zeros([1], tl.float32)
    if BT > 0:
        tail = tl.zeros([BN, BT], tl.float32)
    v_grad = tl.zeros([BN, BV], tl.float32)
    q_group = q + (b * q_batch + h) * D
    do_group = do + (b * queries * heads + h) * V
    lse_group = lse + (b * heads + h) * queries
    delta_group = delta + (b * heads + h) * queries
    k_grad, tail, v_grad, dc = _dkv_over_queries(
        k_grad, tail, v_grad, dc, k_tile, k_tail, v_tile, q_group, do_group, lse_group, delta_group, c_col, c_head, low,
        full, first, q_token, heads, readers, queries, keys, shift, window, num_global, prefix, scale_log2, tanh_scale,
        D, V, CAUSAL, WINDOWED, GLOBAL, SOFTCAP, FORGET, True, BM, BN, BD, BT, BV, PRECISION,
    )  # fmt: skip
    k_grad, tail, v_grad, dc = _dkv_over_queries(
        k_grad, tail, v_grad, dc, k_tile, k_tail, v_tile, q_group, do_group, lse_group, delta_group, c_col, c_head,
        full, edge, first, q_token, heads, readers, queries, keys, shift, window, num_global, prefix, scale_log2,
        tanh_scale, D, V, CAUSAL, WINDOWED, GLOBAL, SOFTCAP, FORGET, False, BM, BN, BD, BT, BV, PRECISION,
    )  # fmt: skip
    if WINDOWED:
        k_grad, tail, v_grad, dc = _dkv_over_queries(
            k_grad, tail, v_grad, dc, k_tile, k_tail, v_tile, q_group, do_group, lse_group, delta_group, c_col, c_head,
            edge, high, first, q_token, heads, readers, queries, keys, shift, window, num_global, prefix, scale_log2,
            tanh_scale, D, V, CAUSAL, WINDOWED, GLOBAL, SOFTCAP, FORGET, True, BM, BN, BD, BT, BV, PRECISION,
        )  # fmt: skip
    dk_head = dk + (b * keys * parts + part) * D
    store_tile(dk_head, k_grad * scale, first, parts, keys, BN, D, BD)
    if BT > 0:
        store_tile(dk_head, tail * scale, first, parts, keys, BN, D, BT, BD)
    store_tile(dv + (b * keys * parts + part) * V, v_grad, first, parts, keys, BN, V, BV)
    if FORGET:
        tl.store(dforgotten + (b * heads + h) * keys + cols, dc, mask=cols < keys)
