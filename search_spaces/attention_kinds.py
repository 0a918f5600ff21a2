"""Attentions beyond plain, windowed and block-sparse ones as kinds of a space, and the fields that choose of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from nas.architecture import (
    Attention,
    DifferentialAttention,
    ForgettingAttention,
    HashAttention,
    IndexedLatentAttention,
    LatentAttention,
    MixerOptions,
    NativeSparseAttention,
    PatternAttention,
)
from search_spaces.base import SearchSpace
from search_spaces.fields import integers, words
from search_spaces.kinds import ATTENTION_OPTIONS, HEADED, Kind
from search_spaces.picks import Choice

ROPE_SHARE = 2  # rotated channels of latent attention: half as many as a head has, as published


def latent(kind: Callable[..., MixerOptions]) -> Callable[..., MixerOptions]:
    """Makes a latent attention whose shared, rotated channels follow the size of a head."""

    def make(*, head_dim: int, **options: Any) -> MixerOptions:
        return kind(head_dim=head_dim, rope_dim=max(4, head_dim // ROPE_SHARE // 4 * 4), **options)

    return make


POSITION, KV_HEADS = {"position": "position"}, {"num_kv_heads": "num_kv_heads"}

OTHER_ATTENTIONS: Mapping[str, Kind] = {
    "pattern_attention": Kind(
        make=PatternAttention,
        letter="P",
        options={"pattern": "pattern", "block_size": "block_size", **ATTENTION_OPTIONS},
    ),
    "native_sparse_attention": Kind(
        make=NativeSparseAttention,
        letter="N",
        options={
            "compressed_stride": "compressed_stride",
            "selected_blocks": "top_k",
            "window": "window",
            **ATTENTION_OPTIONS,
        },
    ),
    "latent_attention": Kind(
        make=latent(LatentAttention), letter="D", options={"latent_dim": "latent_dim", **POSITION}
    ),
    "indexed_latent_attention": Kind(
        make=latent(IndexedLatentAttention),
        letter="I",
        options={"latent_dim": "latent_dim", "top_k_tokens": "top_k", **POSITION},
    ),
    "hash_attention": Kind(
        make=HashAttention,
        letter="H",
        options={"num_hashes": "num_hashes", "top_k_tokens": "top_k", **ATTENTION_OPTIONS},
    ),
    "forgetting_attention": Kind(make=ForgettingAttention, letter="F", options={"fading": "fading", **KV_HEADS}),
    "differential_attention": Kind(make=DifferentialAttention, letter="X", options=ATTENTION_OPTIONS),
    "relative_attention": Kind(make=partial(Attention, position="relative"), letter="E", options=KV_HEADS),
}
ALL_HEADED = (*HEADED, *OTHER_ATTENTIONS)
"""Kinds that can share the heads of a layer."""
FULL = ("attention", "latent_attention", "forgetting_attention", "differential_attention", "relative_attention")
"""Kinds that attend to everything, as `attention` does."""


@dataclass(frozen=True, kw_only=True)
class AttentionFields(SearchSpace):
    """A space with these kinds, whichever of them it offers."""

    pattern: tuple[str, ...] = words("chunked", "local_global", "strided", "dilated")
    compressed_stride: tuple[int, ...] = integers()
    selected_blocks: tuple[int, ...] = integers(minimum=3)
    latent_dim: tuple[int, ...] = integers(minimum=16)
    top_k_tokens: tuple[int, ...] = integers(minimum=2)
    num_hashes: tuple[int, ...] = integers()
    fading: tuple[str, ...] = words("gates", "alibi")

    @property
    def weighed_as(self) -> Mapping[Choice, str]:
        return {choice: "attention" if name in FULL else name for choice, name in self.mixer_options.items()}

    def check(self) -> None:
        """Every kind can be made with each of its choices."""
        super().check()
        for kind in (OTHER_ATTENTIONS[name] for name in self.offered if name in OTHER_ATTENTIONS):
            searched = {key: option for key, option in kind.options.items() if key != "num_kv_heads"}
            for chosen in product(*(getattr(self, key) for key in searched)):
                kind.make(num_heads=1, head_dim=self.head_dim, **dict(zip(searched.values(), chosen, strict=True)))
