"""What every task gives to training and scoring, and the four small types it speaks in.

* A task owns its data: vocabulary, a stream of training batches, a fixed held-out set and the metrics on it.
* Everything here is plain: tasks are constructed (and their options checked) without torch, so that a mistake on the
  command line is answered at once; torch is imported when the first batch is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100


@runtime_checkable
class Answering(Protocol):
    """A model whose logits are not those of the next token, and that says itself what it makes of a batch."""

    def answers(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """For a batch the nats of each target, 0 where nothing is asked, and whether the model has it right, [B, A]
        both; A is T, or T G for targets [B, T, G]."""
        ...


Model = Callable[["Tensor"], "Tensor"] | Answering


class TaskError(ValueError):
    """A task's name, options or data set do not hold. The message is one sentence for a user."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of the held-out set: where it is better, and in which unit."""

    name: str
    unit: str
    direction: Literal["minimize", "maximize"]
    help: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's value, its standard error over the held-out items, and how many items there were."""

    value: float
    spread: float
    n: int


class Batch(NamedTuple):
    """tokens int64 [B, T]; targets int64 [B, T], -100 where nothing is asked. T may differ between batches of a task,
    the number of tokens in a batch does not (up to rounding). Targets [B, T, G] ask for G answers at a position, the
    first among the first V / G outputs of the model, and so on; V is then a multiple of G."""

    tokens: Tensor
    targets: Tensor


class Task(Protocol):
    """The contract of `tests/contract/test_tasks.py`. Options are keyword arguments of plain values."""

    name: str
    synthetic: bool  # windows and blocks of an architecture then scale with the task's length
    sequence_length: int
    metrics: tuple[Metric, ...]

    @property
    def vocab_size(self) -> int:
        """Number of token ids; known before `prepare`."""
        ...

    def prepare(self) -> None:
        """Fetch, tokenise and cache. The only slow call, and the only one that needs a disk or a network; idempotent.

        Raises TaskError when the data cannot be had.
        """
        ...

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Batches of `batch_size * sequence_length` tokens without end; the same seed gives the same tokens."""
        ...

    def score(self, model: Model, batch_size: int) -> dict[str, Score]:
        """Every metric on the fixed held-out set, for the model as it is (device and mode are the caller's)."""
        ...

    def describe(self) -> str:
        """One line that states the data and its difficulty, for tables and reports."""
        ...


def make_batch(tokens: np.ndarray, targets: np.ndarray) -> Batch:
    """Arrays of any integer type, tokens [B, T] and targets [B, T] or [B, T, G], as a Batch."""
    import torch

    return Batch(torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(targets.astype(np.int64)))


def check_counts(**counts: object) -> None:
    """Raise TaskError unless every value is a positive integer."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TaskError(f"{name} must be a positive integer, but got {value!r}.")


def ratio_score(numerators: Iterable[float], denominators: Iterable[float]) -> Score:
    """Σ numerators / Σ denominators over items, with the standard error of that ratio.

    Linearised variance of a ratio (Cochran, Sampling Techniques, section 6.3); items are independent, what lies inside
    an item need not be.
    """
    top, bottom = np.asarray(list(numerators), dtype=np.float64), np.asarray(list(denominators), dtype=np.float64)
    n = len(top)
    assert n > 0 and bottom.sum() > 0, "a held-out set has items that count"
    value = float(top.sum() / bottom.sum())
    spread = float(np.sqrt(((top - value * bottom) ** 2).sum() / (n * max(n - 1, 1))) / bottom.mean())
    return Score(value=value, spread=spread, n=n)
