"""Triton kernels of the backward pass that every kind of decay shares.

d_states[n] is the gradient of the state after chunk n. The gradient of log_decay is, inside a chunk, the sum from the
end of q·dq - k·dk (with the sign of each place a token's g appears in), plus the product of the state after the chunk
with its gradient; the kernels collect the first in d_g and the second in d_last. Where a row stands before its token's
decay, its product counts for the token before and is collected in d_before.
"""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import (
    block_beside_state,
    from_start,
    from_start_transposed,
    last_decay,
    load_tile,
    load_transposed,
    pair_decay,
    pair_decay_transposed,
    store_tile,
    to_end,
)


@triton.jit(do_not_specialize=["T"])
def value_grad_kernel(
    k, scores, g, d_out, d_states, d_written, scale, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, WITH_STATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_written = scoresᵀ·d_out, plus exp(g_last - g)·k·d_state WITH_STATE (the delta rule adds that later)."""
    chunk, bh = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows, cols_v = tl.arange(0, BT), tl.program_id(0) * BV + tl.arange(0, BV)
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    score_t = load_transposed(scores + token * BT, rows, rows, H * BT, left, BT)
    d_o = load_tile(d_out + token * V, rows, cols_v, H * V, left, V)
    result = tl.dot(score_t, (d_o * scale).to(score_t.dtype), input_precision=PRECISION)
    if WITH_STATE:
        g_here = g + (token * K if DECAY == 2 else token)
        last = tl.minimum(left, BT) - 1
        d_state_here = d_states + (bh * tl.cdiv(T, BT) + chunk) * K * V
        for first in range(0, K, BK):
            cols_k = first + tl.arange(0, BK)
            key = load_tile(k + token_qk * K, rows, cols_k, heads_qk * K, left, K)
            dtype = key.dtype
            if DECAY > 0:
                key = (key * to_end(g_here, rows, cols_k, left, last, H, K, DECAY)).to(dtype)
            d_state = load_tile(d_state_here, cols_k, cols_v, V, K, V)
            result += tl.dot(key, d_state.to(dtype), input_precision=PRECISION)
    store_tile(d_written + token * V, result, rows, cols_v, H * V, left, V)


@triton.jit(do_not_specialize=["T"])
def state_grad_kernel(
    q, k, erased, g, states, d_out, d_final, d_written, d_states, d_initial, d_last, scale, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, DELTA: tl.constexpr, BEFORE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of the states, from the last chunk to the first.

    With DELTA a program holds all of K and completes d_written, of what is written at `k`, on the way. d_last is
    [V blocks, B, N, H, K] for a decay per channel and [V blocks, K blocks, B, N, H] otherwise.
    """
    bh = tl.program_id(2).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows = tl.arange(0, BT)
    cols_k, cols_v = tl.program_id(0) * BK + tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    chunks = tl.cdiv(T, BT)
    batch_chunks = (tl.num_programs(2) // H).to(tl.int64) * chunks
    d_state = load_tile(d_final + bh * K * V, cols_k, cols_v, V, K, V)
    for step in range(chunks):
        chunk = chunks - 1 - step
        store_tile(d_states + (bh * chunks + chunk) * K * V, d_state, cols_k, cols_v, V, K, V)
        if block_beside_state(BK, PRECISION) < BK:
            tl.debug_barrier()  # what was stored is read below, by other threads
        start, left = b * T + chunk * BT, T - chunk * BT
        last = tl.minimum(left, BT) - 1
        token, token_qk = start * H + h, start * heads_qk + h // GROUP
        g_here = g + (token * K if DECAY == 2 else token)
        if DECAY > 0:
            after = load_tile(states + (bh * (chunks + 1) + chunk + 1) * K * V, cols_k, cols_v, V, K, V)
            dot_rows = tl.sum(after * d_state, 1)
            if DECAY == 2:
                at = ((tl.program_id(1) * batch_chunks + b * chunks + chunk) * H + h) * K
                tl.store(d_last + at + cols_k, dot_rows, mask=cols_k < K)
            else:
                part = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
                tl.store(d_last + (part * batch_chunks + b * chunks + chunk) * H + h, tl.sum(dot_rows, 0))
        d_o = load_tile(d_out + token * V, rows, cols_v, H * V, left, V)
        dtype = k.dtype.element_ty
        if DELTA:
            d_w = load_tile(d_written + token * V, rows, cols_v, H * V, left, V).to(tl.float32)
            block_k: tl.constexpr = block_beside_state(BK, PRECISION)
            for first in range(0, BK, block_k):
                cols = first + tl.arange(0, block_k)
                key = load_tile(k + token_qk * K, rows, cols, heads_qk * K, left, K)
                if DECAY > 0:
                    key = (key * to_end(g_here, rows, cols, left, last, H, K, DECAY)).to(dtype)
                d_after = d_state
                if block_k < BK:
                    d_after = load_tile(d_states + (bh * chunks + chunk) * K * V, cols, cols_v, V, K, V)
                d_w += tl.dot(key, d_after.to(dtype), input_precision=PRECISION)
            store_tile(d_written + token * V, d_w, rows, cols_v, H * V, left, V)
        query = load_transposed(q + token_qk * K, rows, cols_k, heads_qk * K, left, K)
        if DECAY > 0:
            query = (query * from_start_transposed(g_here, rows - BEFORE, cols_k, left, H, K, DECAY)).to(dtype)
            d_state *= tl.exp(last_decay(g_here, cols_k, last, H, K, DECAY))[:, None]
        d_state += tl.dot(query, (d_o * scale).to(dtype), input_precision=PRECISION)
        if DELTA:
            erase = load_transposed(erased + token * K, rows, cols_k, H * K, left, K)
            d_state -= tl.dot(erase, d_w.to(dtype), input_precision=PRECISION)
    store_tile(d_initial + bh * K * V, d_state, cols_k, cols_v, V, K, V)


@triton.jit(do_not_specialize=["T"])
def token_grad_kernel(
    q, k, written, g, states, d_states, d_out, d_written, d_q, d_k, d_g, d_before, d_erased, scale, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, DELTA: tl.constexpr, BEFORE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_q and d_k through the states and, but for a decay per channel, through the scores; d_erased with DELTA 1.

    d_g is [B, T, H, K] for a decay per channel and [K blocks, B, T, H] otherwise.
    """
    chunk, bh = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows, cols_k = tl.arange(0, BT), tl.program_id(0) * BK + tl.arange(0, BK)
    start, left = b * T + chunk * BT, T - chunk * BT
    chunks = tl.cdiv(T, BT)
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    dtype = k.dtype.element_ty
    d_query, d_key = tl.zeros([BT, BK], tl.float32), tl.zeros([BT, BK], tl.float32)
    d_erase = tl.zeros([BT, BK], tl.float32)
    for first in range(0, V, BV):
        cols_v = first + tl.arange(0, BV)
        d_o = (load_tile(d_out + token * V, rows, cols_v, H * V, left, V) * scale).to(dtype)
        value = load_tile(written + token * V, rows, cols_v, H * V, left, V)
        state_t = load_transposed(states + (bh * (chunks + 1) + chunk) * K * V, cols_k, cols_v, V, K, V).to(dtype)
        d_state_t = load_transposed(d_states + (bh * chunks + chunk) * K * V, cols_k, cols_v, V, K, V).to(dtype)
        d_query += tl.dot(d_o, state_t, input_precision=PRECISION)
        d_key += tl.dot(value, d_state_t, input_precision=PRECISION)
        if DELTA == 1:
            d_w = load_tile(d_written + token * V, rows, cols_v, H * V, left, V)
            d_erase -= tl.dot(d_w, state_t, input_precision=PRECISION)
    if DELTA == 1:
        store_tile(d_erased + token * K, d_erase, rows, cols_k, H * K, left, K)
    if DECAY > 0:
        g_here = g + (token * K if DECAY == 2 else token)
        d_query *= from_start(g_here, rows - BEFORE, cols_k, left, H, K, DECAY)
        d_key *= to_end(g_here, rows, cols_k, left, tl.minimum(left, BT) - 1, H, K, DECAY)
    query = load_tile(q + token_qk * K, rows, cols_k, heads_qk * K, left, K)
    key = load_tile(k + token_qk * K, rows, cols_k, heads_qk * K, left, K)
    if DECAY < 2:  # one product after the other, because registers do not hold both
        d_score = tl.zeros([BT, BT], tl.float32)
        for first in range(0, V, BV):
            cols_v = first + tl.arange(0, BV)
            d_o = (load_tile(d_out + token * V, rows, cols_v, H * V, left, V) * scale).to(dtype)
            value_t = load_transposed(written + token * V, rows, cols_v, H * V, left, V)
            d_score += tl.dot(d_o, value_t, input_precision=PRECISION)
        d_score *= pair_decay(g + token, left, H, BT, DECAY)
        d_query += tl.dot(d_score.to(dtype), key, input_precision=PRECISION)
        d_score_t = tl.zeros([BT, BT], tl.float32)
        for first in range(0, V, BV):
            cols_v = first + tl.arange(0, BV)
            value = load_tile(written + token * V, rows, cols_v, H * V, left, V)
            d_o_t = (load_transposed(d_out + token * V, rows, cols_v, H * V, left, V) * scale).to(dtype)
            d_score_t += tl.dot(value, d_o_t, input_precision=PRECISION)
        d_score_t *= pair_decay_transposed(g + token, left, H, BT, DECAY)
        d_key += tl.dot(d_score_t.to(dtype), query, input_precision=PRECISION)
    store_tile(d_q + token * K, d_query, rows, cols_k, H * K, left, K)
    store_tile(d_k + token * K, d_key, rows, cols_k, H * K, left, K)
    through_decay = -key * d_key
    if BEFORE:
        store_tile(d_before + token * K, query * d_query, rows, cols_k, H * K, left, K)
    else:
        through_decay += query * d_query
    if DECAY == 1:
        part = tl.program_id(0) * (tl.num_programs(2) // H).to(tl.int64) * T * H
        tl.store(d_g + part + token + rows * H, tl.sum(through_decay, 1), mask=rows < left)
    if DECAY == 2:
        store_tile(d_g + token * K, through_decay, rows, cols_k, H * K, left, K)
