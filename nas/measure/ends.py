"""What random weights cannot show, put in place at both ends: where experts are sent to, and which blocks are picked.

* `spread`: routing is balanced over all experts, and every query picks blocks of its own: the most memory is touched.
* `concentrated`: routing is Zipf-skewed (the share of an expert is inversely proportional to its rank), and queries
  pick the blocks nearest to them: the least is.

The parts compute what they always do; only the result that decides is replaced, so nothing else about the cost changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.ffns.moe import MoeFfn
from nas.mixers.block_sparse_attention import BlockRelevance

End = Literal["spread", "concentrated"]
ENDS: tuple[End, ...] = ("spread", "concentrated")
WORDS: dict[End, str] = {
    "spread": "balanced routing and scattered selection",
    "concentrated": "Zipf-skewed routing and local selection",
}

SHIFT = 7


def depends_on_content(model: nn.Module) -> bool:
    """Whether what a network costs depends on what it reads."""
    return any(isinstance(module, MoeFfn | BlockRelevance) for module in model.modules())


class Content:
    """Stands in for what trained weights would decide; `end` chooses which, None leaves the network's own decisions."""

    def __init__(self) -> None:
        self.end: End | None = None
        self._known: dict[Any, Tensor] = {}

    def router(self, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        """A forward hook of a router: logits [N, E] -> logits [N, E]."""
        if self.end is None:
            return logits
        key = (self.end, *logits.shape)
        if key not in self._known:
            make = balanced_logits if self.end == "spread" else skewed_logits
            self._known[key] = make(*logits.shape).to(logits)
        return self._known[key]

    def relevance(self, module: nn.Module, inputs: Any, relevance: Tensor) -> Tensor:
        """A forward hook of a block selection: relevance [B, T, Hkv, N] -> the same shape, mostly without memory."""
        if self.end is None:
            return relevance
        batch, tokens, heads, blocks = relevance.shape
        key = (self.end, "blocks", tokens, blocks)
        if key not in self._known:
            # Rows of one random vector, shifted: every query has another order of blocks, and nothing is allocated.
            values = torch.rand(SHIFT * tokens + blocks, generator=torch.Generator().manual_seed(0))
            nearest = torch.arange(blocks, dtype=torch.float32, device=relevance.device)
            rows = values.to(relevance.device).as_strided((tokens, blocks), (SHIFT, 1))
            self._known[key] = rows if self.end == "spread" else nearest.expand(tokens, -1)
        return self._known[key][None, :, None].expand(batch, -1, heads, -1)


@contextmanager
def content_of(model: nn.Module) -> Iterator[Content]:
    """While on, the `end` of the yielded content decides in every part of the model whose cost depends on content."""
    content = Content()
    handles = []
    for module in model.modules():
        if isinstance(module, MoeFfn) and module.router is not None:
            handles.append(module.router.register_forward_hook(content.router))
        elif isinstance(module, BlockRelevance):
            handles.append(module.register_forward_hook(content.relevance))
    try:
        yield content
    finally:
        for handle in handles:
            handle.remove()


def balanced_logits(tokens: int, experts: int) -> Tensor:
    """[tokens, experts]: the experts take turns as first choice, and the next ones follow as second, third, ..."""
    turn = torch.arange(tokens).unsqueeze(1) - torch.arange(experts)
    return -((-turn) % experts).float()


def skewed_logits(tokens: int, experts: int) -> Tensor:
    """[tokens, experts]: draws without replacement by Zipf's law over experts (Gumbel top-k, seed 0)."""
    uniform = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(0)).clamp(1e-9, 1 - 1e-9)
    zipf = -torch.arange(1, experts + 1).float().log()
    return zipf - (-uniform.log()).log()
