"""Text and recall in one training stream, for one model that must do both.

Batches alternate between the two tasks in a fixed pattern, each with its own sequence length; recall's tokens come
after text's in the vocabulary, so no id means two things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nas.tasks.base import Batch, Model, Score, TaskError
from nas.tasks.recall import RECALL, RECALL_BITS, RecallTask
from nas.tasks.synthetic import score_answers
from nas.tasks.text import TextTask


class MixedTask:
    """`recall_share` of the batches are recall; the options of both tasks are given as mappings."""

    name = "mixed"
    synthetic = False
    metrics = (*TextTask.metrics, RECALL, RECALL_BITS)

    def __init__(self, *, text: Mapping[str, object], recall: Mapping[str, object], recall_share: float = 0.5) -> None:
        if isinstance(recall_share, bool) or not isinstance(recall_share, int | float) or not 0 < recall_share < 1:
            raise TaskError(f"recall_share must lie between 0 and 1, but got {recall_share!r}.")
        self.text = TextTask(**text)  # type: ignore[arg-type]
        self.recall = RecallTask(**recall)  # type: ignore[arg-type]
        self.recall_share = recall_share
        self.sequence_length = self.text.sequence_length

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size + self.recall.vocab_size

    def prepare(self) -> None:
        self.text.prepare()

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        text = self.text.train_batches(batch_size, seed)
        recall = self.recall.train_batches(self._recall_batch(batch_size), seed)
        turn = 0.0
        while True:
            turn += self.recall_share
            if turn >= 1:
                turn -= 1
                yield self._shifted(next(recall))
            else:
                yield next(text)

    def score(self, model: Model, batch_size: int) -> dict[str, Score]:
        recall = (self._shifted(batch) for batch in self.recall.held_out_batches(self._recall_batch(batch_size)))
        return {**self.text.score(model, batch_size), **score_answers(model, recall, RECALL.name, RECALL_BITS.name)}

    def describe(self) -> str:
        return f"text ({self.text.describe()}) and recall ({self.recall.describe()}), {self.recall_share:.0%} recall"

    def _recall_batch(self, batch_size: int) -> int:
        return max(1, batch_size * self.sequence_length // self.recall.sequence_length)

    def _shifted(self, batch: Batch) -> Batch:
        shift = self.text.vocab_size
        targets = batch.targets.where(batch.targets < 0, batch.targets + shift)
        return Batch(batch.tokens + shift, targets)
