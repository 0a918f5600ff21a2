"""The options of latent attention to the tokens that a small indexer picks."""

from dataclasses import dataclass
from typing import ClassVar

from nas.architecture.errors import ArchitectureError
from nas.architecture.latent_attention import LatentAttention
from nas.architecture.options import option


@dataclass(frozen=True, kw_only=True)
class IndexedLatentAttention(LatentAttention):
    """DeepSeek sparse attention: latent attention to the `top_k` earlier tokens that an indexer scores highest.

    The indexer has `index_heads` queries and one key of `index_dim` channels a token, of which the first `rope_dim` are
    rotated. It is trained to follow the attention by a loss of its own, times `index_weight` (arXiv 2512.02556, section
    2.1); nothing else trains it, and it trains nothing else.
    """

    kind: ClassVar[str] = "indexed_latent_attention"

    top_k: int = option(64, role="tokens", minimum=2)  # attention to one token teaches no query
    index_heads: int = option(4, minimum=1)
    index_dim: int = option(32, role="head_dim", minimum=4)
    index_weight: float = option(1.0, minimum=0, rare=True)

    @property
    def sees_both_at_once(self) -> bool:
        return False  # its indexer picks earlier tokens

    def check(self) -> None:
        super().check()
        if self.index_dim < self.rope_dim:
            raise ArchitectureError(
                f"index_dim must hold the rotated channels, but got index_dim={self.index_dim}, "
                f"rope_dim={self.rope_dim}."
            )
