"""What the attention kernels share: reading a tile of one head, and which keys and queries see each other.

A tile is a run of tokens of one head, [N, BD]. BD is the head size D rounded up to a power of two; columns from D on
are zeros. Where two powers of two come closer to the size of keys, such as 128 + 64 for 192, keys and queries are a
tile [N, BD] and a tail [N, BT]; BT = 0 is no tail, and the tile then stands for the tail where one must be handed over.
Strides between tokens are given in heads, so that D, a constant, tells the compiler how addresses are aligned, and a
slice of a fused projection is read where it lies.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_tile(
    head, start, token_stride, count, N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, FIRST: tl.constexpr = 0
):
    """Columns FIRST .. FIRST + BD of tokens start .. start + N of one head; past the last of `count` tokens, that one.

    What is repeated is weighed by zero or not stored. A mask instead would cost registers, and thereby tile size.
    """
    rows = tl.minimum(tl.arange(0, N), count - 1 - start)
    dims = FIRST + tl.arange(0, BD)
    # The start in 64 bits, the offsets inside a tile in 32: a long cache passes 2^31 elements, a tile never does.
    tile = head + tl.cast(start, tl.int64) * token_stride * D
    elements = tile + rows[:, None] * (token_stride * D) + dims[None, :]
    if FIRST + BD <= D:
        return tl.load(elements)
    return tl.load(elements, mask=(dims < D)[None, :], other=0.0)


@triton.jit
def load_rows(head, index, token_stride, D: tl.constexpr, BD: tl.constexpr, FIRST: tl.constexpr = 0):
    """As `load_tile`, of the tokens `index` [N] wherever they lie."""
    dims = FIRST + tl.arange(0, BD)
    elements = head + index.to(tl.int64)[:, None] * (token_stride * D) + dims[None, :]
    if FIRST + BD <= D:
        return tl.load(elements)
    return tl.load(elements, mask=(dims < D)[None, :], other=0.0)


@triton.jit
def load_tail(
    tile, head, start, token_stride, count, N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr
):
    """The columns behind a tile's, [N, BT]; the tile itself where there are none."""
    tail = tile
    if BT > 0:
        tail = load_tile(head, start, token_stride, count, N, D, BT, BD)
    return tail


@triton.jit
def product(a, a_tail, b, b_tail, BT: tl.constexpr, PRECISION: tl.constexpr):
    """a bᵀ over tiles and tails. b comes fresh from memory: a product that was rounded must not be transposed."""
    dots = tl.dot(a, tl.trans(b), input_precision=PRECISION)
    if BT > 0:
        dots += tl.dot(a_tail, tl.trans(b_tail), input_precision=PRECISION)
    return dots


@triton.jit
def tanh(x):
    """From exp2 alone, which every architecture and the interpreter have; right to a rounding of 1."""
    return 1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 * LOG2_E)))


@triton.jit
def store_tile(
    head, tile, start, token_stride, count, N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, FIRST: tl.constexpr = 0
):
    """The inverse of `load_tile`."""
    rows = tl.arange(0, N)
    dims = FIRST + tl.arange(0, BD)
    mask = (start + rows < count)[:, None] & (dims < D)[None, :]
    target = head + tl.cast(start, tl.int64) * token_stride * D
    tl.store(target + rows[:, None] * (token_stride * D) + dims[None, :], tile.to(head.dtype.element_ty), mask=mask)


@triton.jit
def visible(
    rows, cols, keys, shift, window, num_global, prefix,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr,
):  # fmt: skip
    """Which query (index `rows`, at position rows + shift) sees which key (position `cols`); shapes broadcast.

    GLOBAL: the window does not hide the first `num_global` keys, at least `prefix`, which are seen by all.
    """
    sees = cols < keys
    if CAUSAL:
        allowed = cols <= rows + shift
        if WINDOWED:
            near = cols > rows + shift - window
            if GLOBAL:
                near = near | (cols < num_global)
            allowed = allowed & near
        if GLOBAL:
            allowed = allowed | (cols < prefix)
        sees = sees & allowed
    return sees


@triton.jit
def key_range(
    first, queries, keys, window, prefix, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The keys that queries first .. first + BM see, as bounds low, full, edge, high, all multiples of BN but the last.

    Between full and edge every query sees every key; the tiles on both sides need a mask. Global keys below low are
    not among them. Returns shift too, the position of query 0.
    """
    low, full, edge, high, shift = 0, 0, keys // BN * BN, keys, 0
    if CAUSAL:
        shift = keys - queries
        high = tl.minimum(keys, shift + first + BM)
        edge = tl.minimum(keys, shift + first + 1) // BN * BN
        if GLOBAL:
            high = tl.maximum(high, tl.minimum(prefix, keys))
    if WINDOWED:
        low = tl.maximum(shift + first - window + 1, 0) // BN * BN
        full = tl.cdiv(tl.maximum(shift + first + BM - window, 0), BN) * BN
        full = tl.minimum(tl.maximum(full, low), tl.cdiv(high, BN) * BN)
    return low, full, tl.maximum(edge, full), high, shift


@triton.jit
def query_range(
    first, queries, keys, window, num_global, prefix,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, GLOBAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The queries that see keys first .. first + BN, as bounds like those of `key_range`, multiples of BM but the last.

    Rows past the last query count as full: their log-sum-exp is read as +inf, which makes their weights 0.
    """
    ceiling = tl.cdiv(queries, BM) * BM
    low, full, edge, high, shift = 0, 0, ceiling, queries, 0
    if CAUSAL:
        shift = keys - queries
        low = tl.maximum(first - shift, 0) // BM * BM
        full = tl.cdiv(tl.maximum(first + BN - 1 - shift, 0), BM) * BM
        if GLOBAL:
            low = tl.where(first < prefix, 0, low)
    if WINDOWED:
        high = tl.minimum(queries, first + BN - 1 + window - shift)
        edge = tl.minimum(tl.maximum(first + window - shift, 0) // BM * BM, ceiling)
        if GLOBAL:
            high = tl.where(first < num_global, queries, high)
        full = tl.minimum(full, tl.maximum(tl.cdiv(high, BM) * BM, low))
    return low, full, tl.maximum(edge, full), high, shift
