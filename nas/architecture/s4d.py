"""The options of a diagonal state space with fixed parameters."""

from dataclasses import dataclass
from typing import ClassVar

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import option


@dataclass(frozen=True, kw_only=True)
class S4d(MixerOptions):
    """S4D with real states in the gated block of Mamba: nothing about a state depends on the token.

    Channels of one of `num_groups` groups share how they are written and read; steps and decays are their own.
    """

    kind: ClassVar[str] = "s4d"
    # Its rates are not measured; those of the scan whose parameters the token sets stand in.
    family: ClassVar[str] = "mamba1"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    state_dim: int = option(16, role="state", minimum=1)
    num_groups: int = option(1, role="groups", minimum=1)
    conv_size: int = option(0, minimum=0, maximum=8)

    def check(self) -> None:
        if self.num_heads % self.num_groups:
            raise ArchitectureError(
                f"num_groups must divide num_heads, but got num_groups={self.num_groups}, num_heads={self.num_heads}."
            )
