"""Parity: whether the number of ones so far is odd, the smallest state that must be tracked.

A recurrence whose state can only keep or fade cannot flip, and so cannot count parity at any length (Grazzi et al.,
arXiv 2411.12537, section 3); negative eigenvalues can. The group is Z2, see `nas/tasks/word_problem.py`.
"""

from __future__ import annotations

from nas.tasks.word_problem import WordProblemTask, word_problem_metrics

TABLE = ((0, 1), (1, 0))


class ParityTask(WordProblemTask):
    """Bits, and after each of them the parity of all so far. With sequence_length=8 the first word of seed 0 is

        tokens     1    1    1    0    0    0    0    0
        targets    1    0    1    1    1    1    1    1

    Args:
        sequence_length: tokens in training.
        long_length: tokens of the words on which length generalisation is scored (at positions beyond
            sequence_length). Published: trained on words of 3 to 40 bits, scored up to 256.
        train_sequences: see `SyntheticTask`.
        score_sequences: size of the held-out set, and of that of long words.
    """

    name = "parity"
    metrics = word_problem_metrics("parity")

    def __init__(
        self,
        *,
        sequence_length: int = 40,
        long_length: int = 256,
        train_sequences: int | None = None,
        score_sequences: int = 1024,
    ) -> None:
        super().__init__(
            table=TABLE,
            sequence_length=sequence_length,
            long_length=long_length,
            train_sequences=train_sequences,
            score_sequences=score_sequences,
        )
