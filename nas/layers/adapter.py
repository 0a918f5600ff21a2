"""What each use of shared weights has of its own: low-rank additions to projections, and a projection of the result.

Source: Zamba2 (arXiv 2411.15242), figure 2; low-rank additions: Hu et al. (arXiv 2106.09685), section 4.1, here without
a factor and not zero at the start, since nothing is trained before them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.layers.linear import Linear
from nas.layers.low_rank import LowRank


class Adapter(nn.Module):
    """Low-rank additions to projections that lie below each other in one matrix, of these sizes, each with its own."""

    def __init__(self, in_features: int, rank: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(LowRank(in_features, rank, size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        added = [part(x) for part in self.parts]
        return added[0] if len(added) == 1 else torch.cat(added, dim=-1)


class OwnOfUse(nn.Module):
    """What is added to the first projections of the mixer and of the FFN, and the projection of what is put aside."""

    def __init__(self, *, mixer: Adapter | None, ffn: Adapter | None, out_proj: Linear | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn
        self.out_proj = out_proj


def adapted(y: Tensor, x: Tensor, adapter: nn.Module | None) -> Tensor:
    """A projection y of x with what the adapter adds to it."""
    return y if adapter is None else y + adapter(x)
