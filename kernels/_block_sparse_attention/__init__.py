"""Attention over a list of blocks of keys for each block of queries: the cost follows the blocks that are listed.

One operation for static patterns (`patterns.py` makes their lists) and for those that depend on content
(`selection.py`). Lists are data on the device; nothing about them is known in advance but how long they may be.

Sources: Child et al., Sparse Transformers (arXiv 1904.10509), section 4; Lu et al., MoBA (arXiv 2502.13189), section
2.2; Yuan et al., NSA (arXiv 2502.11089), section 3.
"""

from types import ModuleType
from typing import Literal, overload

import torch
from torch import Tensor

from kernels._attention import checks
from kernels._block_sparse_attention import portable, reference
from kernels._block_sparse_attention.options import Options
from kernels.arguments import check_number, check_switches, check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.whole_numbers import check_whole_number

LARGEST_HEAD = 256


@overload
def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block_size: int,
    query_block: int = 1,
    scale: float | None = None,
    causal: bool = True,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block_size: int,
    query_block: int = 1,
    scale: float | None = None,
    causal: bool = True,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block_size: int,
    query_block: int = 1,
    scale: float | None = None,
    causal: bool = True,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of each query over the keys of its listed blocks: o_i = sum_j softmax_j(scale q_i . k_j) v_j.

    Args:
        q: queries [B, Tq, Hq, D]; query i is at position Tk - Tq + i when causal.
        k: keys [B, Tk, Hkv, D]; query head h reads key head h // (Hq / Hkv).
        v: values [B, Tk, Hkv, Dv]. D and Dv are multiples of 4 from 16 to 256.
        blocks: int32 or int64 [B or 1, ceil(Tq / query_block), Hkv or 1, S], for each block of queries and key head the
            blocks of keys that it sees; block n holds keys n block_size and following. Any order; -1 fills up, and a
            block that is named twice counts once.
        block_size: keys in a block.
        query_block: queries that share a list: queries i query_block and following. 1 gives each its own.
        scale: factor of the scores; D^-0.5 unless given.
        causal: a query sees no position after its own, listed or not.
        return_lse: also return the natural logarithm of the sum of exponentiated scores, to combine branches with.

    Returns o [B, Tq, Hq, Dv] in the type of q, or (o, lse [B, Tq, Hq] in float32). A query that sees no key has output
    0 and lse -inf. q, k and v receive gradients, through lse too, from the implementation that computed o.

    Raises ValueError when shapes, types, devices or options do not belong together. That the blocks named exist is
    checked by the portable and reference backends only: the GPU would have to wait for it, and takes others as -1.
    """
    check_tensors(q=q, k=k, v=v, blocks=blocks)
    check_switches(causal=causal, return_lse=return_lse)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        checks.check_tensor(name, tensor, "[B, T, H, D]", q)
    checks.check_heads(q, k, v)
    for name, tensor in (("q", q), ("v", v)):
        checks.check_head_size(name, tensor, LARGEST_HEAD)
    if causal and q.shape[1] > k.shape[1]:
        raise ValueError(
            f"q must have at most the {k.shape[1]} tokens of k when causal, but got {q.shape[1]} in shape "
            f"{list(q.shape)}."
        )
    _check_blocks(q, k, blocks, block_size, query_block)
    if scale is not None:
        check_number("scale", scale)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    substituted = ask_substitute(
        "block_sparse_attention",
        q,
        k,
        v,
        blocks,
        block_size=block_size,
        query_block=query_block,
        scale=factor,
        causal=causal,
        return_lse=return_lse,
    )
    if substituted is not NotImplemented:
        return substituted
    options = Options(block_size, query_block, factor, causal)
    o, lse = _implementation(q).block_sparse_attention(q, k, v, blocks, options, return_lse)
    return (o, lse) if return_lse else o


def _implementation(q: Tensor) -> ModuleType:
    backend = choose_backend(q)
    if backend == "gpu":
        from kernels._block_sparse_attention import gpu  # Triton is installed on Linux alone

        return gpu
    return {"reference": reference, "portable": portable}[backend]


def _check_blocks(q: Tensor, k: Tensor, blocks: Tensor, block_size: int, query_block: int) -> None:
    for name, size in (("block_size", block_size), ("query_block", query_block)):
        check_whole_number(name, size)
        if size <= 0:
            raise ValueError(f"{name} must be at least 1, but got {size}.")
    wanted = (q.shape[0], -(-q.shape[1] // query_block), k.shape[2])
    given = tuple(blocks.shape)
    fits = blocks.dim() == 4 and given[3] > 0
    fits = fits and given[0] in (1, wanted[0]) and given[1] == wanted[1] and given[2] in (1, wanted[2])
    if not fits or blocks.dtype not in (torch.int32, torch.int64) or blocks.device != q.device:
        raise ValueError(
            f"blocks must be int32 or int64 [B or 1, ceil(Tq / query_block), Hkv or 1, S] = [{wanted[0]} or 1, "
            f"{wanted[1]}, {wanted[2]} or 1, S] on {q.device}, but got {blocks.dtype} {list(given)} on {blocks.device}."
        )
