"""Noisy in-context recall: in-context recall where a share of the pairs is noise that a design must leave out.

Source: MAD, arXiv 2403.17844, with its baseline setting as defaults: 16 of 32 ids are noise, a fifth of the pairs.
"""

from __future__ import annotations

from nas.tasks.in_context_recall import InContextRecallTask
from nas.tasks.synthetic import answer_metrics


class NoisyRecallTask(InContextRecallTask):
    """In-context recall with noise; the options mean what they mean there.

    With vocab_size=8, noise_vocab_size=2, noise=0.4 and sequence_length=12 the first sequence of seed 3 is

        tokens     0    5    0    5    7    6    2    3    6    7    2    3
        targets    .    .    5    .    .    .    .    .    .    .    3    .

    where a dot is -100, and 6 and 7 are noise.
    """

    name = "noisy_recall"
    metrics = answer_metrics("noisy_recall", "values of keys that came before, among noise,")

    def __init__(
        self,
        *,
        vocab_size: int = 32,
        sequence_length: int = 128,
        noise_vocab_size: int = 16,
        noise: float = 0.2,
        supervise: str = "all",
        train_sequences: int | None = 12800,
        score_sequences: int = 1280,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            sequence_length=sequence_length,
            noise_vocab_size=noise_vocab_size,
            noise=noise,
            supervise=supervise,
            train_sequences=train_sequences,
            score_sequences=score_sequences,
        )
