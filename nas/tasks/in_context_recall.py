"""In-context recall: keys come again and again, each time with the value they had first.

Source: Poli et al., Mechanistic Design and Scaling of Hybrid Architectures (MAD), arXiv 2403.17844, appendix on tasks.
Keys and values alternate; a key that was seen before asks for its value, and the last key always was. Where MAD lets a
share of the pairs be noise, the task is noisy recall (`nas/tasks/noisy_recall.py`).
"""

from __future__ import annotations

import numpy as np

from nas.tasks.base import IGNORED, TaskError, check_counts
from nas.tasks.synthetic import Sequences, SyntheticTask, answer_metrics, check_share, check_supervision, next_tokens


class InContextRecallTask(SyntheticTask):
    """The first half of the ids that are not noise are keys, the second half values, and the last ids noise.

    With vocab_size=8 and sequence_length=12 the first sequence of seed 3 is

        tokens     0    7    3    4    3    4    2    4    0    7    2    4
        targets    .    .    .    .    4    .    .    .    7    .    4    .

    where a dot is -100: key 0 has value 7, keys 2 and 3 have value 4; each is asked for when it comes again.

    Args:
        vocab_size: token ids, those of noise included. Published: 16.
        sequence_length: tokens; even. Published: 128.
        noise_vocab_size: ids that are noise and carry nothing. Published: 0.
        noise: share of pairs that are two noise tokens instead. Published: 0.
        supervise: what training asks for: "answers" alone, or "all" next tokens (published); the score: answers.
        train_sequences: published: 12800; see `SyntheticTask`.
        score_sequences: published: 1280.
    """

    name = "in_context_recall"
    metrics = answer_metrics("in_context_recall", "values of keys that came before")

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        sequence_length: int = 128,
        noise_vocab_size: int = 0,
        noise: float = 0.0,
        supervise: str = "all",
        train_sequences: int | None = 12800,
        score_sequences: int = 1280,
    ) -> None:
        super().__init__(
            sequence_length=sequence_length, score_sequences=score_sequences, train_sequences=train_sequences
        )
        check_counts(vocab_size=vocab_size)
        if sequence_length % 2 or sequence_length < 4:
            raise TaskError(f"sequence_length must be even and at least 4, but got {sequence_length}.")
        if isinstance(noise_vocab_size, bool) or not isinstance(noise_vocab_size, int) or noise_vocab_size < 0:
            raise TaskError(f"noise_vocab_size must be an integer from 0, but got {noise_vocab_size!r}.")
        if vocab_size - noise_vocab_size < 4:
            raise TaskError(
                f"vocab_size must leave 4 ids or more beside noise_vocab_size={noise_vocab_size}, but got {vocab_size}."
            )
        self.noise = check_share("noise", noise)
        if self.noise > 0 and noise_vocab_size == 0:
            raise TaskError(f"noise={noise} needs a noise_vocab_size of at least 1, but got 0.")
        self._vocab_size = vocab_size
        self.noise_vocab_size = noise_vocab_size
        self.supervise = check_supervision(supervise)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def num_keys(self) -> int:
        return (self._vocab_size - self.noise_vocab_size) // 2

    @property
    def num_values(self) -> int:
        return self._vocab_size - self.noise_vocab_size - self.num_keys

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    def describe(self) -> str:
        noise = f", {self.noise:.0%} of them noise" if self.noise else ""
        return f"{self.num_keys} keys, {self.num_values} values, {self.sequence_length // 2} pairs{noise}"

    def training_sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        tokens, targets = self.sequences(rng, count)
        return tokens, next_tokens(tokens) if self.supervise == "all" else targets

    def sequences(self, rng: np.random.Generator, count: int) -> Sequences:
        pairs = self.sequence_length // 2
        rows = np.arange(count)
        values_of_keys = self.num_keys + rng.integers(self.num_values, size=(count, self.num_keys))
        keys = rng.integers(self.num_keys, size=(count, pairs))
        is_noise = rng.random((count, pairs)) < self.noise
        # At least one pair before the last is a pair, and the last is one that came before.
        kept = rng.integers(pairs - 1, size=count)
        is_noise[rows, kept] = False
        is_noise[:, -1] = False
        order = rng.random((count, pairs - 1))
        order[is_noise[:, :-1]] = -1.0
        keys[:, -1] = keys[rows, order.argmax(1)]

        tokens = np.empty((count, 2 * pairs), dtype=np.int64)
        tokens[:, 0::2] = keys
        tokens[:, 1::2] = np.take_along_axis(values_of_keys, keys, axis=1)
        noisy = np.repeat(is_noise, 2, axis=1)
        first_noise = self._vocab_size - self.noise_vocab_size
        tokens[noisy] = first_noise + rng.integers(max(1, self.noise_vocab_size), size=int(noisy.sum()))

        same = (keys[:, :, None] == keys[:, None, :]) & ~is_noise[:, None, :] & ~is_noise[:, :, None]
        seen_before = np.tril(same, k=-1).any(axis=2)
        targets = np.full_like(tokens, IGNORED)
        targets[:, 0::2] = np.where(seen_before, tokens[:, 1::2], IGNORED)
        return tokens, targets
