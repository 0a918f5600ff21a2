"""Which experts a token goes to and with what weight: the routers of the field, as one function in PyTorch.

A router is two choices: how a logit becomes a score, and what is compared when experts are picked. All the rest is a
sum. Everything here stays on the device, so that it can be captured in a CUDA graph.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Scoring = Literal["softmax", "sigmoid", "sqrt_softplus"]
SCORINGS: tuple[str, ...] = get_args(Scoring)


def route_top_k(
    logits: Tensor,
    k: int,
    *,
    scoring: Scoring = "softmax",
    bias: Tensor | None = None,
    num_groups: int = 1,
    top_groups: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The k experts with the largest scores for each token, and the weights of their outputs.

    Args:
        logits: [T, E] of any floating type; scores are computed in float32.
        k: experts a token is sent to, 1 to E.
        scoring: `softmax` over all experts (Mixtral, arXiv 2401.04088, section 2.1; with `normalize`, it is the softmax
            over the k chosen logits, as gpt-oss writes it), `sigmoid` (DeepSeek-V3, arXiv 2412.19437, section 2.1.2) or
            `sqrt_softplus` (DeepSeek-V4).
        bias: [E], added to the scores when experts are picked, never to their weights; it receives no gradient.
        num_groups: experts 0 .. E / num_groups - 1 are the first group, and so on.
        top_groups: only experts of so many groups can be picked: those whose two best scores, bias included, have the
            largest sum (one best where a group has one expert).
        normalize: the weights of a token are divided by their sum.
        scale: factor of the weights.

    Returns (expert_index [T, k] int64, best first; expert_weight [T, k] float32, with gradients for the logits).

    Raises ValueError when shapes or numbers do not belong together.
    """
    _check(logits, k, scoring, bias, num_groups, top_groups)
    scores = _scores(logits.float(), scoring)
    with torch.no_grad():
        compared = scores if bias is None else scores + bias.float()
        if top_groups < num_groups:
            compared = _only_best_groups(compared, num_groups, top_groups)
        chosen = compared.topk(k, dim=-1).indices
    if scoring == "softmax" and normalize:
        weights = logits.float().gather(1, chosen).softmax(-1)  # the same quotient, without small denominators
    else:
        weights = scores.gather(1, chosen)
        if normalize:
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-20)
    return chosen, weights * scale


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


def _check(logits: Tensor, k: int, scoring: str, bias: Tensor | None, num_groups: int, top_groups: int) -> None:
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be [T, E] of a floating type, but got {list(logits.shape)} of {logits.dtype}.")
    experts = logits.shape[1]
    if scoring not in SCORINGS:
        raise ValueError(f"scoring must be one of {', '.join(SCORINGS)}, but got {scoring!r}.")
    if num_groups < 1 or experts % num_groups != 0 or not 1 <= top_groups <= num_groups:
        raise ValueError(
            f"num_groups must divide the {experts} experts and top_groups lie between 1 and num_groups, but got "
            f"num_groups={num_groups}, top_groups={top_groups}."
        )
    most = experts // num_groups * top_groups
    if not 1 <= k <= most:
        raise ValueError(f"k must lie between 1 and the {most} experts that can be picked, but got {k}.")
    if bias is not None and (list(bias.shape) != [experts] or bias.device != logits.device):
        raise ValueError(
            f"bias must be [{experts}], one number an expert, on {logits.device}, but got {list(bias.shape)} on "
            f"{bias.device}."
        )
