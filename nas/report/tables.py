"""Tables of a study: `trials.csv` and `front.csv` for other programs, and the summary that a run ends with.

Files are written beside their final name and renamed, so that a reader never sees half a table.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nas.architecture import diagram
from nas.measurement import Measurement
from nas.objectives import OBJECTIVES, Objective, Requirement, with_unit
from nas.report.facts import facts
from nas.report.files import write_atomically
from nas.report.numbers import (
    ROBUST_MARK,
    heading,
    members,
    required_level,
    robust_mark,
    robust_sentence,
    samples,
    scales,
    short,
    shown_objectives,
    trained,
    units,
    value_names,
    with_spread,
)
from nas.report.rungs import rung_table
from nas.report.sources import flag_sentences
from nas.report.strips import strip_text
from nas.study.rows import NoiseFloor, Row, StudyResult

STAGES = ("count", "measure", "train")


def write_trials(path: Path, rows: Sequence[Row], objectives: Sequence[Objective]) -> None:
    """Every trial of every state, one a line; the columns of each number are those of `number_columns`."""
    columns = number_columns(rows, objectives)
    stages = dict.fromkeys((*STAGES, *(stage for row in rows for stage in row.seconds)))
    header = ["number", "id", "state", "reason", "origin", "pattern", *(column.head for column in columns)]
    header += [*(f"{stage} [s]" for stage in stages), "seed"]
    lines = [
        [
            *(row.number, row.id, row.state, row.reason or "", row.origin, diagram(row.architecture)),
            *(column.cell(row) for column in columns),
            *(row.seconds.get(stage, "") for stage in stages),
            row.seed,
        ]
        for row in rows
    ]
    _write_csv(path, header, lines)


def write_front(path: Path, result: StudyResult, objectives: Sequence[Objective]) -> None:
    """The members of the front without and with the requirements.

    `on_front` is true on the front without requirements, `meets_requirements` on the front with them; a design that
    only those beat that miss a requirement has the second alone. `robust` is empty where it is not known.
    """
    rows = members(result)
    columns = number_columns(rows, objectives)
    header = ["number", "id", "origin", "pattern", "on_front", "meets_requirements", "is_reference", "robust"]
    header += [*(column.head for column in columns), "seed"]
    lines = [
        [
            *(row.number, row.id, row.origin, diagram(row.architecture)),
            *map(_word, (row.number in result.front, row.number in result.front_required, row.is_reference)),
            "" if result.robust is None else "yes" if row.number in result.robust else "no",
            *(column.cell(row) for column in columns),
            row.seed,
        ]
        for row in rows
    ]
    _write_csv(path, header, lines)


@dataclass(frozen=True)
class Column:
    """One column of a number called `name`: its head, and what stands in it for a measurement."""

    name: str
    head: str
    read: Callable[[Measurement], object]

    def cell(self, row: Row) -> object:
        return self.read(row.values[self.name]) if self.name in row.values else ""


def number_columns(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[Column]:
    """Value with its unit, low, high and n of each number; source of what the measure stage gives; notes where any."""
    names = value_names(rows, objectives)
    unit = units(rows, names, objectives)
    columns = []
    for name in names:
        columns.append(Column(name, f"{name} [{unit[name]}]", lambda m: m.value))
        columns.append(Column(name, f"{name} low", lambda m: m.low))
        columns.append(Column(name, f"{name} high", lambda m: m.high))
        columns.append(Column(name, f"{name} n", lambda m: m.n))
        if name in OBJECTIVES and OBJECTIVES[name].stage == "measure":
            columns.append(Column(name, f"{name} source", lambda m: m.source))
        if any(row.values[name].notes for row in rows if name in row.values):
            columns.append(Column(name, f"{name} notes", lambda m: "; ".join(m.notes)))
    return columns


def _word(value: bool) -> str:
    return "true" if value else "false"


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_atomically(path, text.getvalue())


def print_summary(
    result: StudyResult,
    objectives: Sequence[Objective],
    requirements: Sequence[Requirement],
    console: Console,
    *,
    files: Sequence[Path] = (),
) -> None:
    """The final tables: fronts, noise floor, device and versions, proxy and deployment, and where the files are."""
    shown = shown_objectives(objectives, requirements)
    for title, rows in fronts(result, requirements):
        console.print(_front_table(title, rows, shown, result) if rows else f"[bold]{escape(title)}:[/] no design.")
        console.print()
    if sentences := remarks(result):
        console.print(Text("\n".join(sentences)))
        console.print()
    if result.noise:
        console.print(_noise_table(result.noise))
        for floor in result.noise:
            console.print(escape(noise_sentence(floor)))
        console.print()
    if (rungs := rung_table(result, shown)) is not None:
        console.print(rungs)
    console.print(facts_table(result))
    for path in files:
        console.print(f"[dim]written[/] {escape(str(path))}", soft_wrap=True)


def fronts(result: StudyResult, requirements: Sequence[Requirement]) -> list[tuple[str, tuple[Row, ...]]]:
    """Title and rows of the front with the requirements (when there are any) and of the front without."""
    count = len(trained(result.rows))
    by_number = {row.number: row for row in result.rows}
    plain = tuple(by_number[n] for n in result.front)
    if not requirements:
        return [(f"Front of {count} trained designs", plain)]
    bars = " and ".join(requirement_text(r, result) for r in requirements)
    kept = tuple(by_number[n] for n in result.front_required)
    return [(f"Front of {count} trained designs that reach {bars}", kept), ("Front without the requirements", plain)]


def remarks(result: StudyResult) -> list[str]:
    """What a reader of the fronts should know: what the mark of robust designs says, how many times were disturbed."""
    robust = robust_sentence(result, ROBUST_MARK)
    return [*([robust] if robust else []), *flag_sentences(result.rows)]


def requirement_text(requirement: Requirement, result: StudyResult) -> str:
    """The bar in words, with the level that it comes to."""
    level = required_level(requirement, result)
    if not requirement.relative_to_reference:
        return str(requirement)
    if level is None:
        return f"{requirement} (which was not measured)"
    return f"{requirement} ({with_unit(level, requirement.objective.unit, requirement.name)})"


def _front_table(title: str, rows: Sequence[Row], shown: Sequence[Objective], result: StudyResult) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0))
    names = [o.name for o in shown]
    scale = scales(rows, names, shown)
    with_bars = not all(row.number in result.front_required for row in rows)
    table.add_column("trial", justify="right")
    table.add_column("id", no_wrap=True)
    table.add_column("layers", overflow="fold")
    for objective in shown:
        head = f"{heading(objective, scale[objective.name])}\n{samples(rows, objective.name)}"
        table.add_column(head.strip(), justify="right", no_wrap=True)
    if with_bars:
        table.add_column("meets\nrequire-\nments")
    table.add_column("reference", overflow="fold")
    for row in rows:
        cells: list[str | Text] = [f"{row.number}{robust_mark(row, result)}", row.id, strip_text(row.architecture)]
        cells += [with_spread(row.values[n], scale[n]) if n in row.values else "" for n in names]
        if with_bars:
            cells.append("yes" if row.number in result.front_required else "no")
        table.add_row(*cells, Text(row.origin.removeprefix("reference: ") if row.is_reference else ""))
    return table


def _noise_table(noise: Sequence[NoiseFloor]) -> Table:
    title = "Noise floor: one design, other seeds"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0))
    for head in ("number", "unit", "values of the seeds", "sd over seeds", "sd between\nreference designs", "ratio"):
        table.add_column(head, justify="left" if head in ("number", "unit") else "right")
    for floor in noise:
        values = "  ".join(short(v) for v in floor.values)
        design = "not known" if floor.design_sd is None else f"{floor.design_sd:.2g}"
        ratio = f"{floor.design_sd / floor.sd:.1f}" if floor.design_sd is not None and floor.sd > 0 else ""
        table.add_row(floor.name, floor.unit, values, f"{floor.sd:.2g}", design, ratio)
    return table


def noise_sentence(floor: NoiseFloor) -> str:
    """Which differences of one number are none."""
    if floor.sd == 0:
        value = with_unit(floor.values[0], floor.unit, floor.name)
        return (
            f"All {len(floor.values)} seeds gave the same {floor.name} ({value}), so they do not tell which "
            "differences in it are none."
        )
    least = with_unit(float(f"{2 * floor.sd:.2g}"), floor.unit, floor.name)
    text = f"Differences in {floor.name} below {least} (two sd over {len(floor.values)} seeds) are none"
    if floor.design_sd is not None and floor.design_sd <= floor.sd:
        return f"{text}; the reference designs do not differ by more than their seeds do."
    return f"{text}."


def facts_table(result: StudyResult) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in facts(result):
        table.add_row(Text(name, style="dim"), Text(text))
    return table
