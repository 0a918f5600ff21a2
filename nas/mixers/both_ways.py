"""A mixer that reads a sequence forwards and backwards with the same weights.

    y_t = (m(x)_t + reversed(m(reversed(x)))_t) / 2

Each token sees all others through one of the two passes, itself through both. Parameters are those of the mixer itself.
Source: BiMamba, Caduceus (arXiv 2403.03234), section 3.1, which shares the projections of the two; Vision-RWKV and ViG
share more. What sees both ways in one pass, such as softmax attention without a window, needs none of this. What a kind
does with the first tokens (global ones, a first block) the second pass does with the last.
"""

import torch
from torch import Tensor

from nas.context import Context
from nas.layers.linear import Linear
from nas.mixers.base import Mixer, State


class BothWays(Mixer):
    """Two passes of a causal mixer. Reads whole sequences only and keeps nothing."""

    causal = False

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        self.family = mixer.family
        self.mixer = mixer

    @property
    def out_proj(self) -> Linear:  # type: ignore[override]
        return self.mixer.out_proj

    def without_projection(self) -> None:
        self.mixer.without_projection()

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        before = len(context.losses)
        forth, _ = self.mixer(x, None, context)
        back, _ = self.mixer(x.flip(1), None, context.backwards())
        context.losses[before:] = [loss / 2 for loss in context.losses[before:]]  # of two passes
        return (forth + back.flip(1)) / 2, state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        self.check_causal()
        return self.mixer.step(x, state, context)

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        return {}

    def flops(self, tokens: int, context_len: int) -> int:
        return 2 * self.mixer.flops(tokens, 0)

    def scale_output(self, factor: float) -> None:
        self.mixer.scale_output(factor)
