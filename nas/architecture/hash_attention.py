"""The options of attention among tokens that fall into the same bucket of a hash."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixers import GroupedHeads, used_positions
from nas.architecture.options import option
from nas.architecture.positions import DEFAULT_ROPE_BASE, Position


@dataclass(frozen=True, kw_only=True)
class HashAttention(GroupedHeads):
    """Each token sees itself and the latest `top_k` - 1 tokens that share a bucket with it in any of `num_hashes`.

    A hash is the largest of `num_buckets` directions, drawn once from `seed`: half of them at random, and their
    opposites (Reformer, arXiv 2001.04451, section 2).
    """

    kind: ClassVar[str] = "hash_attention"

    num_hashes: int = option(4, minimum=1)
    num_buckets: int = option(16, minimum=2)
    top_k: int = option(64, role="tokens", minimum=1)
    seed: int = option(0, minimum=0, rare=True)
    position: Position = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    def check(self) -> None:
        super().check()
        if self.num_buckets % 2:
            raise ArchitectureError(
                f"num_buckets must be even, because directions come with their opposites, but got {self.num_buckets}."
            )

    def canonical(self, d_model: int) -> Self:
        return replace(super().canonical(d_model), **used_positions(self))
