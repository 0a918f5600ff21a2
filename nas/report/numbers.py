"""How a report writes numbers: a unit that suits their size, four digits, the spread and the number of samples.

Every table and plot formats through this file, so that the same number looks the same everywhere.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas.measurement import Measurement
from nas.objectives import Objective, Requirement
from nas.study.rows import Row, StudyResult

_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A value times `factor` is in `unit`, and shown with `decimals` behind the point."""

    factor: float
    unit: str
    decimals: int

    def show(self, value: float) -> str:
        return f"{value * self.factor:,.{self.decimals}f}"


def scale_for(unit: str, measurements: Iterable[Measurement]) -> Scale:
    """The unit in which the largest of numbers given in `unit` can be read, in four digits; counts stay whole."""
    given = [m for m in measurements if math.isfinite(m.value)]
    largest = max((abs(m.value) for m in given), default=0.0)
    factor, name = _readable(unit, largest)
    whole = all(m.low == m.high and (m.value * factor).is_integer() for m in given)
    digits = 3 - math.floor(math.log10(largest * factor)) if largest else 0
    return Scale(factor=factor, unit=name, decimals=0 if whole else min(max(digits, 0), 12))


def _readable(unit: str, largest: float) -> tuple[float, str]:
    if unit == "bytes":
        for size, name in _BYTES:
            if largest >= size:
                return 1 / size, name
    if unit in ("parameters", "FLOPs"):
        for size, prefix in _COUNTS:
            if largest >= size:
                return 1 / size, f"{prefix}FLOPs" if unit == "FLOPs" else prefix
    return 1.0, unit


def short(value: float) -> str:
    """One number on its own in four digits, without an exponent unless it is tiny; whole numbers keep theirs."""
    if abs(value) >= 1e4 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:#.4g}" if abs(value) >= 1e-3 else f"{value:.3g}"


def spread(measurement: Measurement) -> float:
    """Half the distance from low to high; 0 for a counted number."""
    return (measurement.high - measurement.low) / 2


def with_spread(measurement: Measurement, scale: Scale) -> str:
    """`2.314 ± 0.012`, or `2.314` for a counted number; in the unit of `scale`, without writing it."""
    half = spread(measurement) * scale.factor
    value = scale.show(measurement.value)
    return f"{value} ± {half:.2g}" if half > 0 else value


def in_full(name: str, measurement: Measurement) -> str:
    """One number as a line shows it: `decode_latency_ms 12.30 ± 0.20 ms (n=16)`."""
    scale = scale_for(measurement.unit, [measurement])
    unit = "" if scale.unit == name else f" {scale.unit}"
    samples = f" (n={measurement.n})" if measurement.n > 1 else ""
    return f"{name} {with_spread(measurement, scale)}{unit}{samples}"


def scales(rows: Sequence[Row], names: Sequence[str], objectives: Sequence[Objective]) -> dict[str, Scale]:
    """One scale for each named number, shared by all rows."""
    unit = units(rows, names, objectives)
    return {name: scale_for(unit[name], [r.values[name] for r in rows if name in r.values]) for name in names}


def samples(rows: Iterable[Row], name: str) -> str:
    """`n=16`, or `n=8 to 16` when it differs between rows; empty for a counted number."""
    counts = {row.values[name].n for row in rows if name in row.values}
    if not counts or counts == {1}:
        return ""
    return f"n={min(counts)}" if len(counts) == 1 else f"n={min(counts)} to {max(counts)}"


def words(name: str) -> str:
    """`decode latency` for `decode_latency_ms`: a name for a heading, beside which the unit stands."""
    return name.removesuffix("_ms").replace("_", " ")


def arrow(objective: Objective) -> str:
    return "↓" if objective.direction == "minimize" else "↑"


def heading(objective: Objective, unit: str) -> str:
    """The head of a narrow column: a word a line, the unit (unless it repeats the name), which way is better."""
    name = words(objective.name)
    unit = "" if unit == name else unit
    return "\n".join([*name.split(), f"{unit} {arrow(objective)}".strip()])


def value_names(rows: Iterable[Row], objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Every number that some row has, those of the objectives first and in their order."""
    names = dict.fromkeys(o.name for o in objectives)
    for row in rows:
        names.update(dict.fromkeys(row.values))
    return tuple(names)


def units(rows: Iterable[Row], names: Sequence[str], objectives: Sequence[Objective]) -> dict[str, str]:
    """The unit of each named number, from the first row that has it, else from its objective."""
    found = {o.name: o.unit for o in objectives}
    for row in rows:
        found.update({name: m.unit for name, m in row.values.items()})
    return {name: found.get(name, "") for name in names}


def trained(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows trained to the full budget."""
    return tuple(row for row in rows if row.state == "complete")


def members(result: StudyResult) -> tuple[Row, ...]:
    """The rows on the front without or with the requirements, in the order of their trials."""
    numbers = {*result.front, *result.front_required}
    return tuple(sorted((row for row in result.rows if row.number in numbers), key=lambda row: row.number))


def shown_objectives(objectives: Sequence[Objective], requirements: Sequence[Requirement]) -> tuple[Objective, ...]:
    """What tables and plots show: the objectives, then what is only required."""
    known = {o.name for o in objectives}
    return (*objectives, *(r.objective for r in requirements if r.name not in known))


def row_by_number(result: StudyResult, number: int | None) -> Row | None:
    """The row of a trial; None when there is none."""
    return next((row for row in result.rows if row.number == number), None)


def required_level(requirement: Requirement, result: StudyResult) -> float | None:
    """The bar of a requirement in its objective's unit; None when it is relative and the reference has no number."""
    reference = row_by_number(result, result.reference)
    measurement = None if reference is None else reference.values.get(requirement.name)
    if requirement.relative_to_reference and measurement is None:
        return None
    return requirement.level(measurement)
