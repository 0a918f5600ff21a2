"""What a model that denoises says about each answer of a held-out set: the bound of masked diffusion, by token."""

import zlib

import numpy as np
import torch
from torch import Tensor, nn

from nas.losses.masked_diffusion import canvas, follow
from nas.model import Model
from nas.tasks.base import IGNORED
from nas.tasks.scoring import read_off

DRAWS = 8


def as_scored(model: Model) -> nn.Module:
    """The model as tasks score it."""
    return model if model.mask_token is None else Predictor(model, model.mask_token)


class Predictor(nn.Module):
    """A denoising model as the tasks score it: `answers` in place of logits of the next token.

    -ln p of the answers of a sequence is bounded from above by the mean over draws of n / l times the loss of l masked
    ones of its n answers; l is uniform from 1 to n, and spread evenly over the draws (LLaDA, arXiv 2502.09992, equation
    6).
    Whether an answer is right is asked with all answers masked at once. What is drawn for a sequence follows from its
    tokens, so that the score of a set is the same every time and whatever the batches.
    """

    def __init__(self, model: nn.Module, mask_token: int, draws: int = DRAWS) -> None:
        super().__init__()
        self.model, self.mask_token, self.draws = model, mask_token, draws

    def answers(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """For tokens [B, T] and targets [B, T] or [B, T, G] of a task's batch: nats and whether it is right, [B, A].

        A is T, or T G; where nothing is asked, nats are 0.
        """
        device = next(self.model.parameters()).device
        if not follow(tokens, targets):
            return read_off(self.model(tokens.to(device)), targets.to(device))
        whole, asked = canvas(tokens, targets)
        draws = self._draws(whole, asked)
        whole, asked = whole.to(device), asked.to(device)
        answers = whole.masked_fill(~asked, IGNORED)
        _, right = self._with_masked(whole, asked, answers)
        nats = torch.zeros(whole.shape, device=device)
        for masked, weight in draws:
            masked = masked.to(device)
            found, _ = self._with_masked(whole, masked, answers)
            nats += weight.to(device).unsqueeze(1) * found.masked_fill(~masked, 0)
        return nats[:, 1:] / self.draws, right[:, 1:]

    def _with_masked(self, whole: Tensor, masked: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        return read_off(self.model(whole.masked_fill(masked, self.mask_token)), answers)

    def _draws(self, whole: Tensor, asked: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(l of the n that are asked for [B, T], n / l [B]) for every draw, of sequences [B, T] on the CPU."""
        drawn = [np.random.default_rng(zlib.crc32(row.numpy().tobytes())) for row in whole]
        start = torch.tensor([one.random() for one in drawn])
        n, found = asked.sum(1), []
        for draw in range(self.draws):
            count = (((draw + start) / self.draws * n).long() + 1).clamp(max=n).clamp(min=1)
            order = torch.from_numpy(np.stack([one.random(whole.shape[1]) for one in drawn]))
            place = order.masked_fill(~asked, 2).argsort(1).argsort(1)
            found.append((asked & (place < count.unsqueeze(1)), n / count))
        return found
