"""Triton kernels of the normalisations for rows that do not fit in registers: each row is read twice, in blocks.

The second read mostly finds its data in the L2 cache. As in `gpu_kernels.py` otherwise; the gradient of the weight has
a kernel of its own, which walks down the rows of a block of columns.
"""

import triton
import triton.language as tl

from kernels._rms_norm.gpu_kernels import _opened, _read, _slope, _weight


@triton.jit(do_not_specialize=["N", "eps", "scale"])
def wide_forward_kernel(
    x, residual, gate, weight, y, total, inverse, N, D, x_row, x_group, residual_row, residual_group,
    gate_row, gate_group, weight_group, eps, scale,
    GATE: tl.constexpr, FIRST: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One row: first the mean of its squares (and the sum with the residual, which is kept), then y."""
    n, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = n * tl.num_programs(1) + g
    squares = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        s = _read(x, n * x_row + g * x_group + d, d < D)
        if residual is not None:
            s += _read(residual, n * residual_row + g * residual_group + d, d < D)
            s = s.to(total.dtype.element_ty).to(tl.float32)
            tl.store(total + place * D + d, s.to(total.dtype.element_ty), mask=d < D)
        if FIRST:
            s *= _opened(_read(gate, n * gate_row + g * gate_group + d, d < D), GATE)
        squares += s * s
    r = 1.0 / tl.sqrt(tl.sum(squares, 0) / D + eps)
    tl.store(inverse + place, r)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        s = _read(x, n * x_row + g * x_group + d, d < D)
        if residual is not None:
            s += _read(residual, n * residual_row + g * residual_group + d, d < D)
            s = s.to(total.dtype.element_ty).to(tl.float32)
        if gate is not None:
            s *= _opened(_read(gate, n * gate_row + g * gate_group + d, d < D), GATE)
        out = s * r * _weight(weight, g * weight_group + d, d < D, scale)
        tl.store(y + place * D + d, out.to(y.dtype.element_ty), mask=d < D)


@triton.jit
def _row_gradients(grad, x, gate, weight, n, g, d, D, grad_row, grad_group, x_row, x_group, gate_row, gate_group,
                   weight_group, r, scale, GATE: tl.constexpr, FIRST: tl.constexpr):  # fmt: skip
    """(n, the gradient of n w, w, z, act(z), x) of a block of one row; without a gate z and act(z) are zero and one."""
    x_tile = _read(x, n * x_row + g * x_group + d, d < D)
    dy = _read(grad, n * grad_row + g * grad_group + d, d < D)
    w = _weight(weight, g * weight_group + d, d < D, scale)
    z, opened = dy * 0.0, dy * 0.0 + 1.0
    if gate is not None:
        z = _read(gate, n * gate_row + g * gate_group + d, d < D)
        opened = _opened(z, GATE)
    normed = x_tile * r
    if FIRST:
        normed *= opened
    return normed, dy, w, z, opened, x_tile


@triton.jit(do_not_specialize=["N", "scale"])
def wide_backward_kernel(
    grad, grad_total, x, gate, weight, inverse, grad_x, grad_gate, N, D, grad_row, grad_group, total_row, total_group,
    x_row, x_group, gate_row, gate_group, weight_group, scale,
    GATE: tl.constexpr, FIRST: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients of one row but for the weight's: first mean(dn n), then the rest."""
    n, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = n * tl.num_programs(1) + g
    r = tl.load(inverse + place)
    along = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        normed, dy, w, _, opened, _ = _row_gradients(
            grad, x, gate, weight, n, g, d, D, grad_row, grad_group, x_row, x_group, gate_row, gate_group,
            weight_group, r, scale, GATE, FIRST)  # fmt: skip
        along += (dy * w if FIRST else dy * w * opened) * normed
    mean = tl.sum(along, 0) / D
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        normed, dy, w, z, opened, x_tile = _row_gradients(
            grad, x, gate, weight, n, g, d, D, grad_row, grad_group, x_row, x_group, gate_row, gate_group,
            weight_group, r, scale, GATE, FIRST)  # fmt: skip
        ds = r * ((dy * w if FIRST else dy * w * opened) - normed * mean)
        if gate is not None:
            dz = (ds * x_tile if FIRST else dy * normed * w) * _slope(z, GATE)
            tl.store(grad_gate + place * D + d, dz.to(grad_gate.dtype.element_ty), mask=d < D)
        if FIRST:
            ds *= opened
        if grad_total is not None:
            ds += _read(grad_total, n * total_row + g * total_group + d, d < D)
        tl.store(grad_x + place * D + d, ds.to(grad_x.dtype.element_ty), mask=d < D)


@triton.jit(do_not_specialize=["N", "scale"])
def wide_weight_kernel(
    grad, x, gate, inverse, grad_weight, N, D, grad_row, grad_group, x_row, x_group, gate_row, gate_group, scale,
    GATE: tl.constexpr, FIRST: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The weight's gradient over every so many rows of a block of columns; grad_weight is [programs, G, D]."""
    g, d = tl.program_id(2), tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], tl.float32)
    for row in range(tl.program_id(0), N, tl.num_programs(0)):
        n = tl.zeros([1], tl.int64) + row  # a whole number of Python in the interpreter
        r = tl.load(inverse + n * tl.num_programs(2) + g)
        normed, dy, _, _, opened, _ = _row_gradients(
            grad, x, gate, None, n, g, d, D, grad_row, grad_group, x_row, x_group, gate_row, gate_group,
            0, r, scale, GATE, FIRST)  # fmt: skip
        total += dy * normed if FIRST else dy * opened * normed
    tl.store(grad_weight + (tl.program_id(0) * tl.num_programs(2) + g) * D + d, total, mask=d < D)
