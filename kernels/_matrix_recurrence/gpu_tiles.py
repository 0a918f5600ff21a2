"""Loading, storing and decaying tiles, shared by the Triton kernels of the matrix recurrence.

A tile of tokens starts at a 64-bit base and uses small 32-bit offsets from there. Where a product needs a transposed
operand, the tile is loaded transposed: transposing the result of a product for use in another one is what Triton up
to 3.7 compiles wrongly on Hopper.

DECAY is 0 for none, 1 for one number per head and token, 2 for one per key channel. g is the running sum of log_decay
inside a chunk. Rows past the end of the sequence read g = 0, which is why every exponent is bounded by 0 or masked.
DELTA is 0 without erasing, 1 for the delta rule and 2 for erasing freely. BEFORE: q reads the state before its token
and before that token's decay, as with a bonus (then DECAY is 2, as it is with DELTA 2).
"""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl


@triton.constexpr_function
def block_beside_state(block_k, precision):
    """How much of K, of which a program holds all, is multiplied at once: beside a state of more than 128 rows, in
    float32 64, registers hold no other tile of all K, and the state is read back in blocks."""
    return block_k if block_k <= (64 if precision == "tf32x3" else 128) else 64


@triton.jit
def load_tile(base, rows, cols, stride, row_count, col_count):
    """Zeros outside; rows may begin at -1."""
    mask = (rows[:, None] >= 0) & (rows[:, None] < row_count) & (cols[None, :] < col_count)
    return tl.load(base + rows[:, None] * stride + cols[None, :], mask=mask, other=0.0)


@triton.jit
def load_transposed(base, rows, cols, stride, row_count, col_count):
    """The tile of load_tile as [cols, rows]."""
    mask = (rows[None, :] >= 0) & (rows[None, :] < row_count) & (cols[:, None] < col_count)
    return tl.load(base + rows[None, :] * stride + cols[:, None], mask=mask, other=0.0)


@triton.jit
def store_tile(base, tile, rows, cols, stride, row_count, col_count):
    mask = (rows[:, None] < row_count) & (cols[None, :] < col_count)
    tl.store(base + rows[:, None] * stride + cols[None, :], tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def from_start(g, rows, cols, left, H: tl.constexpr, K: tl.constexpr, DECAY: tl.constexpr):
    """exp(g) as [rows, 1] or [rows, cols]; g points at the first token of the chunk and the head.

    With a decay per channel rows may begin at -1, where the decay from the start is 1.
    """
    if DECAY == 1:
        result = tl.exp(tl.load(g + rows * H, mask=rows < left, other=0.0))[:, None]
    else:
        result = tl.exp(load_tile(g, rows, cols, H * K, left, K))
    return result


@triton.jit
def from_start_transposed(g, rows, cols, left, H: tl.constexpr, K: tl.constexpr, DECAY: tl.constexpr):
    if DECAY == 1:
        result = tl.exp(tl.load(g + rows * H, mask=rows < left, other=0.0))[None, :]
    else:
        result = tl.exp(load_transposed(g, rows, cols, H * K, left, K))
    return result


@triton.jit
def last_decay(g, cols, last, H: tl.constexpr, K: tl.constexpr, DECAY: tl.constexpr):
    """g of the last token of the chunk, [1] or [cols]."""
    if DECAY == 1:
        result = tl.load(g + last * H + tl.arange(0, 1))
    else:
        result = tl.load(g + last * H * K + cols, mask=cols < K, other=0.0)
    return result


@triton.jit
def to_end(g, rows, cols, left, last, H: tl.constexpr, K: tl.constexpr, DECAY: tl.constexpr):
    """exp(g_last - g) as [rows, 1] or [rows, cols]."""
    end = last_decay(g, cols, last, H, K, DECAY)
    if DECAY == 1:
        result = tl.exp(end - tl.load(g + rows * H, mask=rows < left, other=0.0))[:, None]
    else:
        result = tl.exp(end[None, :] - load_tile(g, rows, cols, H * K, left, K))
    return result


@triton.jit
def to_end_transposed(g, rows, cols, left, last, H: tl.constexpr, K: tl.constexpr, DECAY: tl.constexpr):
    end = last_decay(g, cols, last, H, K, DECAY)
    if DECAY == 1:
        result = tl.exp(end - tl.load(g + rows * H, mask=rows < left, other=0.0))[None, :]
    else:
        result = tl.exp(end[:, None] - load_transposed(g, rows, cols, H * K, left, K))
    return result


@triton.jit
def pair_decay(g, left, H: tl.constexpr, BT: tl.constexpr, DECAY: tl.constexpr):
    """exp(g_t - g_i) as [t, i] for i <= t < left, else 0; without decay 1 and 0."""
    t = tl.arange(0, BT)
    seen = (t[:, None] >= t[None, :]) & (t[:, None] < left)
    if DECAY == 1:
        decay = tl.load(g + t * H, mask=t < left, other=0.0)
        result = tl.exp(tl.where(seen, decay[:, None] - decay[None, :], float("-inf")))
    else:
        result = seen.to(tl.float32)
    return result


@triton.jit
def pair_decay_transposed(g, left, H: tl.constexpr, BT: tl.constexpr, DECAY: tl.constexpr):
    """The matrix of pair_decay as [i, t]."""
    t = tl.arange(0, BT)
    seen = (t[None, :] >= t[:, None]) & (t[None, :] < left)
    if DECAY == 1:
        decay = tl.load(g + t * H, mask=t < left, other=0.0)
        result = tl.exp(tl.where(seen, decay[None, :] - decay[:, None], float("-inf")))
    else:
        result = seen.to(tl.float32)
    return result


@triton.jit(do_not_specialize=["T"])
def chunk_sum_kernel(
    x, before, offset, out, T,
    W: tl.constexpr, BT: tl.constexpr, BW: tl.constexpr, REVERSE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Running sums of x [B, T, W] inside each chunk; from the end, with offset [B, N, W] added, if REVERSE.

    SHIFTED: `before` [B, T, W] counts as if each of its values belonged to the token before.
    """
    chunk, b = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows, cols = tl.arange(0, BT), tl.program_id(0) * BW + tl.arange(0, BW)
    base, left = (b * T + chunk * BT) * W, T - chunk * BT
    values = load_tile(x + base, rows, cols, W, left, W).to(tl.float32)
    if SHIFTED:
        values += load_tile(before + base, rows, cols, W, left, W)
    sums = tl.cumsum(values, axis=0, reverse=REVERSE)
    if SHIFTED:
        sums -= load_tile(before + base, rows, cols, W, left, W)
    if REVERSE:
        chunks = tl.cdiv(T, BT)
        sums += tl.load(offset + (b * chunks + chunk) * W + cols, mask=cols < W, other=0.0)[None, :]
    store_tile(out + base, sums, rows, cols, W, left, W)
