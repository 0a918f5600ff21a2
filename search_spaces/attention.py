"""The space `attention`: efficient full and sparse attention, one kind for each place of a short repeated pattern."""

from collections.abc import Mapping
from dataclasses import dataclass

from nas.architecture import Attention
from search_spaces.attention_kinds import OTHER_ATTENTIONS, AttentionFields
from search_spaces.fields import fractions, integers, words
from search_spaces.kinds import ATTENTION_OPTIONS, KINDS, Kind
from search_spaces.picks import Choice

GATED = {"output_gate": "output_gate", "active_heads": "head_share", **ATTENTION_OPTIONS}
ATTENTION_KINDS: Mapping[str, Kind] = {
    "attention": Kind(make=Attention, letter="a", options=GATED),
    "sliding_window": Kind(
        make=Attention, letter="s", options={"window": "window", "num_global": "num_global", **GATED}
    ),
    "block_sparse_attention": KINDS["block_sparse_attention"],
    **OTHER_ATTENTIONS,
}


@dataclass(frozen=True, kw_only=True)
class AttentionSpace(AttentionFields):
    """Mixer, FFN and their options per place in the pattern (`pattern.1.window`)."""

    period: tuple[int, ...] = integers()
    mixers: tuple[str, ...] = words(*ATTENTION_KINDS)
    output_gate: tuple[str, ...] = words("none", "sigmoid")
    active_heads: tuple[str, ...] = fractions()
    num_global: tuple[int, ...] = integers(minimum=0)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return ATTENTION_KINDS

    @property
    def mixer_options(self) -> dict[Choice, str]:
        return {kind: kind for kind in self.mixers}

    @property
    def periods(self) -> tuple[int, ...]:
        return self.period

    def name_of(self, key: str, layer: int, num_layers: int, form: int) -> str:
        return f"pattern.{layer % form}.{key}"
