"""The architecture as data: a stack of blocks, each a token mixer and an FFN, with the few numbers around them."""

from dataclasses import dataclass
from typing import Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.ffns import FfnOptions, NoFfn
from nas.architecture.mixers import HeadMix, MixerOptions, NoMixer
from nas.architecture.options import Options, option

Loss = Literal["causal"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """One residual block: x + mixer(norm(x)), then x + ffn(norm(x)). Either may be absent, not both."""

    mixer: MixerOptions = NoMixer()
    ffn: FfnOptions = NoFfn()

    def __post_init__(self) -> None:
        if not isinstance(self.mixer, MixerOptions):
            raise ArchitectureError(f"mixer must be a token mixer, but got {self.mixer!r}.")
        if not isinstance(self.ffn, FfnOptions):
            raise ArchitectureError(f"ffn must be an FFN, but got {self.ffn!r}.")
        if isinstance(self.mixer, NoMixer) and isinstance(self.ffn, NoFfn):
            raise ArchitectureError("A block needs a mixer or an FFN, but both are none.")


@dataclass(frozen=True, kw_only=True)
class Architecture(Options):
    """A whole network. Equality and hash are those of the data; `canonical_id` tells whether two compute the same."""

    name: str = "unnamed"
    d_model: int = option(minimum=1)
    vocab_size: int = option(minimum=1)
    loss: Loss = option("causal")
    tie_embeddings: bool = option(True)
    blocks: tuple[Block, ...] = ()

    def check(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArchitectureError(f"name must be a word, but got {self.name!r}.")
        if not self.blocks:
            raise ArchitectureError("An architecture needs at least one block, but got none.")

    @property
    def mixers(self) -> tuple[MixerOptions, ...]:
        """Every token mixer in order, the parts of head_mix counted each."""
        found: list[MixerOptions] = []
        for block in self.blocks:
            found.extend(block.mixer.parts if isinstance(block.mixer, HeadMix) else (block.mixer,))
        return tuple(m for m in found if not isinstance(m, NoMixer))
