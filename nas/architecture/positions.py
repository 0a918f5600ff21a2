"""How positions enter attention: rotary angles, what stretches them to contexts longer than they were trained at, and
buckets of distances.

Formulas stand in `nas/layers/rope.py` and `nas/layers/relative_bias.py`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.options import Options, option

Position = Literal["rope", "none"]
BiasedPosition = Literal["rope", "none", "relative"]
DEFAULT_ROPE_BASE = 10000.0


@dataclass(frozen=True, kw_only=True)
class RopeScaling(Options):
    """Base of the ways in which rotary angles are stretched. `factor` is how much longer the context becomes."""

    factor: float = option(minimum=1)

    def scale_of_tables(self) -> float:
        """What sine and cosine are multiplied by."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class LinearScaling(RopeScaling):
    """Every angle divided by the factor (Chen et al., arXiv 2306.15595, section 2.3)."""

    kind: ClassVar[str] = "linear"


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling(RopeScaling):
    """Slow angles divided by the factor, fast ones kept, a ramp between (Llama 3.1, arXiv 2407.21783, section 3.2).

    Slow is what turns less than `low` times within `original_length` tokens, fast what turns more than `high` times.
    """

    kind: ClassVar[str] = "llama3"

    original_length: int = option(role="tokens", minimum=1)
    low: float = option(1.0, minimum=0)
    high: float = option(4.0, minimum=0)

    def check(self) -> None:
        if not self.low < self.high:
            raise ArchitectureError(f"low must be below high, but got low={self.low}, high={self.high}.")


@dataclass(frozen=True, kw_only=True)
class YarnScaling(RopeScaling):
    """As `llama3`, the ramp straight over channels, from `slow` to `fast` turns (Peng et al., arXiv 2309.00071).

    `truncate` rounds the ends of the ramp outwards to whole channels. `table_scale` multiplies sine and cosine, and is
    0.1 ln(factor) + 1 unless given.
    """

    kind: ClassVar[str] = "yarn"

    original_length: int = option(role="tokens", minimum=1)
    slow: float = option(1.0, minimum=0)
    fast: float = option(32.0, minimum=0)
    truncate: bool = option(True)
    table_scale: float | None = option(None, minimum=0)

    def check(self) -> None:
        if not self.slow < self.fast:
            raise ArchitectureError(f"slow must be below fast, but got slow={self.slow}, fast={self.fast}.")

    def scale_of_tables(self) -> float:
        return 0.1 * math.log(self.factor) + 1 if self.table_scale is None else self.table_scale


ROPE_SCALINGS: dict[str, type[RopeScaling]] = {cls.kind: cls for cls in (LinearScaling, Llama3Scaling, YarnScaling)}


@lru_cache(maxsize=64)
def first_distances(buckets: int, largest: int) -> tuple[int, ...]:
    """The first distance of each bucket, where half of the buckets hold one distance each, and the others grow from
    there to `largest` by one factor; the last one holds all beyond. As in the code of T5 (arXiv 1910.10683) for keys
    that come before their query, but in whole numbers, so that no bucket depends on how a logarithm is rounded.
    """
    exact = buckets // 2
    wide = buckets - exact

    def reaches(distance: int, step: int) -> bool:
        """Whether (distance / exact)^wide >= (largest / exact)^step."""
        return distance**wide * exact**step >= largest**step * exact**wide

    first = list(range(exact))
    for step in range(wide):
        distance = int(exact * (largest / exact) ** (step / wide))
        while not reaches(distance, step):
            distance += 1
        while reaches(distance - 1, step):
            distance -= 1
        first.append(distance)
    return tuple(first)
