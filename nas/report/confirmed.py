"""What fresh seeds say of a study's front, as one text for a terminal and for `confirmation.md`, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import diagram
from nas.objectives import OBJECTIVES, Objective, with_unit
from nas.report.files import write_atomically
from nas.report.numbers import arrow, short, unit_beside, words

if TYPE_CHECKING:
    from nas.study.confirmation.judgement import Judged, Judgement
    from nas.study.statistics import Estimate

MARKDOWN, JSON = "confirmation.md", "confirmation.json"


@dataclass(frozen=True)
class Table:
    """Cells as text: every line as long as `heads`."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """A Markdown table whose columns are aligned, so that a terminal shows it as well."""
        columns = zip(self.heads, *self.lines, strict=True)
        widths = [max(len(cell) for cell in column) for column in columns]

        def line(cells: Sequence[str]) -> str:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            return f"| {' | '.join(padded)} |"

        rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
        return "\n".join([f"## {self.title}", "", line(self.heads), rule, *map(line, self.lines)])


def confirmation_text(study: str, judgement: Judgement) -> str:
    """Designs, ranks and what the seeds could see, as Markdown."""
    parts = [
        f"# Study {study}, confirmed on fresh seeds",
        "\n".join(f"* {sentence}" for sentence in sentences(judgement)),
        designs_table(judgement).text(),
        ranks_table(judgement).text(),
        seen_table(judgement).text(),
    ]
    return "\n\n".join(parts) + "\n"


def sentences(judgement: Judgement) -> list[str]:
    """How it was done, which designs are on the front now, and what broke."""
    plan = judgement.plan
    tuning = (
        "the learning rates of the table are used as they are"
        if plan.tuning_seed is None
        else f"each design's rates are chosen among half, once and twice the table's, on seed {plan.tuning_seed} alone"
    )
    found = [
        f"Every design here was trained again on seeds {', '.join(map(str, plan.seeds))}, whose number was fixed "
        f"beforehand; {tuning}. The search's scores are discarded.",
        f"Front by confirmed numbers: {trials(judgement.front)}.",
    ]
    if judgement.requirements:
        bars = " and ".join(map(str, judgement.requirements))
        found.append(f"Front of the designs that reach {bars}: {trials(judgement.front_required)}.")
    found += [
        f"Trial {row.number} ({diagram(row.architecture)}) did not hold: {(row.reason or '').removesuffix('.')}."
        for row in judgement.broken
    ]
    for one in judgement.designs:
        found += [f"Trial {one.row.number}, {failure}; that seed is left out." for failure in one.result.failures]
    return found


def trials(numbers: Sequence[int]) -> str:
    return ", ".join(f"trial {number}" for number in numbers) or "no design"


def shown_scores(judgement: Judgement) -> tuple[str, ...]:
    """The scores that are optimised, then those that are only required; the others stand in the JSON."""
    named = [*(o.name for o in judgement.objectives), *(r.name for r in judgement.requirements)]
    return tuple(name for name in dict.fromkeys(named) if name in judgement.scores)


def designs_table(judgement: Judgement) -> Table:
    """Means with intervals, costs, and how probable it is that no other design is better."""
    from nas.study.statistics import LEVEL  # late: SciPy takes most of a second

    costs = [objective for objective in judgement.objectives if not objective.is_quality]
    with_bars = bool(judgement.requirements)
    heads = ["trial", "layers", *(f"{heading(OBJECTIVES[n])}, {LEVEL:.0%} interval" for n in shown_scores(judgement))]
    heads += [*map(heading, costs), "on the front", "P(non-dominated)"]
    heads += ["P(meets)", "P(meets and non-dominated)"] if with_bars else []
    lines = []
    for one in judgement.designs:
        cells = [f"{one.row.number}{reference_mark(one)}", diagram(one.row.architecture)]
        cells += [interval(one.tuned.get(name)) for name in shown_scores(judgement)]
        cells += [
            with_unit(one.row.values[cost.name].value, one.row.values[cost.name].unit, cost.name) for cost in costs
        ]
        cells += [membership(one, judgement, with_bars=with_bars), share(one.on_front)]
        cells += [share(one.meets), share(one.on_required_front)] if with_bars else []
        lines.append(tuple(cells))
    return Table("Designs", tuple(heads), tuple(lines))


def ranks_table(judgement: Judgement) -> Table:
    """Each score of each design: the search's, and mean and rank at the table's rates and at the chosen ones."""
    tuned = judgement.plan.tuning_seed is not None
    heads = ["score", "trial", "searched", "mean at the table's rates", "rank"]
    heads += ["mean at tuned rates", "rank", "factors on the rates"] if tuned else []
    lines = []
    for name in shown_scores(judgement):
        for one in sorted(judgement.designs, key=lambda one: one.rank_tuned[name]):
            searched = one.searched.get(name)
            cells = [words(name), str(one.row.number), "" if searched is None else short(searched.value)]
            cells += [mean(one.fixed.get(name)), str(one.rank_fixed[name])]
            if tuned:
                factors = ", ".join(f"{task} {factor:g}" for task, factor in one.result.factors.items())
                cells += [mean(one.tuned.get(name)), str(one.rank_tuned[name]), factors]
            lines.append(tuple(cells))
    return Table("Ranks", tuple(heads), tuple(lines))


def seen_table(judgement: Judgement) -> Table:
    """What this number of seeds could see."""
    from nas.study.statistics import POWER

    heads = ("score", "sd over seeds", f"smallest difference seen in {POWER:.0%} of cases")
    heads += ("Kendall's tau of ranks at fixed and tuned rates",) if judgement.plan.tuning_seed is not None else ()
    lines = []
    for name in shown_scores(judgement):
        agreement = judgement.agreement[name]
        cells = (words(name), f"{judgement.sd[name]:.2g}", f"{judgement.detectable[name]:.2g}")
        cells += ("" if agreement is None else f"{agreement:.2f}",) if len(heads) > 3 else ()
        lines.append(cells)
    return Table(f"What {len(judgement.plan.seeds)} seeds can see", heads, tuple(lines))


def heading(objective: Objective) -> str:
    unit = unit_beside(objective.name, objective.unit) if objective.is_quality else ""
    return " ".join(filter(None, (words(objective.name), unit and f"[{unit}]", arrow(objective))))


def reference_mark(one: Judged) -> str:
    return f" ({one.row.origin.removeprefix('reference: ')})" if one.row.is_reference else ""


def interval(one: Estimate | None) -> str:
    return "broke" if one is None else f"{short(one.mean)} [{short(one.low)}, {short(one.high)}]"


def mean(one: Estimate | None) -> str:
    return "broke" if one is None else short(one.mean)


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def membership(one: Judged, judgement: Judgement, *, with_bars: bool) -> str:
    """`yes`, `no`, or on which of the two fronts a design is."""
    on_front, on_required = one.row.number in judgement.front, one.row.number in judgement.front_required
    if not with_bars or on_front == on_required:
        return "yes" if on_front else "no"
    return "without requirements" if on_front else "with requirements"


def as_data(study: str, judgement: Judgement) -> dict[str, Any]:
    """Everything that is known, for other programs."""
    return {
        "study": study,
        "plan": judgement.plan.to_dict(),
        "front": list(judgement.front),
        "front_required": list(judgement.front_required),
        "scores": {
            name: {
                "unit": OBJECTIVES[name].unit,
                "sd": judgement.sd[name],
                "detectable_difference": judgement.detectable[name],
                "rank_agreement": judgement.agreement[name],
            }
            for name in judgement.scores
        },
        "designs": [design_as_data(one) for one in judgement.designs],
        "broken": [{"number": row.number, "id": row.id, "reason": row.reason} for row in judgement.broken],
    }


def design_as_data(one: Judged) -> dict[str, Any]:
    def numbers(estimates: Mapping[str, Estimate], values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        return {name: asdict(found) | {"values": list(values[name])} for name, found in estimates.items()}

    return {
        "number": one.row.number,
        "id": one.row.id,
        "origin": one.row.origin,
        "layers": diagram(one.row.architecture),
        "factors": dict(one.result.factors),
        "tuned": numbers(one.tuned, one.result.tuned),
        "fixed": numbers(one.fixed, one.result.fixed),
        "rank_tuned": dict(one.rank_tuned),
        "rank_fixed": dict(one.rank_fixed),
        "searched": {name: number.value for name, number in one.searched.items()},
        "values": {name: number.to_dict() for name, number in one.row.values.items()},
        "probability_on_front": one.on_front,
        "probability_meets": one.meets,
        "probability_on_required_front": one.on_required_front,
        "failures": list(one.result.failures),
    }


def write_confirmation(directory: Path, study: str, judgement: Judgement) -> tuple[Path, Path]:
    """confirmation.md and confirmation.json in the study's folder."""
    text, data = directory / MARKDOWN, directory / JSON
    write_atomically(text, confirmation_text(study, judgement))
    write_atomically(data, json.dumps(as_data(study, judgement), indent=2) + "\n")
    return text, data
