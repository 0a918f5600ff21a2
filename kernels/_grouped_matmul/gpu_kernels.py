"""The Triton kernels of the grouped product, which mixtures of experts share: rows in any order, matrices, gradients.

The grid has as many row tiles as any split of M rows over E groups can need, ceil(M / BLOCK_M) + E, and one group more
for the rows that belong to none. A program finds its group by counting, in a table made on the device, the groups whose
tiles end before it; programs beyond the last tile leave at once. The gradient of the matrices sums over the rows of a
group in one program per tile, so nothing is added by atomics.

Sorted rows may lie elsewhere in another order: `order` says where, and `SHARE` rows in that order share one row of
memory, as the choices of a token share the token.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl


@triton.jit
def find_tile(tile, tile_ends, row_ends, E, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr):
    """(group, first row, rows) of a row tile; the group is E for rows of none and above E beyond the last tile.

    `tile_ends` and `row_ends` are running sums over E + 1 groups: tiles and rows up to and with each.
    """
    e = tl.arange(0, BLOCK_E)
    ends = tl.load(tile_ends + e, mask=e <= E, other=2147483647)
    group = tl.sum((ends <= tile).to(tl.int32), 0)
    exists = group <= E
    first_tile = tl.load(tile_ends + group - 1, mask=exists & (group > 0), other=0)
    first_row = tl.load(row_ends + group - 1, mask=exists & (group > 0), other=0).to(tl.int64)
    end_row = tl.load(row_ends + group, mask=exists, other=0).to(tl.int64)
    start = first_row + (tile - first_tile) * BLOCK_M
    return group, start, end_row - start


@triton.jit(do_not_specialize=["E", "SHARE"])
def rows_kernel(
    x, w, out, order, factor, bias, tile_ends, row_ends, K, N, E, SHARE, w_group, w_k, w_n, GATHER: tl.constexpr,
    SCATTER: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[row] = x[row] @ w[group of row] for a tile of rows of one group; zeros in the last, matrixless group.

    GATHER reads x at row `order[row] / SHARE`; SCATTER writes out at row `order[row]`, SCALED times the factor there.
    BIASED adds the group's row of bias [E, N], before a factor.
    `w_group`, `w_k`, `w_n` are the strides of w, so that the gradient of x reads the same matrices transposed.
    """
    group, start_m, rows = find_tile(tl.program_id(1), tile_ends, row_ends, E, BLOCK_E, BLOCK_M)
    if group > E:
        return
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    start_n = tl.program_id(0) * BLOCK_N
    in_m, in_n = m < rows, n < N - start_n
    place = m
    if GATHER or SCATTER:
        place = tl.load(order + start_m + m, mask=in_m, other=0)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if group < E:
        # 64-bit addresses for the corner of a tile alone; within a tile 32 bits do, and cost half the registers.
        if GATHER:
            x_at = x + (place // SHARE).to(tl.int64)[:, None] * K + k[None, :]
        else:
            x_at = x + start_m * K + (m[:, None] * K + k[None, :])
        w_corner = w + group.to(tl.int64) * w_group + start_n.to(tl.int64) * w_n
        w_at = k[:, None] * w_k + n[None, :] * w_n
        for start in range(0, K, BLOCK_K):
            in_k = k < K - start
            x_tile = tl.load(x_at, mask=in_m[:, None] & in_k[None, :], other=0.0)
            w_tile = tl.load(w_corner + w_at, mask=in_k[:, None] & in_n[None, :], other=0.0)
            total = tl.dot(x_tile, w_tile, total, input_precision=PRECISION)
            x_at += BLOCK_K
            w_corner += BLOCK_K * w_k
        if BIASED:
            bias_at = bias + group.to(tl.int64) * N + start_n + n
            total += tl.load(bias_at, mask=in_n, other=0.0).to(tl.float32)[None, :]
        if SCALED:
            total = total * tl.load(factor + place, mask=in_m, other=0.0).to(tl.float32)[:, None]
    if SCATTER:
        out_at = out + place.to(tl.int64)[:, None] * N + (start_n + n)[None, :]
    else:
        out_at = out + start_m * N + start_n + (m[:, None] * N + n[None, :])
    tl.store(out_at, total.to(out.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


@triton.jit(do_not_specialize=["SHARE"])
def matrices_kernel(
    x, grad, out, order, row_ends, K, N, SHARE, GATHER_X: tl.constexpr, GATHER_GRAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[group] = x[rows of group]ᵀ @ grad[rows of group], a tile [BLOCK_M of K, BLOCK_N of N].

    GATHER_X reads x at row `order[row] / SHARE`, GATHER_GRAD grad.
    """
    group = tl.program_id(2).to(tl.int64)
    first = tl.load(row_ends + group - 1, mask=group > 0, other=0).to(tl.int64)
    rows = (tl.load(row_ends + group) - first).to(tl.int32)
    k, n, m = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    start_k, start_n = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    in_k, in_n = k < K - start_k, n < N - start_n
    x_corner, grad_corner = x + start_k, grad + start_n
    if not GATHER_X:
        x_corner += first * K
    if not GATHER_GRAD:
        grad_corner += first * N
    x_at, grad_at = m[None, :] * K + k[:, None], m[:, None] * N + n[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, rows, BLOCK_K):
        in_m = m < rows - start
        if GATHER_X or GATHER_GRAD:
            place = (tl.load(order + first + start + m, mask=in_m, other=0) // SHARE).to(tl.int64)
        if GATHER_X:
            x_tile = tl.load(
                x_corner + (place[None, :] * K + k[:, None]), mask=in_k[:, None] & in_m[None, :], other=0.0
            )
        else:
            x_tile = tl.load(x_corner + x_at, mask=in_k[:, None] & in_m[None, :], other=0.0)
            x_corner += BLOCK_K * K
        if GATHER_GRAD:
            grad_at_rows = place[:, None] * N + n[None, :]
            grad_tile = tl.load(grad_corner + grad_at_rows, mask=in_m[:, None] & in_n[None, :], other=0.0)
        else:
            grad_tile = tl.load(grad_corner + grad_at, mask=in_m[:, None] & in_n[None, :], other=0.0)
            grad_corner += BLOCK_K * N
        total = tl.dot(x_tile, grad_tile, total, input_precision=PRECISION)
    corner = out + group * K * N + start_k.to(tl.int64) * N + start_n
    tl.store(corner + k[:, None] * N + n[None, :], total.to(out.dtype.element_ty), mask=in_k[:, None] & in_n[None, :])
