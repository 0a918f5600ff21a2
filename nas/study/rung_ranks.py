"""How well each rung ranked what the end of training ranks, for each mixer family: whom a rung may be trusted to leave.

Some families learn slowly and then well; a rung that ranks the others right may leave these for the wrong reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.architecture import Architecture
from nas.objectives import OBJECTIVES
from nas.study.agreement import agreement
from nas.study.rows import Row

EVERY = "all"


@dataclass(frozen=True, kw_only=True)
class RungRank:
    """One score of one family at one rung: the share of pairs among `n` designs that it orders as the end does."""

    family: str
    score: str
    share: float
    n: int
    right: float


def rung_ranks(rows: Sequence[Row]) -> list[RungRank]:
    """Of all designs trained to the end on rungs, and of each family with at least two: every score at every rung."""
    done = [row for row in rows if row.state == "complete" and len(row.rungs) > 1]
    families = {EVERY: done}
    for row in done:
        families.setdefault(family(row.architecture), []).append(row)
    found = []
    for name, members in families.items():
        for score in members[0].rungs[-1].scores if len(members) > 1 else ():
            numbers = np.array([[rung.scores[score].value for rung in row.rungs] for row in members])
            losses = numbers if OBJECTIVES[score].direction == "minimize" else -numbers
            for rung, place in enumerate(members[0].rungs[:-1]):
                right = agreement(losses[:, rung], losses[:, -1])
                if not np.isnan(right):
                    found.append(RungRank(family=name, score=score, share=place.share, n=len(members), right=right))
    return found


def family(architecture: Architecture) -> str:
    """The kind of most of its mixers, attention left aside unless there is nothing else."""
    kinds = Counter(mixer.kind for mixer in architecture.mixers)
    others = {kind: n for kind, n in kinds.items() if kind != "attention"}
    return max(others, key=lambda kind: (others[kind], kind)) if others else "attention"
