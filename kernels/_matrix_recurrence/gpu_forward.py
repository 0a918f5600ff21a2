"""Triton kernels of the forward pass that every kind of decay shares: the states between chunks, and the outputs.

`w` is what a token writes: v, or for the delta rule the value left after erasing. Names as in `portable.py`.
"""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import (
    block_beside_state,
    from_start,
    last_decay,
    load_tile,
    load_transposed,
    store_tile,
    to_end_transposed,
)


@triton.jit(do_not_specialize=["T"])
def state_kernel(
    k, w, other_k, other_w, erased, g, initial, written, states, final, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, DELTA: tl.constexpr, HAS_INITIAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """states [B, H, N + 1, K, V]: before every chunk and after the last; final is the latter in float32.

    With DELTA a program holds all of K, w is what a token would write to a zero state (u), erased is E, and written
    w - erased·S is stored. With DELTA 2 that is written at b (`k` here), and other_w = v at other_k = k.
    """
    bh = tl.program_id(2).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows = tl.arange(0, BT)
    cols_k, cols_v = tl.program_id(0) * BK + tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    chunks = tl.cdiv(T, BT)
    state = tl.zeros([BK, BV], tl.float32)
    if HAS_INITIAL:
        state += load_tile(initial + bh * K * V, cols_k, cols_v, V, K, V)
    for chunk in range(chunks):
        store_tile(states + (bh * (chunks + 1) + chunk) * K * V, state, cols_k, cols_v, V, K, V)
        if block_beside_state(BK, PRECISION) < BK:
            tl.debug_barrier()  # what was stored is read below, by other threads
        start = b * T + chunk * BT
        left = T - chunk * BT
        last = tl.minimum(left, BT) - 1
        token, token_qk = start * H + h, start * heads_qk + h // GROUP
        value = load_tile(w + token * V, rows, cols_v, H * V, left, V)
        if DELTA:
            value = value.to(tl.float32)
            block_k: tl.constexpr = block_beside_state(BK, PRECISION)
            for first in range(0, BK, block_k):
                cols = first + tl.arange(0, block_k)
                erase = load_tile(erased + token * K, rows, cols, H * K, left, K)
                before = state
                if block_k < BK:
                    before = load_tile(states + (bh * (chunks + 1) + chunk) * K * V, cols, cols_v, V, K, V)
                value -= tl.dot(erase, before.to(erase.dtype), input_precision=PRECISION)
            store_tile(written + token * V, value, rows, cols_v, H * V, left, V)
        key = load_transposed(k + token_qk * K, rows, cols_k, heads_qk * K, left, K)
        dtype = key.dtype
        if DECAY > 0:
            g_here = g + (token * K if DECAY == 2 else token)
            key = (key * to_end_transposed(g_here, rows, cols_k, left, last, H, K, DECAY)).to(dtype)
            state *= tl.exp(last_decay(g_here, cols_k, last, H, K, DECAY))[:, None]
        state += tl.dot(key, value.to(dtype), input_precision=PRECISION)
        if DELTA == 2:
            key = load_transposed(other_k + token_qk * K, rows, cols_k, heads_qk * K, left, K)
            key = (key * to_end_transposed(g_here, rows, cols_k, left, last, H, K, DECAY)).to(dtype)
            value = load_tile(other_w + token * V, rows, cols_v, H * V, left, V)
            state += tl.dot(key, value.to(dtype), input_precision=PRECISION)
    store_tile(states + (bh * (chunks + 1) + chunks) * K * V, state, cols_k, cols_v, V, K, V)
    store_tile(final + bh * K * V, state, cols_k, cols_v, V, K, V)


@triton.jit(do_not_specialize=["T"])
def output_kernel(
    q, scores, written, other_scores, other_written, g, states, out, scale, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, DELTA: tl.constexpr, BEFORE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out = scale (scores written + exp(g) q S) for one chunk, head and block of V; with DELTA 2 the others added."""
    chunk, bh = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows, cols_v = tl.arange(0, BT), tl.program_id(0) * BV + tl.arange(0, BV)
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    state_here = states + (bh * (tl.cdiv(T, BT) + 1) + chunk) * K * V
    g_here = g + (token * K if DECAY == 2 else token)
    result = tl.zeros([BT, BV], tl.float32)
    for first in range(0, K, BK):
        cols_k = first + tl.arange(0, BK)
        query = load_tile(q + token_qk * K, rows, cols_k, heads_qk * K, left, K)
        dtype = query.dtype
        if DECAY > 0:
            query = (query * from_start(g_here, rows - BEFORE, cols_k, left, H, K, DECAY)).to(dtype)
        state = load_tile(state_here, cols_k, cols_v, V, K, V)
        result += tl.dot(query, state.to(dtype), input_precision=PRECISION)
    score = load_tile(scores + token * BT, rows, rows, H * BT, left, BT)
    value = load_tile(written + token * V, rows, cols_v, H * V, left, V)
    result += tl.dot(score, value, input_precision=PRECISION)
    if DELTA == 2:
        score = load_tile(other_scores + token * BT, rows, rows, H * BT, left, BT)
        value = load_tile(other_written + token * V, rows, cols_v, H * V, left, V)
        result += tl.dot(score, value, input_precision=PRECISION)
    store_tile(out + token * V, result * scale, rows, cols_v, H * V, left, V)
