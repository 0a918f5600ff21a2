"""The options of a state that is a linear model, trained on the tokens while they are read."""

from dataclasses import dataclass
from typing import ClassVar

from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import option


@dataclass(frozen=True, kw_only=True)
class TttLinear(MixerOptions):
    """TTT-Linear: a linear model per head learns to give values from keys, one step of descent a `mini_batch`."""

    kind: ClassVar[str] = "ttt_linear"
    # Its rates are not measured; those of the delta rule, descent on the same loss without a norm, stand in.
    family: ClassVar[str] = "gated_deltanet"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    mini_batch: int = option(16, minimum=1)
    base_rate: float = option(1.0, minimum=0, rare=True)
