"""The space `moe`: which layers have experts, how many, and who chooses them, beside a short pattern of mixers."""

from collections.abc import Mapping
from dataclasses import dataclass

from nas.architecture import ArchitectureError
from search_spaces.fields import integers, words
from search_spaces.pattern import PatternSpace


@dataclass(frozen=True, kw_only=True)
class MoeSpace(PatternSpace):
    """A mixer and a kind of FFN per place in the pattern (`pattern.1`, `ffn.1`); all else is the same in all layers."""

    router: tuple[str, ...] = words("softmax", "sigmoid")
    choice: tuple[str, ...] = words("scores", "hash", "experts")
    num_zero: tuple[int, ...] = integers(minimum=0)

    @property
    def moe_options(self) -> Mapping[str, str]:
        return {"router": "router", "choice": "choice", "num_zero": "num_zero"}

    def check(self) -> None:
        super().check()
        if "experts" in self.choice and self.loss == "causal":
            raise ArchitectureError(
                "Experts that choose their tokens (choice=experts) compare a token with later ones, which a causal "
                "loss does not allow; take choice=scores, or loss=masked_diffusion."
            )

    def name_of(self, key: str, layer: int, num_layers: int, form: int) -> str:
        if key == "ffn":
            return f"ffn.{layer % form}"
        return super().name_of(key, layer, num_layers, form)
