"""The options of attention under a fixed pattern of blocks."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Self

from nas.architecture.mixers import GroupedHeads, used_positions
from nas.architecture.options import option
from nas.architecture.positions import DEFAULT_ROPE_BASE, Position

Pattern = Literal["chunked", "local_global", "strided", "dilated"]
USED: dict[Pattern, tuple[str, ...]] = {
    "chunked": (),
    "local_global": ("local_blocks", "global_blocks", "random_blocks", "seed"),
    "strided": ("local_blocks", "stride"),
    "dilated": ("segment_blocks", "stride", "levels"),
}
SIZES = frozenset(name for names in USED.values() for name in names)


@dataclass(frozen=True, kw_only=True)
class PatternAttention(GroupedHeads):
    """Softmax attention in which a block of tokens sees the same few earlier blocks whatever they hold.

    chunked: a token sees its own block up to itself (Llama 4). local_global: the last `local_blocks`, the own one
    included, the first `global_blocks`, and `random_blocks` others (Longformer; with random ones BigBird). strided: the
    last `local_blocks`, and every `stride`-th counted back from the own one (Sparse Transformers). dilated: for each of
    `levels`, l = 0, 1, ..., of the own segment of `segment_blocks` stride^l blocks every stride^l-th (LongNet).
    """

    kind: ClassVar[str] = "pattern_attention"

    pattern: Pattern = option("local_global")
    block_size: int = option(64, role="tokens", minimum=1)
    local_blocks: int = option(4, minimum=1, rare=True)
    global_blocks: int = option(1, minimum=0, rare=True)
    random_blocks: int = option(0, minimum=0, rare=True)
    seed: int = option(0, minimum=0, rare=True)
    stride: int = option(4, minimum=2, rare=True)
    segment_blocks: int = option(4, minimum=1, rare=True)
    levels: int = option(3, minimum=1, rare=True)
    position: Position = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    @property
    def segments(self) -> tuple[int, ...]:
        """Blocks in a segment of each level of `dilated`."""
        return tuple(self.segment_blocks * dilation for dilation in self.dilations)

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(self.stride**level for level in range(self.levels))

    def canonical(self, d_model: int) -> Self:
        used = USED[self.pattern] if self.random_blocks else tuple(n for n in USED[self.pattern] if n != "seed")
        idle = {f.name: f.default for f in fields(self) if f.name in SIZES and f.name not in used}
        return replace(super().canonical(d_model), **used_positions(self), **idle)
