"""Triton kernels of the products inside a chunk under a decay per key channel, and of their gradients.

Sub-chunks of 16 tokens: against earlier sub-chunks the decay is split where the later one begins, so both factors are
at most one and the product is a matrix product; inside a sub-chunk every pair is computed by itself (Yang et al.,
"Gated Linear Attention Transformers with Hardware-Efficient Training", section 4.3). A row that stands before its
token's decay sees the tokens before it alone, decayed up to the token before.
"""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import load_tile, load_transposed, store_tile


@triton.jit
def _load_row(base, row, cols, stride, left, count):
    mask = (cols < count) & (row >= 0) & (row < left)
    return tl.load(base + row * stride + cols, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["T"])
def channel_scores_kernel(
    q, x, y, g, beta, bonus, scores, erasing, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, DELTA: tl.constexpr,
    BEFORE: tl.constexpr, OWN: tl.constexpr, NEGATED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """16 rows of scores_tj = Σ_c q_tc y_jc exp(g_tc - g_jc), and with DELTA of erasing, x in place of q.

    DELTA 1: x = y = k, times beta. DELTA 2: x = a stands before its token's decay; NEGATED changes the sign of erasing.
    BEFORE: so does q; OWN: then scores_tt = Σ_c q_tc bonus_c y_tc.
    """
    bh = tl.program_id(1).to(tl.int64)
    subs: tl.constexpr = BT // 16
    chunk, edge = (tl.program_id(0) // subs).to(tl.int64), (tl.program_id(0) % subs) * 16
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    q_here, y_here, g_here = q + token_qk * K, y + token_qk * K, g + token * K
    rows, all_rows = edge + tl.arange(0, 16), tl.arange(0, BT)
    x_before: tl.constexpr = DELTA == 2
    dtype = y.dtype.element_ty
    score, erase = tl.zeros([16, BT], tl.float32), tl.zeros([16, BT], tl.float32)
    for first in range(0, K, BK):
        cols = first + tl.arange(0, BK)
        decay = load_tile(g_here, rows - BEFORE, cols, H * K, left, K)
        split = _load_row(g_here, edge - 1, cols, H * K, left, K)
        query = load_tile(q_here, rows, cols, heads_qk * K, left, K).to(tl.float32)
        late = tl.exp(tl.minimum(decay - split[None, :], 0.0))
        decay_t = load_transposed(g_here, all_rows, cols, H * K, left, K)
        early = tl.exp(tl.where(all_rows[None, :] < edge, split[:, None] - decay_t, float("-inf")))
        y_t = (load_transposed(y_here, all_rows, cols, heads_qk * K, left, K) * early).to(dtype)
        score += tl.dot((query * late).to(dtype), y_t, input_precision=PRECISION)
        row, decay_x = query, decay
        if DELTA > 0:
            row = load_tile(x + token_qk * K, rows, cols, heads_qk * K, left, K).to(tl.float32)
            decay_x = load_tile(g_here, rows - x_before, cols, H * K, left, K)
            late = tl.exp(tl.minimum(decay_x - split[None, :], 0.0))
            erase += tl.dot((row * late).to(dtype), y_t, input_precision=PRECISION)
        for i in range(16):
            other = _load_row(y_here, edge + i, cols, heads_qk * K, left, K)
            at = _load_row(g_here, edge + i, cols, H * K, left, K)[None, :]
            here = all_rows[None, :] == edge + i
            weight = other[None, :] * tl.exp(tl.minimum(decay - at, 0.0))
            seen = here & (rows[:, None] >= edge + i + BEFORE)
            score += tl.where(seen, tl.sum(query * weight, 1)[:, None], 0.0)
            if DELTA > 0:
                if x_before != BEFORE:
                    weight = other[None, :] * tl.exp(tl.minimum(decay_x - at, 0.0))
                seen = here & (rows[:, None] >= edge + i + x_before)
                erase += tl.where(seen, tl.sum(row * weight, 1)[:, None], 0.0)
        if OWN:
            own = tl.load(bonus + h * K + cols, mask=cols < K, other=0.0).to(tl.float32)[None, :]
            own *= query * load_tile(y_here, rows, cols, heads_qk * K, left, K)
            score += tl.where(rows[:, None] == all_rows[None, :], tl.sum(own, 1)[:, None], 0.0)
    store_tile(scores + token * BT, score, rows, all_rows, H * BT, left, BT)
    if DELTA == 1:
        erase *= tl.load(beta + token + rows * H, mask=rows < left, other=0.0).to(tl.float32)[:, None]
    if DELTA > 0:
        store_tile(erasing + token * BT, -erase if NEGATED else erase, rows, all_rows, H * BT, left, BT)


@triton.jit(do_not_specialize=["T"])
def score_grad_kernel(
    written, d_out, d_scores, scale, T,
    H: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_scores = scale·d_out·writtenᵀ on and below the diagonal."""
    chunk, bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    left = T - chunk * BT
    token = ((bh // H) * T + chunk * BT) * H + bh % H
    rows = tl.arange(0, BT)
    d_score = tl.zeros([BT, BT], tl.float32)
    for first in range(0, V, BV):
        cols = first + tl.arange(0, BV)
        value_t = load_transposed(written + token * V, rows, cols, H * V, left, V)
        d_o = load_tile(d_out + token * V, rows, cols, H * V, left, V)
        d_score += tl.dot(d_o.to(value_t.dtype), value_t, input_precision=PRECISION)
    d_score = tl.where(rows[:, None] >= rows[None, :], d_score * scale, 0.0)
    store_tile(d_scores + token * BT, d_score, rows, rows, H * BT, left, BT)


@triton.jit(do_not_specialize=["T"])
def channel_grad_kernel(
    x, y, g, beta, bonus, d_products, d_x, d_y, d_g, d_before, d_beta, T,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    ERASING: tl.constexpr, BEFORE: tl.constexpr, OWN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of 16 tokens through products of rows x and columns y, with their flags as in channel_scores_kernel.

    Adds to d_x, d_y, d_g and, BEFORE, d_before [B, T, H, K]. ERASING: x = y = k, rows times beta; d_x is d_y, and adds
    to d_beta [K blocks, B, T, H].
    """
    bh = tl.program_id(2).to(tl.int64)
    subs: tl.constexpr = BT // 16
    chunk, edge = (tl.program_id(1) // subs).to(tl.int64), (tl.program_id(1) % subs) * 16
    b, h = bh // H, bh % H
    heads_qk: tl.constexpr = H // GROUP
    start, left = b * T + chunk * BT, T - chunk * BT
    token, token_qk = start * H + h, start * heads_qk + h // GROUP
    x_here, y_here, g_here = x + token_qk * K, y + token_qk * K, g + token * K
    d_here = d_products + token * BT
    cols = tl.program_id(0) * BK + tl.arange(0, BK)
    index, all_rows = tl.arange(0, 16), tl.arange(0, BT)
    rows = edge + index
    dtype = y.dtype.element_ty
    decay = load_tile(g_here, rows, cols, H * K, left, K)
    decay_row = load_tile(g_here, rows - BEFORE, cols, H * K, left, K)
    # As the row: columns before this sub-chunk, split where it begins.
    split = _load_row(g_here, edge - 1, cols, H * K, left, K)
    decays = load_tile(g_here, all_rows, cols, H * K, left, K)
    early = tl.exp(tl.where(all_rows[:, None] < edge, split[None, :] - decays, float("-inf")))
    d_rows = load_tile(d_here, rows, all_rows, H * BT, left, BT).to(dtype)
    columns = load_tile(y_here, all_rows, cols, heads_qk * K, left, K)
    as_row = tl.dot(d_rows, (columns * early).to(dtype), input_precision=PRECISION)
    as_row *= tl.exp(tl.minimum(decay_row - split[None, :], 0.0))
    # As the column: rows after this sub-chunk, split at its last token.
    split = _load_row(g_here, tl.minimum(edge + 15, left - 1), cols, H * K, left, K)
    after = (all_rows[:, None] >= edge + 16) & (all_rows[:, None] < left)
    if BEFORE:
        decays = load_tile(g_here, all_rows - 1, cols, H * K, left, K)
    late = tl.exp(tl.where(after, decays - split[None, :], float("-inf")))
    if ERASING:
        late *= tl.load(beta + token + all_rows * H, mask=all_rows < left, other=0.0).to(tl.float32)[:, None]
    d_cols = load_transposed(d_here, all_rows, rows, H * BT, left, BT).to(dtype)
    others = load_tile(x_here, all_rows, cols, heads_qk * K, left, K)
    as_col = tl.dot(d_cols, (others * late).to(dtype), input_precision=PRECISION)
    as_col *= tl.exp(tl.minimum(split[None, :] - decay, 0.0))
    for i in range(16):
        at = edge + i
        g_at = _load_row(g_here, at, cols, H * K, left, K)[None, :]
        d_row = tl.load(d_here + rows * H * BT + at, mask=(rows < left) & (index >= i + BEFORE), other=0.0)
        y_at = _load_row(y_here, at, cols, heads_qk * K, left, K)[None, :]
        as_row += d_row.to(tl.float32)[:, None] * y_at * tl.exp(tl.minimum(decay_row - g_at, 0.0))
        d_col = tl.load(d_here + at * H * BT + rows, mask=(at < left) & (index + BEFORE <= i), other=0.0)
        x_at = _load_row(x_here, at, cols, heads_qk * K, left, K)[None, :]
        if ERASING:
            x_at *= tl.load(beta + token + at * H, mask=at < left, other=0.0).to(tl.float32)
        if BEFORE:
            g_at = _load_row(g_here, at - 1, cols, H * K, left, K)[None, :]
        as_col += d_col.to(tl.float32)[:, None] * x_at * tl.exp(tl.minimum(g_at - decay, 0.0))
    own_y = load_tile(y_here, rows, cols, heads_qk * K, left, K).to(tl.float32)
    own_x = load_tile(x_here, rows, cols, heads_qk * K, left, K).to(tl.float32)
    if ERASING:
        part = token + tl.program_id(0) * (tl.num_programs(2) // H).to(tl.int64) * T * H + rows * H
        before = tl.load(d_beta + part, mask=rows < left, other=0.0)
        tl.store(d_beta + part, before + tl.sum(own_x * as_row, 1), mask=rows < left)
        as_row *= tl.load(beta + token + rows * H, mask=rows < left, other=0.0).to(tl.float32)[:, None]
    through_decay = -own_y * as_col
    if BEFORE:
        total = load_tile(d_before + token * K, rows, cols, H * K, left, K) + own_x * as_row
        store_tile(d_before + token * K, total, rows, cols, H * K, left, K)
    else:
        through_decay += own_x * as_row
    total = load_tile(d_g + token * K, rows, cols, H * K, left, K) + through_decay
    store_tile(d_g + token * K, total, rows, cols, H * K, left, K)
    if OWN:
        d_own = tl.load(d_here + rows * (H * BT + 1), mask=rows < left, other=0.0).to(tl.float32)[:, None]
        d_own *= tl.load(bonus + h * K + cols, mask=cols < K, other=0.0).to(tl.float32)[None, :]
        as_row += d_own * own_y
        as_col += d_own * own_x
    if ERASING:
        as_col += as_row
    else:
        total = load_tile(d_x + token * K, rows, cols, H * K, left, K) + as_row
        store_tile(d_x + token * K, total, rows, cols, H * K, left, K)
    total = load_tile(d_y + token * K, rows, cols, H * K, left, K) + as_col
    store_tile(d_y + token * K, total, rows, cols, H * K, left, K)
