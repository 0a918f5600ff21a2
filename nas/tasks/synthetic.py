"""What tasks that are generated from a seed share: endless or repeated training sequences, and a fixed held-out set.

A task of this kind says how a sequence is made and nothing else. Its score is the share of right answers, and the bits
per answer beside it, because bits move before the share does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from nas.tasks.base import IGNORED, Batch, Metric, Model, Score, TaskError, check_counts, make_batch, ratio_score

# Far from any training seed, so that no architecture is scored on what it was trained on.
HELD_OUT_SEED = 2**62 + 11

Sequences = tuple[np.ndarray, np.ndarray]
"""tokens int64 [N, T] and targets int64 [N, T] (or [N, T, G], see `Batch`)."""


def answer_metrics(name: str, asked: str) -> tuple[Metric, Metric]:
    """`name`, the share of right answers, and `name_bits`, their cost; `asked` says in words what is answered."""
    return (
        Metric(name=name, unit="share", direction="maximize", help=f"share of {asked} that are right"),
        Metric(name=f"{name}_bits", unit="bits/answer", direction="minimize", help=f"-log2 p of {asked}"),
    )


class SyntheticTask(ABC):
    """A task whose sequences come from a generator.

    Args:
        sequence_length: tokens of a sequence.
        score_sequences: size of the held-out set.
        train_sequences: size of the training set, which is then repeated in a new order each time; null makes new
            sequences without end.
    """

    name: str
    synthetic = True
    metrics: tuple[Metric, ...]  # those of `answer_metrics` first

    def __init__(self, *, sequence_length: int, score_sequences: int, train_sequences: int | None) -> None:
        check_counts(sequence_length=sequence_length, score_sequences=score_sequences)
        if train_sequences is not None:
            check_counts(train_sequences=train_sequences)
        self.sequence_length = sequence_length
        self.score_sequences = score_sequences
        self.train_sequences = train_sequences

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """The share of right answers of a guess among the tokens that can be an answer."""

    @abstractmethod
    def sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        """`count` held-out sequences."""

    @abstractmethod
    def describe(self) -> str:
        """One line that states the data and its difficulty."""

    def training_sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        """`count` sequences to train on; as the held-out ones unless a task says otherwise."""
        return self.sequences(rng, count)

    def prepare(self) -> None:
        """Sequences are generated: there is nothing to fetch."""
        return

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        if self.train_sequences is None:
            while True:
                yield make_batch(*self.training_sequences(rng, batch_size))
        tokens, targets = self.training_sequences(rng, self.train_sequences)
        order = np.empty(0, dtype=np.int64)
        while True:
            while len(order) < batch_size:
                order = np.concatenate([order, rng.permutation(len(tokens))])
            yield make_batch(tokens[order[:batch_size]], targets[order[:batch_size]])
            order = order[batch_size:]

    def score(self, model: Model, batch_size: int) -> dict[str, Score]:
        return score_answers(model, self.held_out_batches(batch_size), self.metrics[0].name, self.metrics[1].name)

    def held_out_batches(self, batch_size: int) -> Iterator[Batch]:
        """The fixed held-out set in batches."""
        yield from in_batches(self.sequences(np.random.default_rng(HELD_OUT_SEED), self.score_sequences), batch_size)


def in_batches(sequences: Sequences, batch_size: int) -> Iterator[Batch]:
    """Sequences in batches, the last one as large as what is left."""
    tokens, targets = sequences
    for start in range(0, len(tokens), batch_size):
        yield make_batch(tokens[start : start + batch_size], targets[start : start + batch_size])


def score_answers(model: Model, batches: Iterator[Batch], share: str, bits: str) -> dict[str, Score]:
    """Share of right answers and bits per answer over held-out batches, under these names; an item is a sequence."""
    lost, right, asked = answered(model, batches)
    return {share: ratio_score(right.sum(1), asked.sum(1)), bits: ratio_score(lost.sum(1), asked.sum(1))}


def answered(model: Model, batches: Iterator[Batch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bits float64, right bool, asked bool), each [N, answers of a sequence], over held-out batches of one length."""
    from nas.tasks.scoring import answers

    held_out = list(batches)
    bits, right = answers(model, held_out)
    asked = np.concatenate([(batch.targets != IGNORED).flatten(1).numpy() for batch in held_out])
    return bits, right, asked


def check_share(name: str, value: object) -> float:
    """`value` if it is a number from 0 to below 1; raises TaskError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise TaskError(f"{name} must be a number from 0 to below 1, but got {value!r}.")
    return float(value)


def check_supervision(value: object) -> str:
    """`value` if it says what a recall task is trained on; raises TaskError otherwise."""
    if value not in ("answers", "all"):
        raise TaskError(f"supervise must be 'answers' or 'all', but got {value!r}.")
    return str(value)


def next_tokens(tokens: np.ndarray) -> np.ndarray:
    """Every next token as a target, int64 [N, T]; the last position asks for nothing."""
    targets = np.full_like(tokens, IGNORED)
    targets[:, :-1] = tokens[:, 1:]
    return targets
