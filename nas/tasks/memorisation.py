"""Memorisation: facts that stand in no context and must be learned into the weights.

Source: MAD, arXiv 2403.17844. Every key has one value for good; a sequence lists keys and asks for the value of each.
Training and held-out sequences are different draws of the same facts.
"""

from __future__ import annotations

import numpy as np

from nas.tasks.base import IGNORED, TaskError, check_counts
from nas.tasks.synthetic import Sequences, SyntheticTask, answer_metrics


class MemorisationTask(SyntheticTask):
    """The last id asks for a value; of the others the first half are keys, the rest values.

    With vocab_size=8 and sequence_length=8 the first sequence of seed 0 is

        tokens     2    7    1    7    1    7    0    7
        targets    .    6    .    3    .    3    .    5

    where a dot is -100: the facts are 0 -> 5, 1 -> 3 and 2 -> 6.

    Args:
        vocab_size: token ids; (vocab_size - 1) // 2 facts. Published: 256.
        sequence_length: tokens; even. Published: 32.
        facts_seed: which facts hold.
        train_sequences: published: 256; see `SyntheticTask`.
        score_sequences: published: 1280.
    """

    name = "memorisation"
    metrics = answer_metrics("memorisation", "facts learned in training")

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        sequence_length: int = 32,
        facts_seed: int = 12345,
        train_sequences: int | None = 256,
        score_sequences: int = 1280,
    ) -> None:
        super().__init__(
            sequence_length=sequence_length, score_sequences=score_sequences, train_sequences=train_sequences
        )
        check_counts(vocab_size=vocab_size, facts_seed=facts_seed)
        if sequence_length % 2:
            raise TaskError(f"sequence_length must be even, but got {sequence_length}.")
        if vocab_size < 5:
            raise TaskError(f"vocab_size must be at least 5 (two keys, two values, one question), got {vocab_size}.")
        self._vocab_size = vocab_size
        self.num_facts = (vocab_size - 1) // 2
        values = np.arange(self.num_facts, vocab_size - 1)
        self.facts = np.random.default_rng(facts_seed).permutation(values)[: self.num_facts]

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def chance(self) -> float:
        return 1 / self.num_facts

    def describe(self) -> str:
        return f"{self.num_facts} facts, {self.sequence_length // 2} asked for in a sequence"

    def sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        keys = rng.integers(self.num_facts, size=(count, self.sequence_length // 2))
        tokens = np.full((count, self.sequence_length), self._vocab_size - 1, dtype=np.int64)
        tokens[:, 0::2] = keys
        targets = np.full_like(tokens, IGNORED)
        targets[:, 1::2] = self.facts[keys]
        return tokens, targets
