"""The options of latent attention, whose cache is one short vector for all heads of a token."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import DEFAULT_NORM_EPS, option
from nas.architecture.positions import DEFAULT_ROPE_BASE, ROPE_SCALINGS, Position, RopeScaling

LARGEST_HEAD = 256
# What a decode step reads for a token: the latent vector, of which it also takes the values, and the shared key.
LARGEST_LATENT, LARGEST_CACHED = 512, 576


@dataclass(frozen=True, kw_only=True)
class LatentAttention(MixerOptions):
    """Multi-head latent attention (MLA): keys and values of all heads are read from one vector of `latent_dim`.

    A key has `head_dim` channels of its own head and `rope_dim` that all heads share, and only the shared ones are
    rotated (`position: none`: they stay, not rotated, as in Kimi Linear). value_dim: `head_dim` unless given.
    query_rank: queries too pass a short, normalised vector. down_bias: of the projections to these two vectors.
    score_scale: factor of the scores beside 1 / sqrt(head_dim + rope_dim).
    The latent vector grows with the heads: 4 head_dim as published (DeepSeek-V2, arXiv 2405.04434, section 3.1.2).
    """

    kind: ClassVar[str] = "latent_attention"
    # Its rates are not measured; those of plain attention stand in.
    family: ClassVar[str] = "attention"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    latent_dim: int = option(256, role="head_dim", minimum=16, maximum=LARGEST_LATENT)
    rope_dim: int = option(32, role="head_dim", minimum=4)
    value_dim: int | None = option(None, role="head_dim", minimum=16)
    query_rank: int | None = option(None, role="width", minimum=1)
    down_bias: bool = option(False, rare=True)
    out_bias: bool = option(False, rare=True)
    score_scale: float = option(1.0, rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)
    rope_interleaved: bool = option(False, rare=True)
    rope_scaling: RopeScaling | None = option(None, rare=True, kinds=ROPE_SCALINGS)
    position: Position = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    def check(self) -> None:
        """What the kernels take: sizes in multiples of 4, heads of 16 to 256, and 576 numbers a token in the cache."""
        for name in ("head_dim", "latent_dim", "rope_dim", "value_dim"):
            size = getattr(self, name)
            if size is not None and size % 4:
                raise ArchitectureError(f"{name} must be a multiple of 4, but got {size}.")
        if not 16 <= self.head_dim + self.rope_dim <= LARGEST_HEAD or not 16 <= self.value_size <= LARGEST_HEAD:
            raise ArchitectureError(
                f"head_dim + rope_dim and value_dim must lie from 16 to {LARGEST_HEAD}, but got head_dim="
                f"{self.head_dim}, rope_dim={self.rope_dim}, value_dim={self.value_size}."
            )
        if self.latent_dim + self.rope_dim > LARGEST_CACHED:
            raise ArchitectureError(
                f"latent_dim + rope_dim must be at most {LARGEST_CACHED}, but got latent_dim={self.latent_dim}, "
                f"rope_dim={self.rope_dim}."
            )

    @property
    def sees_both_at_once(self) -> bool:
        return True

    @property
    def value_size(self) -> int:
        return self.head_dim if self.value_dim is None else self.value_dim

    def canonical(self, d_model: int) -> Self:
        idle = {f.name: f.default for f in fields(self) if f.name in ("rope_base", "rope_interleaved", "rope_scaling")}
        used = {"rope_base": float(self.rope_base)} if self.position == "rope" else idle
        return replace(self, value_dim=self.value_size, norm_eps=float(self.norm_eps), **used)
