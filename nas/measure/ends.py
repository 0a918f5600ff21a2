"""What random weights cannot show, put in place at both ends: where tokens are sent to, and what queries pick.

* `spread`: routing is balanced over all experts, and every query picks blocks or tokens of its own: the most memory is
  touched. Of the tokens of a mixture of depths every n-th passes, the first one among them.
* `concentrated`: routing is Zipf-skewed (the share of an expert is inversely proportional to its rank), and queries
  pick the blocks or tokens nearest to them: the least is. Of a mixture of depths the n-th part passes, rounded down.

The parts compute what they always do; only the result that decides is replaced, so nothing else about the cost changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.ffns.mixture_of_depths import PassingTokens
from nas.ffns.moe import HashedExperts, MoeFfn
from nas.mixers.selection import Selection

End = Literal["spread", "concentrated"]
ENDS: tuple[End, ...] = ("spread", "concentrated")
WORDS: dict[End, str] = {
    "spread": "balanced routing and scattered selection",
    "concentrated": "Zipf-skewed routing and local selection",
}


def depends_on_content(model: nn.Module) -> bool:
    """Whether what a network costs depends on what it reads."""
    return any(isinstance(module, MoeFfn | PassingTokens | Selection) for module in model.modules())


class Content:
    """Stands in for what trained weights would decide; `end` chooses which, None leaves the network's own decisions."""

    def __init__(self) -> None:
        self.end: End | None = None
        self._known: dict[Any, Tensor] = {}

    def router(self, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        """A forward hook of a router: logits [N, E] -> logits [N, E]."""
        if self.end is None:
            return logits
        make = balanced_logits if self.end == "spread" else skewed_logits
        return self._once((self.end, *logits.shape), lambda: make(*logits.shape).to(logits))

    def hashed(self, module: HashedExperts, inputs: Any, chosen: Tensor) -> Tensor:
        """A forward hook of hash routing: experts [N, k] -> experts [N, k]."""
        if self.end is None:
            return chosen
        make = balanced_logits if self.end == "spread" else skewed_logits
        key = (self.end, "hashed", *chosen.shape, module.num_experts)

        def choose() -> Tensor:
            return make(chosen.shape[0], module.num_experts).topk(chosen.shape[1], dim=-1).indices.to(chosen)

        return self._once(key, choose)

    def passing(self, module: PassingTokens, inputs: Any, passes: Tensor) -> Tensor:
        """A forward hook of a mixture of depths: which tokens pass -> the same shape."""
        if self.end is None:
            return passes
        key = (self.end, "passing", *passes.shape, module.one_in)

        def choose() -> Tensor:
            number = torch.arange(passes.numel())
            if self.end == "spread":
                chosen = number % module.one_in == 0
            else:
                chosen = number < passes.numel() // module.one_in
            return chosen.view(passes.shape).to(passes.device)

        return self._once(key, choose)

    def picks(self, module: Selection, inputs: tuple[Tensor, int], picks: Tensor) -> Tensor:
        """A forward hook of a selection: picks [B, Tq, H, S] -> the same shape; sequences and heads share them."""
        length, (queries, slots) = inputs[1], (picks.shape[1], picks.shape[3])
        if self.end is None or slots * module.block_size >= length:
            return picks  # where all is seen there is nothing to choose
        end, first, last = self.end, module.first, module.last
        key = (end, "picks", length, queries, slots, module.block_size, first, last)

        def choose() -> Tensor:
            own = torch.arange(length - queries, length) // module.block_size
            return end_picks(end, own, slots, first=first, last=last).to(picks)

        return self._once(key, choose)[None, :, None].expand(picks.shape)

    def _once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


@contextmanager
def content_of(model: nn.Module) -> Iterator[Content]:
    """While on, the `end` of the yielded content decides in every part of the model whose cost depends on content."""
    content = Content()
    handles = []
    for module in model.modules():
        if isinstance(module, MoeFfn) and module.hashed is not None:
            handles.append(module.hashed.register_forward_hook(content.hashed))
        elif isinstance(module, MoeFfn) and module.router is not None:
            handles.append(module.router.register_forward_hook(content.router))
        elif isinstance(module, PassingTokens):
            handles.append(module.register_forward_hook(content.passing))
        elif isinstance(module, Selection):
            handles.append(module.register_forward_hook(content.picks))
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


def end_picks(end: End, own: Tensor, slots: int, *, first: int, last: int) -> Tensor:
    """[Tq, slots] of the blocks up to the own ones [Tq]: forced ones, and the others by the end; -1 where fewer are.

    Concentrated, the others are the nearest; spread, the blocks that are left are cut into as many equal parts as there
    are others, and one of each part is drawn (seed 0), so that none comes twice.
    """
    own, others = own.unsqueeze(1), torch.arange(slots - first - last)
    near = (own - torch.arange(last)).clamp(min=-1)
    start = torch.arange(first).expand(len(own), -1)
    start = start.masked_fill(start > own - last, -1)
    free = (own + 1 - first - last).clamp(min=0)
    if end == "concentrated":
        other, there = free - 1 - others, others < free
    else:
        left, right = (part * free // max(1, len(others)) for part in (others, others + 1))
        drawn = torch.randint(2**31, left.shape, generator=torch.Generator().manual_seed(0))
        other, there = left + (drawn * (right - left) >> 31), left < right
    return torch.cat((start, torch.where(there, first + other, -1), near), dim=1)
