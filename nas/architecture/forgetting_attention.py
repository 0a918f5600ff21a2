"""The options of attention whose scores fade with the distance, by learned gates or at fixed rates."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from nas.architecture.mixers import GroupedHeads, used_positions
from nas.architecture.options import option
from nas.architecture.positions import DEFAULT_ROPE_BASE, Position

Fading = Literal["gates", "alibi"]


@dataclass(frozen=True, kw_only=True)
class ForgettingAttention(GroupedHeads):
    """Softmax attention whose scores lose, for every token between, the same amount for all older keys of a head.

    gates: -log sigmoid(w x + b) of each token between (forgetting attention, arXiv 2503.02130). alibi: the fixed slope
    2^(-8 h / H) of head h = 1 .. H (ALiBi, arXiv 2108.12409). Other biases of relative positions, those of T5 among
    them, are no sums over the tokens between, and the kernels have no place for them.
    """

    kind: ClassVar[str] = "forgetting_attention"

    fading: Fading = option("gates")
    position: Position = option("none")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    def canonical(self, d_model: int) -> Self:
        return replace(super().canonical(d_model), **used_positions(self))
