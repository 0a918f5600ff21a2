"""What queries and keys pass before they meet in a state: feature maps of linear attention.

elu + 1: Katharopoulos et al. (arXiv 2006.16236), equation 7; softmax over channels: Shen et al. (arXiv 1812.01243);
Taylor: Arora et al., Based (arXiv 2402.18668), section 4.1; Hedgehog: Zhang et al. (arXiv 2402.04347), section 4.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.matrix_recurrence import FeatureMap

BY_CHANNEL: dict[FeatureMap, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "silu": F.silu,
    "relu": F.relu,
    "elu": lambda x: F.elu(x) + 1,
    "softmax": lambda x: x.softmax(-1),
}


class Features(nn.Module):
    """x [..., H, K] -> features [..., H, F] of queries or of keys.

    `taylor`: 1, x and the products of two channels, those of different ones once and times the root of 2, so that
    features of q and k meet in 1 + s + s²/2 with s = qᵀk / √K. `hedgehog`: softmax over [W x, -W x], W [K, K] per head,
    at the start the identity.
    """

    def __init__(self, name: FeatureMap, heads: int, size: int) -> None:
        super().__init__()
        self.name: FeatureMap = name
        self.weight = nn.Parameter(torch.eye(size).repeat(heads, 1, 1)) if name == "hedgehog" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "taylor":
            return _taylor(x)
        if self.name == "hedgehog":
            assert self.weight is not None, "the map has weights"
            turned = torch.einsum("...hk,hfk->...hf", x, self.weight.to(x.dtype))
            return torch.cat((turned, -turned), -1).softmax(-1).to(x.dtype)
        return BY_CHANNEL[self.name](x).to(x.dtype)

    def flops(self, tokens: int) -> int:
        """Two per multiply-accumulate."""
        return 0 if self.weight is None else 2 * tokens * self.weight.numel()


def _taylor(x: Tensor) -> Tensor:
    size = x.shape[-1]
    x = x * size**-0.25
    first, second = torch.triu_indices(size, size, device=x.device)
    weight = torch.where(first == second, 0.5**0.5, 1.0).to(x.dtype)
    squares = x[..., first] * x[..., second] * weight
    return torch.cat((torch.ones_like(x[..., :1]), x, squares), -1)
