"""Samples in a row that bring nothing new to train: when a sampler gives way to random ones, and when a search ends."""

from collections import Counter
from dataclasses import dataclass, field

from optuna.samplers import BaseSampler

from nas.study.rows import Row
from nas.study.samplers import Exhaustive

BEFORE_RANDOM = 8


@dataclass(kw_only=True)
class Fruitless:
    """patience: how many are borne. counts: by the heading under which they ended."""

    sampler: BaseSampler
    patience: int
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, row: Row, kind: str) -> None:
        """kind: the heading of a row that brought nothing."""
        if row.state in ("complete", "stopped"):
            self.counts.clear()
        else:
            self.counts[kind] += 1

    @property
    def stuck(self) -> bool:
        """Whether random samples may find what the sampler does not."""
        return self.counts.total() >= BEFORE_RANDOM and not isinstance(self.sampler, Exhaustive)

    @property
    def over(self) -> bool:
        """Whether nothing new is to be expected any more."""
        return self._exhausted or self.counts.total() >= self.patience

    def sentence(self) -> str:
        """Why it is over, without a full stop."""
        if self._exhausted:
            return "the space has no further architecture that the limits allow"
        counts = ", ".join(f"{n} by {kind}" for kind, n in self.counts.most_common())
        return f"{self.counts.total()} samples in a row brought nothing new to train ({counts})"

    @property
    def _exhausted(self) -> bool:
        return isinstance(self.sampler, Exhaustive) and self.sampler.exhausted
