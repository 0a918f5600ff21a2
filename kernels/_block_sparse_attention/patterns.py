"""Static patterns as lists for `block_sparse_attention`: which blocks of keys each block of queries sees.

All of them count in blocks: query block i and key block n hold `block` tokens from i block and n block on. Causal lists
name no block after the query's own, and those of the first blocks are the same however many follow; from `start` on
lists are made alone, for queries that read on. Patterns of single tokens are those of blocks of one.

With `at`, [] int32 or int64 on a device, only the list of that one block of queries is made, there and without waiting
for it: [1, 1, 1, S], S as long as any of `count` could be; `start` and `device` then mean nothing.
"""

import torch
from torch import Tensor

from kernels._block_sparse_attention.selection_checks import INTEGERS, within
from kernels.arguments import check_optional_tensors, check_switches
from kernels.whole_numbers import check_whole_number


def local_global_blocks(
    count: int,
    *,
    local: int,
    global_blocks: int = 0,
    random_blocks: int = 0,
    causal: bool = True,
    seed: int = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
    at: Tensor | None = None,
) -> Tensor:
    """Neighbours, the first blocks, and some drawn at random, for each of `count` blocks of queries from `start` on.

    Args:
        local: blocks in sight, the own one included: the `local` up to it, or as many to either side if not causal.
        global_blocks: the first so many blocks are seen by all, and see all that causality lets them.
        random_blocks: so many others for each block of queries, of those that it may see, the same for the same seed.

    With global blocks alone this is Longformer (Beltagy et al., arXiv 2004.05150, section 3.1) and, causal, attention
    sinks beside a window (Xiao et al., arXiv 2309.17453, section 3.2); with random ones BigBird (Zaheer et al., arXiv
    2007.14062, section 2). Returns lists int32 [1, count - start, 1, S]. Raises ValueError for sizes that have no
    meaning.
    """
    _check(count, start, local=(local, 1), global_blocks=(global_blocks, 0), random_blocks=(random_blocks, 0))
    check_whole_number("seed", seed)
    check_switches(causal=causal)
    _check_device(device)
    query, key = _grid(count, start, at)
    sees = (query - key < local) & (key - query < local)
    sees |= (key < global_blocks) | (query < global_blocks)
    allowed = key <= query if causal else torch.ones_like(sees)
    if random_blocks > 0:
        draw = _scrambled(query, key, seed).masked_fill(sees | ~allowed, -1)
        drawn = draw.topk(min(random_blocks, count), dim=-1)
        sees = sees.scatter(1, drawn.indices, sees.gather(1, drawn.indices) | (drawn.values >= 0))
    longest = min(count, local + global_blocks + random_blocks) if causal else count
    return _as_lists(sees & allowed, device, at, longest)


def strided_blocks(
    count: int,
    *,
    local: int,
    stride: int,
    causal: bool = True,
    start: int = 0,
    device: torch.device | str = "cpu",
    at: Tensor | None = None,
) -> Tensor:
    """The `local` blocks up to the own one, and every `stride`-th counted back from it.

    The strided pattern of Child et al., Sparse Transformers (arXiv 1904.10509), section 4.2. Returns lists int32
    [1, count - start, 1, S]. Raises ValueError for sizes that have no meaning.
    """
    _check(count, start, local=(local, 1), stride=(stride, 1))
    check_switches(causal=causal)
    _check_device(device)
    query, key = _grid(count, start, at)
    distance = query - key
    sees = (distance.abs() < local) | (distance % stride == 0)
    longest = min(count, local + max(0, (count - 1) // stride - (local - 1) // stride)) if causal else count
    return _as_lists(sees & (distance >= 0) if causal else sees, device, at, longest)


def dilated_blocks(
    count: int,
    *,
    segments: tuple[int, ...],
    dilations: tuple[int, ...],
    causal: bool = True,
    start: int = 0,
    device: torch.device | str = "cpu",
    at: Tensor | None = None,
) -> Tensor:
    """Of the own segment every r-th block, for several lengths of segments with a dilation each.

    A block sees those of its segment that have its remainder modulo the dilation, so that every block is seen by some.
    Source: Ding et al., LongNet (arXiv 2307.02486), section 2.2, with the offsets of its heads taken by positions.
    Returns lists int32 [1, count - start, 1, S]. Raises ValueError for sizes that have no meaning.
    """
    check_switches(causal=causal)
    _check_device(device)
    paired = all(isinstance(one, tuple | list) for one in (segments, dilations))
    if not paired or len(segments) != len(dilations) or not segments:
        raise ValueError(f"segments and dilations must pair up, but got {segments} and {dilations}.")
    for segment, dilation in zip(segments, dilations, strict=True):
        _check(count, start, segments=(segment, 1), dilations=(dilation, 1))
    query, key = _grid(count, start, at)
    sees = torch.zeros(len(query), count, dtype=torch.bool, device=key.device)
    for segment, dilation in zip(segments, dilations, strict=True):
        sees |= (query // segment == key // segment) & ((query - key) % dilation == 0)
    others = (-(-min(segment, count) // r) - 1 for segment, r in zip(segments, dilations, strict=True))
    longest = min(count, 1 + sum(others))
    return _as_lists(sees & (key <= query) if causal else sees, device, at, longest)


def _grid(count: int, start: int, at: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numbers of the blocks of queries that lists are made for, [n, 1], and of those of keys, [count]."""
    check_optional_tensors(at=at)
    if at is not None:
        if at.dtype not in INTEGERS or at.numel() != 1:
            raise ValueError(f"at must be one number of int32 or int64, but got {at.dtype} {list(at.shape)}.")
        return within("at", at, count).view(1, 1), torch.arange(count, device=at.device)
    return torch.arange(start, count).unsqueeze(1), torch.arange(count)


def _as_lists(sees: Tensor, device: torch.device | str, at: Tensor | None, longest: int) -> Tensor:
    """sees [query blocks, key blocks] as lists [1, query blocks, 1, S] on `device`, as long as the longest of them;
    beside `at`, whose list must not be looked at, as long as the longest that there is."""
    if at is None:
        longest = int(sees.sum(1).max())
    key = torch.arange(sees.shape[1], device=sees.device).expand_as(sees)
    ordered = torch.where(sees, key, sees.shape[1]).sort(dim=1).values[:, :longest]
    lists = ordered.masked_fill(ordered == sees.shape[1], -1).to(torch.int32).view(1, len(sees), 1, longest)
    return lists if at is not None else lists.to(device)


def _check_device(device: torch.device | str) -> None:
    """Raises ValueError for what is none, of which torch would say all that there are in the world."""
    try:
        known = isinstance(device, torch.device) or (isinstance(device, str) and torch.device(device) is not None)
    except RuntimeError:
        known = False
    if not known:
        raise ValueError(f"device must be a torch.device or its name, such as 'cpu' or 'cuda:0', but got {device!r}.")


def _scrambled(query: Tensor, key: Tensor, seed: int) -> Tensor:
    """A number from 0 to 2^31 - 1 for each pair of blocks that looks drawn at random and depends on nothing else."""
    mixed = (query * 0x9E3779B1 + key * 0x85EBCA77 + ((seed + 1) * 0xC2B2AE3D & 0xFFFFFFFF)) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x6C8E9CF5)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) >> 1


def _check(count: int, start: int, **sizes: tuple[int, int]) -> None:
    """Each size beside the least that it may be."""
    for name, number in {"count": count, "start": start, **{name: size for name, (size, _) in sizes.items()}}.items():
        check_whole_number(name, number)
    if not 0 <= start < max(count, 1):
        raise ValueError(f"start must lie from 0 to before the {count} blocks, but got {start}.")
    for name, (size, least) in {"count": (count, 1), **sizes}.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, but got {size}.")
