"""Word problems of finite groups: what state tracking comes down to, for any group that a task names.

Sources: Merrill, Petty and Sabharwal, The Illusion of State in State-Space Models, arXiv 2404.08819, section 4; Grazzi
et al., Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, arXiv 2411.12537, section 5, which trains
short and scores long.

Every token is an element, and every position asks for the product of all elements so far. Short words can be solved by
looking at all tokens at once; whoever follows the state is right on words longer than those of training, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.tasks.base import Metric, Model, Score, TaskError, check_counts, ratio_score
from nas.tasks.synthetic import HELD_OUT_SEED, Sequences, SyntheticTask, answer_metrics, answered, in_batches


def word_problem_metrics(name: str) -> tuple[Metric, Metric, Metric]:
    """Right products in words as long as those of training, what they cost, and right products beyond that length."""
    beyond = Metric(
        name=f"{name}_long",
        unit="share",
        direction="maximize",
        help=f"share of products of {name} that are right at positions beyond the length of training",
    )
    return (*answer_metrics(name, f"products of {name}, a state to be tracked,"), beyond)


class WordProblemTask(SyntheticTask):
    """Words over a group given by its table.

    Args:
        table: table[a][b] is the element that a after b comes to.
        sequence_length: tokens of a word in training.
        long_length: tokens of the words on which length generalisation is scored, at the positions beyond
            `sequence_length` alone.
        train_sequences: see `SyntheticTask`.
        score_sequences: size of the held-out set, and of that of long words.
    """

    def __init__(
        self,
        *,
        table: Sequence[Sequence[int]],
        sequence_length: int,
        long_length: int,
        train_sequences: int | None,
        score_sequences: int,
    ) -> None:
        super().__init__(
            sequence_length=sequence_length, score_sequences=score_sequences, train_sequences=train_sequences
        )
        check_counts(long_length=long_length)
        if long_length <= sequence_length:
            raise TaskError(
                f"long_length must be above sequence_length={sequence_length}, the length of training, "
                f"but got {long_length}."
            )
        self.table = np.array(table, dtype=np.int64)
        self.long_length = long_length

    @property
    def vocab_size(self) -> int:
        return len(self.table)

    @property
    def chance(self) -> float:
        return 1 / len(self.table)

    def describe(self) -> str:
        return f"words of {self.sequence_length} over {len(self.table)} elements, scored up to {self.long_length}"

    def sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        return self.words(rng, count, self.sequence_length)

    def words(self, rng: np.random.Generator, count: int, length: int) -> Sequences:
        """`count` words and their products so far, both int64 [count, length]."""
        tokens = rng.integers(len(self.table), size=(count, length))
        products = np.empty_like(tokens)
        state = products[:, 0] = tokens[:, 0]
        for place in range(1, length):
            state = products[:, place] = self.table[tokens[:, place], state]
        return tokens, products

    def score(self, model: Model, batch_size: int) -> dict[str, Score]:
        _, _, beyond = self.metrics
        long = self.words(np.random.default_rng(HELD_OUT_SEED + 1), self.score_sequences, self.long_length)
        # As many tokens at once as in a batch of training.
        fitting = max(1, batch_size * self.sequence_length // self.long_length)
        _, right, asked = answered(model, in_batches(long, fitting))
        late = slice(self.sequence_length, None)
        score = ratio_score(right[:, late].sum(1), asked[:, late].sum(1))
        return {**super().score(model, batch_size), beyond.name: score}
