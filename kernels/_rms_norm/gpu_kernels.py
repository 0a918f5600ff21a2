"""Triton kernels of the normalisations: a row is in registers from its one read to its one write.

Everything lies as [N, G, D]: N tokens, G groups (or heads) of D channels, which are normalised together. A tile is a
few tokens of one group. Offsets of tokens and groups come as strides, so that slices of wider tensors are read where
they lie; channels lie side by side. Rows too wide for registers are read twice, in blocks, by the `wide` kernels.

The gradient of a weight is added up over all tiles of a program and stored apart for each, not added by atomics, which
makes it deterministic.

With s the row that is normalised, r = 1 / sqrt(mean(s²) + eps), n = s r and y = n w act(z): the gradient of n is
dn = dy w act(z), that of s is r (dn - n mean(dn n)). With the gate in front, s = x act(z) and y = n w.
"""

import triton
import triton.language as tl

SILU: tl.constexpr = tl.constexpr(1)
SIGMOID: tl.constexpr = tl.constexpr(2)


@triton.jit
def _read(pointer, at, mask):
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _opened(z, GATE: tl.constexpr):
    """act(z)."""
    return tl.sigmoid(z) * z if GATE == SILU else tl.sigmoid(z)


@triton.jit
def _slope(z, GATE: tl.constexpr):
    """The derivative of act at z."""
    share = tl.sigmoid(z)
    return share * (1.0 + z * (1.0 - share)) if GATE == SILU else share * (1.0 - share)


@triton.jit
def _weight(weight, at, mask, scale):
    """What a normalised row is multiplied by, as a row; `scale` where there is no weight."""
    if weight is None:
        row = tl.where(mask, scale, 0.0)
    else:
        row = _read(weight, at, mask)
    return row


@triton.jit(do_not_specialize=["N", "eps", "scale"])
def forward_kernel(
    x, residual, gate, weight, y, total, inverse, N, D, x_row, x_group, residual_row, residual_group,
    gate_row, gate_group, weight_group, eps, scale,
    GATE: tl.constexpr, FIRST: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y, the sum with the residual where there is one, and r of every row."""
    g, d = tl.program_id(1), tl.arange(0, BLOCK_D)
    n = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask = (n < N)[:, None] & (d < D)[None, :]
    out_at = ((n * tl.num_programs(1) + g) * D)[:, None] + d[None, :]
    s = _read(x, (n * x_row + g * x_group)[:, None] + d[None, :], mask)
    if residual is not None:
        s += _read(residual, (n * residual_row + g * residual_group)[:, None] + d[None, :], mask)
        s = s.to(total.dtype.element_ty).to(tl.float32)
        tl.store(total + out_at, s.to(total.dtype.element_ty), mask=mask)
    if gate is not None:
        opened = _opened(_read(gate, (n * gate_row + g * gate_group)[:, None] + d[None, :], mask), GATE)
        if FIRST:
            s *= opened
    r = 1.0 / tl.sqrt(tl.sum(s * s, 1) / D + eps)
    tl.store(inverse + n * tl.num_programs(1) + g, r, mask=n < N)
    out = s * r[:, None] * _weight(weight, g * weight_group + d, d < D, scale)[None, :]
    if gate is not None:
        if not FIRST:
            out *= opened
    tl.store(y + out_at, out.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "scale"])
def backward_kernel(
    grad, grad_total, x, gate, weight, inverse, grad_x, grad_gate, grad_weight, N, D, grad_row, grad_group,
    total_row, total_group, x_row, x_group, gate_row, gate_group, weight_group, scale,
    GATE: tl.constexpr, FIRST: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All gradients; x is the sum where there was a residual. grad_weight is [programs, G, D] in float32."""
    g, d, groups = tl.program_id(1), tl.arange(0, BLOCK_D), tl.num_programs(1)
    w = _weight(weight, g * weight_group + d, d < D, scale)[None, :]
    weight_sum = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(N, BLOCK_R), tl.num_programs(0)):
        n = tile * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
        mask = (n < N)[:, None] & (d < D)[None, :]
        out_at = ((n * groups + g) * D)[:, None] + d[None, :]
        s = _read(x, (n * x_row + g * x_group)[:, None] + d[None, :], mask)
        dy = _read(grad, (n * grad_row + g * grad_group)[:, None] + d[None, :], mask)
        r = tl.load(inverse + n * groups + g, mask=n < N, other=0.0)[:, None]
        if gate is not None:
            z = _read(gate, (n * gate_row + g * gate_group)[:, None] + d[None, :], mask)
            opened = _opened(z, GATE)
            if FIRST:
                plain = s
                s *= opened
            else:
                dz = dy * s * r * w * _slope(z, GATE)
                tl.store(grad_gate + out_at, dz.to(grad_gate.dtype.element_ty), mask=mask)
                dy *= opened
        normed = s * r
        if grad_weight is not None:
            weight_sum += dy * normed
        dn = dy * w
        ds = r * (dn - normed * (tl.sum(dn * normed, 1) / D)[:, None])
        if grad_total is not None:
            ds += _read(grad_total, (n * total_row + g * total_group)[:, None] + d[None, :], mask)
        if FIRST:
            dz = ds * plain * _slope(z, GATE)
            tl.store(grad_gate + out_at, dz.to(grad_gate.dtype.element_ty), mask=mask)
            ds *= opened
        tl.store(grad_x + out_at, ds.to(grad_x.dtype.element_ty), mask=mask)
    if grad_weight is not None:
        at = (tl.program_id(0) * groups + g) * D + d
        tl.store(grad_weight + at, tl.sum(weight_sum, 0), mask=d < D)
