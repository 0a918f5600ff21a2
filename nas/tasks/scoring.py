"""The one loop that runs a model over held-out batches. Tasks import it when they score, because it needs torch."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.tasks.base import IGNORED, Answering, Batch, Model


def answers(model: Model, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """What a model says about each target of a held-out set, one row a sequence, no gradients.

    Returns (bits [N, A] float64: -log2 p(target), 0 where nothing is asked; right [N, A] bool: the target is the
    most probable token). A is T, or T * G where a position has G targets. All batches have the same T.
    """
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    bits, right = [], []
    with torch.inference_mode():
        for tokens, targets in batches:
            if isinstance(model, Answering):
                nats, hits = model.answers(tokens, targets)
            else:
                nats, hits = read_off(model(tokens.to(device)), targets.to(device))
            bits.append(nats.double().cpu().numpy() / math.log(2))
            right.append(hits.cpu().numpy())
    return np.concatenate(bits), np.concatenate(right)


def read_off(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits [B, T, V] the nats of targets [B, T] or [B, T, G], 0 where nothing is asked, and whether the likeliest
    is the target, [B, A] both. Several targets of a place have their own outputs, V / G each."""
    logits = logits.float()
    if targets.ndim == 3:
        logits = logits.unflatten(-1, (targets.shape[-1], -1))
    nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return nats.view(len(targets), -1), (logits.argmax(-1) == targets).flatten(1)
