"""What the options of every token mixer have in common."""

from dataclasses import dataclass
from typing import ClassVar

from nas.architecture.options import Options


@dataclass(frozen=True, kw_only=True)
class MixerOptions(Options):
    """Base of the token mixers; `family` names the row of the learning-rate table."""

    family: ClassVar[str]

    def canonical(self, d_model: int) -> "MixerOptions":
        return self
