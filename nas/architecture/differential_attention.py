"""The options of differential attention: each head is the difference of two attentions to the same values."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixers import Attention, GroupedHeads, used_positions
from nas.architecture.options import option
from nas.architecture.positions import DEFAULT_ROPE_BASE, Position


@dataclass(frozen=True, kw_only=True)
class DifferentialAttention(GroupedHeads):
    """Attention minus λ times another one, over values of `head_dim`; each has queries and keys of half that size.

    lambda_init: what λ is about at first, 0.8 - 0.6 exp(-0.3 l) in layer l = 0, 1, ... as published (arXiv 2410.05258,
    section 2.1). norm_eps: also of the norm of each head's result, which is then multiplied by 1 - lambda_init.
    """

    kind: ClassVar[str] = "differential_attention"

    head_dim: int = option(64, role="head_dim", minimum=32, maximum=256)
    lambda_init: float = option(0.5, minimum=0, maximum=1)
    position: Position = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    @property
    def sees_both_at_once(self) -> bool:
        return True

    def check(self) -> None:
        if self.head_dim % 8:
            raise ArchitectureError(
                "head_dim of differential attention must be a multiple of 8, because its queries have half of it, but "
                f"got {self.head_dim}."
            )
        self.halves()  # raises what does not hold between the other options

    def halves(self) -> Attention:
        """The attention whose heads are first those of the one, then those of the other of the two."""
        return Attention(
            num_heads=2 * self.num_heads,
            num_kv_heads=2 * self.kv_heads,
            head_dim=self.head_dim // 2,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            tie_kv=self.tie_kv,
            rope_fraction=self.rope_fraction,
            rope_interleaved=self.rope_interleaved,
            rope_scaling=self.rope_scaling,
            temperature_floor=self.temperature_floor,
            temperature_scale=self.temperature_scale,
            position=self.position,
            rope_base=self.rope_base,
        )

    def canonical(self, d_model: int) -> Self:
        own = {"norm_eps": float(self.norm_eps), "lambda_init": float(self.lambda_init)}
        return replace(super().canonical(d_model), **used_positions(self), **own)
