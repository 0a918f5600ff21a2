"""A search on a table instead of a device: the run loop and the samplers that users run, in seconds.

Numbers are looked up where a search would train and measure, the study lives in memory, and nothing is built.
"""

import hashlib
from dataclasses import dataclass

import optuna
from optuna.storages import InMemoryStorage

from nas.architecture import Architecture, canonical_id
from nas.objectives import Objective
from nas.study.candidate import Candidate, Rejected
from nas.study.events import Observer
from nas.study.storage.studies import create_or_load
from nas.study.truth.oracle import Entry, Oracle


def memory_study(objectives: tuple[Objective, ...]) -> optuna.Study:
    """A study as `open_study` makes it, which ends with the process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return create_or_load(InMemoryStorage(), "replay", objectives, {}, None)


@dataclass(kw_only=True)
class OracleEvaluator:
    """The ladder's stages from a table."""

    oracle: Oracle

    def admit(self, architecture: Architecture) -> Candidate:
        known = self.oracle.entries.get(canonical_id(architecture))
        if known is None or not known.scores:
            raise Rejected(f"the table lacks {architecture.name}", "what the table lacks")
        return Candidate(architecture=architecture, deployed=architecture)

    def count(self, candidate: Candidate) -> None:
        candidate.counts = self._entry(candidate).counts

    def measure(self, candidate: Candidate) -> None:
        entry = self._entry(candidate)
        candidate.measurements, candidate.costs = dict(entry.measurements), dict(entry.costs)

    def confirm(self, candidate: Candidate) -> bool:
        """What the table says of costs is all there is."""
        return False

    def train(self, candidate: Candidate, seed: int, observer: Observer, share: float = 1.0) -> None:
        entry = self._entry(candidate)
        candidate.scores = dict(entry.scores[seed_for(entry, seed)][self.oracle.shares.index(share)])

    def let_go(self, identity: str, *, ended: bool) -> None:
        """There are no checkpoints to delete."""

    def save(self, candidate: Candidate, stem: str) -> None:
        """There are no weights to keep."""

    def _entry(self, candidate: Candidate) -> Entry:
        return self.oracle.entries[canonical_id(candidate.architecture)]


def seed_for(entry: Entry, seed: int) -> int:
    """The seed of the table that stands for a search's: one of those known, drawn by that and the entry."""
    known = sorted(entry.scores)
    drawn = hashlib.sha256(f"{seed}:{entry.id}".encode()).digest()
    return known[int.from_bytes(drawn[:8], "big") % len(known)]
