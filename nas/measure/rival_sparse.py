"""Adapters and cases of the sparse operations, as in `rival_adapters.py` and `rival_cases.py`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Answer = Any  # a tensor, several, or NotImplemented
Make = Callable[[torch.Generator], dict[str, Any]]


def grouped_mm_experts(
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_index: Tensor,
    expert_weight: Tensor,
    *,
    b_in: Tensor | None,
    b_out: Tensor | None,
    activation: str,
    gated: bool,
    clamp: float | None,
    up_offset: float,
) -> Answer:
    """`kernels.moe_ffn` by two of `torch.nn.functional.grouped_mm`: plain GLU experts alone."""
    if activation != "silu" or not gated or clamp is not None or up_offset or b_in is not None or b_out is not None:
        return NotImplemented
    experts, choices = w_in.shape[0], expert_index.shape[1]
    flat = expert_index.flatten()
    # What chooses no expert is sent to the last one with a weight of zero.
    weight = torch.where(flat < 0, 0.0, expert_weight.flatten())
    of_row, order = torch.where(flat < 0, experts - 1, flat).sort(stable=True)
    groups = torch.arange(experts, device=x.device, dtype=of_row.dtype)
    ends = torch.searchsorted(of_row, groups, right=True).to(torch.int32)
    gate, up = F.grouped_mm(x.index_select(0, order // choices), w_in, offs=ends).chunk(2, dim=-1)
    y = F.grouped_mm(F.silu(gate) * up, w_out, offs=ends).index_select(0, order.argsort())
    return torch.einsum("tkd,tk->td", y.unflatten(0, (-1, choices)), weight.view(-1, choices).to(y.dtype))


def top_k_router(
    logits: Tensor,
    k: int,
    *,
    scoring: str,
    bias: Tensor | None,
    num_groups: int,
    top_groups: int,
    normalize: bool,
    scale: float,
) -> Answer:
    """`kernels.route_top_k` by `torch.topk`, as layers write it out: scores of a softmax or a sigmoid, no groups."""
    if scoring not in ("softmax", "sigmoid") or top_groups < num_groups:
        return NotImplemented
    scores = logits.float().softmax(-1) if scoring == "softmax" else logits.float().sigmoid()
    chosen = (scores if bias is None else scores + bias).topk(k, dim=-1).indices
    weights = scores.gather(1, chosen)
    return chosen, scale * (weights / weights.sum(-1, keepdim=True) if normalize else weights)


ADAPTERS: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("grouped_mm experts", "moe_ffn", grouped_mm_experts),
    ("topk", "route_top_k", top_k_router),
)
"""Name, public function and adapter; all of them need torch alone."""


def expert_layer(*, missing: bool) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        index = torch.rand(70, 6, generator=generator).topk(2, dim=-1).indices
        if missing:
            index[::3, 1] = -1
        return {
            "x": torch.randn(70, 64, generator=generator),
            "w_in": torch.randn(6, 64, 96, generator=generator) / 8,
            "w_out": torch.randn(6, 48, 64, generator=generator) / 7,
            "expert_index": index,
            "expert_weight": torch.rand(70, 2, generator=generator) + 0.1,
        }

    return make


def router(**options: Any) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        # Unlike one another in every type, so that it is not open who comes first.
        place = torch.rand(70, 60, generator=generator).argsort(dim=-1)
        return {"logits": (place - 30) / 16, "k": 4, **options}

    return make


def listed_blocks(
    *, query_block: int, shared: bool, block_size: int = 16, tokens: int = 70, batch: int = 2, group: int = 2
) -> Make:
    """As many key heads as sequences. A list has the block of its first query, and two others or the same again."""

    def make(generator: torch.Generator) -> dict[str, Any]:
        q = torch.randn(batch, tokens, batch * group, 64, generator=generator)
        k, v = (torch.randn(batch, tokens, batch, 64, generator=generator) for _ in range(2))
        lists = -(-tokens // query_block)
        shape = (1 if shared else batch, lists, 1 if shared else batch, 2)
        others = torch.randint(-1, -(-tokens // block_size), shape, generator=generator)
        own = (torch.arange(lists) * query_block // block_size).view(1, -1, 1, 1).expand(*shape[:3], 1)
        sizes = {"block_size": block_size, "query_block": query_block}
        return {"q": q, "k": k, "v": v, "blocks": torch.cat((own, others), dim=-1), **sizes}

    return make


CASES: tuple[tuple[str, str, Make, bool], ...] = (
    ("lists for each query", "block_sparse_attention", listed_blocks(query_block=1, shared=False), True),
    ("one list for all heads", "block_sparse_attention", listed_blocks(query_block=16, shared=True), True),
    (
        "groups of 16 heads",
        "block_sparse_attention",
        listed_blocks(query_block=1, shared=False, batch=1, group=16),
        True,
    ),
    (
        "blocks of 64",
        "block_sparse_attention",
        listed_blocks(query_block=64, shared=False, block_size=64, tokens=150),
        True,
    ),
    ("experts of a layer", "moe_ffn", expert_layer(missing=False), True),
    ("experts, some choices of none", "moe_ffn", expert_layer(missing=True), True),
    ("router", "route_top_k", router(), True),
    ("router of groups", "route_top_k", router(scoring="sigmoid", num_groups=6, top_groups=3, scale=2.5), True),
)
"""Name, public function, arguments, and whether it has gradients."""

FUNCTIONS = ("block_sparse_attention", "moe_ffn", "route_top_k")
