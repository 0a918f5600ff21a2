"""The options of attention to a fixed number of slots."""

from dataclasses import dataclass
from typing import ClassVar

from nas.architecture.errors import ArchitectureError
from nas.architecture.matrix_recurrence import LARGEST_ROWS
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import option


@dataclass(frozen=True, kw_only=True)
class GatedSlotAttention(MixerOptions):
    """Gated slot attention: every token is spread over `num_slots` slots, to which queries attend by a softmax."""

    kind: ClassVar[str] = "gated_slot_attention"
    # Its rates are not measured; those of the mixer whose state decays alike stand in.
    family: ClassVar[str] = "gated_linear_attention"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    num_slots: int = option(64, role="state", minimum=1)

    def check(self) -> None:
        if max(self.num_slots, self.head_dim) > LARGEST_ROWS:
            raise ArchitectureError(
                f"num_slots and head_dim must be at most {LARGEST_ROWS}, but got num_slots={self.num_slots}, "
                f"head_dim={self.head_dim}."
            )
