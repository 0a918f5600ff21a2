"""Triton kernels of the short convolution: a program walks along time and holds the last W tokens in registers.

A program owns a block of channels and a stretch of time. Tokens are rows of channels that lie side by side, so every
load is wide, and a row is read once but for the W - 1 rows where two stretches meet. The walk is unrolled over
BLOCK_T tokens, whose loads are then all under way at once; the rows at hand are a tuple, the oldest first.

The backward pass computes the sum again from x instead of reading it. Gradients of filter and bias are added up over a
stretch and stored apart for each, not added by atomics, which makes them deterministic.
"""

# ruff: noqa: RUF005 - Triton concatenates tuples and does not unpack them
import triton
import triton.language as tl

from kernels.grids import place_of_three, place_of_two


@triton.jit
def _filter(weight, d, mask, W: tl.constexpr):
    """The columns of the filter [D, W] in float32, the oldest first."""
    taps = ()
    for i in tl.static_range(W):
        taps = taps + (tl.load(weight + d * W + i, mask=mask, other=0.0).to(tl.float32),)
    return taps


@triton.jit
def _inputs_before(x, state, t, x_time, D, d, mask, W: tl.constexpr):
    """The W - 1 rows before token t; before the first token they lie in the state, or are zero."""
    rows = ()
    for i in tl.static_range(W - 1):
        at = t - (W - 1) + i
        row = tl.load(x + at.to(tl.int64) * x_time, mask=mask & (at >= 0), other=0.0).to(tl.float32)
        if state is not None:
            row += tl.load(state + (at + W - 1) * D + d, mask=mask & (at < 0), other=0.0).to(tl.float32)
        rows = rows + (row,)
    return rows


@triton.jit
def _newer(rows, row, W: tl.constexpr):
    """The rows without the oldest of W, and with the one given as the newest."""
    kept = ()
    for i in tl.static_range(1, W):
        kept = kept + (rows[i],)
    return kept + (row,)


@triton.jit
def _weighted(taps, rows, start, W: tl.constexpr):
    total = start
    for i in tl.static_range(W):
        total += taps[i] * rows[i]
    return total


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    x, weight, bias, state, y, T, D, x_batch, x_time,
    W: tl.constexpr, SILU: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y of one stretch of BLOCK_T tokens; x has strides, y and the state have none."""
    block, part, b = place_of_three(tl.cdiv(D, BLOCK_D), tl.cdiv(T, BLOCK_T))
    b, first = b.to(tl.int64), part * BLOCK_T
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    x += b * x_batch + d
    y += (b * T + first) * D + d
    if state is not None:
        state += b * (W - 1) * D
    taps = _filter(weight, d, mask, W)
    start = tl.zeros([BLOCK_D], tl.float32)
    if bias is not None:
        start += tl.load(bias + d, mask=mask, other=0.0).to(tl.float32)
    rows = (start,) + _inputs_before(x, state, first, x_time, D, d, mask, W)
    x += first.to(tl.int64) * x_time
    for i in tl.static_range(BLOCK_T):
        inside = mask & (first + i < T)
        rows = _newer(rows, tl.load(x + i * x_time, mask=inside, other=0.0).to(tl.float32), W)
        out = _weighted(taps, rows, start, W)
        if SILU:
            out *= tl.sigmoid(out)
        tl.store(y + i * D, out.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["T", "STRETCH"])
def backward_kernel(
    x, weight, bias, state, grad, grad_x, grad_weight, grad_bias, grad_state, T, D, STRETCH, x_batch, x_time,
    grad_batch, grad_time, W: tl.constexpr, SILU: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All gradients of one stretch: a token's needs what is asked of the W - 1 tokens after it as well.

    grad_x and grad_state are [B, T, D] and [B, W - 1, D]; grad_weight is [stretches, W, D], grad_bias [stretches, D].
    """
    stretches = tl.maximum(tl.cdiv(T, STRETCH), 1)
    column, stretch, b = place_of_three(tl.cdiv(D, BLOCK_D), stretches)
    b, first = b.to(tl.int64), stretch * STRETCH
    d = column * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    x += b * x_batch + d
    grad += b * grad_batch + d
    grad_x += b * T * D + d
    if state is not None:
        state += b * (W - 1) * D
        grad_state += b * (W - 1) * D + d
    taps = _filter(weight, d, mask, W)
    zero = tl.zeros([BLOCK_D], tl.float32)
    start = zero
    if bias is not None:
        start += tl.load(bias + d, mask=mask, other=0.0).to(tl.float32)
    rows = (zero,) + _inputs_before(x, state, first, x_time, D, d, mask, W)
    asked = (zero,) * W  # gradients of the last W sums, the oldest first; those of an earlier stretch are not ours
    sums, bias_sum = (zero,) * W, zero
    for block in range(tl.cdiv(STRETCH + W - 1, BLOCK_T)):
        for i in tl.static_range(BLOCK_T):
            step = block * BLOCK_T + i
            t = first + step
            inside = mask & (t < T) & (step < STRETCH + W - 1)
            at = t.to(tl.int64)
            rows = _newer(rows, tl.load(x + at * x_time, mask=inside, other=0.0).to(tl.float32), W)
            g = tl.load(grad + at * grad_time, mask=inside, other=0.0).to(tl.float32)
            if SILU:
                total = _weighted(taps, rows, start, W)
                opened = tl.sigmoid(total)
                g *= opened * (1.0 + total * (1.0 - opened))
            asked = _newer(asked, g, W)
            own = tl.where(step < STRETCH, g, 0.0)
            added = ()
            for j in tl.static_range(W):
                added = added + (sums[j] + own * rows[j],)
            sums = added
            bias_sum += own
            # The token W - 1 back: the filter's last column met its own sum, which is the oldest asked for.
            out = zero
            for j in tl.static_range(W):
                out += taps[W - 1 - j] * asked[j]
            back = t - (W - 1)
            ours = mask & (step >= W - 1) & (step < STRETCH + W - 1) & (back < T)
            tl.store(grad_x + back.to(tl.int64) * D, out.to(grad_x.dtype.element_ty), mask=ours)
            if state is not None:
                tl.store(grad_state + t * D, out.to(grad_state.dtype.element_ty), mask=mask & (back < 0))
    place = b * stretches + stretch
    for j in tl.static_range(W):
        tl.store(grad_weight + (place * W + j) * D + d, sums[j], mask=mask)
    if bias is not None:
        tl.store(grad_bias + place * D + d, bias_sum, mask=mask)


@triton.jit
def step_kernel(
    x, weight, bias, state, y, new_state, D, x_batch, W: tl.constexpr, SILU: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One token; the new state is the old one without its first row, and with x for its last."""
    block, b = place_of_two(tl.cdiv(D, BLOCK_D))
    b, d = b.to(tl.int64), block * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    at = b * (W - 1) * D + d
    token = tl.load(x + b * x_batch + d, mask=mask, other=0.0)
    out = token.to(tl.float32) * tl.load(weight + d * W + W - 1, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        out += tl.load(bias + d, mask=mask, other=0.0).to(tl.float32)
    for i in tl.static_range(W - 1):
        row = tl.load(state + at + i * D, mask=mask, other=0.0)
        out += row.to(tl.float32) * tl.load(weight + d * W + i, mask=mask, other=0.0).to(tl.float32)
        if i > 0:
            tl.store(new_state + at + (i - 1) * D, row, mask=mask)
    if W > 1:
        tl.store(new_state + at + (W - 2) * D, token, mask=mask)
    if SILU:
        out *= tl.sigmoid(out)
    tl.store(y + b * D + d, out.to(y.dtype.element_ty), mask=mask)
