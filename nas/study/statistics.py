"""What a few seeds can tell: means with Student's intervals, the smallest difference that they could have seen, and how
probable it is that no other design is better. Pure functions of numbers; designs and studies are known elsewhere. SciPy
is imported where it is needed, which takes a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95  # of intervals, and one minus the level of tests
POWER = 0.8  # with which the smallest detectable difference is detected
DRAWS = 4000
MIDDLE = 2 * NormalDist().inv_cdf(0.8)  # standard deviations from the 20th to the 80th percentile of a normal


@dataclass(frozen=True, kw_only=True)
class Known:
    """How well a number is known: its standard error, and the degrees of freedom that the error itself rests on."""

    value: float
    error: float
    degrees: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean of `n` independent numbers, their standard deviation, and the ends of Student's 95 % interval."""

    mean: float
    sd: float
    n: int
    low: float
    high: float

    @property
    def known(self) -> Known:
        return Known(value=self.mean, error=self.sd / math.sqrt(self.n), degrees=self.n - 1)


def estimate(values: Sequence[float]) -> Estimate:
    """At least two numbers; one alone says nothing about its error."""
    from scipy import stats

    assert len(values) >= 2
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * sd / math.sqrt(len(values))
    return Estimate(mean=mean, sd=sd, n=len(values), low=mean - half, high=mean + half)


def pooled_sd(estimates: Sequence[Estimate]) -> float:
    """The standard deviation within designs, each weighted by its degrees of freedom."""
    degrees = sum(one.n - 1 for one in estimates)
    return math.sqrt(sum((one.n - 1) * one.sd**2 for one in estimates) / degrees)


def detectable_difference(sd: float, n: int) -> float:
    """The difference of two means over `n` seeds each that a two-sided t test at 5 % finds in 80 % of cases.

    Solves the power of the test (Cohen, Statistical Power Analysis, 1988, chapter 2) by the noncentral F of t squared,
    which SciPy computes where its noncentral t loses digits.
    """
    from scipy import optimize, stats

    degrees = 2 * (n - 1)
    critical = float(stats.t.ppf((1 + LEVEL) / 2, degrees))

    def lacking(shift: float) -> float:
        return float(stats.ncf.sf(critical**2, 1, degrees, shift**2)) - POWER

    # At twice the critical value the power is above 97 % for every n.
    shift = optimize.brentq(lacking, 0.0, 2 * critical)
    return float(shift) * sd * math.sqrt(2 / n)  # type: ignore[arg-type]


def sampled(numbers: Sequence[Sequence[Known]]) -> np.ndarray:
    """[draws, designs, numbers]: what the true numbers may be; always the same draws.

    Each is drawn from Student's t around its value, which with a flat prior is what is known of a mean.
    """
    generator = np.random.default_rng(0)
    values, errors, degrees = (
        np.array([[getattr(one, name) for one in row] for row in numbers], dtype=float)
        for name in ("value", "error", "degrees")
    )
    normal = generator.standard_normal((DRAWS, *values.shape))
    known = np.isfinite(degrees)
    finite = np.where(known, degrees, 1.0)
    shrunk = np.where(known, np.sqrt(generator.chisquare(finite, (DRAWS, *values.shape)) / finite), 1.0)
    return values + errors * normal / shrunk


def shares_on_front(draws: np.ndarray, able: np.ndarray | None = None) -> np.ndarray:
    """[designs]: the share of the draws in which no other design is as good in all numbers and better in one.

    draws: losses [draws, designs, numbers], smaller is better. able [draws, designs]: who takes part in a draw; who
    does not is on no front and beats nobody.
    """
    taking_part = np.ones(draws.shape[:2], dtype=bool) if able is None else able
    shares = np.zeros(draws.shape[1])
    for design in range(draws.shape[1]):
        own = draws[:, design : design + 1]
        beats = np.all(draws <= own, axis=2) & np.any(draws < own, axis=2) & taking_part
        shares[design] = np.mean(~beats.any(axis=1) & taking_part[:, design])
    return shares


def rank_agreement(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two orders of the same designs, from -1 to 1; None where either does not order them at all."""
    if len(first) < 2 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy import stats

    return float(stats.kendalltau(first, second)[0])  # type: ignore[arg-type]


def ranks(losses: Sequence[float]) -> tuple[int, ...]:
    """1 for the smallest; equal numbers share the better rank."""
    from scipy import stats

    return tuple(int(rank) for rank in stats.rankdata(losses, method="min"))
