"""Triton kernels of the products inside a chunk without decay or with one decay per head and token."""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import (
    load_tile,
    load_transposed,
    pair_decay,
    pair_decay_transposed,
    store_tile,
)


@triton.jit(do_not_specialize=["T"])
def scores_kernel(
    q, k, g, beta, scores, erasing, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scores = decay·qkᵀ on and below the diagonal; erasing = beta·decay·kkᵀ, of which only the part below counts."""
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows = tl.arange(0, BT)
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    score, erase = tl.zeros([BT, BT], tl.float32), tl.zeros([BT, BT], tl.float32)
    for first in range(0, K, BK):
        cols = first + tl.arange(0, BK)
        key_t = load_transposed(k + token_qk * K, rows, cols, heads_qk * K, left, K)
        query = load_tile(q + token_qk * K, rows, cols, heads_qk * K, left, K)
        score += tl.dot(query, key_t, input_precision=PRECISION)
        if DELTA:
            key = load_tile(k + token_qk * K, rows, cols, heads_qk * K, left, K)
            erase += tl.dot(key, key_t, input_precision=PRECISION)
    decay = pair_decay(g + token, left, H, BT, DECAY)
    store_tile(scores + token * BT, score * decay, rows, rows, H * BT, left, BT)
    if DELTA:
        strength = tl.load(beta + token + rows * H, mask=rows < left, other=0.0).to(tl.float32)
        store_tile(erasing + token * BT, erase * decay * strength[:, None], rows, rows, H * BT, left, BT)


@triton.jit(do_not_specialize=["T"])
def erasing_grad_kernel(
    k, g, beta, d_erasing, d_k, d_g, d_beta, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of erasing = beta·decay·kkᵀ below the diagonal, added to d_k, d_g and d_beta."""
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows = tl.arange(0, BT)
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    strength = tl.load(beta + token + rows * H, mask=rows < left, other=0.0).to(tl.float32)
    dtype = k.dtype.element_ty
    d_rows = load_tile(d_erasing + token * BT, rows, rows, H * BT, left, BT)
    d_rows = (d_rows * pair_decay(g + token, left, H, BT, DECAY)).to(dtype)
    d_cols = load_transposed(d_erasing + token * BT, rows, rows, H * BT, left, BT)
    d_cols = (d_cols * pair_decay_transposed(g + token, left, H, BT, DECAY) * strength[None, :]).to(dtype)
    sum_g, sum_beta = tl.zeros([BT], tl.float32), tl.zeros([BT], tl.float32)
    for first in range(0, K, BK):
        cols = first + tl.arange(0, BK)
        key = load_tile(k + token_qk * K, rows, cols, heads_qk * K, left, K)
        as_row = tl.dot(d_rows, key, input_precision=PRECISION)
        as_col = tl.dot(d_cols, key, input_precision=PRECISION)
        sum_beta += tl.sum(key * as_row, 1)
        as_row *= strength[:, None]
        sum_g += tl.sum(key * (as_row - as_col), 1)
        total = load_tile(d_k + token * K, rows, cols, H * K, left, K) + as_row + as_col
        store_tile(d_k + token * K, total, rows, cols, H * K, left, K)
    at = token + rows * H
    tl.store(d_beta + at, tl.load(d_beta + at, mask=rows < left, other=0.0) + sum_beta, mask=rows < left)
    if DECAY == 1:
        tl.store(d_g + at, tl.load(d_g + at, mask=rows < left, other=0.0) + sum_g, mask=rows < left)
