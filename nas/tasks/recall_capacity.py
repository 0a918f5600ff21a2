"""Recall capacity: how many key-value pairs a design holds, as one number instead of a pass or a fail.

Multi-query associative recall (`nas/tasks/recall.py`) at several numbers of pairs, one model for all of them. Accuracy
at a single difficulty is near one or near chance for most designs; the number of pairs at which it falls through 90 %
keeps rising with what a design can hold.

Decisions here:
* The sweep doubles: 2, 4, 8, ... pairs, in sequences whose length is proportional to the pairs.
* Training mixes the difficulties, a batch of each in turn; they come in one after the other, the easiest first, because
  the circuit that recalls forms on few pairs.
* Accuracy is interpolated linearly in the logarithm of the pairs; below the fewest pairs linearly from none, all right.
  A design that holds the most pairs of the sweep gets their number: more is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from nas.tasks.base import Batch, Metric, Model, Score, TaskError, check_counts, make_batch, ratio_score
from nas.tasks.recall import RecallTask
from nas.tasks.synthetic import HELD_OUT_SEED, answered, in_batches

CAPACITY = Metric(
    name="recall_capacity", unit="pairs", direction="maximize", help="key-value pairs recalled with 90 % right answers"
)
CAPACITY_BITS = Metric(
    name="recall_capacity_bits",
    unit="bits/answer",
    direction="minimize",
    help="-log2 p(value) per query, mean over the numbers of pairs",
)
HELD = 0.9
RESAMPLES = 200


class RecallCapacityTask:
    """The sequences of `RecallTask` (its docstring shows one) with uniform gaps and blanks between the questions.

    Args:
        fewest_pairs: pairs of the easiest difficulty; each further one has twice as many.
        most_pairs: pairs of the hardest; `fewest_pairs` times a power of two.
        tokens_per_pair: length of a sequence over its pairs; at least 4, even.
        vocab_size: token ids; half are keys, half are values.
        ramp_tokens: training tokens over which the difficulties come in, an equal share for each.
        score_sequences: held-out sequences of each difficulty.
    """

    name = "recall_capacity"
    synthetic = True
    metrics = (CAPACITY, CAPACITY_BITS)

    def __init__(
        self,
        *,
        fewest_pairs: int = 4,
        most_pairs: int = 64,
        tokens_per_pair: int = 4,
        vocab_size: int = 256,
        ramp_tokens: int = 10_000_000,
        score_sequences: int = 256,
    ) -> None:
        check_counts(
            fewest_pairs=fewest_pairs,
            most_pairs=most_pairs,
            tokens_per_pair=tokens_per_pair,
            ramp_tokens=ramp_tokens,
            score_sequences=score_sequences,
        )
        doublings = (most_pairs // fewest_pairs).bit_length() - 1
        if most_pairs <= fewest_pairs or most_pairs != fewest_pairs * 2**doublings:
            raise TaskError(
                f"most_pairs must be fewest_pairs={fewest_pairs} times 2, 4, 8 or a higher power of two, "
                f"but got {most_pairs}."
            )
        self.pairs = tuple(fewest_pairs * 2**k for k in range(doublings + 1))
        self.tokens_per_pair = tokens_per_pair
        self.ramp_tokens = ramp_tokens
        self.score_sequences = score_sequences
        self.sequence_length = most_pairs * tokens_per_pair
        self.hardest = RecallTask(
            sequence_length=self.sequence_length, num_pairs=most_pairs, vocab_size=vocab_size, easier=0
        )

    @property
    def vocab_size(self) -> int:
        return self.hardest.vocab_size

    @property
    def chance(self) -> float:
        """The capacity of a guess among the values: accuracy falls from 1 at no pairs to the guess at the fewest."""
        right = 1 / (self.vocab_size - self.vocab_size // 2)
        return capacity(self.pairs, [right] * len(self.pairs))

    def prepare(self) -> None:
        """Nothing to fetch."""

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Each batch has one difficulty; shorter sequences come in larger numbers."""
        rng = np.random.default_rng(seed)
        seen = turn = 0
        while True:
            known = min(len(self.pairs), 1 + len(self.pairs) * seen // self.ramp_tokens)
            pairs = self.pairs[turn % known]
            length = pairs * self.tokens_per_pair
            count = max(1, batch_size * self.sequence_length // length)
            yield make_batch(*self.hardest.sequences(rng, count, pairs, length))
            seen += count * length
            turn += 1

    def score(self, model: Model, batch_size: int) -> dict[str, Score]:
        bits, right = [], []
        for pairs in self.pairs:
            length = pairs * self.tokens_per_pair
            rng = np.random.default_rng((HELD_OUT_SEED, pairs))
            held_out = self.hardest.sequences(rng, self.score_sequences, pairs, length)
            lost, hits, asked = answered(model, in_batches(held_out, batch_size * self.sequence_length // length))
            bits.append(ratio_score(lost.sum(1), asked.sum(1)))
            right.append(hits.sum(1) / asked.sum(1))
        n = sum(score.n for score in bits)
        return {
            CAPACITY.name: Score(
                value=capacity(self.pairs, [r.mean() for r in right]), spread=self._spread(right), n=n
            ),
            CAPACITY_BITS.name: Score(
                value=math.fsum(score.value for score in bits) / len(bits),
                spread=math.hypot(*(score.spread for score in bits)) / len(bits),
                n=n,
            ),
        }

    def describe(self) -> str:
        return (
            f"{self.pairs[0]} to {self.pairs[-1]} pairs of {self.vocab_size // 2 - 1} keys in up to "
            f"{self.sequence_length} tokens"
        )

    def _spread(self, right: Sequence[np.ndarray]) -> float:
        """Standard error of the capacity, from sequences drawn again with replacement (Efron's bootstrap)."""
        rng = np.random.default_rng(0)
        draws = [r[rng.integers(len(r), size=(RESAMPLES, len(r)))].mean(axis=1) for r in right]
        return float(np.std([capacity(self.pairs, accuracies) for accuracies in zip(*draws, strict=True)], ddof=1))


def capacity(pairs: Sequence[int], accuracies: Sequence[float]) -> float:
    """The number of pairs at which accuracy first falls to 90 %, between 0 and the most pairs."""
    before, above = 0, 1.0
    for number, accuracy in zip(pairs, accuracies, strict=True):
        if accuracy < HELD:
            fallen = (above - HELD) / (above - accuracy)
            if before == 0:
                return float(number * fallen)
            return float(before * (number / before) ** fallen)
        before, above = number, accuracy
    return float(before)
