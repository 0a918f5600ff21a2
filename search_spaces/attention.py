"""The space `attention`: efficient full and sparse attention, one kind for each place of a short repeated pattern."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from nas.architecture import (
    Attention,
    BlockSparseAttention,
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
from search_spaces.kinds import ATTENTION_OPTIONS, KINDS, Kind
from search_spaces.picks import Choice

POSITION = {"position": "position"}
KV_HEADS = {"num_kv_heads": "num_kv_heads"}
GATED = {"output_gate": "output_gate", **ATTENTION_OPTIONS}
ROPE_SHARE = 2  # rotated channels of latent attention: half as many as a head has, as published


def latent(kind: Callable[..., MixerOptions]) -> Callable[..., MixerOptions]:
    """Makes a latent attention whose shared, rotated channels follow the size of a head."""

    def make(*, head_dim: int, **options: Any) -> MixerOptions:
        return kind(head_dim=head_dim, rope_dim=max(4, head_dim // ROPE_SHARE // 4 * 4), **options)

    return make


ATTENTION_KINDS: Mapping[str, Kind] = {
    "attention": Kind(make=Attention, letter="a", options=GATED),
    "sliding_window": Kind(
        make=Attention, letter="s", options={"window": "window", "num_global": "num_global", **GATED}
    ),
    "block_sparse_attention": KINDS[BlockSparseAttention.kind],
    "pattern_attention": Kind(
        make=PatternAttention,
        letter="p",
        options={"pattern": "pattern", "block_size": "block_size", **ATTENTION_OPTIONS},
    ),
    "native_sparse_attention": Kind(
        make=NativeSparseAttention,
        letter="n",
        options={
            "compressed_stride": "compressed_stride",
            "selected_blocks": "top_k",
            "window": "window",
            **ATTENTION_OPTIONS,
        },
    ),
    "latent_attention": Kind(
        make=latent(LatentAttention), letter="d", options={"latent_dim": "latent_dim", **POSITION}
    ),
    "indexed_latent_attention": Kind(
        make=latent(IndexedLatentAttention),
        letter="i",
        options={"latent_dim": "latent_dim", "top_k_tokens": "top_k", **POSITION},
    ),
    "hash_attention": Kind(
        make=HashAttention,
        letter="h",
        options={"num_hashes": "num_hashes", "top_k_tokens": "top_k", **ATTENTION_OPTIONS},
    ),
    "forgetting_attention": Kind(make=ForgettingAttention, letter="f", options={"fading": "fading", **KV_HEADS}),
    "differential_attention": Kind(make=DifferentialAttention, letter="x", options=ATTENTION_OPTIONS),
}


@dataclass(frozen=True, kw_only=True)
class AttentionSpace(SearchSpace):
    """Mixer, FFN and their options per place in the pattern (`pattern.1.window`)."""

    period: tuple[int, ...] = integers()
    mixers: tuple[str, ...] = words(*ATTENTION_KINDS)
    output_gate: tuple[str, ...] = words("none", "sigmoid")
    num_global: tuple[int, ...] = integers(minimum=0)
    pattern: tuple[str, ...] = words("chunked", "local_global", "strided", "dilated")
    compressed_stride: tuple[int, ...] = integers()
    selected_blocks: tuple[int, ...] = integers(minimum=3)
    latent_dim: tuple[int, ...] = integers(minimum=16)
    top_k_tokens: tuple[int, ...] = integers()
    num_hashes: tuple[int, ...] = integers()
    fading: tuple[str, ...] = words("gates", "alibi")

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return ATTENTION_KINDS

    @property
    def mixer_options(self) -> dict[Choice, str]:
        return {kind: kind for kind in self.mixers}

    @property
    def periods(self) -> tuple[int, ...]:
        return self.period

    def name_of(self, key: str, layer: int, num_layers: int, period: int) -> str:
        return f"pattern.{layer % period}.{key}"

    def check(self) -> None:
        """Every kind can be made with each of its choices."""
        super().check()
        for kind in (self.kinds[name] for name in self.mixers):
            searched = {key: option for key, option in kind.options.items() if key != "num_kv_heads"}
            for chosen in product(*(getattr(self, key) for key in searched)):
                kind.make(num_heads=1, head_dim=self.head_dim, **dict(zip(searched.values(), chosen, strict=True)))
