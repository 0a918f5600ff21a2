"""What replayed searches came to: curves against random search, with intervals over searches.

What is random in a search (its sampler, and which seed of the table it sees) is in the spread over searches; the table
itself is one, and its own noise is told beside it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.study.events import Observer
from nas.study.rows import Row
from scripts.settings import SearchSettings

if TYPE_CHECKING:
    from nas.study.truth.oracle import Oracle
    from nas.study.truth.truth import Truth

RANDOM = "random"
TENTH = 0.1  # of the space
PERMUTATIONS = 200  # random orders of the space, from which random search's curve is known to its end
DRAWS = 2000  # of searches with replacement
TAIL = 2.5  # percent, on each side of an interval
THIRD, HALF = 1 / 3, 0.5  # aims: of random search's training, and of the true front after a tenth of the space
WASTED = ("rejected", "duplicate", "failed")
ROUNDING = 1e-9


@dataclass(frozen=True)
class Found:
    """What one search came to. found: the architectures trained to the full budget, in order; spent: the training that
    had been done by then, on all rungs and of whatever architectures, in units of one full training; wasted: trials
    that trained nothing, by their state."""

    problem: str
    variant: str
    seed: int
    found: tuple[str, ...]
    spent: tuple[float, ...]
    wasted: dict[str, int]
    seconds: float


@dataclass
class Recorder(Observer):
    """Listens to a search for what `Found` tells."""

    trained: list[tuple[str, float]] = field(default_factory=list)
    spent: float = 0.0
    wasted: dict[str, int] = field(default_factory=dict)

    def row_finished(self, row: Row, front: tuple[int, ...], done: int, total: int) -> None:
        self.spent += row.trained
        if row.state == "complete":
            self.trained.append((row.id, self.spent))
        elif row.state in WASTED:
            self.wasted[row.state] = self.wasted.get(row.state, 0) + 1

    def found(self, problem: str, variant: str, seed: int, seconds: float) -> Found:
        ids, spent = tuple(i for i, _ in self.trained), tuple(s for _, s in self.trained)
        return Found(problem, variant, seed, ids, spent, self.wasted, seconds)


def judge(
    found: Sequence[Found], settings: SearchSettings, oracle: "Oracle", repeats: "Oracle | None" = None
) -> dict[str, Any]:
    """The variants on one problem. repeats: see `Truth.of`."""
    from nas.architecture import canonical_id
    from nas.study.truth.truth import Truth

    placed = settings.space.references(settings.designs)
    references = {name: canonical_id(settings.space.at(params)) for name, params in placed}
    truth = Truth.of(oracle, settings.objectives, settings.requirements, references.get(settings.baseline), repeats)
    units = settings.trials
    chance = random_curve(truth, [r for r in references.values() if r in truth.ids])
    by_variant: dict[str, list[Found]] = {}
    for one in found:
        by_variant.setdefault(one.variant, []).append(one)
    curves = {name: np.stack([curve(truth, one, units) for one in ones]) for name, ones in by_variant.items()}
    tenth = max(1, round(TENTH * len(truth.ids)))
    return {
        "objectives": [objective.name for objective in settings.objectives],
        "requirements": [str(requirement) for requirement in settings.requirements],
        "noise": dict(zip((o.name for o in settings.objectives), truth.noise.tolist(), strict=True)),
        "front": [oracle.entries[identity].name for identity in truth.front],
        "architectures": len(truth.ids),
        "able": int(truth.able.sum()),
        "units": units,
        "tenth": tenth,
        "references": len(references),
        "chance": chance.tolist(),
        "variants": {
            name: against_random(curves[name], curves[RANDOM], chance) | fronts(truth, ones, tenth) | told(ones)
            for name, ones in by_variant.items()
        },
    }


def curve(truth: "Truth", one: Found, units: int) -> np.ndarray:
    """[units]: the share of the true front's hypervolume that a search has after 1, 2, ... units of training."""
    volumes = np.concatenate([[0.0], truth.volumes(one.found)])
    return volumes[np.searchsorted(one.spent, np.arange(1, units + 1) + ROUNDING, side="right")]


def random_curve(truth: "Truth", references: Sequence[str]) -> np.ndarray:
    """[N]: the mean curve of sampling the whole space at random without repetition, the references first."""
    rest = [identity for identity in truth.ids if identity not in references]
    generator = np.random.default_rng(0)
    orders = ([*references, *generator.permutation(rest).tolist()] for _ in range(PERMUTATIONS))
    return np.mean([truth.volumes(order) for order in orders], axis=0)


def against_random(curves: np.ndarray, chances: np.ndarray, chance: np.ndarray) -> dict[str, Any]:
    """One variant's hypervolume. curves, chances [searches, units]: its own and random search's; chance [N]: the mean
    of random search to the end of the space. Every interval is over both kinds of searches."""
    own, other = curves.mean(axis=0), chances.mean(axis=0)
    drawn, drawn_other = drawn_means(curves, 1), drawn_means(chances, 2)
    finals, random_finals = curves[:, -1][:, None], chances[:, -1][None, :]
    wins = (finals > random_finals) + 0.5 * (finals == random_finals)
    return {
        "volume": own.tolist(),
        "volume_error": standard_errors(curves).tolist(),
        "final": float(own[-1]),
        "final_error": float(standard_errors(curves)[-1]),
        "mean_over_budget": float(own.mean()),
        "gain": interval(own.mean() - other.mean(), drawn.mean(axis=1) - drawn_other.mean(axis=1)),
        "final_gain": interval(own[-1] - other[-1], drawn[:, -1] - drawn_other[:, -1]),
        "better_than_random": float(wins.mean()),
        "units_to_random_final": interval(
            first_at(own, other[-1]), [first_at(a, b[-1]) for a, b in zip(drawn, drawn_other, strict=True)]
        ),
        "random_needs": interval(first_at(chance, own[-1]), [first_at(chance, a[-1]) for a in drawn]),
    }


def fronts(truth: "Truth", ones: Sequence[Found], tenth: int) -> dict[str, Any]:
    """The share of the true front that a variant has after a tenth of the space, and at its end."""
    early = [[i for i, spent in zip(one.found, one.spent, strict=True) if spent <= tenth + ROUNDING] for one in ones]
    found = {"tenth": early, "end": [one.found for one in ones]}
    shares: dict[str, Any] = {}
    for when, sets in found.items():
        for within_noise, ending in ((False, ""), (True, "_within_noise")):
            values = np.array([truth.recovered(ids, within_noise=within_noise) for ids in sets])
            shares[f"front_at_{when}{ending}"] = interval(values.mean(), drawn_means(values[:, None], 1)[:, 0])
    return shares


def told(ones: Sequence[Found]) -> dict[str, Any]:
    """What the searches did besides."""
    states = sorted({state for one in ones for state in one.wasted})
    return {
        "trained": float(np.mean([len(one.found) for one in ones])),
        "wasted": {state: float(np.mean([one.wasted.get(state, 0) for one in ones])) for state in states},
        "seconds": float(np.mean([one.seconds for one in ones])),
        "searches": [{k: v for k, v in asdict(one).items() if k in ("seed", "wasted")} for one in ones],
    }


def aims(judged: dict[str, Any]) -> dict[str, list[str]]:
    """By aim in words, the variants that reach it: `name` by its mean, `name (surely)` by the whole interval."""
    third, units = THIRD * judged["units"], judged["units"]
    early = f"random search's final hypervolume with a third of its training ({third:.0f} of {units})"
    front = f"half of the true front after a tenth of the space ({judged['tenth']} of {judged['architectures']})"
    found: dict[str, list[str]] = {early: [], front: []}
    for name, one in judged["variants"].items():
        needed, share = one["units_to_random_final"], one["front_at_tenth"]
        if needed["value"] is not None and needed["value"] <= third + ROUNDING:
            found[early].append(surely(name, needed["high"] is not None and needed["high"] <= third + ROUNDING))
        if share["value"] >= HALF:
            found[front].append(surely(name, share["low"] >= HALF))
    return found


def surely(name: str, sure: bool) -> str:
    return f"{name} (surely)" if sure else name


def first_at(values: np.ndarray, goal: float) -> float:
    """The number of units after which a curve has reached a goal; infinite where it never does."""
    reached = np.flatnonzero(values >= goal - ROUNDING)
    return float(reached[0] + 1) if len(reached) else np.inf


def drawn_means(curves: np.ndarray, seed: int) -> np.ndarray:
    """[DRAWS, units]: the mean of as many searches drawn with replacement, again and again."""
    drawn = np.random.default_rng(seed).integers(0, len(curves), size=(DRAWS, len(curves)))
    counts = np.stack([np.bincount(row, minlength=len(curves)) for row in drawn])
    return counts @ curves / len(curves)


def interval(value: float, drawn: Any) -> dict[str, float | None]:
    """The value and the ends of its 95 % interval (Efron's percentile bootstrap); None stands for never."""
    low, high = np.percentile(np.asarray(drawn, dtype=float), [TAIL, 100 - TAIL], method="nearest")
    ends = {"value": value, "low": low, "high": high}
    return {name: float(end) if np.isfinite(end) else None for name, end in ends.items()}


def standard_errors(curves: np.ndarray) -> np.ndarray:
    """[units]: of the mean over searches."""
    return curves.std(axis=0, ddof=1) / len(curves) ** 0.5
