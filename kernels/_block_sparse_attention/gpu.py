"""Attention over listed blocks on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_kernels.py`, what they are told about the lists in `lists.py`. Launch configurations are looked
up, with the defaults of `launches.py`; nothing is tuned in passing, and nothing waits for the device.
"""

from dataclasses import astuple
from typing import Any

import torch
import triton
from torch import Tensor

from kernels._block_sparse_attention.cases import ahead_of_time_cases as ahead_of_time_cases
from kernels._block_sparse_attention.cases import launch_case as launch_case
from kernels._block_sparse_attention.gpu_arguments import (
    LOG2_E,
    constants_of,
    grid_of_lists,
    integers_of,
    readable,
    side_by_side,
    strides,
)
from kernels._block_sparse_attention.gpu_by_keys import forward_by_keys, query_gradient_by_keys
from kernels._block_sparse_attention.gpu_kernels import (
    sparse_dkv_kernel,
    sparse_dq_kernel,
    sparse_fwd_kernel,
    sparse_sum_kernel,
)
from kernels._block_sparse_attention.launches import LARGEST_ROWS, default_launch, keys_outside, sparse_key, sum_key
from kernels._block_sparse_attention.launches import launch_candidates as launch_candidates
from kernels._block_sparse_attention.lists import SMALLEST_RUN, Lists, blocks_in_a_run, invert, tidy
from kernels._block_sparse_attention.options import Options
from kernels.tuning import choose, run


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    options: Options,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    """See `kernels.block_sparse_attention`; the log-sum-exp is returned in any case."""
    return sparse_forward(q, k, v, blocks, *astuple(options))


@torch.library.custom_op("hybrid_nas::block_sparse_attention", mutates_args=())
def sparse_forward(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, block_size: int, query_block: int, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """(o [B, Tq, Hq, Dv], natural log-sum-exp [B, Tq, Hq] in float32)."""
    q, k, v = side_by_side(q), readable(k), readable(v)
    options = _options(q, k, block_size, query_block, scale, causal)
    lists = tidy(blocks, q.shape[1], k.shape[1], options)
    if _by_keys(q, k, v, lists, options, gradient=False):
        return forward_by_keys(q, k, v, lists, options)
    o = q.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    key = sparse_key("block_sparse_attention.forward", q, v, options)
    config = choose(key, sparse_fwd_kernel, default_launch, q.device)
    with torch.cuda.device_of(q):
        run(
            key, sparse_fwd_kernel, grid_of_lists(q, k, lists, options.query_block, config["BM"]), q, k, v,
            lists.entries, lists.slots, o, lse, *integers_of(q, k, v, lists), scale * LOG2_E,
            **constants_of(q, k, v, options), **config,
        )  # fmt: skip
    return o, lse


@sparse_forward.register_fake
def _(q, k, v, blocks, block_size, query_block, scale, causal):
    return q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("hybrid_nas::block_sparse_attention_backward", mutates_args=())
def sparse_backward(
    do: Tensor,
    dlse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    o: Tensor,
    lse: Tensor,
    block_size: int,
    query_block: int,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, contiguous and in their type."""
    q, k, v, do, dlse = side_by_side(q), readable(k), readable(v), do.contiguous(), dlse.contiguous()
    options = _options(q, k, block_size, query_block, scale, causal)
    lists = tidy(blocks, q.shape[1], k.shape[1], options)
    dq, dk, dv, delta = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), torch.empty_like(lse)
    constants = constants_of(q, k, v, options)
    key = sparse_key("block_sparse_attention.backward_dq", q, v, options)
    with torch.cuda.device_of(q):
        if _by_keys(q, k, v, lists, options, gradient=True):
            query_gradient_by_keys(q, k, v, o, lse, do, dlse, dq, delta, lists, options)
        else:
            config = choose(key, sparse_dq_kernel, default_launch, q.device)
            run(
                key, sparse_dq_kernel, grid_of_lists(q, k, lists, options.query_block, config["BM"]), q, k, v,
                lists.entries, lists.slots, o, lse, do, dlse, dq, delta, *integers_of(q, k, v, lists), scale,
                scale * LOG2_E, **constants, **config,
            )  # fmt: skip
        _key_gradients(q, k, v, lse, delta, do, dk, dv, lists, options, constants)
    return dq, dk, dv


@sparse_backward.register_fake
def _(do, dlse, q, k, v, blocks, o, lse, block_size, query_block, scale, causal):
    return tuple(one.new_empty(one.shape) for one in (q, k, v))


def _options(q: Tensor, k: Tensor, block_size: int, query_block: int, scale: float, causal: bool) -> Options:
    """A single block that goes far beyond its tokens is cut, as the kernels count to the end of it."""
    sizes = ((block_size, k), (query_block, q))
    block_size, query_block = (min(size, max(LARGEST_ROWS, triton.next_power_of_2(x.shape[1]))) for size, x in sizes)
    return Options(block_size, query_block, scale, causal)


def _by_keys(q: Tensor, k: Tensor, v: Tensor, lists: Lists, options: Options, *, gradient: bool) -> bool:
    """Whether the outer loop of the forward pass, or of the gradient of the queries, goes over keys."""
    if not SMALLEST_RUN <= options.block_size <= LARGEST_ROWS:
        return False
    rows = options.query_block * (q.shape[2] // k.shape[2])
    blocks = triton.cdiv(k.shape[1], options.block_size)
    size, value_size = (triton.next_power_of_2(x.shape[3]) * x.element_size() for x in (q, v))
    block_bytes = triton.next_power_of_2(options.block_size) * (size + value_size)
    row_bytes = 3 * size + value_size if gradient else size + 2 * value_size
    return keys_outside(rows, lists.entries.shape[1], blocks, lists.entries.shape[3], block_bytes, row_bytes)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    q, k, v, blocks, *options = inputs
    ctx.save_for_backward(q, k, v, blocks, *output)
    ctx.options = options


def _backward(ctx: Any, do: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
    return *sparse_backward(do, dlse, *ctx.saved_tensors, *ctx.options), None, *(None for _ in ctx.options)


sparse_forward.register_autograd(_backward, setup_context=_save_for_backward)


def _key_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    delta: Tensor,
    do: Tensor,
    dk: Tensor,
    dv: Tensor,
    lists: Lists,
    options: Options,
    constants: dict[str, Any],
) -> None:
    """Fill dk and dv."""
    block, scale = options.block_size, options.scale
    inverse = invert(lists.entries, k.shape[1], block, options.query_block * constants["GROUP"])
    key = sparse_key("block_sparse_attention.backward_dkv", q, v, options)
    config = choose(key, sparse_dkv_kernel, default_launch, q.device)
    joined, BN = blocks_in_a_run(block), config["BN"]
    sequences_listed, _, heads_listed, _ = lists.entries.shape
    keys, kv_heads = k.shape[1:3]
    sharing = q.shape[0] // sequences_listed * (kv_heads // heads_listed)
    tiles = triton.cdiv(joined * block, BN)
    parts = [
        q.new_empty(inverse.partials * sharing * tiles, BN, constants[d], dtype=torch.float32) for d in ("BD", "BDV")
    ]
    shared = (heads_listed, sequences_listed)
    run(
        key, sparse_dkv_kernel, (inverse.row_of_chunk.shape[0], sharing, tiles), q, k, v, lse, delta, do, dk, dv,
        *parts, inverse.members, inverse.bits, inverse.starts, inverse.row_of_chunk, inverse.chunk_starts,
        inverse.partial_starts, q.shape[1], keys, kv_heads, *shared, inverse.rows, inverse.runs, inverse.chunk,
        *strides(q, k, v), scale, scale * LOG2_E, JOINED=joined, **constants, **config,
    )  # fmt: skip
    if inverse.partials == 0:
        return
    for part, grad, size in ((parts[0], dk, "BD"), (parts[1], dv, "BDV")):
        key = sum_key(grad)
        run(
            key, sparse_sum_kernel, (inverse.rows, sharing, tiles), part, grad, inverse.partial_starts, keys, kv_heads,
            *shared, inverse.runs, RUN=joined * block, D=grad.shape[3], BD=constants[size], BN=BN,
            **choose(key, sparse_sum_kernel, default_launch, q.device),
        )  # fmt: skip
