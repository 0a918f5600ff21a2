"""How tensors and options are handed to the kernels of attention over listed blocks."""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels._block_sparse_attention.lists import Lists
from kernels._block_sparse_attention.options import Options

LOG2_E = 1.4426950408889634
PRECISION = "ieee"  # of float32 products; 16-bit types ignore it


def side_by_side(q: Tensor) -> Tensor:
    """[B, T, H, D] with the heads of a token side by side; copied only where they are not."""
    whole = q.stride(3) == 1 and (q.shape[2] == 1 or q.stride(2) == q.shape[3])
    return q if whole else q.clone(memory_format=torch.contiguous_format)


def readable(x: Tensor) -> Tensor:
    """With the numbers of a head side by side."""
    return x if x.stride(3) == 1 else x.clone(memory_format=torch.contiguous_format)


def grid_of_lists(q: Tensor, k: Tensor, lists: Lists, query_block: int, rows: int) -> tuple[int]:
    """A program for each tile of `rows` rows of each list."""
    tiles = triton.cdiv(query_block * (q.shape[2] // k.shape[2]), rows)
    return (tiles * lists.entries.shape[1] * q.shape[0] * k.shape[2],)


def strides(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    return *q.stride()[:2], *k.stride()[:3], *v.stride()[:3]


def integers_of(q: Tensor, k: Tensor, v: Tensor, lists: Lists) -> tuple[int, ...]:
    """The arguments of `INTEGERS`, in order."""
    sequences, count, heads, capacity = lists.entries.shape
    return q.shape[1], k.shape[1], k.shape[2], count, capacity, heads, sequences, *strides(q, k, v)


def constants_of(q: Tensor, k: Tensor, v: Tensor, options: Options) -> dict[str, Any]:
    """The compile-time arguments but for the sizes of tiles."""
    sizes = {"D": q.shape[3], "DV": v.shape[3]}
    padded = {f"B{name}": triton.next_power_of_2(size) for name, size in sizes.items()}
    shape = {"GROUP": q.shape[2] // k.shape[2], "QUERY_BLOCK": options.query_block, "BLOCK": options.block_size}
    return {**sizes, **padded, **shape, "CAUSAL": options.causal, "PRECISION": PRECISION}
