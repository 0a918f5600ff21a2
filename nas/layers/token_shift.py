"""What RWKV mixes every token with: the one before it (Peng et al., RWKV, arXiv 2305.13048, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def before(x: Tensor, last: Tensor | None) -> Tensor:
    """x [B, T, d] one token later: `last` [B, d] comes first, zeros if not given."""
    if last is None:
        return F.pad(x[:, :-1], (0, 0, 1, 0))
    return torch.cat((last.to(x.dtype).unsqueeze(1), x[:, :-1]), 1)


def initial_shares(width: int, *powers: float) -> Tensor:
    """Shares of the token before, 1 - (i / width)^power for channel i: [len(powers), width].

    The published powers fall from layer to layer; these are those of the middle of a network.
    """
    channel = torch.arange(width) / width
    return torch.stack([1 - channel**power for power in powers])
