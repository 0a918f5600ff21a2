"""Expert choice: each expert takes the tokens that score highest for it, equally many, from each sequence.

Source: Zhou et al. (arXiv 2202.09368), section 3.2: k = n c / e tokens of n for each of e experts, c experts a token on
average. There n are the tokens of a batch; here of one sequence, so that what a sequence gives depends on it alone.
"""

import torch
from torch import Tensor


def best_tokens(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The tokens that each expert takes, as positions among all B T tokens, and their scores; [E, B, k] both.

    scores [B, T, E]; k = ceil(T top_k / E), at most T. A token may be taken by several experts or by none.
    """
    sequences, length, experts = scores.shape
    taken = min(length, -(-length * top_k // experts))
    best = scores.permute(2, 0, 1).topk(taken, dim=-1)
    first = length * torch.arange(sequences, device=scores.device).unsqueeze(1)
    return best.indices + first, best.values
