"""Adapters of attention beside PyTorch's: `flex_attention`, and flash-linear-attention's kernels of attention and NSA.

As `rival_adapters.py`. flash-linear-attention's MoBA is no rival: it selects blocks itself, and its products are those
of the package flash-attn.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from nas.measure.rival_adapters import AttentionOptions, fla_function

Answer = Any  # a tensor, several, or NotImplemented
SMALLEST_SPARSE_BLOCK = 64  # of flex_attention's kernels, which take no block of a mask below a tile
GROUP_OF_NSA = 16  # query heads of a key head, at least, and a power of two


class BlockOptions(TypedDict):
    """The options of `kernels.block_sparse_attention`, as a substitute gets them."""

    block_size: int
    query_block: int
    scale: float
    causal: bool
    return_lse: bool


def flex(q: Tensor, k: Tensor, v: Tensor, **options: Unpack[AttentionOptions]) -> Answer:
    """`kernels.attention` by `flex_attention`, compiled; sinks are weighed by the log-sum-exp that it returns."""
    queries, keys, softcap, sink = q.shape[1], k.shape[1], options["softcap"], options["sink"]
    mask, log_forget = None, options["log_forget"]
    if options["causal"]:
        mask = mask_of(queries, keys, options["window"], options["num_global"], options["prefix"], q.device)
    sums = None if log_forget is None else log_forget.float().cumsum(1)

    def modified(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        return score if sums is None else score + sums[b, i + (keys - queries), h] - sums[b, j, h]

    plain = softcap is None and sums is None
    o, lse = run_flex(q, k, v, None if plain else modified, mask, options["scale"])
    if sink is not None:
        o = o * torch.sigmoid(lse - sink.float()).unsqueeze(-1).to(o.dtype)
        lse = torch.logaddexp(lse, sink.float())
    return (o, lse) if options["return_lse"] else o


def flex_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, **options: Unpack[BlockOptions]) -> Answer:
    """`kernels.block_sparse_attention` by `flex_attention` with the lists as its mask, where blocks fill its tiles."""
    block_size, query_block, causal = options["block_size"], options["query_block"], options["causal"]
    if min(block_size, query_block) < SMALLEST_SPARSE_BLOCK or q.shape[1] != k.shape[1]:
        return NotImplemented
    count, rows = -(-k.shape[1] // block_size), blocks.transpose(1, 2).long()  # [B or 1, Hkv or 1, lists, S]
    listed = torch.zeros(*rows.shape[:3], count + 1, dtype=torch.bool, device=q.device)
    listed = listed.scatter_(-1, torch.where(rows < 0, count, rows), True)[..., :count]
    if rows.shape[1] > 1:
        listed = listed.repeat_interleave(q.shape[2] // k.shape[2], dim=1)
    # Blocks that end before their queries are seen whole; in the others the function below is asked for every pair.
    starts = torch.arange(rows.shape[2], device=q.device).view(-1, 1) * query_block
    whole = listed & ((torch.arange(1, count + 1, device=q.device) * block_size <= starts) | (not causal))

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        chosen = listed[b % listed.shape[0], h % listed.shape[1], i // query_block, j // block_size]
        return chosen & (j <= i) if causal else chosen

    mask = BlockMask.from_kv_blocks(
        *in_order(listed & ~whole),
        *in_order(whole),
        BLOCK_SIZE=(query_block, block_size),
        mask_mod=seen,
        seq_lengths=(q.shape[1], k.shape[1]),
    )
    o, lse = run_flex(q, k, v, None, mask, options["scale"])
    return (o, lse) if options["return_lse"] else o


def run_flex(
    q: Tensor, k: Tensor, v: Tensor, modified: Callable[..., Tensor] | None, mask: BlockMask | None, scale: float
) -> tuple[Tensor, Tensor]:
    """[B, T, H, D] in and out; with the natural log-sum-exp [B, T, H]."""
    by_heads = (x.transpose(1, 2) for x in (q, k, v))
    o, further = compiled_flex()(
        *by_heads,
        score_mod=modified,
        block_mask=mask,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
        return_aux=AuxRequest(lse=True),
    )
    return o.transpose(1, 2), further.lse.transpose(1, 2)


@cache
def compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention, fullgraph=True)


@lru_cache(maxsize=32)
def mask_of(
    queries: int, keys: int, window: int | None, num_global: int, prefix: int, device: torch.device
) -> BlockMask:
    """Which query sees which key. Made once for many calls, as a static mask is."""

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        position = i + (keys - queries)
        sees = j <= position
        if window is not None:
            sees = sees & ((j > position - window) | (j < num_global))
        return sees | (j < prefix)

    return create_block_mask(seen, None, None, queries, keys, device=device)


def in_order(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks are chosen in each row of a bool tensor [..., N], and which, before the others."""
    order = chosen.byte().argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32), order.to(torch.int32)


def without_twins(blocks: Tensor) -> Tensor:
    """The lists in order, with -1 for every entry that repeats another."""
    ordered = blocks.sort(dim=-1).values
    twin = torch.zeros_like(ordered, dtype=torch.bool)
    twin[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return ordered.masked_fill(twin, -1)


def fla_attention(q: Tensor, k: Tensor, v: Tensor, **options: Unpack[AttentionOptions]) -> Answer:
    """`kernels.attention` by fla's Triton kernels: causal, windows, sinks and forget gates."""
    beyond = options["num_global"] or options["prefix"] or options["softcap"] is not None or options["return_lse"]
    if beyond or not options["causal"] or q.shape[1] != k.shape[1]:
        return NotImplemented
    theirs = {"g": "log_forget", "scale": "scale", "window_size": "window", "sink_bias": "sink"}
    return fla_function("attn", "parallel_attn")(q, k, v, **{name: options[ours] for name, ours in theirs.items()})


def fla_nsa(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, **options: Unpack[BlockOptions]) -> Answer:
    """`kernels.block_sparse_attention` by the selected branch of fla's NSA: a list for each query, large groups."""
    group = q.shape[2] // k.shape[2]
    if options["query_block"] != 1 or not options["causal"] or options["return_lse"] or q.shape[1] != k.shape[1]:
        return NotImplemented
    if group < GROUP_OF_NSA or group & (group - 1):
        return NotImplemented
    lists = without_twins(blocks).expand(q.shape[0], -1, k.shape[2], -1)
    theirs = {"block_indices": lists, "block_counts": lists.shape[3]}
    return fla_function("nsa", "parallel_nsa")(
        q, k, v, **theirs, block_size=options["block_size"], scale=options["scale"]
    )


ADAPTERS: tuple[tuple[str, str, Callable[..., Answer], str, bool], ...] = (
    ("flex", "attention", flex, "torch", False),
    ("flex of blocks", "block_sparse_attention", flex_blocks, "torch", False),
    ("fla parallel_attn", "attention", fla_attention, "fla", True),
    ("fla parallel_nsa", "block_sparse_attention", fla_nsa, "fla", True),
)
"""Name, public function, adapter, the library that it needs, and whether it is timed in whole networks: what compiles
for seconds at every new shape is not. On a GPU alone."""
