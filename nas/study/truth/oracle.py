"""Every architecture of a small space with its scores and costs: the truth that searches are replayed against.

The table is plain data with its provenance; scripts/build_oracle.py writes it, `replay` searches in it.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, canonical_id
from nas.count import Counts
from nas.measurement import Measurement, Source
from nas.objectives import OBJECTIVES, Objective

FORMAT = 1
Scores = dict[str, Measurement]


class OracleError(ValueError):
    """A table that cannot be used. The message is one sentence for a user."""


@dataclass(kw_only=True)
class Entry:
    """One architecture. `id` is that of the point of the space, before parameters are matched.

    counts, measurements and costs are those of the deployment, as a search would record them; None and empty until
    they are known. scores: by seed, the scores at each rung of the table; failed: by seed, why a training broke;
    seconds: of training, summed over seeds.
    """

    id: str
    name: str
    params: dict[str, Any]
    counts: Counts | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: dict[int, list[Scores]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    def mean(self, objective: Objective) -> float:
        """The best known value of an objective: of a score, the mean over the seeds of the last rung."""
        if objective.stage == "train":
            return statistics.fmean(rungs[-1][objective.name].value for rungs in self.scores.values())
        return objective(self.candidate()).value

    def candidate(self) -> Any:
        """What an objective reads that is no score."""
        return _Known(counts=self.counts, measurements=self.measurements)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "params": self.params,
            "counts": None if self.counts is None else vars(self.counts),
            "measurements": {name: m.to_dict() for name, m in self.measurements.items()},
            "costs": self.costs,
            "scores": {
                str(seed): [{name: _packed(m) for name, m in scores.items()} for scores in rungs]
                for seed, rungs in sorted(self.scores.items())
            },
            **({"failed": {str(seed): reason for seed, reason in self.failed.items()}} if self.failed else {}),
            "seconds": round(self.seconds, 2),
        }

    @classmethod
    def from_dict(cls, identity: str, data: Mapping[str, Any]) -> "Entry":
        return cls(
            id=identity,
            name=data["name"],
            params=data["params"],
            counts=None if data["counts"] is None else Counts(**data["counts"]),
            measurements={name: Measurement.from_dict(m) for name, m in data["measurements"].items()},
            costs=data["costs"],
            scores={
                int(seed): [{name: _unpacked(name, m) for name, m in scores.items()} for scores in rungs]
                for seed, rungs in data["scores"].items()
            },
            failed={int(seed): reason for seed, reason in data.get("failed", {}).items()},
            seconds=data["seconds"],
        )


@dataclass(frozen=True, kw_only=True)
class _Known:
    counts: Any
    measurements: Mapping[str, Measurement]
    scores: Mapping[str, Measurement] = field(default_factory=dict)


def _packed(score: Measurement) -> list[float]:
    """Value, standard error and n; unit and source follow from the name."""
    return [float(f"{score.value:.6g}"), float(f"{score.high - score.value:.3g}"), score.n]


def _unpacked(name: str, packed: Sequence[float]) -> Measurement:
    value, error, n = packed
    source: Source = "scored"
    unit = OBJECTIVES[name].unit
    return Measurement(value=value, unit=unit, low=value - error, high=value + error, n=int(n), source=source)


@dataclass(kw_only=True)
class Oracle:
    """The table. `shares` are the rungs: shares of the token budget, increasing, the last one 1. `provenance` says
    where, with what and from which settings the numbers come."""

    shares: tuple[float, ...]
    provenance: dict[str, Any]
    entries: dict[str, Entry]

    def to_text(self) -> str:
        """JSON, a line for each architecture."""
        head = json.dumps({"format": FORMAT, "shares": self.shares, "provenance": self.provenance})[:-1]
        lines = (f"{json.dumps(entry.id)}: {json.dumps(entry.to_dict())}" for entry in self.entries.values())
        return head + ', "architectures": {\n' + ",\n".join(lines) + "\n}}\n"

    @classmethod
    def read(cls, path: Path) -> "Oracle":
        """Raises OracleError for a file that is none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise OracleError(f"{path} has form {data['format']}, and this version reads form {FORMAT}.")
            entries = {key: Entry.from_dict(key, entry) for key, entry in data["architectures"].items()}
            return cls(shares=tuple(data["shares"]), provenance=data["provenance"], entries=entries)
        except (OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise OracleError(
                f"{path} is no table of scripts/build_oracle.py ({type(error).__name__}: {error})."
            ) from None

    def identified(self, at: Callable[[Mapping[str, Any]], Architecture]) -> "Oracle":
        """The table with the ids that its architectures have now: what an id leaves out may have changed since it was
        written, the points of the space have not. at: the architecture of a point.
        """
        entries = {}
        for entry in self.entries.values():
            identity = canonical_id(at(entry.params))
            entries[identity] = replace(entry, id=identity)
        return replace(self, entries=entries)

    def known(self, objectives: Sequence[Objective]) -> dict[str, Entry]:
        """The architectures of which every one of these numbers is known."""
        return {key: entry for key, entry in self.entries.items() if _is_known(entry, objectives)}

    def noise(self, objective: Objective) -> float:
        """Standard deviation of a score over seeds, pooled over the architectures that have several; 0 for others."""
        if objective.stage != "train":
            return 0.0
        seeds = [
            [rungs[-1][objective.name].value for rungs in entry.scores.values()] for entry in self.entries.values()
        ]
        spread = [(statistics.variance(values), len(values) - 1) for values in seeds if len(values) > 1]
        freedom = sum(n for _, n in spread)
        return (sum(variance * n for variance, n in spread) / freedom) ** 0.5 if freedom else 0.0


def _is_known(entry: Entry, objectives: Sequence[Objective]) -> bool:
    for objective in objectives:
        if objective.stage == "train":
            known = any(objective.name in rungs[-1] for rungs in entry.scores.values())
        elif objective.stage == "measure":
            known = objective.name in entry.measurements
        else:
            known = entry.counts is not None
        if not known:
            return False
    return True
