"""Multi-query associative recall (MQAR): the synthetic task on which mixers differ most.

Source: Arora et al., Zoology, arXiv 2312.04927, section 3 and appendix on data. A sequence lists key-value pairs and
then asks for the values of its keys in another order. What a recurrent design can answer is bounded by its state;
attention answers as long as it sees the pairs.

Decisions here:
* Sequences are generated from a seed while training; nothing is stored.
* Training starts on sequences with 1/2, 1/4, ... of the pairs and of the length and goes on to full ones. The circuit
  that recalls forms on few pairs, and what it has learned carries over; on full sequences alone it takes longer than
  a short budget lasts, and when it forms is luck.
* Bits per answer is reported beside accuracy, because it moves before accuracy does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nas.tasks.base import IGNORED, Batch, Metric, Model, Score, TaskError, check_counts, make_batch
from nas.tasks.synthetic import HELD_OUT_SEED, in_batches, score_answers

RECALL = Metric(name="recall", unit="share", direction="maximize", help="share of queried keys answered right")
RECALL_BITS = Metric(name="recall_bits", unit="bits/answer", direction="minimize", help="-log2 p(value) per query")


class RecallTask:
    """Token 0 is blank, 1 to vocab_size/2 - 1 are keys, the rest are values.

    With vocab_size=8, num_pairs=2, sequence_length=10, power=0.01, the first sequence of seed 0 is

        tokens     3    4    2    7    3    0    2    0    0    0
        targets    .    .    .    .    4    .    7    .    .    .

    where a dot is -100: key 3 has value 4, key 2 has value 7; each is asked for once and answered at its own place.

    Args:
        sequence_length: tokens of a held-out sequence; even, at least 4 * num_pairs.
        num_pairs: pairs of a held-out sequence, each asked for once.
        vocab_size: token ids; half are keys, half are values.
        power: exponent a of the gap law, p(gap) ∝ gap^(a - 1); 1 is uniform, 0.01 is the published setting.
        filler: what stands where nothing is asked: "random" tokens (published), or "blank".
        easier: number of halvings with which training begins; 0 trains on full sequences only.
        ramp_tokens: training tokens over which the halvings are undone, an equal share for each.
        score_sequences: size of the held-out set.
    """

    name = "recall"
    synthetic = True
    metrics = (RECALL, RECALL_BITS)

    def __init__(
        self,
        *,
        sequence_length: int = 32,
        num_pairs: int = 8,
        vocab_size: int = 32,
        power: float = 1.0,
        filler: str = "blank",
        easier: int = 1,
        ramp_tokens: int = 180_000,
        score_sequences: int = 512,
    ) -> None:
        check_counts(
            sequence_length=sequence_length,
            num_pairs=num_pairs,
            vocab_size=vocab_size,
            ramp_tokens=ramp_tokens,
            score_sequences=score_sequences,
        )
        if sequence_length % 2 or sequence_length < 4 * num_pairs:
            raise TaskError(
                f"sequence_length must be even and at least 4 * num_pairs, but got sequence_length={sequence_length}, "
                f"num_pairs={num_pairs}."
            )
        if vocab_size // 2 - 1 < num_pairs:
            raise TaskError(f"vocab_size must be at least {2 * num_pairs + 2} for {num_pairs} pairs, got {vocab_size}.")
        if filler not in ("random", "blank"):
            raise TaskError(f"filler must be 'random' or 'blank', but got {filler!r}.")
        if isinstance(power, bool) or not isinstance(power, int | float) or not 0 < power <= 1:
            raise TaskError(f"power must be a number above 0 and at most 1, but got {power!r}.")
        if isinstance(easier, bool) or not isinstance(easier, int) or not 0 <= easier < num_pairs.bit_length():
            raise TaskError(f"easier must be an integer from 0 to {num_pairs.bit_length() - 1}, but got {easier!r}.")
        self.sequence_length = sequence_length
        self.num_pairs = num_pairs
        self.vocab_size = vocab_size
        self.power = float(power)
        self.filler = filler
        self.easier = easier
        self.ramp_tokens = ramp_tokens
        self.score_sequences = score_sequences

    def prepare(self) -> None:
        """Nothing to fetch."""

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Each batch has one difficulty; shorter sequences come in larger numbers."""
        rng = np.random.default_rng(seed)
        seen = 0
        while True:
            parts = 2 ** max(0, self.easier - self.easier * seen // self.ramp_tokens)
            pairs = self.num_pairs // parts
            length = max(self.sequence_length // parts // 2 * 2, 4 * pairs)
            count = max(1, batch_size * self.sequence_length // length)
            yield make_batch(*self.sequences(rng, count, pairs, length))
            seen += count * length

    def score(self, model: Model, batch_size: int) -> dict[str, Score]:
        return score_answers(model, self.held_out_batches(batch_size), RECALL.name, RECALL_BITS.name)

    def held_out_batches(self, batch_size: int) -> Iterator[Batch]:
        """The fixed held-out set in batches."""
        rng = np.random.default_rng(HELD_OUT_SEED)
        held_out = self.sequences(rng, self.score_sequences, self.num_pairs, self.sequence_length)
        yield from in_batches(held_out, batch_size)

    def pairs_per_key_dimension(self, key_dim: int) -> float:
        """What strains a recurrent state of `key_dim` keys: above 1, an outer-product memory must overwrite."""
        return self.num_pairs / key_dim

    def describe(self) -> str:
        return (
            f"{self.num_pairs} pairs of {self.vocab_size // 2 - 1} keys in {self.sequence_length} tokens, "
            f"{self.pairs_per_key_dimension(32):.2g} pairs per dimension of a 32-wide key"
        )

    def sequences(
        self, rng: np.random.Generator, count: int, num_pairs: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`count` sequences as (tokens, targets), int64 [count, length]."""
        first_value = self.vocab_size // 2
        keys = draw_without_replacement(rng, np.ones(first_value - 1), count, num_pairs) + 1
        values = draw_without_replacement(rng, np.ones(self.vocab_size - first_value), count, num_pairs) + first_value
        context = 2 * num_pairs
        gap_law = np.arange(1, (length - context) // 2 + 1, dtype=np.float64) ** (self.power - 1)
        asked_at = context + 2 * draw_without_replacement(rng, gap_law, count, num_pairs)

        tokens = np.zeros((count, length), dtype=np.int64)
        tokens[:, 0:context:2] = keys
        tokens[:, 1:context:2] = values
        np.put_along_axis(tokens, asked_at, keys, axis=1)
        targets = np.full((count, length), IGNORED, dtype=np.int64)
        np.put_along_axis(targets, asked_at, values, axis=1)
        if self.filler == "random":
            tokens = np.where(tokens == 0, rng.integers(self.vocab_size, size=tokens.shape), tokens)
        return tokens, targets


def draw_without_replacement(rng: np.random.Generator, weights: np.ndarray, rows: int, picks: int) -> np.ndarray:
    """`picks` different indices per row, [rows, picks], in the order of successive weighted draws.

    The largest of log-weight plus Gumbel noise are such draws (Efraimidis and Spirakis 2006), all rows at once.
    """
    priority = np.log(weights) + rng.gumbel(size=(rows, len(weights)))
    return np.argsort(-priority, axis=1)[:, :picks]
