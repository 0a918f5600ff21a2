"""Fuzzy in-context recall: keys and values of several tokens, whose beginning and end must be found first.

Source: MAD, arXiv 2403.17844. Training shows keys of every size up to the largest; the score asks for keys of the
largest size alone, as published.
"""

from __future__ import annotations

import math

import numpy as np

from nas.tasks.base import IGNORED, TaskError, check_counts
from nas.tasks.synthetic import Sequences, SyntheticTask, answer_metrics, check_supervision, next_tokens

Motif = tuple[int, ...]


class FuzzyRecallTask(SyntheticTask):
    """The first ids are those of keys, then those of values; the last id fills up the front.

    With vocab_size=8, key_size=2, value_size=2 and sequence_length=14 the first held-out sequence of seed 0 is

        tokens     7    7    7    1    2    3    2    0    6    5    2    0    6    5
        targets    .    .    .    .    .    .    .    .    .    .    .    6    5    .

    where a dot is -100: the key (2, 0) has the value (6, 5), and its tokens are asked for when it comes again.

    Args:
        vocab_size: token ids. Published: 16.
        sequence_length: tokens. Published: 128.
        key_size: tokens of the longest key; no token stands twice in a key. Published: 3.
        value_size: tokens of the longest value. Published: 3.
        supervise: what training asks for: "answers" alone, or "all" next tokens (published); the score: answers.
        train_sequences: published: 12800; see `SyntheticTask`.
        score_sequences: published: 1280.
    """

    name = "fuzzy_recall"
    metrics = answer_metrics("fuzzy_recall", "tokens of values whose keys of several tokens came before")

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        sequence_length: int = 128,
        key_size: int = 3,
        value_size: int = 3,
        supervise: str = "all",
        train_sequences: int | None = 12800,
        score_sequences: int = 1280,
    ) -> None:
        super().__init__(
            sequence_length=sequence_length, score_sequences=score_sequences, train_sequences=train_sequences
        )
        check_counts(vocab_size=vocab_size, key_size=key_size, value_size=value_size)
        if sequence_length < 2 * (key_size + value_size):
            raise TaskError(
                f"sequence_length must be at least 2 * (key_size + value_size) = {2 * (key_size + value_size)}, "
                f"but got {sequence_length}."
            )
        if vocab_size < 2 * max(key_size, value_size) + 2:
            raise TaskError(
                f"vocab_size must be at least {2 * max(key_size, value_size) + 2} for keys of {key_size} and values of "
                f"{value_size} different tokens, but got {vocab_size}."
            )
        self._vocab_size = vocab_size
        self.key_size = key_size
        self.value_size = value_size
        self.supervise = check_supervision(supervise)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def num_key_tokens(self) -> int:
        return (self._vocab_size - 1) // 2

    @property
    def num_value_tokens(self) -> int:
        return self._vocab_size - 1 - self.num_key_tokens

    @property
    def chance(self) -> float:
        return 1 / self.num_value_tokens

    def describe(self) -> str:
        keys = math.perm(self.num_key_tokens, self.key_size)
        return (
            f"{keys} keys of {self.key_size} tokens, values of up to {self.value_size}, {self.sequence_length} tokens"
        )

    def sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        return self._sequences(rng, count, smallest_key=self.key_size)

    def training_sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        tokens, targets = self._sequences(rng, count, smallest_key=1)
        return tokens, next_tokens(tokens) if self.supervise == "all" else targets

    def _sequences(self, rng: np.random.Generator, count: int, *, smallest_key: int) -> Sequences:
        tokens = np.full((count, self.sequence_length), self._vocab_size - 1, dtype=np.int64)
        targets = np.full_like(tokens, IGNORED)
        for row in range(count):
            pairs = self._pairs(rng, smallest_key)
            place = self.sequence_length - sum(len(key) + len(value) for key, value in pairs)
            seen: set[Motif] = set()
            for key, value in pairs:
                end = place + len(key) + len(value)
                tokens[row, place:end] = key + value
                if key in seen:
                    # Each token of the value is asked for one place before it stands there.
                    targets[row, place + len(key) - 1 : end - 1] = value
                seen.add(key)
                place = end
        return tokens, targets

    def _pairs(self, rng: np.random.Generator, smallest_key: int) -> list[tuple[Motif, Motif]]:
        """Pairs that fill a sequence; the last one is a pair that came before, at a random place."""
        value_of: dict[Motif, Motif] = {}

        def draw() -> tuple[Motif, Motif]:
            key_size, value_size = rng.integers(smallest_key, self.key_size + 1), rng.integers(1, self.value_size + 1)
            key = tuple(rng.permutation(self.num_key_tokens)[:key_size].tolist())
            value = tuple((self.num_key_tokens + rng.permutation(self.num_value_tokens)[:value_size]).tolist())
            return key, value_of.setdefault(key, value)

        asked = draw()
        used = 2 * (len(asked[0]) + len(asked[1]))
        pairs: list[tuple[Motif, Motif]] = []
        while used + self.key_size + self.value_size <= self.sequence_length:
            pairs.append(draw())
            used += len(pairs[-1][0]) + len(pairs[-1][1])
        pairs.insert(int(rng.integers(len(pairs) + 1)), asked)
        return [*pairs, asked]
