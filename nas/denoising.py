"""Continuing a text with a model that sees both ways: masks are put behind it, and replaced a few at a time.

Blocks of masks are filled from left to right. A pass over everything so far and the block gives each mask its likeliest
token; those that the model is surest of stay, the others are masks again (low-confidence remasking: LLaDA, arXiv
2502.09992, section 2.4 and its appendix on sampling). Each pass reads the whole text, as nothing of it can be kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nas.workload import DENOISED


@torch.no_grad()
def continued(
    logits_of: Callable[..., Tensor],
    mask: int,
    tokens: Tensor,
    new_tokens: int,
    *,
    temperature: float = 0.0,
    block: int = DENOISED,
    per_pass: int = 1,
) -> Tensor:
    """tokens [B, T] -> [B, T + new_tokens].

    Args:
        logits_of: (tokens [B, T], last=n) -> logits [B, n, V] of the tokens at the last n places themselves.
        mask: the id of a token that is not known.
        temperature: 0 takes the likeliest token, another samples, and is sure of what it sampled.
        block: masks that are put behind the text at a time.
        per_pass: tokens that a pass fixes, the last of a block fewer.

    Raises ValueError for a block or a pass of no tokens.
    """
    if block < 1 or per_pass < 1:
        raise ValueError(f"block and per_pass must be at least 1, but got block={block}, per_pass={per_pass}.")
    end = tokens.shape[1] + new_tokens
    while tokens.shape[1] < end:
        size = min(block, end - tokens.shape[1])
        tokens = torch.cat((tokens, tokens.new_full((tokens.shape[0], size), mask)), dim=1)
        for left in range(size, 0, -per_pass):
            logits = logits_of(tokens, last=size)
            proposed = choose(logits, temperature)
            sure = logits.float().softmax(-1).gather(-1, proposed.unsqueeze(-1)).squeeze(-1)
            masked = tokens[:, -size:] == mask
            fixed = sure.masked_fill(~masked, -1).topk(min(per_pass, left), dim=-1).indices
            tokens[:, -size:] = tokens[:, -size:].scatter(1, fixed, proposed.gather(1, fixed))
    return tokens


def choose(logits: Tensor, temperature: float) -> Tensor:
    """One token for each of logits [..., V], [...]: the likeliest at temperature 0, else sampled."""
    if temperature == 0:
        return logits.argmax(-1)
    shares = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(shares.flatten(0, -2), 1).view(logits.shape[:-1])
