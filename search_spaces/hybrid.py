"""The space `hybrid`: every layer chooses its mixer and its FFN, freely, from a tiled pattern, or by stage."""

from dataclasses import dataclass
from itertools import combinations

from nas.architecture import ArchitectureError
from search_spaces.base import SearchSpace
from search_spaces.fields import integers, word, word_pairs, words
from search_spaces.kinds import HEAD_MIX, HEADED, KINDS
from search_spaces.picks import Choice
from search_spaces.stages import stage_of


@dataclass(frozen=True, kw_only=True)
class HybridSpace(SearchSpace):
    """Mixer, FFN and their options per layer (`layers.3.*`), per place in a pattern (`pattern.1.*`) or per stage."""

    layout: str = word("free", "tiled", "staged")
    period: tuple[int, ...] = integers()
    mixers: tuple[str, ...] = words(*KINDS, HEAD_MIX)
    head_mix_pairs: tuple[str, ...] = word_pairs(HEADED)
    fuse: tuple[str, ...] = words("norm_mean", "concat")

    @property
    def mixer_options(self) -> dict[Choice, str]:
        return {kind: kind for kind in self.mixers}

    @property
    def pairs(self) -> tuple[str, ...]:
        if HEAD_MIX not in self.mixers:
            return ()
        if self.head_mix_pairs != ("all",):
            return self.head_mix_pairs
        return tuple("+".join(pair) for pair in combinations([kind for kind in self.mixers if kind in HEADED], 2))

    @property
    def fuses(self) -> tuple[str, ...]:
        return self.fuse

    @property
    def periods(self) -> tuple[int, ...]:
        return self.period if self.layout == "tiled" else ()

    def name_of(self, key: str, layer: int, num_layers: int, period: int) -> str:
        if self.layout == "tiled":
            return f"pattern.{layer % period}.{key}"
        if self.layout == "staged":
            return f"stages.{stage_of(layer, num_layers)}.{key}"
        return f"layers.{layer}.{key}"

    def check(self) -> None:
        if HEAD_MIX in self.mixers and not self.pairs:
            raise ArchitectureError(
                f"head_mix needs two other mixers to mix, but mixers is [{', '.join(self.mixers)}]; "
                "add mixers or name head_mix_pairs."
            )
        super().check()
