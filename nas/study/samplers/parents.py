"""Which trials may be parents of new architectures, the best first."""

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from nas.study.front import crowding, ranks
from nas.study.trials import ROW

COMPLETE = 1 << 30  # later than any rung
Scored = tuple[FrozenTrial, Sequence[float]]


def select(
    trials: Sequence[FrozenTrial], size: int, directions: Sequence[str], objectives: Sequence[str]
) -> list[FrozenTrial]:
    """The best trials, the best first.

    First the finished ones that meet the requirements, by non-dominated rank and crowding; then those that training on
    rungs has stopped, from the last rung to the first, each rung by rank and crowding of what was scored there; then
    those that miss a requirement, by how much. Of several stays of one architecture on the rungs the longest counts.
    directions and names of the objectives are the study's.
    """
    signs = np.array([1.0 if direction == "MINIMIZE" else -1.0 for direction in directions])
    groups: dict[int, list[Scored]] = {}
    missing: list[FrozenTrial] = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.params:
            if violation(trial) > 0:
                missing.append(trial)
            else:
                groups.setdefault(COMPLETE, []).append((trial, trial.values))
    for trial in longest_stays(trials):
        scored = (trial, values_at_stop(trial, objectives))
        groups.setdefault(trial.user_attrs[ROW]["rung"], []).append(scored)
    best = [trial for rung in sorted(groups, reverse=True) for trial in by_merit(groups[rung], signs)]
    return [*best, *sorted(missing, key=violation)][:size]


def by_merit(scored: Sequence[Scored], signs: np.ndarray) -> list[FrozenTrial]:
    """By non-dominated rank, within a rank the less crowded first (Deb et al. 2002, section III-C)."""
    values = np.array([values for _, values in scored], dtype=float) * signs
    rank = ranks(values)
    distance = crowding(values, rank)
    order = sorted(range(len(scored)), key=lambda i: (rank[i], -distance[i]))
    return [scored[i][0] for i in order]


def violation(trial: FrozenTrial) -> float:
    """By how much a trial misses its requirements, summed; 0 where it meets them."""
    return float(sum(max(0.0, value) for value in trial.constraints.values()))


def longest_stays(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of each architecture that training on rungs has stopped and that none finished since, the last rung's trial."""
    stays: dict[str, FrozenTrial] = {}
    rows = [(trial, trial.user_attrs[ROW]) for trial in trials if ROW in trial.user_attrs and trial.params]
    over = {row["id"] for trial, row in rows if trial.state == TrialState.COMPLETE}
    stopped = [(trial, row) for trial, row in rows if row["state"] == "stopped" and row["id"] not in over]
    for trial, row in sorted(stopped, key=lambda stay: stay[1]["rung"]):
        stays[row["id"]] = trial
    return list(stays.values())


def values_at_stop(trial: FrozenTrial, objectives: Sequence[str]) -> list[float]:
    """The objectives of a stopped trial: scores of the last rung that it reached, costs as measured."""
    row = trial.user_attrs[ROW]
    known = row["values"] | row["rungs"][-1]["scores"]
    return [known[name]["value"] for name in objectives]
