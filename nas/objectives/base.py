"""What an objective is: a named number of a candidate, with a unit, a direction and the stage that pays for it.

* An objective computes nothing: it says where the number stands. What it costs is decided by its stage (`count` is
  free, `measure` takes seconds, `train` takes minutes), so that hard limits reject at the earliest stage.
* Numbers are never summed into one score; each keeps its unit and its spread.
* Free of torch, so that a mistake in a configuration is answered before torch is imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from nas.measurement import Measurement

Direction = Literal["minimize", "maximize"]
Stage = Literal["count", "measure", "train"]

STAGES: tuple[Stage, ...] = ("count", "measure", "train")
"""The stages of the ladder, the cheapest first."""


class ObjectiveError(ValueError):
    """A configuration of objectives, requirements or limits breaks a rule. The message is one sentence for a user."""


class CountedNumbers(Protocol):
    """The counted numbers that objectives read; `nas.count.Counts` has them."""

    @property
    def parameters(self) -> int: ...
    @property
    def active_parameters(self) -> int: ...
    @property
    def sequence_bytes(self) -> int: ...
    @property
    def flops_decode(self) -> int: ...


class Candidate(Protocol):
    """An architecture on the ladder: what was counted, measured and scored so far."""

    @property
    def counts(self) -> CountedNumbers: ...
    @property
    def measurements(self) -> Mapping[str, Measurement]: ...
    @property
    def scores(self) -> Mapping[str, Measurement]: ...


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One number that a search may optimise, require or limit.

    `read` takes it from a candidate that has passed `stage`; `help` is one line for the user.
    """

    name: str
    unit: str
    direction: Direction
    stage: Stage
    help: str
    read: Callable[[Candidate], Measurement]

    @property
    def is_quality(self) -> bool:
        """Whether the number is learned, and so comparable only between candidates trained alike."""
        return self.stage == "train"

    def __call__(self, candidate: Candidate) -> Measurement:
        """The candidate's number; raises ObjectiveError when the stage that gives it did not give it."""
        return self.read(candidate)


def lookup(name: str, found: Mapping[str, Measurement], given_by: str) -> Measurement:
    """`found[name]`, or ObjectiveError saying what is there instead."""
    if name not in found:
        there = ", ".join(sorted(found)) or "nothing"
        raise ObjectiveError(f"{name} is not among what {given_by} of this run give: {there}.")
    return found[name]


def with_unit(value: float, unit: str, name: str = "") -> str:
    """A number as a sentence shows it: `61.2 ms`, `31,234,567`; a unit that repeats the name is left out."""
    whole = float(value).is_integer() and abs(value) < 1e15
    number = f"{value:,.0f}" if whole or abs(value) >= 1e4 else f"{value:.4g}"
    return number if unit in (name, "") else f"{number} {unit}"
