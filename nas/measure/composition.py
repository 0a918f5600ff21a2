"""What a whole network takes beyond the sum of its blocks, learned from a few that were measured both ways.

A block in a stack of its like finds more of its code and its buffers in caches than one behind another kind does, on a
CPU most of all. So time is lost wherever the mixer changes from one block to the next, and sums are some percent too
small, by the more the more mixed a network is. A table therefore holds a few whole networks beside the blocks; the
median of what they lost at a change is added for every change of the network that is predicted. Learned as one factor
instead, the loss would be too small for random networks after some uniform ones, such as reference designs are.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nas.architecture import Architecture
from nas.measurement import Measurement
from nas.workload import Phase, phase_from_dict, phase_to_dict

ENOUGH = 9  # networks for each phase: more than the reference designs, which are more alike than most


@dataclass(frozen=True, kw_only=True)
class Whole:
    """One network in one phase. network: its canonical id; changes: see `changes_of`; sum_ms: of its blocks and ends;
    own: measured as a whole."""

    network: str
    phase: Phase
    dtype: str
    changes: int
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
            "changes": self.changes,
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
    """What to make of a sum of blocks: a factor on it, and milliseconds that are lost at each change of the mixer.

    networks: how many it was learned from; where there were none, sums stay as they are.
    """

    factor: float = 1.0
    change_ms: float = 0.0
    networks: int = 0

    def beyond(self, changes: int) -> float:
        """Milliseconds to be added to factor times sum for a network with so many changes."""
        return self.change_ms * changes

    def describe(self, changes: int) -> str:
        """For the notes of a prediction."""
        if self.change_ms:
            lost = f"{self.beyond(changes):+.3g} ms at changes of the mixer ({changes})"
        else:
            lost = f"times {self.factor:.3f}"
        return f"{lost}, learned from whole networks ({self.networks})"


NOTHING_LEARNED = Composition()


def changes_of(architecture: Architecture) -> int:
    """How often the mixer of a block is another than that of the block before."""
    return sum(before.mixer != block.mixer for before, block in pairwise(architecture.blocks))


def composition_of(wholes: Iterable[Whole], phase: Phase, dtype: str) -> Composition:
    """From networks of this very phase, of what changes cost; else one factor.

    The factor is the median ratio of networks without changes, or of those of the same kind of phase at other sizes,
    where milliseconds would not carry over.
    """
    alike = [
        whole for whole in wholes if whole.dtype == dtype and type(whole.phase) is type(phase) and whole.sum_ms > 0
    ]
    exact = [whole for whole in alike if whole.phase == phase]
    lost = [(whole.own.value - whole.sum_ms) / whole.changes for whole in exact if whole.changes]
    if lost:
        return Composition(change_ms=statistics.median(lost), networks=len(lost))
    ratios = [whole.ratio for whole in exact or alike]
    return Composition(factor=statistics.median(ratios), networks=len(ratios)) if ratios else NOTHING_LEARNED
