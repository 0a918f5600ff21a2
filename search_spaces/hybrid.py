"""The space `hybrid`: every layer chooses its mixer and its FFN, freely, from a tiled pattern, or by stage."""

from dataclasses import dataclass

from search_spaces.any_mixer import AnyMixerSpace
from search_spaces.fields import integers, word
from search_spaces.stages import stage_of


@dataclass(frozen=True, kw_only=True)
class HybridSpace(AnyMixerSpace):
    """Mixer, FFN and their options per layer (`layers.3.*`), per place in a pattern (`pattern.1.*`) or per stage."""

    layout: str = word("free", "tiled", "staged")
    period: tuple[int, ...] = integers()

    @property
    def periods(self) -> tuple[int, ...]:
        return self.period if self.layout == "tiled" else ()

    def name_of(self, key: str, layer: int, num_layers: int, form: int) -> str:
        if self.layout == "tiled":
            return f"pattern.{layer % form}.{key}"
        if self.layout == "staged":
            return f"stages.{stage_of(layer, num_layers)}.{key}"
        return f"layers.{layer}.{key}"
