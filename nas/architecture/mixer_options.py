"""What the options of every token mixer have in common."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from nas.architecture.options import Options, option

Direction = Literal["forward", "both"]


@dataclass(frozen=True, kw_only=True)
class MixerOptions(Options):
    """Base of the token mixers; `family` names the row of the learning-rate table.

    direction: `forward`, a token sees itself and earlier ones; `both`, it also sees later ones, which a causal loss
    does not allow. What sees both ways at once does so; another mixer reads forwards and backwards with the same
    weights, and the mean of the two counts (`nas.mixers.both_ways`).
    """

    family: ClassVar[str]

    direction: Direction = option("forward", rare=True)

    @property
    def sees_both_at_once(self) -> bool:
        """Whether one pass of this kind can see earlier and later tokens alike."""
        return False

    @property
    def causal(self) -> bool:
        """Whether a token sees no later one in one pass: with `direction: both` there are two such passes."""
        return self.direction == "forward" or not self.sees_both_at_once

    def canonical(self, d_model: int) -> "MixerOptions":
        return self
