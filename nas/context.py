"""What a block may know beyond its own input: where in the sequence it is, and what the layers of one pass share.

A module keeps nothing between calls; everything that lasts is either in the decode state or here.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Context:
    """One pass through a model.

    Attributes:
        position: tokens read before this pass; the first token of the input stands at this position.
        clock: the same number where the device reads it, [] int64, so that a CUDA graph of one step serves every
            position; None: written out from `position` where it is asked for.
        losses: auxiliary losses that layers add in training, as scalars already weighted (balance of experts).
        tokens: ids of the tokens of this pass, [B, T] or [B] of a step, for layers that depend on them (hash routing).
        shared: tensors that several layers need and one computes, by a key of the layer's choice (rotary tables).
        embedding: the stream before the first block, [B, T, d] or [B, d] of a step, where a block reads it again.
        aside: what a block left for the next one to read beside the stream.
        mixer_adapter, ffn_adapter: what this use of the block that runs adds to the first projection of either.
        backward: the same pass from the last token to the first, for mixers that read both ways in two passes.
    """

    position: int = 0
    clock: Tensor | None = None
    losses: list[Tensor] = field(default_factory=list)
    shared: dict[Hashable, tuple[Tensor, ...]] = field(default_factory=dict)
    tokens: Tensor | None = None
    embedding: Tensor | None = None
    aside: Tensor | None = None
    mixer_adapter: nn.Module | None = None
    ffn_adapter: nn.Module | None = None
    backward: "Context | None" = None

    def backwards(self) -> "Context":
        """The context of reading the tokens of this pass from the last to the first: what layers share there is kept
        apart, losses are not."""
        if self.backward is None:
            tokens = None if self.tokens is None else self.tokens.flip(-1)
            self.backward = Context(losses=self.losses, tokens=tokens)
        self.backward.mixer_adapter = self.mixer_adapter
        return self.backward

    def clock_on(self, device: torch.device) -> Tensor:
        """`position` as [] int64 on a device, without waiting for it."""
        if self.clock is None:
            self.clock = torch.full((), self.position, device=device)
        return self.clock
