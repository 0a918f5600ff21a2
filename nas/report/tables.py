"""Tables of a study: `trials.csv` and `front.csv` for other programs, and the summary that a run ends with.

Files are written beside their final name and renamed, so that a reader never sees half a table.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nas.architecture import Architecture, diagram
from nas.objectives import Objective, Requirement, with_unit
from nas.report.files import write_atomically
from nas.report.numbers import (
    heading,
    members,
    required_level,
    row_by_number,
    samples,
    scales,
    short,
    shown_objectives,
    trained,
    units,
    value_names,
    with_spread,
)
from nas.report.strips import strip_text
from nas.study.rows import NoiseFloor, Row, StudyResult

STAGES = ("count", "measure", "train")


def write_trials(path: Path, rows: Sequence[Row], objectives: Sequence[Objective]) -> None:
    """Every trial of every state, one a line. Each number has columns for value (with its unit), low, high and n."""
    names = value_names(rows, objectives)
    unit = units(rows, names, objectives)
    stages = dict.fromkeys((*STAGES, *(stage for row in rows for stage in row.seconds)))
    header = ["number", "id", "state", "reason", "origin", "pattern", *_value_header(names, unit)]
    header += [*(f"{stage} [s]" for stage in stages), "seed"]
    lines = [
        [
            *(row.number, row.id, row.state, row.reason or "", row.origin, diagram(row.architecture)),
            *_value_cells(row, names),
            *(row.seconds.get(stage, "") for stage in stages),
            row.seed,
        ]
        for row in rows
    ]
    _write_csv(path, header, lines)


def write_front(path: Path, result: StudyResult, objectives: Sequence[Objective]) -> None:
    """The members of the front without and with the requirements.

    `on_front` is true on the front without requirements, `meets_requirements` on the front with them; a design that
    only those beat that miss a requirement has the second alone.
    """
    rows = members(result)
    names = value_names(rows, objectives)
    header = ["number", "id", "origin", "pattern", "on_front", "meets_requirements", "is_reference"]
    header += [*_value_header(names, units(rows, names, objectives)), "seed"]
    lines = [
        [
            *(row.number, row.id, row.origin, diagram(row.architecture)),
            *map(_word, (row.number in result.front, row.number in result.front_required, row.is_reference)),
            *_value_cells(row, names),
            row.seed,
        ]
        for row in rows
    ]
    _write_csv(path, header, lines)


def _value_header(names: Sequence[str], unit: Mapping[str, str]) -> list[str]:
    return [cell for n in names for cell in (f"{n} [{unit[n]}]", f"{n} low", f"{n} high", f"{n} n")]


def _value_cells(row: Row, names: Sequence[str]) -> list[object]:
    found = [row.values.get(name) for name in names]
    return [cell for m in found for cell in (("", "", "", "") if m is None else (m.value, m.low, m.high, m.n))]


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
    if result.noise:
        console.print(_noise_table(result.noise))
        for floor in result.noise:
            console.print(escape(noise_sentence(floor)))
        console.print()
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
        head = f"{heading(objective, scale[objective.name].unit)}\n{samples(rows, objective.name)}"
        table.add_column(head.strip(), justify="right", no_wrap=True)
    if with_bars:
        table.add_column("meets\nrequire-\nments")
    table.add_column("reference", overflow="fold")
    for row in rows:
        cells: list[str | Text] = [str(row.number), row.id, strip_text(row.architecture)]
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
    least = with_unit(float(f"{2 * floor.sd:.2g}"), floor.unit, floor.name)
    text = f"Differences in {floor.name} below {least} (two sd over {len(floor.values)} seeds) are none"
    if floor.design_sd is not None and floor.design_sd <= floor.sd:
        return f"{text}; the reference designs do not differ by more than their seeds do."
    return f"{text}."


def facts(result: StudyResult) -> list[tuple[str, str]]:
    """What a reader needs to judge the numbers: trials by state, time, proxy and deployment, environment, settings."""
    states = {
        state: sum(r.state == state for r in result.rows) for state in dict.fromkeys(r.state for r in result.rows)
    }
    share = f" ({result.tool_seconds / result.seconds:.1%})" if result.seconds > 0 else ""
    lines = [
        ("study", result.study),
        ("trials", ", ".join(f"{count} {state}" for state, count in states.items()) or "none"),
        ("time", f"{result.seconds:.0f} s, of which the tool's own {result.tool_seconds:.1f} s{share}"),
    ]
    if result.hypervolume is not None:
        lines.append(("hypervolume", short(result.hypervolume)))
    if mapping := mapping_text(result):
        lines.append(("proxy -> deployment", mapping))
    lines += [(f"environment: {name}", text) for name, text in flat(result.environment)]
    return lines + [(f"setting: {name}", text) for name, text in flat(result.settings)]


def facts_table(result: StudyResult) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in facts(result):
        table.add_row(Text(name, style="dim"), Text(text))
    return table


def mapping_text(result: StudyResult) -> str:
    """How the reference design, or the first trained one, was resized for the measurements."""
    candidates = [row_by_number(result, result.reference), *trained(result.rows)]
    row = next((r for r in candidates if r is not None and r.deployed is not None), None)
    if row is None or row.deployed is None:
        return ""
    return f"trial {row.number}: {_size(row.architecture)} -> {_size(row.deployed)}"


def _size(architecture: Architecture) -> str:
    return f"{len(architecture.blocks)} blocks, d_model {architecture.d_model}, vocabulary {architecture.vocab_size}"


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names and texts, in order."""
    lines: list[tuple[str, str]] = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            lines.append((f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            lines.append((f"{prefix}{name}", str(value)))
    return lines
