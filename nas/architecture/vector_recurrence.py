"""The options of mixers with a vector state: one number per channel that decays and is added to."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import DEFAULT_NORM_EPS, option

Cell = Literal["rg_lru", "hgrn", "min_gru", "min_lstm"]
ChannelGate = Literal["none", "silu", "gelu_tanh", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class VectorRecurrence(MixerOptions):
    """A gated linear RNN of `num_heads * head_dim` channels; the gates of `rg_lru` mix the channels of a head.

    decay_floor: the least decay of `hgrn`. conv_size: of a convolution over what the cell takes. gate: what the output
    is multiplied by, an activation of a projection. output_norm: RMSNorm over all channels, before the gate. bias: of
    the first and last projections.
    """

    kind: ClassVar[str] = "vector_recurrence"
    # Its rates are not measured; those of the other mixer with a state per channel stand in.
    family: ClassVar[str] = "mamba1"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    cell: Cell = option("rg_lru")
    conv_size: int = option(0, minimum=0, maximum=8)
    gate: ChannelGate = option("none")
    output_norm: Literal["none", "full"] = option("none", rare=True)
    decay_floor: float = option(0.0, minimum=0, rare=True)
    conv_bias: bool = option(True, rare=True)
    bias: bool = option(False, rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)

    def check(self) -> None:
        if self.decay_floor >= 1 or (self.decay_floor and self.cell != "hgrn"):
            raise ArchitectureError(
                f"decay_floor is below 1 and belongs to cell: hgrn, but got decay_floor={self.decay_floor}, "
                f"cell={self.cell}."
            )

    def canonical(self, d_model: int) -> "VectorRecurrence":
        eps = DEFAULT_NORM_EPS if self.output_norm == "none" else float(self.norm_eps)
        floor = float(self.decay_floor)
        return replace(self, conv_bias=self.conv_bias or not self.conv_size, norm_eps=eps, decay_floor=floor)
