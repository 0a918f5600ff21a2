"""Triton kernels of the vector recurrence: two levels, so that the time per token does not grow with the length.

Time is cut into segments, a segment into tiles. One pass computes what every segment makes of a state of zero and how
much it keeps of the state before it; a second carries the state over the segments; a third walks the segments again and
writes the outputs. With one segment the third pass is all there is. The gradients come from the same scan against time,
with the decay of the token behind: g_t = grad_t + a_{t+1} g_{t+1}, of which x receives g_t and log a_t receives
g_t a_t h_{t-1}.

A program is one warp with a tile [TILE, channels]. The scan of a tile starts from zero and what is left of the state is
added behind it, so that tiles wait for one another with a single multiply-add. Decays are multiplied, never divided.

All kernels know their own direction alone: REVERSE is that of the pass, and r counts tokens in its order.
"""

import triton
import triton.language as tl

from kernels.grids import place_of_three, place_of_two

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _then(decay_1, value_1, decay_2, value_2):
    """Two steps of h <- decay h + value, as one."""
    return decay_1 * decay_2, value_1 * decay_2 + value_2


@triton.jit
def _program(T, D, tiles, TILE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Channels, segment, how many of them there are, and sequence of a program of the grid [blocks of channels,
    segments, batch]."""
    segments = tl.cdiv(T, tiles * TILE)
    block, segment, b = place_of_three(tl.cdiv(D, BLOCK_D), segments)
    return block * BLOCK_D + tl.arange(0, BLOCK_D), segment, segments, b.to(tl.int64)


@triton.jit
def _place(T, D, d, b, tile, REVERSE: tl.constexpr, TILE: tl.constexpr):
    """Position in the pass, offsets into [B, T, D] and mask of the tile."""
    r = tile * TILE + tl.arange(0, TILE)
    t = T - 1 - r if REVERSE else r
    return r, (b * T + t)[:, None] * D + d[None, :], (r < T)[:, None] & (d < D)[None, :]


@triton.jit
def _scanned(x, log_decay, r, offsets, mask, D, REVERSE: tl.constexpr, SHIFTED: tl.constexpr):
    """What the tile keeps of the state before it and what it adds, up to each token. SHIFTED: with the decay before.

    Tokens behind the end keep everything and add nothing.
    """
    if SHIFTED:
        before = offsets + D if REVERSE else offsets - D
        logs = tl.load(log_decay + before, mask=mask & (r > 0)[:, None], other=0.0)
    else:
        logs = tl.load(log_decay + offsets, mask=mask, other=0.0)
    added = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    return tl.associative_scan((tl.exp2(logs.to(tl.float32) * LOG2_E), added), 0, _then)


@triton.jit
def _last(tile_values, TILE: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, TILE) == TILE - 1)[:, None], tile_values, 0.0), 0)


@triton.jit(do_not_specialize=["T", "tiles"])
def sums_kernel(
    x, log_decay, sums, kept, T, D, tiles,
    REVERSE: tl.constexpr, SHIFTED: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What a segment makes of a state of zero, and how much of the state before it is left behind it."""
    d, segment, segments, b = _program(T, D, tiles, TILE, BLOCK_D)
    state, share = tl.zeros([BLOCK_D], tl.float32), tl.full([BLOCK_D], 1.0, tl.float32)
    for i in tl.range(0, tiles, num_stages=STAGES):
        r, offsets, mask = _place(T, D, d, b, segment * tiles + i, REVERSE, TILE)
        left, added = _scanned(x, log_decay, r, offsets, mask, D, REVERSE, SHIFTED)
        tile_share = _last(left, TILE)
        state = tile_share * state + _last(added, TILE)
        share *= tile_share
    place = (b * segments + segment) * D + d
    tl.store(sums + place, state, mask=d < D)
    tl.store(kept + place, share, mask=d < D)


@triton.jit(do_not_specialize=["segments"])
def carry_kernel(sums, kept, first, segments, D, BLOCK_D: tl.constexpr):
    """Replace what every segment makes of zero by the state that reaches it."""
    block, b = place_of_two(tl.cdiv(D, BLOCK_D))
    d, b = block * BLOCK_D + tl.arange(0, BLOCK_D), b.to(tl.int64)
    state = tl.load(first + b * D + d, mask=d < D, other=0.0)
    for segment in range(segments):
        place = (b * segments + segment) * D + d
        added = tl.load(sums + place, mask=d < D, other=0.0)
        share = tl.load(kept + place, mask=d < D, other=0.0)
        tl.store(sums + place, state, mask=d < D)
        state = share * state + added


@triton.jit(do_not_specialize=["T", "tiles"])
def output_kernel(
    x, log_decay, starts, h, last, T, D, tiles,
    REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All states of a segment from the state before it; the last segment keeps its last."""
    d, segment, segments, b = _program(T, D, tiles, TILE, BLOCK_D)
    state = tl.load(starts + (b * segments + segment) * D + d, mask=d < D, other=0.0)
    for i in tl.range(0, tiles, num_stages=STAGES):
        r, offsets, mask = _place(T, D, d, b, segment * tiles + i, REVERSE, TILE)
        left, added = _scanned(x, log_decay, r, offsets, mask, D, REVERSE, False)
        tl.store(h + offsets, (left * state[None, :] + added).to(h.dtype.element_ty), mask=mask)
        state = _last(left, TILE) * state + _last(added, TILE)
    if segment == segments - 1:
        tl.store(last + b * D + d, state, mask=d < D)


@triton.jit(do_not_specialize=["T", "tiles"])
def grads_kernel(
    grad, log_decay, h, first, starts, grad_x, grad_log_decay, grad_first, T, D, tiles,
    REVERSE: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All gradients of a segment, from the gradient that reaches it. `first` is the state that the scan started from,
    which the pass meets last."""
    d, segment, segments, b = _program(T, D, tiles, TILE, BLOCK_D)
    state = tl.load(starts + (b * segments + segment) * D + d, mask=d < D, other=0.0)
    start = tl.load(first + b * D + d, mask=d < D, other=0.0)
    for i in tl.range(0, tiles, num_stages=STAGES):
        r, offsets, mask = _place(T, D, d, b, segment * tiles + i, REVERSE, TILE)
        left, added = _scanned(grad, log_decay, r, offsets, mask, D, REVERSE, True)
        g = left * state[None, :] + added
        state = _last(left, TILE) * state + _last(added, TILE)
        tl.store(grad_x + offsets, g.to(grad_x.dtype.element_ty), mask=mask)
        g *= tl.exp2(tl.load(log_decay + offsets, mask=mask, other=0.0).to(tl.float32) * LOG2_E)
        reaches_first = mask & (r == T - 1)[:, None]
        places = b * D + d[None, :] + tl.zeros([TILE, 1], tl.int32)
        tl.store(grad_first + places, g, mask=reaches_first)
        before = offsets - D if REVERSE else offsets + D
        earlier = tl.load(h + before, mask=mask & (r < T - 1)[:, None], other=0.0).to(tl.float32)
        earlier = tl.where(reaches_first, start[None, :], earlier)
        tl.store(grad_log_decay + offsets, (g * earlier).to(grad_log_decay.dtype.element_ty), mask=mask)


@triton.jit
def step_kernel(x, log_decay, state, h, new_state, numbers, BLOCK_D: tl.constexpr):
    """One token of all sequences: the arrays are flat."""
    i = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = i < numbers
    decay = tl.exp2(tl.load(log_decay + i, mask=mask, other=0.0).to(tl.float32) * LOG2_E)
    value = decay * tl.load(state + i, mask=mask, other=0.0) + tl.load(x + i, mask=mask, other=0.0).to(tl.float32)
    tl.store(new_state + i, value, mask=mask)
    tl.store(h + i, value.to(h.dtype.element_ty), mask=mask)
