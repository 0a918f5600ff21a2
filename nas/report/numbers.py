"""How a report writes numbers: a unit that suits their size, four digits, the spread and the number of samples.

Every table and plot formats through this file, so that the same number looks the same everywhere.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from nas.measurement import Measurement
from nas.objectives import Objective, Requirement
from nas.report.sources import source_label, tilde
from nas.study.rows import Row, StudyResult

_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
ROBUST_MARK = "*"
HEAD_WIDTH = 12  # characters, of a number with its spread
_WORDS = {
    "train_step_ms": "training step",
    "sequence_bytes": "memory per sequence",
    "peak_memory_bytes": "peak memory",
    "peak_reserved_bytes": "peak reserved memory",
    "train_peak_memory_bytes": "training peak memory",
    "train_peak_reserved_bytes": "training peak reserved memory",
    "optimizer_bytes": "optimizer state",
    "saved_for_backward_bytes": "saved for backward",
    "flops_per_token": "FLOPs per token",
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A value times `factor` is in `unit`, and shown with `decimals` behind the point.

    `label` says what kind of numbers these are where they were not measured (`nas.report.sources.source_label`).
    """

    factor: float
    unit: str
    decimals: int
    label: str = ""

    def show(self, value: float) -> str:
        return f"{value * self.factor:,.{self.decimals}f}"


def scale_for(unit: str, measurements: Iterable[Measurement]) -> Scale:
    """The unit in which the largest of numbers given in `unit` can be read, in four digits; counts stay whole."""
    measurements = tuple(measurements)
    given = [m for m in measurements if math.isfinite(m.value)]
    largest = max((abs(m.value) for m in given), default=0.0)
    factor, name = _readable(unit, largest)
    whole = all(m.low == m.high and (m.value * factor).is_integer() for m in given)
    digits = 3 - math.floor(math.log10(largest * factor)) if largest else 0
    decimals = 0 if whole else min(max(digits, 0), 12)
    return Scale(factor=factor, unit=name, decimals=decimals, label=source_label(measurements))


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
    """`2.314 ± 0.012`, `2.314` for a counted number, `~2.314` for an estimate; in the unit of `scale`, unwritten."""
    half = spread(measurement) * scale.factor
    value = f"{tilde(measurement)}{scale.show(measurement.value)}"
    return f"{value} ± {half:.2g}" if half > 0 else value


def in_full(name: str, measurement: Measurement) -> str:
    """One number as a line shows it: `decode_latency_ms 12.30 ± 0.20 ms (n=16)`, `... ~12.30 ms (estimate)`."""
    scale = scale_for(measurement.unit, [measurement])
    unit = f" {unit_beside(name, scale.unit)}".rstrip()
    samples = f"n={measurement.n}" if measurement.n > 1 else ""
    said = ", ".join(filter(None, (scale.label, samples)))
    return f"{name} {with_spread(measurement, scale)}{unit}{f' ({said})' if said else ''}"


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
    return _WORDS.get(name, name.removesuffix("_ms").replace("_", " "))


def unit_beside(name: str, unit: str) -> str:
    """The unit to write beside a number's name; empty where the name says it: `sequences` of `sequences_that_fit`."""
    return "" if unit in words(name).split() else unit


def full_name(name: str, scale: Scale) -> str:
    """`text loss [bits/byte]`, `time per output token [ms] (estimate)`: a number's name with what stands beside it."""
    unit = unit_beside(name, scale.unit)
    return " ".join(filter(None, (words(name), f"[{unit}]" if unit else "", f"({scale.label})" if scale.label else "")))


def arrow(objective: Objective) -> str:
    return "↓" if objective.direction == "minimize" else "↑"


def heading(objective: Objective, scale: Scale) -> str:
    """The head of a narrow column in lines: the name, the unit and which way is better, what is no measurement."""
    lines = [
        *wrap(words(objective.name), HEAD_WIDTH),
        f"{unit_beside(objective.name, scale.unit)} {arrow(objective)}".strip(),
    ]
    return "\n".join([*lines, f"({scale.label})"] if scale.label else lines)


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


def is_robust(row: Row, result: StudyResult) -> bool:
    """Whether the row is on the front under every cost model; False where that is not known."""
    return row.number in (result.robust or ())


def robust_mark(row: Row, result: StudyResult) -> str:
    return ROBUST_MARK if is_robust(row, result) else ""


def robust_sentence(result: StudyResult, mark: str) -> str:
    """What `mark` says of a design, or that no design has it; empty where the costs of all models are not known."""
    if result.robust is None or not result.front:
        return ""
    meaning = "on the front under our own kernels, the fastest at hand and the roofline"
    return f"Robust ({mark}): {meaning}." if result.robust else f"No design is robust: {meaning}."


def required_level(requirement: Requirement, result: StudyResult) -> float | None:
    """The bar of a requirement in its objective's unit; None when it is relative and the reference has no number."""
    reference = row_by_number(result, result.reference)
    measurement = None if reference is None else reference.values.get(requirement.name)
    if requirement.relative_to_reference and measurement is None:
        return None
    return requirement.level(measurement)
