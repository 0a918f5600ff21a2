"""The options of native sparse attention: compressed keys, selected blocks and a window, each behind a gate."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from nas.architecture.mixers import GroupedHeads, used_positions
from nas.architecture.options import option
from nas.architecture.positions import DEFAULT_ROPE_BASE, Position

Compression = Literal["mlp", "mean"]


@dataclass(frozen=True, kw_only=True)
class NativeSparseAttention(GroupedHeads):
    """NSA: every head adds up three attentions, each times a gate of its own (DeepSeek, arXiv 2502.11089, section 3).

    To compressed keys, one for every `compressed_strides` strides of tokens at each multiple of `compressed_stride`; to
    `top_k` blocks of `block_strides` strides, the first one, the own one and the one before it among them, the others
    those that hold most of the first attention; and to the last `window` tokens. compression: keys and values pass a
    two-layer network with learned positions, or are averaged.
    """

    kind: ClassVar[str] = "native_sparse_attention"

    compressed_stride: int = option(16, role="tokens", minimum=1)
    compressed_strides: int = option(2, minimum=1, rare=True)
    block_strides: int = option(4, minimum=1, rare=True)
    top_k: int = option(16, minimum=3)
    window: int = option(512, role="tokens", minimum=1)
    compression: Compression = option("mlp", rare=True)
    position: Position = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    @property
    def compressed_size(self) -> int:
        """Tokens that a compressed key stands for."""
        return self.compressed_stride * self.compressed_strides

    @property
    def block_size(self) -> int:
        """Tokens in a block that is selected."""
        return self.compressed_stride * self.block_strides

    def canonical(self, d_model: int) -> Self:
        return replace(super().canonical(d_model), **used_positions(self))
