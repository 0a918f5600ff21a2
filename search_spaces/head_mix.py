"""The space `head_mix`: every layer runs two mixers side by side; what is searched is which, and how heads are split.

The design of Hymba (arXiv 2411.13676) and Falcon-H1 (arXiv 2507.22448).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from search_spaces.attention_kinds import ALL_HEADED, OTHER_ATTENTIONS, AttentionFields
from search_spaces.fields import word_pairs, words
from search_spaces.kinds import HEAD_MIX, KINDS, Kind
from search_spaces.picks import Choice
from search_spaces.stages import stage_of

PART_KINDS: Mapping[str, Kind] = {**KINDS, **OTHER_ATTENTIONS}


@dataclass(frozen=True, kw_only=True)
class HeadMixSpace(AttentionFields):
    """One pair of mixers for all layers; heads are split per stage, as in `stages.early.attention.heads_of_4`."""

    head_mix_pairs: tuple[str, ...] = word_pairs(ALL_HEADED)
    fuse: tuple[str, ...] = words("norm_mean", "concat")

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return PART_KINDS

    @property
    def mixer_options(self) -> dict[Choice, str]:
        return {HEAD_MIX: HEAD_MIX}

    @property
    def pairs(self) -> tuple[str, ...]:
        if self.head_mix_pairs == ("all",):
            return tuple("+".join(pair) for pair in combinations(ALL_HEADED, 2))
        return self.head_mix_pairs

    @property
    def fuses(self) -> tuple[str, ...]:
        return self.fuse

    def name_of(self, key: str, layer: int, num_layers: int, form: int) -> str:
        per_stage = key.endswith("heads")
        return f"stages.{stage_of(layer, num_layers)}.{key}" if per_stage else key
