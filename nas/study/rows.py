"""The rows of a study: what became of one sampled architecture, with every number that was measured on it.

A row is plain data. It lives in the study's journal, in `trials.csv`, and is all that front and report ever see.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from nas.architecture import Architecture, from_dict, to_dict
from nas.measurement import Measurement

State = Literal["complete", "rejected", "duplicate", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What was scored when a training had seen that share of its tokens."""

    share: float
    scores: dict[str, Measurement]

    def to_dict(self) -> dict[str, Any]:
        return {"share": self.share, "scores": {name: m.to_dict() for name, m in self.scores.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Rung":
        scores = {name: Measurement.from_dict(m) for name, m in data["scores"].items()}
        return cls(share=data["share"], scores=scores)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial that ended.

    `origin` is `sampled` or `reference: <design>`; `values` maps the name of an objective to its measurement (the
    stages that were reached); `costs` maps a cost model to its milliseconds by the name of the objective; `seconds`
    maps a stage (`count`, `measure`, `train`) to its wall time.

    `stopped` is a training that was left on a rung. `rungs` are those that the architecture has passed, also in earlier
    trials; `trained` is what this trial trained, in full trainings; `promoted_from` the trial that it goes on from,
    whose row it replaces.
    """

    number: int
    id: str
    state: State
    reason: str | None
    origin: str
    architecture: Architecture
    deployed: Architecture | None
    values: dict[str, Measurement]
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    rungs: tuple[Rung, ...] = ()
    trained: float = 0.0
    promoted_from: int | None = None

    @property
    def is_reference(self) -> bool:
        return self.origin.startswith("reference: ")

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON can hold; `Row.from_dict` reads it back."""
        return {
            "number": self.number,
            "id": self.id,
            "state": self.state,
            "reason": self.reason,
            "origin": self.origin,
            "architecture": to_dict(self.architecture),
            "deployed": None if self.deployed is None else to_dict(self.deployed),
            "values": {name: m.to_dict() for name, m in self.values.items()},
            "costs": self.costs,
            "seconds": self.seconds,
            "seed": self.seed,
            "rungs": [rung.to_dict() for rung in self.rungs],
            "rung": len(self.rungs) - 1,
            "trained": self.trained,
            "promoted_from": self.promoted_from,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Row":
        deployed = data["deployed"]
        return cls(
            number=data["number"],
            id=data["id"],
            state=data["state"],
            reason=data["reason"],
            origin=data["origin"],
            architecture=from_dict(data["architecture"]),
            deployed=None if deployed is None else from_dict(deployed),
            values={name: Measurement.from_dict(m) for name, m in data["values"].items()},
            costs=data.get("costs", {}),
            seconds=data["seconds"],
            seed=data["seed"],
            rungs=tuple(Rung.from_dict(rung) for rung in data.get("rungs", ())),
            trained=data.get("trained", float(data["state"] == "complete")),  # rows of before there were rungs
            promoted_from=data.get("promoted_from"),
        )


def standing_rows(rows: Iterable[Row], interrupted: str) -> list[Row]:
    """The rows in order of trial numbers, without those that a later trial has gone on from and replaced.

    interrupted: the reason of a row whose trial runs again, which replaces nothing.
    """
    known = list(rows)
    replaced = {row.promoted_from for row in known if row.state != "duplicate" and row.reason != interrupted}
    return sorted((row for row in known if row.number not in replaced), key=lambda row: row.number)


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What one architecture's number does over seeds: differences below about `2 * sd` are none.

    `values` are the numbers of the seeds, `design_sd` the spread of the reference designs' numbers in the same study
    (None when fewer than two were trained).
    """

    name: str
    unit: str
    values: tuple[float, ...]
    sd: float
    design_sd: float | None


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """All that a report shows. `front` and `front_required` hold trial numbers, without and with the requirements.

    `robust` are the members of the front that stay on it under every cost model; None where the rows do not know all.
    """

    study: str
    rows: tuple[Row, ...]
    front: tuple[int, ...]
    front_required: tuple[int, ...]
    robust: tuple[int, ...] | None
    reference: int | None
    noise: tuple[NoiseFloor, ...]
    hypervolume: float | None
    settings: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    tool_seconds: float
