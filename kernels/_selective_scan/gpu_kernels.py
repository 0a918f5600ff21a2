"""Triton kernels of the selective scan: two levels, so that the time per token does not grow with the length.

Time is cut into chunks. One pass computes, for all chunks at once, what each adds to the state; a second carries the
state over the chunks, a tile of them at a time; a third produces the outputs of all chunks at once from the state
before each. The backward pass does the same against time and recomputes the states of a chunk from the state before it,
so that no tensor of size [T, Dm, N] is ever stored. The states before chunks are kept for it: with N = 16 and chunks of
32 tokens they take as many bytes as u in 16 bits, while computing them again would add a third to the exponentials of
the backward pass, which are what bounds it.

A program owns a tile [chunk, channels] and loops over the N states, so that registers do not grow with N. It is one
warp: with more, `tl.associative_scan` meets at barriers and takes two to three times the instructions per element. The
alternative of walking the tokens one by one with a tile [channels, states] in registers compiles to more instructions,
because all that belongs to a token is then computed again by every thread that shares its channel.

The decay of a stretch of time is exp(A times the sum of delta), so the first pass needs no scan, and only exponents
that are never positive occur. Nothing is added by atomics: partial sums over blocks of channels and over chunks are
stored apart and added afterwards, which makes gradients deterministic.

Inside this file states lie as [N, Dm] and A as [N, Dm], so that a program reads its channels side by side. Between
chunks there is one place more than there are chunks: place c is before chunk c and place c + 1 behind it, so that the
carry turns every sum where it lies into the state that stands there, and both ends are states of the whole.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _then(decay_1, value_1, decay_2, value_2):
    """Two steps of h <- decay h + value, as one."""
    return decay_1 * decay_2, value_1 * decay_2 + value_2


@triton.jit
def _silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def _tile(T, Dm, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):
    """Batch entry, chunk over the batch, times, channels; offsets into [B, T, Dm] and mask of their tile."""
    block, chunk, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    t = chunk * BLOCK_T + tl.arange(0, BLOCK_T)
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    offsets = (b * T + t)[:, None] * Dm + d[None, :]
    return b, b * tl.num_programs(1) + chunk, t, d, offsets, (t < T)[:, None] & (d < Dm)[None, :]


@triton.jit(do_not_specialize=["T"])
def sums_kernel(
    u, delta, A, BC, grad, z, sums, delta_sums, T, Dm, N,
    REVERSE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state after it or, in REVERSE, to the gradient of the state before it."""
    b, place, t, d, offsets, mask = _tile(T, Dm, BLOCK_T, BLOCK_D)
    state_place = place + b + (0 if REVERSE else 1)
    step = tl.load(delta + offsets, mask=mask, other=0.0).to(tl.float32)
    total = tl.sum(step, 0)
    if REVERSE:
        value = tl.load(grad + offsets, mask=mask, other=0.0).to(tl.float32)
        if z is not None:
            value *= _silu(tl.load(z + offsets, mask=mask, other=0.0).to(tl.float32))
        elapsed = tl.cumsum(step, 0)
    else:
        value = tl.load(u + offsets, mask=mask, other=0.0).to(tl.float32) * step
        elapsed = tl.sum(step, 0, keep_dims=True) - tl.cumsum(step, 0)
    tl.store(delta_sums + place * Dm + d, total, mask=d < Dm)
    for n in range(N):
        rate = tl.load(A + n * Dm + d, mask=d < Dm, other=0.0) * LOG2_E
        weight = tl.load(BC + (b * T + t) * N + n, mask=t < T, other=0.0).to(tl.float32)
        added = tl.sum(tl.exp2(elapsed * rate[None, :]) * value * weight[:, None], 0)
        tl.store(sums + (state_place * N + n) * Dm + d, added, mask=d < Dm)


@triton.jit(do_not_specialize=["chunks"])
def carry_kernel(
    sums, delta_sums, A, first, chunks, Dm, N,
    REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn the sums of chunks into the states behind them (in REVERSE before them), TILE chunks at a time.

    A tile is scanned from nothing and what is left of the state is added behind it, so that tiles wait for one another
    with a single multiply-add. r counts chunks in the order of the pass.
    """
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # over [N, Dm]
    there, size = i < N * Dm, N * Dm
    rate = tl.load(A + i, mask=there, other=0.0) * LOG2_E
    carry = tl.load(first + b * size + i, mask=there, other=0.0)
    begin = b * (chunks + 1) + (chunks if REVERSE else 0)
    tl.store(sums + begin * size + i, carry, mask=there)
    row = tl.arange(0, TILE)
    for tile in range(tl.cdiv(chunks, TILE)):
        r = tile * TILE + row
        chunk = b * chunks + (chunks - 1 - r if REVERSE else r)
        at = (chunk + b + (0 if REVERSE else 1))[:, None] * size + i[None, :]
        mask = (r < chunks)[:, None] & there[None, :]
        added = tl.load(sums + at, mask=mask, other=0.0)
        elapsed = tl.load(delta_sums + chunk[:, None] * Dm + (i % Dm)[None, :], mask=mask, other=0.0)
        left, added = tl.associative_scan((tl.exp2(elapsed * rate[None, :]), added), 0, _then)
        tl.store(sums + at, left * carry[None, :] + added, mask=mask)
        is_last = (row == TILE - 1)[:, None]
        carry = tl.sum(tl.where(is_last, left, 0.0), 0) * carry + tl.sum(tl.where(is_last, added, 0.0), 0)


@triton.jit(do_not_specialize=["T"])
def output_kernel(
    u, delta, A, B, C, D, z, starts, y, T, Dm, N, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The outputs of one chunk from the state before it."""
    b, place, t, d, offsets, mask = _tile(T, Dm, BLOCK_T, BLOCK_D)
    first_row = (tl.arange(0, BLOCK_T) == 0)[:, None]
    step = tl.load(delta + offsets, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(u + offsets, mask=mask, other=0.0).to(tl.float32)
    out = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    if D is not None:
        out += value * tl.load(D + d, mask=d < Dm, other=0.0).to(tl.float32)[None, :]
    value *= step
    for n in range(N):
        rate = tl.load(A + n * Dm + d, mask=d < Dm, other=0.0) * LOG2_E
        start = tl.load(starts + ((place + b) * N + n) * Dm + d, mask=d < Dm, other=0.0)
        b_n = tl.load(B + (b * T + t) * N + n, mask=t < T, other=0.0).to(tl.float32)
        c_n = tl.load(C + (b * T + t) * N + n, mask=t < T, other=0.0).to(tl.float32)
        decay = tl.exp2(step * rate[None, :])
        added = value * b_n[:, None] + tl.where(first_row, decay * start[None, :], 0.0)
        _, state = tl.associative_scan((decay, added), 0, _then)
        out += state * c_n[:, None]
    if z is not None:
        out *= _silu(tl.load(z + offsets, mask=mask, other=0.0).to(tl.float32))
    tl.store(y + offsets, out.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["T"])
def grads_kernel(
    u, delta, A, B, C, D, z, starts, grad, carries,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z,
    T, Dm, N, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk, from the state before it and the gradient of the state after it.

    With a the decay, x = delta u B the input and k_t = a_t h_{t-1} what is kept of the state: h = k + x. The gradient g
    of the state obeys g_t = C_t grad_t + a_{t+1} g_{t+1}, and the exponent delta A receives g k.
    """
    b, place, t, d, offsets, mask = _tile(T, Dm, BLOCK_T, BLOCK_D)
    row = tl.arange(0, BLOCK_T)
    earlier, later = mask & (row > 0)[:, None], mask & ((row + 1 < BLOCK_T) & (t + 1 < T))[:, None]
    step = tl.load(delta + offsets, mask=mask, other=0.0).to(tl.float32)
    step_after = tl.load(delta + offsets + Dm, mask=later, other=0.0).to(tl.float32)
    value = tl.load(u + offsets, mask=mask, other=0.0).to(tl.float32) * step
    value_before = tl.load(u + offsets - Dm, mask=earlier, other=0.0).to(tl.float32)
    value_before *= tl.load(delta + offsets - Dm, mask=earlier, other=0.0).to(tl.float32)
    g_y = tl.load(grad + offsets, mask=mask, other=0.0).to(tl.float32)
    if z is not None:
        g_y *= _silu(tl.load(z + offsets, mask=mask, other=0.0).to(tl.float32))
        y = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    g_value = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    g_step = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for n in range(N):
        rate = tl.load(A + n * Dm + d, mask=d < Dm, other=0.0)
        state_at, token_at = ((place + b) * N + n) * Dm + d, (b * T + t) * N + n
        start = tl.load(starts + state_at, mask=d < Dm, other=0.0)
        carry = tl.load(carries + state_at + N * Dm, mask=d < Dm, other=0.0)
        b_n = tl.load(B + token_at, mask=t < T, other=0.0).to(tl.float32)
        b_before = tl.load(B + token_at - N, mask=(row > 0) & (t < T), other=0.0).to(tl.float32)
        c_n = tl.load(C + token_at, mask=t < T, other=0.0).to(tl.float32)

        decay = tl.exp2(step * (rate * LOG2_E)[None, :])
        before = value_before * b_before[:, None] + tl.where((row == 0)[:, None], start[None, :], 0.0)
        _, kept = tl.associative_scan((decay, decay * before), 0, _then)
        decay_after = tl.exp2(step_after * (rate * LOG2_E)[None, :])
        asked = g_y * c_n[:, None] + tl.where((row == BLOCK_T - 1)[:, None], carry[None, :], 0.0)
        _, g = tl.associative_scan((decay_after, asked), 0, _then, reverse=True)

        state = kept + value * b_n[:, None]
        if z is not None:
            y += state * c_n[:, None]
        partial = ((tl.program_id(0) * tl.num_programs(2) + b) * N + n) * T + t
        tl.store(grad_C + partial, tl.sum(g_y * state, 1), mask=t < T)
        tl.store(grad_B + partial, tl.sum(g * value, 1), mask=t < T)
        g_value += g * b_n[:, None]
        kept *= g
        g_step += kept * rate[None, :]
        tl.store(grad_A + (place * N + n) * Dm + d, tl.sum(kept * step, 0), mask=d < Dm)

    u_tile = tl.load(u + offsets, mask=mask, other=0.0).to(tl.float32)
    g_u = g_value * step
    if D is not None:
        skip = tl.load(D + d, mask=d < Dm, other=0.0).to(tl.float32)
        g_u += g_y * skip[None, :]
        tl.store(grad_D + place * Dm + d, tl.sum(g_y * u_tile, 0), mask=d < Dm)
    tl.store(grad_u + offsets, g_u.to(grad_u.dtype.element_ty), mask=mask)
    tl.store(grad_delta + offsets, (g_step + g_value * u_tile).to(grad_delta.dtype.element_ty), mask=mask)
    if z is not None:
        if D is not None:
            y += u_tile * skip[None, :]
        gate = tl.load(z + offsets, mask=mask, other=0.0).to(tl.float32)
        opened = tl.sigmoid(gate)
        g_z = tl.load(grad + offsets, mask=mask, other=0.0).to(tl.float32) * y * opened * (1.0 + gate * (1.0 - opened))
        tl.store(grad_z + offsets, g_z.to(grad_z.dtype.element_ty), mask=mask)


@triton.jit
def step_kernel(
    u, delta, A, B, C, D, z, state, y, new_state, Dm, N, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One token: A and the state are [Dm, N] here, and every state is read once and written once, in order."""
    b = tl.program_id(1).to(tl.int64)
    d, n = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    tile, mask = d[:, None] * N + n[None, :], (d < Dm)[:, None] & (n < N)[None, :]
    step = tl.load(delta + b * Dm + d, mask=d < Dm, other=0.0).to(tl.float32)
    value = tl.load(u + b * Dm + d, mask=d < Dm, other=0.0).to(tl.float32)
    rate = tl.load(A + tile, mask=mask, other=0.0) * LOG2_E
    b_n = tl.load(B + b * N + n, mask=n < N, other=0.0).to(tl.float32)
    c_n = tl.load(C + b * N + n, mask=n < N, other=0.0).to(tl.float32)
    h = tl.load(state + b * Dm * N + tile, mask=mask, other=0.0)
    h = tl.exp2(step[:, None] * rate) * h + (step * value)[:, None] * b_n[None, :]
    tl.store(new_state + b * Dm * N + tile, h, mask=mask)
    out = tl.sum(h * c_n[None, :], 1)
    if D is not None:
        out += value * tl.load(D + d, mask=d < Dm, other=0.0).to(tl.float32)
    if z is not None:
        out *= _silu(tl.load(z + b * Dm + d, mask=d < Dm, other=0.0).to(tl.float32))
    tl.store(y + b * Dm + d, out.to(y.dtype.element_ty), mask=d < Dm)
