"""The options of the time mixing of RWKV, versions 4, 6 and 7. Inner width is `num_heads * head_dim`."""

from dataclasses import dataclass
from typing import ClassVar

from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import option

GROUP_NORM_EPS = 64e-5
"""Of the norm of each head, as published."""


@dataclass(frozen=True, kw_only=True)
class Rwkv(MixerOptions):
    """Base of the versions: what a token gives is mixed with what the token before gave."""

    # Its rates are not measured; those of the other mixer with decays per key channel stand in.
    family: ClassVar[str] = "gated_linear_attention"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)


@dataclass(frozen=True, kw_only=True)
class Rwkv4(Rwkv):
    """RWKV-4: two numbers per channel, a mean of values with weights that decay at a fixed rate; heads are a count."""

    kind: ClassVar[str] = "rwkv4"


@dataclass(frozen=True, kw_only=True)
class Rwkv6(Rwkv):
    """RWKV-6: a matrix state with decays per key channel and a bonus for the own token; shares of the token before are
    set by the token. Ranks are those of the shares and of the decays."""

    kind: ClassVar[str] = "rwkv6"

    mix_rank: int = option(32, role="state", minimum=1)
    decay_rank: int = option(64, role="state", minimum=1)
    norm_eps: float = option(GROUP_NORM_EPS, minimum=0, rare=True)


@dataclass(frozen=True, kw_only=True)
class Rwkv7(Rwkv):
    """RWKV-7: a matrix state that decays per key channel and erases along a key of its own.

    Ranks of the decay, of the rate of erasing, of the output gate, and of the share in which values are those of the
    first such layer of the network: null in that layer, and where there is no such share.
    """

    kind: ClassVar[str] = "rwkv7"

    decay_rank: int = option(64, role="state", minimum=1)
    rate_rank: int = option(64, role="state", minimum=1)
    gate_rank: int = option(128, role="state", minimum=1)
    value_rank: int | None = option(None, role="state", minimum=1)
    norm_eps: float = option(GROUP_NORM_EPS, minimum=0, rare=True)
