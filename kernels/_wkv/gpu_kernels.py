"""Triton kernels of WKV: two levels, so that the time per token does not grow with the length.

A stretch of time adds sums (a, b) with a shift m, and keeps a share of the sums before it with the logarithm c. Two
stretches compose: the later one adds to what it keeps of the earlier. Tiles are scanned by this rule, segments of tiles
are walked, and the sums are carried over the segments, as in `kernels/_vector_recurrence/gpu_kernels.py`.

Row r of a tile holds the sums *before* token r, so the tokens of the scan are those of the row above; row T holds the
final sums. The forward pass keeps the sums before every tile, from which the backward pass computes the rest again.
That walks against time: the sums behind token t receive what token t + 1 and later ones send back, with the key
-log Z_{t+1}.

Logarithms have base 2 in here, shifts in memory base e.
"""

import triton
import triton.language as tl

from kernels.grids import place_of_three, place_of_two

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
EMPTY = tl.constexpr(-1e38)


@triton.jit
def _then(c_1, m_1, a_1, b_1, c_2, m_2, a_2, b_2):
    """Two stretches of time as one."""
    past = m_1 + c_2
    m = tl.maximum(past, m_2)
    kept, added = tl.exp2(past - m), tl.exp2(m_2 - m)
    return c_1 + c_2, m, kept * a_1 + added * a_2, kept * b_1 + added * b_2


@triton.jit
def _row(values, row, TILE: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, TILE) == row)[:, None], values, 0.0), 0)


@triton.jit
def _program(T, D, tiles, TILE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Channels, segment, how many of them there are, and sequence of a program of the grid [blocks of channels,
    segments, batch]; rows are one more than tokens."""
    segments = tl.cdiv(T + 1, tiles * TILE)
    block, segment, b = place_of_three(tl.cdiv(D, BLOCK_D), segments)
    return block * BLOCK_D + tl.arange(0, BLOCK_D), segment, segments, b.to(tl.int64)


@triton.jit
def _place(T, D, d, b, tile, TILE: tl.constexpr):
    """Token of every row, offsets into [B, T, D] and which channels are there."""
    t = tile * TILE + tl.arange(0, TILE)
    return t, (b * T + t)[:, None] * D + d[None, :], (d < D)[None, :]


@triton.jit
def _token(x, offsets, mask):
    return tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _before(k, v, decay, t, offsets, there, T, D):
    """What the tile adds before every row, from nothing: (c, m, a, b), of the tokens of the rows above."""
    mask = (t > 0)[:, None] & (t <= T)[:, None] & there
    key = tl.where(mask, _token(k, offsets - D, mask) * LOG2_E, EMPTY)
    one = tl.where(mask, 1.0, 0.0)
    return tl.associative_scan((one * decay[None, :], key, _token(v, offsets - D, mask), one), 0, _then)


@triton.jit
def _read(m, a, b, key, value, bonus):
    """y and the logarithm of its denominator."""
    own = key + bonus[None, :]
    shift = tl.maximum(m, own)
    past, weight = tl.exp2(m - shift), tl.exp2(own - shift)
    denominator = past * b + weight
    return (past * a + weight * value) / denominator, shift + tl.log2(denominator)


@triton.jit
def _load_state(state, place, D, mask):
    """(m, a, b) of sums in memory, [3, D] at a place."""
    a = tl.load(state + place, mask=mask, other=0.0)
    b = tl.load(state + place + D, mask=mask, other=0.0)
    return tl.load(state + place + 2 * D, mask=mask, other=EMPTY) * LOG2_E, a, b


@triton.jit
def _store_state(state, place, D, m, a, b, mask):
    tl.store(state + place, a, mask=mask)
    tl.store(state + place + D, b, mask=mask)
    tl.store(state + place + 2 * D, m * LN_2, mask=mask)


@triton.jit(do_not_specialize=["T", "tiles"])
def sums_kernel(k, v, w, sums, kept, T, D, tiles, TILE: tl.constexpr, BLOCK_D: tl.constexpr):
    """What a segment adds to nothing, and the logarithm of what it keeps."""
    d, segment, segments, batch = _program(T, D, tiles, TILE, BLOCK_D)
    decay = tl.load(w + d, mask=d < D, other=0.0) * LOG2_E
    c, a, b = (tl.zeros([BLOCK_D], tl.float32),) * 3
    m = tl.full([BLOCK_D], EMPTY, tl.float32)
    for i in range(tiles):
        t, offsets, there = _place(T, D, d, batch, segment * tiles + i, TILE)
        c_t, m_t, a_t, b_t = _before(k, v, decay, t, offsets, there, T, D)
        last = TILE - 1
        c, m, a, b = _then(c, m, a, b, _row(c_t, last, TILE), _row(m_t, last, TILE), _row(a_t, last, TILE),
                           _row(b_t, last, TILE))  # fmt: skip
    place = batch * segments + segment
    _store_state(sums, place * 3 * D + d, D, m, a, b, d < D)
    tl.store(kept + place * D + d, c, mask=d < D)


@triton.jit(do_not_specialize=["segments"])
def carry_kernel(sums, kept, first, segments, D, REVERSE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Replace what every segment adds to nothing by the sums that reach it."""
    block, batch = place_of_two(tl.cdiv(D, BLOCK_D))
    d, batch = block * BLOCK_D + tl.arange(0, BLOCK_D), batch.to(tl.int64)
    m, a, b = _load_state(first, batch * 3 * D + d, D, d < D)
    for i in range(segments):
        place = batch * segments + (segments - 1 - i if REVERSE else i)
        m_s, a_s, b_s = _load_state(sums, place * 3 * D + d, D, d < D)
        c_s = tl.load(kept + place * D + d, mask=d < D, other=0.0)
        _store_state(sums, place * 3 * D + d, D, m, a, b, d < D)
        _, m, a, b = _then(0.0, m, a, b, c_s, m_s, a_s, b_s)


@triton.jit(do_not_specialize=["T", "tiles"])
def output_kernel(k, v, w, u, starts, y, last, tile_sums, T, D, tiles, TILE: tl.constexpr, BLOCK_D: tl.constexpr):
    """The outputs of a segment, and the sums before each of its tiles; the last segment keeps the final ones."""
    d, segment, segments, batch = _program(T, D, tiles, TILE, BLOCK_D)
    decay = tl.load(w + d, mask=d < D, other=0.0) * LOG2_E
    bonus = tl.load(u + d, mask=d < D, other=0.0) * LOG2_E
    m, a, b = _load_state(starts, (batch * segments + segment) * 3 * D + d, D, d < D)
    all_tiles = segments * tiles
    for i in range(tiles):
        tile = segment * tiles + i
        t, offsets, there = _place(T, D, d, batch, tile, TILE)
        _store_state(tile_sums, (batch * all_tiles + tile) * 3 * D + d, D, m, a, b, d < D)
        c_t, m_t, a_t, b_t = _before(k, v, decay, t, offsets, there, T, D)
        _, m_t, a_t, b_t = _then(0.0, m[None, :], a[None, :], b[None, :], c_t, m_t, a_t, b_t)
        mask = (t < T)[:, None] & there
        key, value = _token(k, offsets, mask) * LOG2_E, _token(v, offsets, mask)
        out, _ = _read(m_t, a_t, b_t, key, value, bonus)
        tl.store(y + offsets, out.to(y.dtype.element_ty), mask=mask)
        m, a, b = _row(m_t, TILE - 1, TILE), _row(a_t, TILE - 1, TILE), _row(b_t, TILE - 1, TILE)
    if segment == segments - 1:
        _store_state(last, batch * 3 * D + d, D, m, a, b, d < D)


@triton.jit
def _behind(k, v, grad, decay, bonus, t, offsets, there, T, D, m, a, b, key, value):
    """What the tile sends back behind every row, from nothing: (c, m, a, b), of the tokens of the rows below."""
    _, m, a, b = _then(0.0, m, a, b, decay[None, :] + tl.zeros_like(m), key, value, 1.0)
    mask = (t + 1 < T)[:, None] & there
    y, log_z = _read(m, a, b, _token(k, offsets + D, mask) * LOG2_E, _token(v, offsets + D, mask), bonus)
    g = _token(grad, offsets + D, mask)
    one = tl.where(mask, 1.0, 0.0)
    sent = (one * decay[None, :], tl.where(mask, -log_z, EMPTY), g, -g * y)
    return tl.associative_scan(sent, 0, _then, reverse=True)


@triton.jit(do_not_specialize=["T", "tiles"])
def grad_sums_kernel(
    k, v, w, u, grad, tile_sums, sums, kept, T, D, tiles, TILE: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """What a segment sends back to the sums before it, and the logarithm of what it keeps of what reaches it."""
    d, segment, segments, batch = _program(T, D, tiles, TILE, BLOCK_D)
    decay = tl.load(w + d, mask=d < D, other=0.0) * LOG2_E
    bonus = tl.load(u + d, mask=d < D, other=0.0) * LOG2_E
    c, d_a, d_b = (tl.zeros([BLOCK_D], tl.float32),) * 3
    shift = tl.full([BLOCK_D], EMPTY, tl.float32)
    all_tiles = segments * tiles
    for i in range(tiles):
        tile = segment * tiles + tiles - 1 - i
        t, offsets, there = _place(T, D, d, batch, tile, TILE)
        m, a, b = _load_state(tile_sums, (batch * all_tiles + tile) * 3 * D + d, D, d < D)
        c_t, m_t, a_t, b_t = _before(k, v, decay, t, offsets, there, T, D)
        _, m_t, a_t, b_t = _then(0.0, m[None, :], a[None, :], b[None, :], c_t, m_t, a_t, b_t)
        mask = (t < T)[:, None] & there
        key, value = _token(k, offsets, mask) * LOG2_E, _token(v, offsets, mask)
        c_t, m_t, a_t, b_t = _behind(k, v, grad, decay, bonus, t, offsets, there, T, D, m_t, a_t, b_t, key, value)
        c, shift, d_a, d_b = _then(c, shift, d_a, d_b, _row(c_t, 0, TILE), _row(m_t, 0, TILE), _row(a_t, 0, TILE),
                                   _row(b_t, 0, TILE))  # fmt: skip
    place = batch * segments + segment
    _store_state(sums, place * 3 * D + d, D, shift, d_a, d_b, d < D)
    tl.store(kept + place * D + d, c, mask=d < D)


@triton.jit(do_not_specialize=["T", "tiles"])
def grads_kernel(
    k, v, w, u, grad, tile_sums, starts, grad_k, grad_v, grad_w, grad_u, grad_first, T, D, tiles,
    TILE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All gradients of a segment, from what reaches it from later ones; those of w and u a sum for each segment."""
    d, segment, segments, batch = _program(T, D, tiles, TILE, BLOCK_D)
    decay = tl.load(w + d, mask=d < D, other=0.0) * LOG2_E
    bonus = tl.load(u + d, mask=d < D, other=0.0) * LOG2_E
    place = batch * segments + segment
    shift, d_a, d_b = _load_state(starts, place * 3 * D + d, D, d < D)
    for_w, for_u = (tl.zeros([BLOCK_D], tl.float32),) * 2
    all_tiles = segments * tiles
    for i in range(tiles):
        tile = segment * tiles + tiles - 1 - i
        t, offsets, there = _place(T, D, d, batch, tile, TILE)
        m, a, b = _load_state(tile_sums, (batch * all_tiles + tile) * 3 * D + d, D, d < D)
        c_t, m_t, a_t, b_t = _before(k, v, decay, t, offsets, there, T, D)
        _, m_t, a_t, b_t = _then(0.0, m[None, :], a[None, :], b[None, :], c_t, m_t, a_t, b_t)
        mask = (t < T)[:, None] & there
        key, value, g = _token(k, offsets, mask) * LOG2_E, _token(v, offsets, mask), _token(grad, offsets, mask)
        c_s, m_s, a_s, b_s = _behind(k, v, grad, decay, bonus, t, offsets, there, T, D, m_t, a_t, b_t, key, value)
        _, m_s, a_s, b_s = _then(0.0, shift[None, :], d_a[None, :], d_b[None, :], c_s, m_s, a_s, b_s)
        shift, d_a, d_b = _row(m_s, 0, TILE), _row(a_s, 0, TILE), _row(b_s, 0, TILE)

        y, log_z = _read(m_t, a_t, b_t, key, value, bonus)
        own = g * tl.exp2(tl.where(mask, key + bonus[None, :] - log_z, 0.0))  # g is zero where no token is
        through_u = own * (value - y)
        written = tl.where(mask, tl.exp2(key + m_s), 0.0)
        to_value = own + written * a_s
        to_key = through_u + written * (a_s * value + b_s)
        tl.store(grad_v + offsets, to_value.to(grad_v.dtype.element_ty), mask=mask)
        tl.store(grad_k + offsets, to_key.to(grad_k.dtype.element_ty), mask=mask)
        remembered = tl.where(mask, tl.exp2(decay[None, :] + m_s + m_t), 0.0) * (a_s * a_t + b_s * b_t)
        for_w += tl.sum(remembered, 0)
        for_u += tl.sum(through_u, 0)
        if tile == 0:  # what the first token sends back, and what passes it, reaches the state before it
            _c_0, m_0, a_0, b_0 = _then(0.0, shift, d_a, d_b, decay, -_row(log_z, 0, TILE), _row(g, 0, TILE),
                                     -_row(g * y, 0, TILE))  # fmt: skip
            weight = tl.exp2(m_0 + m)
            first = grad_first + batch * 3 * D + d
            tl.store(first, weight * a_0, mask=d < D)
            tl.store(first + D, weight * b_0, mask=d < D)
            tl.store(first + 2 * D, weight * (a_0 * a + b_0 * b), mask=d < D)
    tl.store(grad_w + place * D + d, for_w, mask=d < D)
    tl.store(grad_u + place * D + d, for_u, mask=d < D)


@triton.jit
def step_kernel(k, v, w, u, state, y, new_state, D, BLOCK_D: tl.constexpr):
    """One token."""
    block, batch = place_of_two(tl.cdiv(D, BLOCK_D))
    d, batch = block * BLOCK_D + tl.arange(0, BLOCK_D), batch.to(tl.int64)
    mask = d < D
    m, a, b = _load_state(state, batch * 3 * D + d, D, mask)
    key, value = _token(k, batch * D + d, mask) * LOG2_E, _token(v, batch * D + d, mask)
    own = key + tl.load(u + d, mask=mask, other=0.0) * LOG2_E
    shift = tl.maximum(m, own)
    past, weight = tl.exp2(m - shift), tl.exp2(own - shift)
    out = (past * a + weight * value) / (past * b + weight)
    tl.store(y + batch * D + d, out.to(y.dtype.element_ty), mask=mask)
    decay = tl.load(w + d, mask=mask, other=0.0) * LOG2_E
    _, m, a, b = _then(0.0, m, a, b, decay, key, value, 1.0)
    _store_state(new_state, batch * 3 * D + d, D, m, a, b, mask)
