"""Compression: the last token must hold the whole sequence, so that each token can be read from its vector alone.

Source: MAD, arXiv 2403.17844. There an encoder's last vector, with a position added, goes through an MLP that gives the
token at that position. Here each position has its own linear read-out of the model's last vector: the output has as
many groups of ids as there are positions, and at the last token every group answers for its position. Nothing can be
looked up again, as it can where a sequence is repeated token by token.
"""

from __future__ import annotations

import numpy as np

from nas.tasks.base import IGNORED, TaskError, check_counts
from nas.tasks.synthetic import Sequences, SyntheticTask, answer_metrics


class CompressionTask(SyntheticTask):
    """`num_symbols` ids, the last of which ends a sequence; the ids above it only serve as outputs.

    With num_symbols=4 and sequence_length=6 the first sequence of seed 0 is

        tokens     2    1    1    0    0    3

    and the five groups of outputs at its last token are asked for 2, 1, 1, 0 and 0.

    Args:
        num_symbols: ids that a sequence holds, the end included. Published: 16.
        sequence_length: tokens, the end included. Published: 32.
        train_sequences: published: 12800; see `SyntheticTask`.
        score_sequences: published: 1280.
    """

    name = "compression"
    metrics = answer_metrics("compression", "tokens read back from the vector of the last token")

    def __init__(
        self,
        *,
        num_symbols: int = 16,
        sequence_length: int = 32,
        train_sequences: int | None = 12800,
        score_sequences: int = 1280,
    ) -> None:
        super().__init__(
            sequence_length=sequence_length, score_sequences=score_sequences, train_sequences=train_sequences
        )
        check_counts(num_symbols=num_symbols)
        if num_symbols < 3 or sequence_length < 2:
            raise TaskError(
                f"num_symbols must be at least 3 and sequence_length at least 2, but got num_symbols={num_symbols}, "
                f"sequence_length={sequence_length}."
            )
        self.num_symbols = num_symbols

    @property
    def vocab_size(self) -> int:
        return self.num_symbols * (self.sequence_length - 1)

    @property
    def chance(self) -> float:
        return 1 / (self.num_symbols - 1)

    def describe(self) -> str:
        return f"{self.sequence_length - 1} tokens of {self.num_symbols - 1} symbols in one vector"

    def sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        """targets [count, T, T - 1]: a group for each token before the last."""
        tokens = rng.integers(self.num_symbols - 1, size=(count, self.sequence_length))
        tokens[:, -1] = self.num_symbols - 1
        targets = np.full((count, self.sequence_length, self.sequence_length - 1), IGNORED, dtype=np.int64)
        targets[:, -1] = tokens[:, :-1]
        return tokens, targets
