"""The options of every kind of token mixer. Formulas and sources stand in `nas/mixers/`, one file per kind.

Inner width of a mixer is `num_heads * head_dim`; it need not equal the model width.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import DEFAULT_NORM_EPS, option
from nas.architecture.positions import (
    DEFAULT_ROPE_BASE,
    ROPE_SCALINGS,
    BiasedPosition,
    Position,
    RopeScaling,
    first_distances,
)

QkNorm = Literal["none", "head", "full", "l2"]
OutputGate = Literal["none", "sigmoid"]
KvFrom = Literal["own", "earlier"]
Reads = Literal["stream", "with_embedding"]
GatedNorm = Literal["after_gate", "before_gate", "none"]
InnerNorm = Literal["none", "learned", "plain"]


@dataclass(frozen=True, kw_only=True)
class NoMixer(MixerOptions):
    """No token mixing: the block is an FFN alone."""

    kind: ClassVar[str] = "none"
    family: ClassVar[str] = "none"

    def check(self) -> None:
        if self.direction != "forward":
            raise ArchitectureError(f"direction is of a mixer, but got direction={self.direction} without one.")


@dataclass(frozen=True, kw_only=True)
class GroupedHeads(MixerOptions):
    """What attentions have in common: MHA, GQA or MQA by `num_kv_heads`, what precedes the scores, and positions.

    qk_norm: queries and keys normalised per head or over all heads before the rotation, or without weights after it.
    tie_kv: values are the keys as projected, before norm and rotation. rope_fraction: the share of a head that is
    rotated; rope_interleaved: pairs of neighbours. temperature_floor: queries at position i are multiplied by
    1 + temperature_scale log(1 + floor((i + 1) / temperature_floor)), as in the layers of Llama 4 without rotation.
    How positions enter is the last option of each of them, so that an architecture file ends with it.
    """

    # Rates are measured for plain attention alone; it lends them to the others.
    family: ClassVar[str] = "attention"

    num_heads: int = option(role="heads", minimum=1)
    num_kv_heads: int | None = option(None, role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    qkv_bias: bool = option(False, rare=True)
    qk_norm: QkNorm = option("none", rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)
    tie_kv: bool = option(False, rare=True)
    rope_fraction: float = option(1.0, minimum=0, rare=True)
    rope_interleaved: bool = option(False, rare=True)
    rope_scaling: RopeScaling | None = option(None, rare=True, kinds=ROPE_SCALINGS)
    temperature_floor: int | None = option(None, role="tokens", minimum=1, rare=True)
    temperature_scale: float = option(0.1, rare=True)

    def check(self) -> None:
        """KV heads divide heads; the kernels take head sizes in multiples of 4, and rotary positions even ones."""
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ArchitectureError(
                "num_kv_heads must divide num_heads, but got "
                f"num_kv_heads={self.num_kv_heads}, num_heads={self.num_heads}."
            )
        if self.head_dim % 4 or not 16 <= self.head_dim <= 256:
            raise ArchitectureError(f"head_dim must be a multiple of 4 from 16 to 256, but got {self.head_dim}.")
        if self.rope_fraction > 1 or self.rope_size < 2 or self.rope_size % 2:
            raise ArchitectureError(
                "rope_fraction must rotate an even number of channels, from 2 to all of a head, but got "
                f"rope_fraction={self.rope_fraction}, which is {self.rope_size} of head_dim={self.head_dim}."
            )

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def rope_size(self) -> int:
        """Channels of a head that are rotated; a share that falls between two is rounded down."""
        return int(self.head_dim * self.rope_fraction)

    def canonical(self, d_model: int) -> Self:
        eps = DEFAULT_NORM_EPS if self.qk_norm == "none" else float(self.norm_eps)
        temperature = float(self.temperature_scale) if self.temperature_floor else 0.1
        return replace(self, num_kv_heads=self.kv_heads, norm_eps=eps, temperature_scale=temperature)


@dataclass(frozen=True, kw_only=True)
class Attention(GroupedHeads):
    """Softmax attention; sliding window when `window` is set, which the first `num_global` tokens are exempt from.

    kv_from: keys and values of its own, or those of the nearest earlier layer with the same window that has its own.
    score_scale: factor of the scores beside 1 / sqrt(head_dim). soft_cap: c tanh(s / c) takes the place of a score s.
    sinks: every head has one more key, whose score is learned and whose value is zero. output_gate: heads are
    multiplied by sigmoid(W x). head_share: the share of its heads that a token uses, as a router says, all of them
    without one; always_share: the share of all heads that every token uses, where there is a router (MoH, arXiv
    2410.11842). Heads that are not used are computed all the same. reads: the stream, or behind it the embedding of the
    token, under one norm and in twice as many channels (Zamba, arXiv 2405.16712, section 2). value_dim: of a head of
    the values, head_dim unless given. position: rotary, none, or `relative`, a learned bias of the scores per head in
    `relative_buckets` of distances, the last of which begins before `relative_distance` (T5, arXiv 1910.10683).
    """

    kind: ClassVar[str] = "attention"

    window: int | None = option(None, role="tokens", minimum=1)
    num_global: int = option(0, minimum=0, rare=True)
    kv_from: KvFrom = option("own", rare=True)
    score_scale: float = option(1.0, rare=True)
    soft_cap: float | None = option(None, minimum=1e-3, rare=True)
    sinks: bool = option(False, rare=True)
    output_gate: OutputGate = option("none", rare=True)
    out_bias: bool = option(False, rare=True)
    head_share: float = option(1.0, minimum=0, maximum=1, rare=True)
    always_share: float = option(0.25, minimum=0, maximum=1, rare=True)
    reads: Reads = option("stream", rare=True)
    value_dim: int | None = option(None, role="head_dim", minimum=16, rare=True)
    relative_buckets: int = option(32, minimum=2, maximum=256, rare=True)
    relative_distance: int = option(128, minimum=2, maximum=65536, rare=True)
    position: BiasedPosition = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    @property
    def value_size(self) -> int:
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def sees_both_at_once(self) -> bool:
        return self.window is None and self.position != "relative"

    @property
    def routes_heads(self) -> bool:
        """Whether a token picks heads; a single one is not picked."""
        return self.head_share < 1 and self.num_heads > 1

    @property
    def always_heads(self) -> int:
        """Heads that every token uses beside those that a router picks; one at least is left to the router."""
        return min(round(self.always_share * self.num_heads), self.num_heads - 1)

    @property
    def active_heads(self) -> int:
        """Heads that a token uses, one at least picked by the router."""
        return max(round(self.head_share * self.num_heads), self.always_heads + 1)

    def read_size(self, d_model: int) -> int:
        """Channels that it reads."""
        return 2 * d_model if self.reads == "with_embedding" else d_model

    def check(self) -> None:
        super().check()
        if self.num_global and self.window is None:
            raise ArchitectureError(
                "num_global needs a window, which it lifts for the first tokens, but got "
                f"num_global={self.num_global} and window=null."
            )
        if self.value_size % 4 or self.value_size > 256 or (self.tie_kv and self.value_size != self.head_dim):
            raise ArchitectureError(
                "value_dim must be a multiple of 4 from 16 to 256, and head_dim where values are keys, but got "
                f"value_dim={self.value_dim}, head_dim={self.head_dim}, tie_kv={self.tie_kv}."
            )
        if self.position == "relative":
            self._check_relative()

    def _check_relative(self) -> None:
        if self.num_global:
            raise ArchitectureError(
                "position: relative goes without num_global, whose keys have other distances than those of the "
                f"window, but got num_global={self.num_global}."
            )
        first = first_distances(self.relative_buckets, self.relative_distance)
        if list(first) != sorted(set(first)):
            raise ArchitectureError(
                "relative_distance must leave each of the relative_buckets a distance, but got relative_distance="
                f"{self.relative_distance}, relative_buckets={self.relative_buckets}; take fewer buckets or a larger "
                "distance."
            )

    def canonical(self, d_model: int) -> Self:
        tied = self.tie_kv and self.kv_from == "own"
        shares = {"head_share": 1.0, "always_share": 0.25}
        if self.routes_heads:
            shares = {name: float(getattr(self, name)) for name in shares}
        value_dim = None if self.value_size == self.head_dim else self.value_dim
        return replace(super().canonical(d_model), **used_positions(self), **shares, tie_kv=tied, value_dim=value_dim)


@dataclass(frozen=True, kw_only=True)
class BlockSparseAttention(GroupedHeads):
    """Dynamic block-sparse attention: each token and KV head sees its own block and `top_k` earlier blocks."""

    kind: ClassVar[str] = "block_sparse_attention"

    block_size: int = option(64, role="tokens", minimum=1)
    top_k: int = option(4, minimum=1)
    position: Position = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    def canonical(self, d_model: int) -> Self:
        return replace(super().canonical(d_model), **used_positions(self))


@dataclass(frozen=True, kw_only=True)
class GatedLinearAttention(MixerOptions):
    """GLA: matrix state with a decay per key channel."""

    kind: ClassVar[str] = "gated_linear_attention"
    family: ClassVar[str] = "gated_linear_attention"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    key_dim: int | None = option(None, role="state", minimum=1)
    gate_rank: int = option(16, minimum=1)
    conv_size: int = option(0, minimum=0, maximum=8)

    @property
    def key_size(self) -> int:
        return self.head_dim if self.key_dim is None else self.key_dim

    def canonical(self, d_model: int) -> "GatedLinearAttention":
        return replace(self, key_dim=self.key_size)


@dataclass(frozen=True, kw_only=True)
class Mamba2(MixerOptions):
    """Mamba-2 (SSD): matrix state with one decay per head.

    output_norm: RMSNorm of the gated output, of the output before it is gated, or none. min_step: the smallest step
    size. gate_scale and so on: factors of what the first projection gives: z, x, B, C and dt.
    """

    kind: ClassVar[str] = "mamba2"
    family: ClassVar[str] = "mamba2"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    state_dim: int = option(64, role="state", minimum=1)
    num_groups: int = option(1, role="groups", minimum=1)
    conv_size: int = option(4, minimum=0, maximum=8)
    conv_bias: bool = option(True, rare=True)
    in_bias: bool = option(False, rare=True)
    out_bias: bool = option(False, rare=True)
    output_norm: GatedNorm = option("after_gate", rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)
    min_step: float = option(0.0, minimum=0, rare=True)
    gate_scale: float = option(1.0, rare=True)
    input_scale: float = option(1.0, rare=True)
    key_scale: float = option(1.0, rare=True)
    query_scale: float = option(1.0, rare=True)
    step_scale: float = option(1.0, rare=True)

    def canonical(self, d_model: int) -> "Mamba2":
        eps = DEFAULT_NORM_EPS if self.output_norm == "none" else float(self.norm_eps)
        return replace(self, conv_bias=self.conv_bias or not self.conv_size, norm_eps=eps)

    def check(self) -> None:
        if self.num_heads % self.num_groups:
            raise ArchitectureError(
                f"num_groups must divide num_heads, but got num_groups={self.num_groups}, num_heads={self.num_heads}."
            )


@dataclass(frozen=True, kw_only=True)
class Mamba1(MixerOptions):
    """Mamba-1: a diagonal state per channel. Inner width is `num_heads * head_dim`, usually twice the model width.

    inner_norm: RMSNorm of δ, B and C with weights (`learned`: Jamba, arXiv 2403.19887, section 6.4) or without
    (`plain`: Falcon Mamba, arXiv 2410.05355).
    """

    kind: ClassVar[str] = "mamba1"
    family: ClassVar[str] = "mamba1"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    state_dim: int = option(16, role="state", minimum=1)
    dt_rank: int | None = option(None, role="width", minimum=1)
    conv_size: int = option(4, minimum=0, maximum=8)
    conv_bias: bool = option(True, rare=True)
    proj_bias: bool = option(False, rare=True)
    inner_norm: InnerNorm = option("none", rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)

    def step_rank(self, d_model: int) -> int:
        """Rank of the projection to the step size: `dt_rank`, or d_model / 16 as published."""
        return math.ceil(d_model / 16) if self.dt_rank is None else self.dt_rank

    def canonical(self, d_model: int) -> "Mamba1":
        eps = DEFAULT_NORM_EPS if self.inner_norm == "none" else float(self.norm_eps)
        conv_bias = self.conv_bias or not self.conv_size
        return replace(self, dt_rank=self.step_rank(d_model), conv_bias=conv_bias, norm_eps=eps)


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet(MixerOptions):
    """Gated DeltaNet: matrix state, one decay per head, delta rule. Heads share queries and keys of `num_key_heads`."""

    kind: ClassVar[str] = "gated_deltanet"
    family: ClassVar[str] = "gated_deltanet"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    key_dim: int | None = option(None, role="state", minimum=1)
    conv_size: int = option(4, minimum=0, maximum=8)
    num_key_heads: int | None = option(None, role="heads", minimum=1, rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)

    def check(self) -> None:
        if self.num_heads % self.key_heads:
            raise ArchitectureError(
                "num_key_heads must divide num_heads, but got "
                f"num_key_heads={self.num_key_heads}, num_heads={self.num_heads}."
            )

    @property
    def key_size(self) -> int:
        return self.head_dim if self.key_dim is None else self.key_dim

    @property
    def key_heads(self) -> int:
        return self.num_heads if self.num_key_heads is None else self.num_key_heads

    def canonical(self, d_model: int) -> "GatedDeltaNet":
        own = None if self.key_heads == self.num_heads else self.num_key_heads
        return replace(self, key_dim=self.key_size, num_key_heads=own, norm_eps=float(self.norm_eps))


@dataclass(frozen=True, kw_only=True)
class ShortConvolution(MixerOptions):
    """A short convolution between two gates: each channel of the model mixes its last `conv_size` tokens."""

    kind: ClassVar[str] = "short_convolution"
    # Its rate is not measured; that of the family whose only other mixing of tokens is the same convolution stands in.
    family: ClassVar[str] = "mamba1"

    conv_size: int = option(3, minimum=1, maximum=8)
    bias: bool = option(False, rare=True)


def used_positions(options: Any) -> dict[str, Any]:
    """The options of the positions that there are as they are, and those of others at their defaults."""
    idle = tuple(f"{kind}_" for kind in ("rope", "relative") if kind != options.position)
    used = {"rope_base": float(options.rope_base)} if options.position == "rope" else {}
    return used | {f.name: f.default for f in fields(options) if f.name.startswith(idle)}
