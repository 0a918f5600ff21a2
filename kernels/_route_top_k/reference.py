"""The definition of a router, token by token in float32, for tests. Slow."""

import torch
from torch import Tensor

from kernels._route_top_k.options import Options


def route_top_k(logits: Tensor, bias: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    """See `kernels.route_top_k`."""
    offset = torch.zeros(logits.shape[1], device=logits.device) if bias is None else bias.float()
    indices, weights = [], []
    for row in logits.float():
        scores = _scores(row, options.scoring)
        chosen = _best(scores.detach() + offset.detach(), options)
        weight = scores[chosen]
        if options.normalize:
            weight = weight / weight.sum().clamp_min(1e-20)
        indices.append(chosen)
        weights.append(weight * options.scale)
    if not indices:
        empty = logits.float()[:, : options.k]
        return empty.long(), empty
    return torch.stack(indices), torch.stack(weights)


def _scores(row: Tensor, scoring: str) -> Tensor:
    if scoring == "softmax":
        return row.exp() / row.exp().sum()
    return 1 / (1 + (-row).exp()) if scoring == "sigmoid" else row.exp().log1p().sqrt()


def _best(compared: Tensor, options: Options) -> Tensor:
    """The k best of those in the best groups, best first."""
    size = len(compared) // options.num_groups
    sums = [sum(sorted(group.tolist(), reverse=True)[:2]) for group in compared.split(size)]
    groups = sorted(range(options.num_groups), key=lambda group: -sums[group])[: options.top_groups]
    rivals = sorted((e for e in range(len(compared)) if e // size in groups), key=lambda e: -float(compared[e]))
    return torch.tensor(rivals[: options.k], device=compared.device)
