"""Next-token cross-entropy: the loss of a causal language model and of recall alike."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def causal(logits_btv: Tensor, targets_bt: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean of -ln p(target) over the positions asked for.

    Args:
        logits_btv: [B, T, V], any floating type; the softmax is taken in float32.
        targets_bt: int64 [B, T], or [B, T, G] for G answers at a position, each among its own V / G outputs; -100 asks
            for nothing. At least one answer must be asked for.

    Returns:
        (loss in nats per target, {"nats": the same without gradient}).
    """
    if targets_bt.ndim == 3:
        logits_btv = logits_btv.unflatten(-1, (targets_bt.shape[-1], -1))
    loss = F.cross_entropy(logits_btv.float().flatten(0, -2), targets_bt.flatten(), ignore_index=-100)
    return loss, {"nats": loss.detach()}
