"""What a whole network takes beyond the sum of its blocks, learned from a few that were measured both ways.

A block in a stack of its like finds more of its code and its buffers in caches than one among others, so sums are some
percent too small, on a CPU most of all. A table therefore holds a few whole networks beside the blocks; the median of
their ratios multiplies every prediction of that phase.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nas.measurement import Measurement
from nas.workload import Phase, phase_from_dict, phase_to_dict

ENOUGH = 9  # networks for each phase: more than the reference designs, which are more alike than most


@dataclass(frozen=True, kw_only=True)
class Whole:
    """One network in one phase. network: its canonical id; sum_ms: of its blocks and ends; own: measured as a whole."""

    network: str
    phase: Phase
    dtype: str
    sum_ms: float
    own: Measurement
    environment: Mapping[str, str | int]

    @property
    def key(self) -> tuple[str, Phase, str]:
        return self.network, self.phase, self.dtype

    @property
    def ratio(self) -> float:
        return self.own.value / self.sum_ms

    def to_dict(self, environment: int) -> dict[str, Any]:
        """environment: its number in the table's list."""
        return {
            "network": self.network,
            "phase": phase_to_dict(self.phase),
            "dtype": self.dtype,
            "sum_ms": self.sum_ms,
            "own": self.own.to_dict(),
            "environment": environment,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], environment: Mapping[str, str | int]) -> "Whole":
        """Raises KeyError or TypeError for what `to_dict` did not write."""
        given = {**data, "phase": phase_from_dict(data["phase"]), "own": Measurement.from_dict(data["own"])}
        return cls(**{**given, "environment": environment})


@dataclass(frozen=True)
class Composition:
    """The factor on sums of blocks, and how many networks it was learned from; 1 where there were none."""

    factor: float
    networks: int


NOTHING_LEARNED = Composition(1.0, 0)


def composition_of(wholes: Iterable[Whole], phase: Phase, dtype: str) -> Composition:
    """Learned from those of this very phase and type; else from the same kind of phase at other sizes."""
    alike = [
        whole for whole in wholes if whole.dtype == dtype and type(whole.phase) is type(phase) and whole.sum_ms > 0
    ]
    ratios = [whole.ratio for whole in alike if whole.phase == phase] or [whole.ratio for whole in alike]
    return Composition(statistics.median(ratios), len(ratios)) if ratios else NOTHING_LEARNED
