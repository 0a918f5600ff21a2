"""Triton kernels of erasing freely, S ← diag(exp(log_decay)) S + b (aᵀS) + k vᵀ, beside those that the delta rule has.

Inside a chunk what token t writes at b is r = u - E·S, with A_ab and A_ak the products of a, taken before its token's
decay, with b and k: u = Tinv·A_ak·v, E = -Tinv·exp(g before)·a, Tinv = (I - A_ab)⁻¹. See `chunks.py`.
"""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import from_start, load_tile, load_transposed, store_tile, to_end


@triton.jit(do_not_specialize=["T"])
def free_wy_kernel(
    a, v, g, inverse, recalling, u, erased, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """u and erased = E for one chunk and head; recalling is A_ak."""
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows = tl.arange(0, BT)
    start, left = (bh // H) * T + chunk * BT, T - chunk * BT
    token = start * H + bh % H
    solve = load_tile(inverse + token * BT, rows, rows, H * BT, left, BT)
    recall = load_tile(recalling + token * BT, rows, rows, H * BT, left, BT)
    for first in range(0, V, BV):
        cols = first + tl.arange(0, BV)
        value = load_tile(v + token * V, rows, cols, H * V, left, V)
        right = tl.dot(recall, value, input_precision=PRECISION).to(value.dtype)
        solved = tl.dot(solve, right, input_precision=PRECISION)
        store_tile(u + token * V, solved, rows, cols, H * V, left, V)
    for first in range(0, K, BK):
        cols = first + tl.arange(0, BK)
        row = load_tile(a + token * K, rows, cols, H * K, left, K)
        right = (row * from_start(g + token * K, rows - 1, cols, left, H, K, 2)).to(row.dtype)
        solved = tl.dot(solve, right, input_precision=PRECISION)
        store_tile(erased + token * K, -solved, rows, cols, H * K, left, K)


@triton.jit(do_not_specialize=["T"])
def free_wy_grad_kernel(
    a, v, g, inverse, recalling, u, erased, d_u, d_erased, d_v, d_a, d_before, d_erasing, d_recalling, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of free_wy_kernel: sets d_a, d_erasing (of A_ab) and d_recalling (of A_ak), adds to d_v and d_before.

    With R = (A_ak·v, -exp(g before)·a) and X = Tinv·R: dR = Tinvᵀ·dX and dA_ab = dR·Xᵀ.
    """
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows = tl.arange(0, BT)
    start, left = (bh // H) * T + chunk * BT, T - chunk * BT
    token = start * H + bh % H
    solve_t = load_transposed(inverse + token * BT, rows, rows, H * BT, left, BT)
    recall_t = load_transposed(recalling + token * BT, rows, rows, H * BT, left, BT)
    dtype = solve_t.dtype
    d_erase, d_recall = tl.zeros([BT, BT], tl.float32), tl.zeros([BT, BT], tl.float32)
    for first in range(0, V, BV):
        cols = first + tl.arange(0, BV)
        d_solved = load_tile(d_u + token * V, rows, cols, H * V, left, V)
        d_right = tl.dot(solve_t, d_solved, input_precision=PRECISION).to(dtype)
        d_erase += tl.dot(
            d_right, load_transposed(u + token * V, rows, cols, H * V, left, V), input_precision=PRECISION
        )
        d_recall += tl.dot(
            d_right, load_transposed(v + token * V, rows, cols, H * V, left, V), input_precision=PRECISION
        )
        total = load_tile(d_v + token * V, rows, cols, H * V, left, V).to(tl.float32)
        total += tl.dot(recall_t, d_right, input_precision=PRECISION)
        store_tile(d_v + token * V, total, rows, cols, H * V, left, V)
    for first in range(0, K, BK):
        cols = first + tl.arange(0, BK)
        d_solved = load_tile(d_erased + token * K, rows, cols, H * K, left, K)
        d_right = tl.dot(solve_t, d_solved, input_precision=PRECISION)
        erased_t = load_transposed(erased + token * K, rows, cols, H * K, left, K)
        d_erase += tl.dot(d_right.to(dtype), erased_t, input_precision=PRECISION)
        d_row = -d_right * from_start(g + token * K, rows - 1, cols, left, H, K, 2)
        store_tile(d_a + token * K, d_row, rows, cols, H * K, left, K)
        through_decay = d_row * load_tile(a + token * K, rows, cols, H * K, left, K)
        total = load_tile(d_before + token * K, rows, cols, H * K, left, K) + through_decay
        store_tile(d_before + token * K, total, rows, cols, H * K, left, K)
    below = rows[:, None] > rows[None, :]
    store_tile(d_erasing + token * BT, tl.where(below, d_erase, 0.0), rows, rows, H * BT, left, BT)
    store_tile(d_recalling + token * BT, tl.where(below, d_recall, 0.0), rows, rows, H * BT, left, BT)


@triton.jit(do_not_specialize=["T"])
def free_token_grad_kernel(
    b, g, written, states, d_states, d_written, d_b, d_g, d_erased, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Through the states: sets d_b and d_erased, adds to d_g."""
    chunk, bh = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows, cols_k = tl.arange(0, BT), tl.program_id(0) * BK + tl.arange(0, BK)
    start, left = (bh // H) * T + chunk * BT, T - chunk * BT
    chunks = tl.cdiv(T, BT)
    token = start * H + bh % H
    dtype = b.dtype.element_ty
    d_key, d_erase = tl.zeros([BT, BK], tl.float32), tl.zeros([BT, BK], tl.float32)
    for first in range(0, V, BV):
        cols_v = first + tl.arange(0, BV)
        value = load_tile(written + token * V, rows, cols_v, H * V, left, V)
        d_state_t = load_transposed(d_states + (bh * chunks + chunk) * K * V, cols_k, cols_v, V, K, V).to(dtype)
        d_key += tl.dot(value, d_state_t, input_precision=PRECISION)
        d_w = load_tile(d_written + token * V, rows, cols_v, H * V, left, V)
        state_t = load_transposed(states + (bh * (chunks + 1) + chunk) * K * V, cols_k, cols_v, V, K, V).to(dtype)
        d_erase -= tl.dot(d_w, state_t, input_precision=PRECISION)
    store_tile(d_erased + token * K, d_erase, rows, cols_k, H * K, left, K)
    d_key *= to_end(g + token * K, rows, cols_k, left, tl.minimum(left, BT) - 1, H, K, 2)
    store_tile(d_b + token * K, d_key, rows, cols_k, H * K, left, K)
    through_decay = d_key * load_tile(b + token * K, rows, cols_k, H * K, left, K)
    total = load_tile(d_g + token * K, rows, cols_k, H * K, left, K) - through_decay
    store_tile(d_g + token * K, total, rows, cols_k, H * K, left, K)
