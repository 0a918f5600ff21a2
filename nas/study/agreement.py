"""Does a cheap number decide as an expensive one does? Agreement over pairs, regret of the choice, bootstrap intervals.

Everything is a loss, one number an architecture, smaller is better. `guess` is the cheap number, `truth` the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
TAIL = 2.5  # percent, on each side of an interval


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % interval over which architectures were drawn (Efron's percentile bootstrap)."""

    value: float
    low: float
    high: float


def agreement(guess: np.ndarray, truth: np.ndarray, *, margin: float = 0.0) -> float:
    """Share of the pairs that both order alike; a tie of the guess counts half.

    Pairs whose truth differs by no more than `margin`, and by nothing at all, are left out; NaN where none is left.
    """
    first, second = np.triu_indices(len(truth), k=1)
    guessed, true = guess[first] - guess[second], truth[first] - truth[second]
    judged = np.abs(true) > margin
    if not judged.any():
        return float("nan")
    right = np.where(guessed == 0, 0.5, np.sign(guessed) == np.sign(true))
    return float(right[judged].mean())


def pairs_beyond(truth: np.ndarray, margin: float) -> int:
    """The number of pairs that `agreement` judges."""
    first, second = np.triu_indices(len(truth), k=1)
    return int(np.sum(np.abs(truth[first] - truth[second]) > margin))


def regret(guess: np.ndarray, truth: np.ndarray) -> float:
    """How much worse than the best the choice of the guess is; the mean over choices between which it cannot tell."""
    return float(truth[guess == guess.min()].mean() - truth.min())


def bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], float], guess: np.ndarray, truth: np.ndarray, *, draws: int = DRAWS
) -> Interval:
    """The statistic of all architectures, with its interval over architectures drawn anew with replacement.

    Draws on which the statistic is not defined are left out.
    """
    generator = np.random.default_rng(0)
    places = generator.integers(0, len(truth), size=(draws, len(truth)))
    values = np.array([statistic(guess[drawn], truth[drawn]) for drawn in places])
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [TAIL, 100 - TAIL]) if len(values) else (float("nan"), float("nan"))
    return Interval(statistic(guess, truth), float(low), float(high))
