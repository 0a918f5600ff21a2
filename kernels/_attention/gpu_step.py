"""The decode kernels of attention: one new token over a cache, split along the cache so that one sequence fills a GPU.

The query heads of a group are the rows of one tile, so that each key is read once for all of them. Each split writes
its own output and log-sum-exp; a second kernel weighs them together.

Source: Dao et al., Flash-Decoding (2023); the running softmax: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# Constants, ranges and products inside a kernel are not the Python types that a checker takes them for.

import triton
import triton.language as tl

from kernels._attention.gpu_forward import finish, fold_tile
from kernels._attention.gpu_tiles import load_tile, store_tile

STEP_INTEGERS = ["k_batch", "k_token", "v_batch", "v_token", "length", "slots", "split", "heads", "kv_heads"]


@triton.jit(do_not_specialize=STEP_INTEGERS)
def attention_step_kernel(
    q, k, v, keep, o, lse,
    k_batch, k_token, v_batch, v_token, length, slots, split, heads, kv_heads, scale_log2,
    D: tl.constexpr, KEEP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM query heads of one key head over `split` slots.

    q [B, Hq, D]; k, v [B, S, Hkv, D]; keep [B, Hkv, S]; o [B, splits, Hq, D]; lse [B, splits, Hq].
    """
    group = heads // kv_heads
    parts = tl.cdiv(group, BM)
    first = tl.program_id(0) % parts * BM
    sequence_head = tl.program_id(0) // parts
    b = tl.cast(sequence_head // kv_heads, tl.int64)
    kv_h = sequence_head % kv_heads
    low = tl.program_id(1) * split
    high = tl.minimum(low + split, length)

    k_head = k + (b * k_batch + kv_h) * D
    v_head = v + (b * v_batch + kv_h) * D
    q_tile = load_tile(q + (b * heads + kv_h * group) * D, first, 1, group, BM, D, BD)
    total = tl.zeros([BM, BD], tl.float32)
    weight = tl.zeros([BM], tl.float32)
    peak = tl.full([BM], float("-inf"), tl.float32)
    for start in tl.range(low, high, BN):
        cols = start + tl.arange(0, BN)
        sees = cols < high
        if KEEP:
            sees = tl.load(keep + (b * kv_heads + kv_h) * slots + cols, mask=sees, other=0) > 0
        k_tile = load_tile(k_head, start, k_token, high, BN, D, BD)
        v_tile = load_tile(v_head, start, v_token, high, BN, D, BD)
        total, weight, peak = fold_tile(
            total, weight, peak, q_tile, k_tile, v_tile, sees[None, :], scale_log2, True, PRECISION
        )
    out, log_sum = finish(total, weight, peak)
    partial = (b * tl.num_programs(1) + tl.program_id(1)) * heads + kv_h * group
    store_tile(o + partial * D, out, first, 1, group, BM, D, BD)
    rows = first + tl.arange(0, BM)
    tl.store(lse + partial + rows, log_sum, mask=rows < group)


@triton.jit(do_not_specialize=["splits", "heads"])
def attention_combine_kernel(
    partial, partial_lse, o, splits, heads, D: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr
):
    """One program: one query head. partial [B, splits, Hq, D], partial_lse [B, splits, Hq]; o [B, Hq, D]."""
    b = tl.cast(tl.program_id(0) // heads, tl.int64)
    h = tl.program_id(0) % heads
    s = tl.arange(0, BS)
    log_sum = tl.load(partial_lse + (b * splits + s) * heads + h, mask=s < splits, other=float("inf"))
    # A split without a slot is marked by +inf and weighs nothing.
    log_sum = tl.where(log_sum == float("inf"), float("-inf"), log_sum)
    peak = tl.max(log_sum, 0)
    weight = tl.exp2(log_sum - tl.where(peak == float("-inf"), 0.0, peak))
    rows = load_tile(partial + (b * splits * heads + h) * D, 0, heads, splits, BS, D, BD)
    total = tl.sum(rows * weight[:, None], 0) / tl.maximum(tl.sum(weight, 0), 1e-30)
    dims = tl.arange(0, BD)
    tl.store(o + (b * heads + h) * D + dims, total.to(o.dtype.element_ty), mask=dims < D)
