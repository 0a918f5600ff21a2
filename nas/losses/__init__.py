"""What a model is trained on, given the batches of a task."""

from nas.losses.base import Loss as Loss
from nas.losses.base import Question as Question
from nas.losses.causal import Causal as Causal
from nas.losses.causal import causal as causal
from nas.losses.masked_diffusion import MaskedDiffusion as MaskedDiffusion


def loss_of(mask_token: int | None) -> Loss:
    """The loss of a model with this mask, or without one: masked diffusion, or causal."""
    return Causal() if mask_token is None else MaskedDiffusion(mask_token)
