"""The two Triton kernels that only experts need: into the hidden layer, and back out of it.

Both are grouped products (`kernels/_grouped_matmul/gpu_kernels.py`) with the activation at their end, so that neither
sorted tokens nor the hidden layer's inputs are written to be read again. Sorted row r is choice `order[r]`, of token
`order[r] / CHOICES`.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._grouped_matmul.gpu_kernels import find_tile


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """(activation(x), its derivative)."""
    if ACTIVATION == "silu":
        sigmoid = tl.sigmoid(x)
        value, slope = x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))
    elif ACTIVATION == "gelu":
        below = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        value, slope = x * below, below + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif ACTIVATION == "gelu_tanh":  # (1 + tanh(y)) / 2 is sigmoid(2 y)
        below = tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
        inner = 1.5957691216057308 * (1.0 + 0.134145 * x * x)
        value, slope = x * below, below * (1.0 + x * inner * (1.0 - below))
    elif ACTIVATION == "quick_gelu":
        below = tl.sigmoid(1.702 * x)
        value, slope = x * below, below * (1.0 + 1.702 * x * (1.0 - below))
    else:
        positive = tl.maximum(x, 0.0)
        value, slope = positive * positive, 2.0 * positive
    return value, slope


@triton.jit
def hidden_of(gate, up, limit, offset, ACTIVATION: tl.constexpr, GATED: tl.constexpr, CLAMPED: tl.constexpr):
    """(hidden, its derivatives with respect to gate and up); without a gate, of `gate` alone."""
    if GATED:
        gate_passes, up_passes = 1.0, 1.0
        if CLAMPED:
            gate_passes = tl.where(gate <= limit, 1.0, 0.0)
            up_passes = tl.where((up <= limit) & (up >= -limit), 1.0, 0.0)
            gate, up = tl.minimum(gate, limit), tl.minimum(tl.maximum(up, -limit), limit)
        value, slope = activate(gate, ACTIVATION)
        up += offset
        hidden, of_gate, of_up = value * up, slope * up * gate_passes, value * up_passes
    else:
        hidden, of_gate = activate(gate, ACTIVATION)
        of_up = of_gate
    return hidden, of_gate, of_up


@triton.jit(do_not_specialize=["E", "CHOICES"])
def moe_in_kernel(
    x, w, bias, pre, hidden, order, tile_ends, row_ends, K, N, E, CHOICES, w_group, w_k, limit, offset,
    KEEP: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr, CLAMPED: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """hidden[row] = activation(gate) * up, gate and up the halves of pre[row] = x[token of row] @ w[group of row], plus
    the group's row of a bias.

    x [T, K], w [E, K, 2 N], bias [E, 2 N], hidden [M, N]; pre [M, 2 N] is written where it is KEPT for the backward
    pass. Where not GATED, w, bias and pre have N columns, and hidden is activation(pre).
    """
    group, start_m, rows = find_tile(tl.program_id(1), tile_ends, row_ends, E, BLOCK_E, BLOCK_M)
    if group >= E:  # rows of no expert are read by nobody
        return
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    start_n = tl.program_id(0) * BLOCK_N
    in_m, in_n = m < rows, n < N - start_n
    token = (tl.load(order + start_m + m, mask=in_m, other=0) // CHOICES).to(tl.int64)
    x_at = x + token[:, None] * K + k[None, :]
    w_corner = w + group.to(tl.int64) * w_group + start_n
    w_at = k[:, None] * w_k + n[None, :]
    gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up = gate
    if GATED:
        up = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        in_k = k < K - start
        x_tile = tl.load(x_at, mask=in_m[:, None] & in_k[None, :], other=0.0)
        mask = in_k[:, None] & in_n[None, :]
        gate = tl.dot(x_tile, tl.load(w_corner + w_at, mask=mask, other=0.0), gate, input_precision=PRECISION)
        if GATED:
            up = tl.dot(x_tile, tl.load(w_corner + N + w_at, mask=mask, other=0.0), up, input_precision=PRECISION)
        x_at += BLOCK_K
        w_corner += BLOCK_K * w_k
    PARTS: tl.constexpr = 2 if GATED else 1
    if BIASED:
        bias_at = bias + group.to(tl.int64) * PARTS * N + start_n + n
        gate += tl.load(bias_at, mask=in_n, other=0.0).to(tl.float32)[None, :]
        if GATED:
            up += tl.load(bias_at + N, mask=in_n, other=0.0).to(tl.float32)[None, :]
    mask = in_m[:, None] & in_n[None, :]
    gate, up = gate.to(hidden.dtype.element_ty), up.to(hidden.dtype.element_ty)  # as the backward pass reads them
    if KEEP:
        at = pre + start_m * PARTS * N + start_n + (m[:, None] * (PARTS * N) + n[None, :])
        tl.store(at, gate, mask=mask)
        if GATED:
            tl.store(at + N, up, mask=mask)
    value, _, _ = hidden_of(gate.to(tl.float32), up.to(tl.float32), limit, offset, ACTIVATION, GATED, CLAMPED)
    at = hidden + start_m * N + start_n + (m[:, None] * N + n[None, :])
    tl.store(at, value.to(hidden.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["E", "CHOICES", "M"])
def moe_hidden_grad_kernel(
    dy, w, pre, weight, dpre, weighted, dweight, order, tile_ends, row_ends, K, N, M, E, CHOICES, w_group, w_k, w_n,
    limit, offset, ACTIVATION: tl.constexpr, GATED: tl.constexpr, CLAMPED: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the gradient of y [T, K] to that of pre, [M, 2 N] or where not GATED [M, N], through w [E, K, N], which is
    w_out transposed.

    Writes the hidden layer times its choice's weight, [M, N], for the gradient of w_out; and for this tile of columns
    the sums over them that make up the gradient of the weights, dweight [tiles of N, M].
    """
    group, start_m, rows = find_tile(tl.program_id(1), tile_ends, row_ends, E, BLOCK_E, BLOCK_M)
    if group > E:
        return
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    start_n = tl.program_id(0) * BLOCK_N
    in_m, in_n = m < rows, n < N - start_n
    place = tl.load(order + start_m + m, mask=in_m, other=0)
    share = tl.zeros([BLOCK_M], tl.float32)
    if group < E:
        dy_at = dy + (place // CHOICES).to(tl.int64)[:, None] * K + k[None, :]
        w_corner = w + group.to(tl.int64) * w_group + start_n.to(tl.int64) * w_n
        w_at = k[:, None] * w_k + n[None, :] * w_n
        grad = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for start in range(0, K, BLOCK_K):
            in_k = k < K - start
            dy_tile = tl.load(dy_at, mask=in_m[:, None] & in_k[None, :], other=0.0)
            w_tile = tl.load(w_corner + w_at, mask=in_k[:, None] & in_n[None, :], other=0.0)
            grad = tl.dot(dy_tile, w_tile, grad, input_precision=PRECISION)
            dy_at += BLOCK_K
            w_corner += BLOCK_K * w_k
        mask = in_m[:, None] & in_n[None, :]
        PARTS: tl.constexpr = 2 if GATED else 1
        corner, at = start_m * PARTS * N + start_n, m[:, None] * (PARTS * N) + n[None, :]
        gate = tl.load(pre + corner + at, mask=mask, other=0.0).to(tl.float32)
        up = gate
        if GATED:
            up = tl.load(pre + corner + N + at, mask=mask, other=0.0).to(tl.float32)
        hidden, of_gate, of_up = hidden_of(gate, up, limit, offset, ACTIVATION, GATED, CLAMPED)
        share = tl.sum(grad * hidden, 1)
        factor = tl.load(weight + place, mask=in_m, other=0.0).to(tl.float32)[:, None]
        weighted_at = weighted + start_m * N + start_n + (m[:, None] * N + n[None, :])
        tl.store(weighted_at, (hidden * factor).to(weighted.dtype.element_ty), mask=mask)
        grad = grad * factor
        tl.store(dpre + corner + at, (grad * of_gate).to(dpre.dtype.element_ty), mask=mask)
        if GATED:
            tl.store(dpre + corner + N + at, (grad * of_up).to(dpre.dtype.element_ty), mask=mask)
    tl.store(dweight + tl.program_id(0).to(tl.int64) * M + place, share, mask=in_m)
