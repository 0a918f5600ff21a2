"""A router in PyTorch, on any device: `topk` picks, everything else is element by element."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels._route_top_k.options import Options


def route_top_k(logits: Tensor, bias: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    """See `kernels.route_top_k`."""
    scores = _scores(logits.float(), options.scoring)
    with torch.no_grad():
        compared = scores if bias is None else scores + bias.float()
        if options.top_groups < options.num_groups:
            compared = _only_best_groups(compared, options.num_groups, options.top_groups)
        chosen = compared.topk(options.k, dim=-1).indices
    if options.scoring == "softmax" and options.normalize:
        weights = logits.float().gather(1, chosen).softmax(-1)  # the same quotient, without small denominators
    else:
        weights = scores.gather(1, chosen)
        if options.normalize:
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-20)
    return chosen, weights * options.scale


def _scores(logits: Tensor, scoring: str) -> Tensor:
    if scoring == "softmax":
        return logits.softmax(-1)
    return logits.sigmoid() if scoring == "sigmoid" else F.softplus(logits).sqrt()


def _only_best_groups(scores: Tensor, num_groups: int, top_groups: int) -> Tensor:
    """scores [T, E] with -inf for the experts of all but the best groups."""
    grouped = scores.unflatten(1, (num_groups, -1))
    of_group = grouped.topk(min(2, grouped.shape[2]), dim=-1).values.sum(-1)
    best = of_group.topk(top_groups, dim=-1).indices
    kept = torch.zeros_like(of_group, dtype=torch.bool).scatter_(1, best, True)
    return grouped.masked_fill(~kept.unsqueeze(-1), float("-inf")).flatten(1)
