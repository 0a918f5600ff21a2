"""Triton kernel of the forward pass that keeps the state in registers: states between chunks never reach memory.

It does the work of `state_kernel` and `output_kernel` in one pass over the sequence, with one program per head and
block of V; `launch.py` takes it where these fill the GPU, and the two kernels, which also run chunks side by side,
where they do not. The backward pass computes the states again in either case.
"""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import (
    from_start,
    last_decay,
    load_tile,
    load_transposed,
    store_tile,
    to_end_transposed,
)


@triton.jit(do_not_specialize=["T"])
def fused_kernel(
    q, k, w, other_k, other_w, erased, scores, other_scores, g, initial, out, final, scale, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, DELTA: tl.constexpr, BEFORE: tl.constexpr, HAS_INITIAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out and the last state; arguments as those of state_kernel and output_kernel, BK holds all of K."""
    bh = tl.program_id(1).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows, cols_k = tl.arange(0, BT), tl.arange(0, BK)
    cols_v = tl.program_id(0) * BV + tl.arange(0, BV)
    state = tl.zeros([BK, BV], tl.float32)
    if HAS_INITIAL:
        state += load_tile(initial + bh * K * V, cols_k, cols_v, V, K, V)
    for chunk in range(tl.cdiv(T, BT)):
        start, left = b * T + chunk * BT, T - chunk * BT
        last = tl.minimum(left, BT) - 1
        token, token_qk = start * H + h, start * heads_qk + h // GROUP
        g_here = g + (token * K if DECAY == 2 else token)
        query = load_tile(q + token_qk * K, rows, cols_k, heads_qk * K, left, K)
        key = load_transposed(k + token_qk * K, rows, cols_k, heads_qk * K, left, K)
        dtype = key.dtype
        if DECAY > 0:
            query = (query * from_start(g_here, rows - BEFORE, cols_k, left, H, K, DECAY)).to(dtype)
        result = tl.dot(query, state.to(dtype), input_precision=PRECISION)
        value = load_tile(w + token * V, rows, cols_v, H * V, left, V)
        if DELTA:
            erase = load_tile(erased + token * K, rows, cols_k, H * K, left, K)
            value = value.to(tl.float32) - tl.dot(erase, state.to(dtype), input_precision=PRECISION)
            value = value.to(dtype)
        score = load_tile(scores + token * BT, rows, rows, H * BT, left, BT)
        result += tl.dot(score, value, input_precision=PRECISION)
        if DECAY > 0:
            key = (key * to_end_transposed(g_here, rows, cols_k, left, last, H, K, DECAY)).to(dtype)
            state *= tl.exp(last_decay(g_here, cols_k, last, H, K, DECAY))[:, None]
        state += tl.dot(key, value, input_precision=PRECISION)
        if DELTA == 2:
            value = load_tile(other_w + token * V, rows, cols_v, H * V, left, V)
            score = load_tile(other_scores + token * BT, rows, rows, H * BT, left, BT)
            result += tl.dot(score, value, input_precision=PRECISION)
            key = load_transposed(other_k + token_qk * K, rows, cols_k, heads_qk * K, left, K)
            key = (key * to_end_transposed(g_here, rows, cols_k, left, last, H, K, DECAY)).to(dtype)
            state += tl.dot(key, value, input_precision=PRECISION)
        store_tile(out + token * V, result * scale, rows, cols_v, H * V, left, V)
    store_tile(final + bh * K * V, state, cols_k, cols_v, V, K, V)
