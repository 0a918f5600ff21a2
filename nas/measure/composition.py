"""What a whole network takes beyond the sum of its blocks, learned from a few that were measured both ways.

A block in a stack of its like finds more of its code and its buffers in caches than one behind another kind does, on a
CPU most of all. So time is lost wherever the mixer changes from one block to the next, and sums are some percent too
small, by the more the more mixed a network is. A table therefore holds a few whole networks beside the blocks; the
median of what a change lost, as a share of an average block, is added for every change of the network that is
predicted. As milliseconds it would not hold for networks of another size; learned as one factor, whatever the changes,
it would be too small for random networks after some uniform ones, such as reference designs are.
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
    """One network in one phase. network: its canonical id; mixing: see `mixing_of`; sum_ms: of its blocks and ends;
    own: measured as a whole."""

    network: str
    phase: Phase
    dtype: str
    mixing: float
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
            "mixing": self.mixing,
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
    """What to make of a sum of blocks: a factor on it, and what a change of the mixer loses, as a share of a block.

    networks: how many it was learned from; where there were none, sums stay as they are. least: the smallest share of
    its sum that one of these took: where blocks seemed slower alone than in networks, because the machine was busy
    then, a network of more changes is not said to take nothing.
    """

    factor: float = 1.0
    loss: float = 0.0
    networks: int = 0
    least: float = 0.0

    def times(self, mixing: float) -> float:
        """What the sum of a network of so much mixing is multiplied by."""
        return max(self.least, self.factor * (1 + self.loss * mixing))

    def describe(self, mixing: float) -> str:
        """For the notes of a prediction."""
        return f"times {self.times(mixing):.3f}, learned from whole networks ({self.networks})"


NOTHING_LEARNED = Composition()


def mixing_of(architecture: Architecture) -> float:
    """The share of the blocks whose mixer is another than that of the block before."""
    changes = sum(before.mixer != block.mixer for before, block in pairwise(architecture.blocks))
    return changes / len(architecture.blocks)


def composition_of(wholes: Iterable[Whole], phase: Phase, dtype: str) -> Composition:
    """From networks of this very phase, of what changes cost; else one factor.

    The factor is the median ratio of networks without changes, or of those of the same kind of phase at other sizes,
    where a block's share of attention over the context is another.
    """
    alike = [
        whole for whole in wholes if whole.dtype == dtype and type(whole.phase) is type(phase) and whole.sum_ms > 0
    ]
    exact = [whole for whole in alike if whole.phase == phase]
    lost = [(whole.ratio - 1) / whole.mixing for whole in exact if whole.mixing]
    if lost:
        least = min(1.0, *(whole.ratio for whole in exact))
        return Composition(loss=statistics.median(lost), networks=len(lost), least=least)
    ratios = [whole.ratio for whole in exact or alike]
    return Composition(factor=statistics.median(ratios), networks=len(ratios)) if ratios else NOTHING_LEARNED
