"""How much of a score's variance comes from the design, from the learning rate and from the seed, and how often the
order of two designs depends on the last two. Pure functions of an array of scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

LEVEL = 0.95  # of intervals


@dataclass(frozen=True, kw_only=True)
class VarianceShares:
    """Shares of the variance of one score; they add up to 1.

    interaction: what a rate does to one design and not to others. seed: what is left between two runs that differ in
    nothing else.
    """

    design: float
    rate: float
    interaction: float
    seed: float


def variance_shares(scores: np.ndarray) -> VarianceShares | None:
    """Variance components of a two-way layout with repeats, as shares.

    scores: [designs, rates, seeds], at least two of each. Expected mean squares of the random-effects model (Searle,
    Casella and McCulloch, Variance Components, section 4.7); a component that comes out below zero is zero. None where
    all scores are the same.
    """
    designs, rates, seeds = scores.shape
    assert min(scores.shape) >= 2, "a component needs two levels"
    cells = scores.mean(axis=2)
    of_design, of_rate, whole = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    mean_square_seed = ((scores - cells[:, :, None]) ** 2).sum() / (designs * rates * (seeds - 1))
    left = cells - of_design[:, None] - of_rate[None, :] + whole
    mean_square_cell = seeds * (left**2).sum() / ((designs - 1) * (rates - 1))
    mean_square_design = rates * seeds * ((of_design - whole) ** 2).sum() / (designs - 1)
    mean_square_rate = designs * seeds * ((of_rate - whole) ** 2).sum() / (rates - 1)
    parts = np.array(
        [
            (mean_square_design - mean_square_cell) / (rates * seeds),
            (mean_square_rate - mean_square_cell) / (designs * seeds),
            (mean_square_cell - mean_square_seed) / seeds,
            mean_square_seed,
        ]
    ).clip(min=0)
    if parts.sum() == 0:
        return None
    design, rate, interaction, seed = (float(share) for share in parts / parts.sum())
    return VarianceShares(design=design, rate=rate, interaction=interaction, seed=seed)


def reliability(scores: np.ndarray) -> float:
    """How far one run can be trusted: the share of the variance between single runs that the designs make.

    scores: [designs, seeds], trained alike. The intraclass correlation of a one-way layout (Shrout and Fleiss 1979,
    ICC(1)), from 0 to 1; 0 where all scores are the same. At 0.5 designs differ as much as seeds do.
    """
    between, within = _mean_squares(scores)
    seeds = scores.shape[1]
    if between <= within:
        return 0.0
    return float((between - within) / (between + (seeds - 1) * within))


def reliability_interval(scores: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of `reliability`, by the F distribution of the two mean squares (Shrout and Fleiss 1979).

    The ends are cut to 0 and 1. scores: [designs, seeds].
    """
    designs, seeds = scores.shape
    between, within = _mean_squares(scores)
    if within == 0:
        return (1.0, 1.0) if between > 0 else (0.0, 0.0)
    degrees, tail = (designs - 1, designs * (seeds - 1)), (1 + LEVEL) / 2
    ratio = between / within
    low = ratio / float(stats.f.ppf(tail, *degrees))
    high = ratio * float(stats.f.ppf(tail, *degrees[::-1]))
    ends = [(bound - 1) / (bound + seeds - 1) for bound in (low, high)]
    return max(0.0, float(ends[0])), max(0.0, float(ends[1]))


def _mean_squares(scores: np.ndarray) -> tuple[float, float]:
    """Between and within designs."""
    designs, seeds = scores.shape
    assert min(scores.shape) >= 2, "a spread needs two values"
    means = scores.mean(axis=1)
    within = ((scores - means[:, None]) ** 2).sum() / (designs * (seeds - 1))
    return float(seeds * means.var(ddof=1)), float(within)


def flips(scores: np.ndarray) -> float:
    """Share of the pairs of designs whose order differs between two columns; half is what luck gives.

    scores: [designs, columns], seeds or rates. A pair that is equal in a column counts half.
    """
    signs = [[np.sign(a[c] - b[c]) for a, b in combinations(scores, 2)] for c in range(scores.shape[1])]
    agreements = [np.multiply(one, other) for one, other in combinations(signs, 2)]
    return float((1 - np.mean(agreements)) / 2)


def flips_between_seeds(scores: np.ndarray) -> float:
    """`flips` between the seeds of each rate, averaged over rates. scores: [designs, rates, seeds]."""
    return float(np.mean([flips(by_seed) for by_seed in _by_rate(scores)]))


def flips_between_rates(scores: np.ndarray) -> float:
    """`flips` between rates of the means over seeds. scores: [designs, rates, seeds]."""
    return flips(scores.mean(axis=2))


def _by_rate(scores: np.ndarray) -> Iterator[np.ndarray]:
    for rate in range(scores.shape[1]):
        yield scores[:, rate]
