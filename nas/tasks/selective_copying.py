"""Selective copying: repeat, in their order, the tokens that stand between blanks.

Source: MAD, arXiv 2403.17844 (after Gu and Dao, Mamba, arXiv 2312.00752, section 4.1). What must be kept stands at
places that only its content gives away, so a design with fixed dynamics cannot hold it.

One difference from the published generator: all places of the tokens among the blanks are equally likely.
"""

from __future__ import annotations

import numpy as np

from nas.tasks.base import IGNORED, TaskError, check_counts
from nas.tasks.synthetic import Sequences, SyntheticTask, answer_metrics


class SelectiveCopyingTask(SyntheticTask):
    """The last id asks for the copy, the one before it is the blank, all others are content.

    With vocab_size=6, num_tokens=3 and sequence_length=10 the first sequence of seed 0 is

        tokens     3    2    4    4    2    4    5    4    4    4
        targets    .    .    .    .    .    .    .    3    2    2

    where a dot is -100, 4 is the blank and 5 asks for the copy.

    Args:
        vocab_size: token ids. Published: 16.
        sequence_length: tokens, at least 2 * num_tokens + 1. Published: 256.
        num_tokens: tokens to copy. Published: 16.
        train_sequences: published: 12800; see `SyntheticTask`.
        score_sequences: published: 1280.
    """

    name = "selective_copying"
    metrics = answer_metrics("selective_copying", "tokens copied from among blanks")

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        sequence_length: int = 256,
        num_tokens: int = 16,
        train_sequences: int | None = 12800,
        score_sequences: int = 1280,
    ) -> None:
        super().__init__(
            sequence_length=sequence_length, score_sequences=score_sequences, train_sequences=train_sequences
        )
        check_counts(vocab_size=vocab_size, num_tokens=num_tokens)
        if vocab_size < 4:
            raise TaskError(f"vocab_size must be at least 4 (two contents, blank, copy), but got {vocab_size}.")
        if sequence_length < 2 * num_tokens + 1:
            raise TaskError(
                f"sequence_length must be at least 2 * num_tokens + 1 = {2 * num_tokens + 1}, got {sequence_length}."
            )
        self._vocab_size = vocab_size
        self.num_tokens = num_tokens

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def chance(self) -> float:
        return 1 / (self._vocab_size - 2)

    def describe(self) -> str:
        return f"{self.num_tokens} of {self._vocab_size - 2} contents among blanks, {self.sequence_length} tokens"

    def sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        before = self.sequence_length - self.num_tokens - 1
        content = rng.integers(self._vocab_size - 2, size=(count, self.num_tokens))
        places = np.sort(rng.random((count, before)).argsort(axis=1)[:, : self.num_tokens], axis=1)
        tokens = np.full((count, self.sequence_length), self._vocab_size - 2, dtype=np.int64)
        np.put_along_axis(tokens, places, content, axis=1)
        tokens[:, before] = self._vocab_size - 1
        targets = np.full_like(tokens, IGNORED)
        targets[:, before + 1 :] = content
        return tokens, targets
