"""Triton kernels of the delta rule inside a chunk: the inverse of I + A, the WY form, and its gradient.

A is `erasing`, strictly lower triangular; Tinv = (I + A)⁻¹; u = Tinv·beta·v and erased = Tinv·beta·exp(g)·k, so that
the chunk writes u - erased·S. See `portable.py` for the source.
"""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import from_start, load_tile, load_transposed, store_tile


@triton.jit
def _block(a, row: tl.constexpr, col: tl.constexpr, stride, left):
    index = tl.arange(0, 16)
    return load_tile(a + col * 16, row * 16 + index, index, stride, left, 16)


@triton.jit
def _row(a, row, col: tl.constexpr, i, stride, left):
    """Row i of diagonal block `col` left of its diagonal."""
    index = tl.arange(0, 16)
    return tl.load(a + (row * 16 + i) * stride + col * 16 + index, mask=(index < i) & (row * 16 + i < left), other=0.0)


@triton.jit
def _put(inverse, block, row: tl.constexpr, col: tl.constexpr, stride, left):
    index = tl.arange(0, 16)
    store_tile(inverse + col * 16, block, row * 16 + index, index, stride, left, 16)


@triton.jit
def _mul(a, b):
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _substitute(inverse, row, here):
    """Forward substitution of one row into the inverse of a diagonal block, where row `here` is still the unit row."""
    return tl.where(here[:, None], inverse - tl.sum(row[:, None] * inverse, 0)[None, :], inverse)


@triton.jit(do_not_specialize=["T"])
def inverse_kernel(erasing, inverse, T, H: tl.constexpr, BT: tl.constexpr):
    """inverse = (I + A)⁻¹ for chunks of 64 or 32, all in float32 but for the last rounding.

    16 x 16 diagonal blocks by forward substitution, which is stable; the rest by block elimination with exact float32
    products. Blocks above the diagonal are not written.
    """
    tl.static_assert(BT == 64 or BT == 32)
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    token, left = ((bh // H) * T + chunk * BT) * H + bh % H, T - chunk * BT
    a, out = erasing + token * BT, inverse + token * BT
    stride: tl.constexpr = H * BT
    index = tl.arange(0, 16)
    eye = (index[:, None] == index[None, :]).to(tl.float32)
    i0, i1, i2, i3 = eye, eye, eye, eye
    for i in range(1, 16):
        here = index == i
        i0 = _substitute(i0, _row(a, 0, 0, i, stride, left), here)
        i1 = _substitute(i1, _row(a, 1, 1, i, stride, left), here)
        if BT == 64:
            i2 = _substitute(i2, _row(a, 2, 2, i, stride, left), here)
            i3 = _substitute(i3, _row(a, 3, 3, i, stride, left), here)
    i10 = -_mul(i1, _mul(_block(a, 1, 0, stride, left), i0))
    _put(out, i0, 0, 0, stride, left)
    _put(out, i1, 1, 1, stride, left)
    _put(out, i10, 1, 0, stride, left)
    if BT == 64:
        a21, a32 = _block(a, 2, 1, stride, left), _block(a, 3, 2, stride, left)
        a20, a31, a30 = _block(a, 2, 0, stride, left), _block(a, 3, 1, stride, left), _block(a, 3, 0, stride, left)
        i21, i32 = -_mul(i2, _mul(a21, i1)), -_mul(i3, _mul(a32, i2))
        i20 = -_mul(i2, _mul(a20, i0) + _mul(a21, i10))
        i31 = -_mul(i3, _mul(a31, i1) + _mul(a32, i21))
        i30 = -_mul(i3, _mul(a30, i0) + _mul(a31, i10) + _mul(a32, i20))
        _put(out, i2, 2, 2, stride, left)
        _put(out, i3, 3, 3, stride, left)
        _put(out, i21, 2, 1, stride, left)
        _put(out, i32, 3, 2, stride, left)
        _put(out, i20, 2, 0, stride, left)
        _put(out, i31, 3, 1, stride, left)
        _put(out, i30, 3, 0, stride, left)


@triton.jit(do_not_specialize=["T"])
def wy_kernel(
    k, v, g, beta, inverse, u, erased, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """u = Tinv·beta·v and erased = Tinv·beta·exp(g)·k for one chunk and head."""
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows = tl.arange(0, BT)
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    g_here = g + (token * K if DECAY == 2 else token)
    strength = tl.load(beta + token + rows * H, mask=rows < left, other=0.0).to(tl.float32)[:, None]
    solve = load_tile(inverse + token * BT, rows, rows, H * BT, left, BT)
    for first in range(0, V, BV):
        cols = first + tl.arange(0, BV)
        value = load_tile(v + token * V, rows, cols, H * V, left, V)
        solved = tl.dot(solve, (value * strength).to(value.dtype), input_precision=PRECISION)
        store_tile(u + token * V, solved, rows, cols, H * V, left, V)
    for first in range(0, K, BK):
        cols = first + tl.arange(0, BK)
        key = load_tile(k + token_qk * K, rows, cols, heads_qk * K, left, K)
        right = key * strength
        if DECAY > 0:
            right *= from_start(g_here, rows, cols, left, H, K, DECAY)
        solved = tl.dot(solve, right.to(key.dtype), input_precision=PRECISION)
        store_tile(erased + token * K, solved, rows, cols, H * K, left, K)


@triton.jit(do_not_specialize=["T"])
def wy_grad_kernel(
    k, v, g, beta, inverse, u, erased, d_u, d_erased, d_v, d_k, d_g, d_beta, d_erasing, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of wy_kernel: sets d_v and d_erasing, adds to d_k, d_g and d_beta.

    With R = (beta·v, beta·exp(g)·k) and X = Tinv·R: dR = Tinvᵀ·dX and dA = -dR·Xᵀ.
    """
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    rows = tl.arange(0, BT)
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    at = token + rows * H
    g_here = g + (token * K if DECAY == 2 else token)
    d_g_here = d_g + (token * K if DECAY == 2 else token)
    strength = tl.load(beta + at, mask=rows < left, other=0.0).to(tl.float32)
    solve_t = load_transposed(inverse + token * BT, rows, rows, H * BT, left, BT)
    dtype = solve_t.dtype
    d_a = tl.zeros([BT, BT], tl.float32)
    sum_g, sum_beta = tl.zeros([BT], tl.float32), tl.zeros([BT], tl.float32)
    for first in range(0, V, BV):
        cols = first + tl.arange(0, BV)
        d_right = tl.dot(solve_t, load_tile(d_u + token * V, rows, cols, H * V, left, V), input_precision=PRECISION)
        value = load_tile(v + token * V, rows, cols, H * V, left, V)
        sum_beta += tl.sum(d_right * value, 1)
        store_tile(d_v + token * V, d_right * strength[:, None], rows, cols, H * V, left, V)
        u_t = load_transposed(u + token * V, rows, cols, H * V, left, V)
        d_a -= tl.dot(d_right.to(dtype), u_t, input_precision=PRECISION)
    for first in range(0, K, BK):
        cols = first + tl.arange(0, BK)
        d_right = tl.dot(
            solve_t, load_tile(d_erased + token * K, rows, cols, H * K, left, K), input_precision=PRECISION
        )
        erased_t = load_transposed(erased + token * K, rows, cols, H * K, left, K)
        d_a -= tl.dot(d_right.to(dtype), erased_t, input_precision=PRECISION)
        key = load_tile(k + token_qk * K, rows, cols, heads_qk * K, left, K).to(tl.float32)
        if DECAY > 0:
            d_right *= from_start(g_here, rows, cols, left, H, K, DECAY)
        sum_beta += tl.sum(d_right * key, 1)
        d_right *= strength[:, None]
        total = load_tile(d_k + token * K, rows, cols, H * K, left, K) + d_right
        store_tile(d_k + token * K, total, rows, cols, H * K, left, K)
        if DECAY == 1:
            sum_g += tl.sum(d_right * key, 1)
        if DECAY == 2:
            total = load_tile(d_g_here, rows, cols, H * K, left, K) + d_right * key
            store_tile(d_g_here, total, rows, cols, H * K, left, K)
    below = rows[:, None] > rows[None, :]
    store_tile(d_erasing + token * BT, tl.where(below, d_a, 0.0), rows, rows, H * BT, left, BT)
    tl.store(d_beta + at, tl.load(d_beta + at, mask=rows < left, other=0.0) + sum_beta, mask=rows < left)
    if DECAY == 1:
        tl.store(d_g + at, tl.load(d_g + at, mask=rows < left, other=0.0) + sum_g, mask=rows < left)
