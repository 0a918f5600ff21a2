"""The word problem of S3, the permutations of three things: a state whose steps do not commute.

Parity can be had from a count; here the order matters, and one step of a delta rule, which is a reflection, is not
enough (Siems et al., DeltaProduct, arXiv 2502.10297). See `nas/tasks/word_problem.py`.
"""

from __future__ import annotations

from itertools import permutations

from nas.tasks.word_problem import WordProblemTask, word_problem_metrics

ELEMENTS = tuple(permutations(range(3)))
# a after b sends i to a[b[i]].
TABLE = tuple(tuple(ELEMENTS.index(tuple(a[i] for i in b)) for b in ELEMENTS) for a in ELEMENTS)


class S3Task(WordProblemTask):
    """Permutations in lexicographic order as tokens 0 to 5. With sequence_length=8 the first word of seed 0 is

        tokens     5    3    3    1    1    0    0    0
        targets    5    1    2    4    2    2    2    2

    Args:
        sequence_length: tokens in training.
        long_length: tokens of the words on which length generalisation is scored (at positions beyond
            sequence_length). Published: trained on words of 3 to 40, scored up to 256.
        train_sequences: see `SyntheticTask`.
        score_sequences: size of the held-out set, and of that of long words.
    """

    name = "s3"
    metrics = word_problem_metrics("s3")

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
