"""Triton kernel of one decoding token: reads and writes the state once, which is all the time it takes."""

# Pointers and tl.constexpr have no types that a checker knows.
# pyright: reportArgumentType=false
import triton
import triton.language as tl

from kernels._matrix_recurrence.gpu_tiles import load_tile, store_tile


@triton.jit
def step_kernel(
    q, k, v, g, beta, a, b, bonus, state, out, new_state, scale,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    """One head and block of V; q, k [B, H / GROUP, K]; v, out [B, H, V]; g [B, H] or [B, H, K]; beta [B, H]; a, b
    [B, H, K]; bonus [H, K]. BEFORE: the output is read from the state before, and bonus added."""
    bh = tl.program_id(0).to(tl.int64)
    qk = (bh // H) * (H // GROUP) + (bh % H) // GROUP
    cols_k, cols_v = tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    query = tl.load(q + qk * K + cols_k, mask=cols_k < K, other=0.0).to(tl.float32)
    key = tl.load(k + qk * K + cols_k, mask=cols_k < K, other=0.0).to(tl.float32)
    value = tl.load(v + bh * V + cols_v, mask=cols_v < V, other=0.0).to(tl.float32)
    memory = load_tile(state + bh * K * V, cols_k, cols_v, V, K, V)
    result, recalled = tl.zeros([BV], tl.float32), tl.zeros([BV], tl.float32)
    if BEFORE:
        own = tl.load(bonus + (bh % H) * K + cols_k, mask=cols_k < K, other=0.0).to(tl.float32)
        result = tl.sum(memory * query[:, None], 0) + tl.sum(query * own * key, 0) * value
    if DELTA == 2:
        read = tl.load(a + bh * K + cols_k, mask=cols_k < K, other=0.0).to(tl.float32)
        recalled = tl.sum(memory * read[:, None], 0)
    if DECAY == 1:
        memory *= tl.exp(tl.load(g + bh).to(tl.float32))
    if DECAY == 2:
        memory *= tl.exp(tl.load(g + bh * K + cols_k, mask=cols_k < K, other=0.0).to(tl.float32))[:, None]
    if DELTA == 1:
        value = tl.load(beta + bh).to(tl.float32) * (value - tl.sum(memory * key[:, None], 0))
    if DELTA == 2:
        write = tl.load(b + bh * K + cols_k, mask=cols_k < K, other=0.0).to(tl.float32)
        memory += write[:, None] * recalled[None, :]
    memory += key[:, None] * value[None, :]
    store_tile(new_state + bh * K * V, memory, cols_k, cols_v, V, K, V)
    if not BEFORE:
        result = tl.sum(memory * query[:, None], 0)
    tl.store(out + bh * V + cols_v, (result * scale).to(out.dtype.element_ty), mask=cols_v < V)
