"""Attention over listed blocks on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_kernels.py`, what they are told about the lists in `lists.py`. Launch configurations are looked
up, with the defaults of `launches.py`; nothing is tuned in passing, and nothing waits for the device.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels._block_sparse_attention.cases import ahead_of_time_cases as ahead_of_time_cases
from kernels._block_sparse_attention.cases import launch_case as launch_case
from kernels._block_sparse_attention.gpu_kernels import (
    sparse_dkv_kernel,
    sparse_dq_kernel,
    sparse_fwd_kernel,
    sparse_sum_kernel,
)
from kernels._block_sparse_attention.launches import default_launch, sparse_key, sum_key
from kernels._block_sparse_attention.launches import launch_candidates as launch_candidates
from kernels._block_sparse_attention.lists import Inverse, Lists, blocks_in_a_run, invert, tidy
from kernels.tuning import choose, run

LOG2_E = 1.4426950408889634
PRECISION = "ieee"  # of float32 products; 16-bit types ignore it


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    block_size: int,
    query_block: int,
    scale: float,
    causal: bool,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    """See `kernels.block_sparse_attention`; the log-sum-exp is returned in any case."""
    if q.dtype == torch.bfloat16 and not q.is_cuda:
        raise ValueError(
            "The gpu backend on CPU tensors must have float32 or float16, because the Triton interpreter multiplies "
            "bfloat16 wrongly, but got bfloat16. Convert the tensors or use the portable backend."
        )
    return sparse_forward(q, k, v, blocks, block_size, query_block, scale, causal)


@torch.library.custom_op("hybrid_nas::block_sparse_attention", mutates_args=())
def sparse_forward(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, block_size: int, query_block: int, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """(o [B, Tq, Hq, Dv], natural log-sum-exp [B, Tq, Hq] in float32)."""
    q, k, v = _side_by_side(q), _readable(k), _readable(v)
    lists = tidy(blocks, q.shape[1], k.shape[1], block_size, query_block, causal)
    o = q.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    key = sparse_key("block_sparse_attention.forward", q, v, causal, query_block, block_size)
    config = choose(key, sparse_fwd_kernel, default_launch, q.device)
    with torch.cuda.device_of(q):
        run(
            key, sparse_fwd_kernel, _grid_of_lists(q, k, lists, query_block, config["BM"]), q, k, v, lists.entries,
            lists.slots, o, lse, *_integers(q, k, v, lists), scale * LOG2_E,
            **_constants(q, k, v, block_size, query_block, causal), **config,
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
    q, k, v, do, dlse = _side_by_side(q), _readable(k), _readable(v), do.contiguous(), dlse.contiguous()
    lists = tidy(blocks, q.shape[1], k.shape[1], block_size, query_block, causal)
    dq, dk, dv, delta = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), torch.empty_like(lse)
    constants = _constants(q, k, v, block_size, query_block, causal)
    key = sparse_key("block_sparse_attention.backward_dq", q, v, causal, query_block, block_size)
    config = choose(key, sparse_dq_kernel, default_launch, q.device)
    with torch.cuda.device_of(q):
        run(
            key, sparse_dq_kernel, _grid_of_lists(q, k, lists, query_block, config["BM"]), q, k, v, lists.entries,
            lists.slots, o, lse, do, dlse, dq, delta, *_integers(q, k, v, lists), scale, scale * LOG2_E, **constants,
            **config,
        )  # fmt: skip
        inverse = invert(lists, k.shape[1], block_size, query_block * constants["GROUP"])
        _key_gradients(q, k, v, lse, delta, do, dk, dv, lists, inverse, scale, constants)
    return dq, dk, dv


@sparse_backward.register_fake
def _(do, dlse, q, k, v, blocks, o, lse, block_size, query_block, scale, causal):
    return tuple(one.new_empty(one.shape) for one in (q, k, v))


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
    inverse: Inverse,
    scale: float,
    constants: dict[str, Any],
) -> None:
    """Fill dk and dv."""
    block, causal, query_block = (constants[name] for name in ("BLOCK", "CAUSAL", "QUERY_BLOCK"))
    key = sparse_key("block_sparse_attention.backward_dkv", q, v, causal, query_block, block)
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
        *_strides(q, k, v), scale, scale * LOG2_E, JOINED=joined, **constants, **config,
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


def _side_by_side(q: Tensor) -> Tensor:
    """[B, T, H, D] with the heads of a token side by side; copied only where they are not."""
    whole = q.stride(3) == 1 and (q.shape[2] == 1 or q.stride(2) == q.shape[3])
    return q if whole else q.clone(memory_format=torch.contiguous_format)


def _readable(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.clone(memory_format=torch.contiguous_format)


def _grid_of_lists(q: Tensor, k: Tensor, lists: Lists, query_block: int, rows: int) -> tuple[int]:
    tiles = triton.cdiv(query_block * (q.shape[2] // k.shape[2]), rows)
    return (tiles * lists.entries.shape[1] * q.shape[0] * k.shape[2],)


def _strides(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    return *q.stride()[:2], *k.stride()[:3], *v.stride()[:3]


def _integers(q: Tensor, k: Tensor, v: Tensor, lists: Lists) -> tuple[int, ...]:
    """The arguments of `INTEGERS`, in order."""
    sequences, count, heads, capacity = lists.entries.shape
    return q.shape[1], k.shape[1], k.shape[2], count, capacity, heads, sequences, *_strides(q, k, v)


def _constants(q: Tensor, k: Tensor, v: Tensor, block_size: int, query_block: int, causal: bool) -> dict[str, Any]:
    sizes = {"D": q.shape[3], "DV": v.shape[3]}
    padded = {f"B{name}": triton.next_power_of_2(size) for name, size in sizes.items()}
    options = {"GROUP": q.shape[2] // k.shape[2], "QUERY_BLOCK": query_block, "BLOCK": block_size, "CAUSAL": causal}
    return {**sizes, **padded, **options, "PRECISION": PRECISION}
