"""`front.html`: the front as one page that works without a network, years later, from a USB stick.

* plotly's library, the script and the data stand in the file itself.
* Which two numbers stand against each other is chosen on the page; the points come as data, the drawing is `page.js`.
* All text is escaped: names and reasons may come from a stranger's file. Data for the script is JSON with `<`, `>` and
  `&` written as escapes, so that no text can end the script.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from nas.architecture import diagram, to_yaml
from nas.objectives import Objective, Requirement
from nas.report.facts import facts
from nas.report.files import write_atomically
from nas.report.numbers import (
    arrow,
    in_full,
    is_robust,
    required_level,
    robust_mark,
    samples,
    scales,
    shown_objectives,
    trained,
    unit_beside,
    value_names,
    with_spread,
    words,
)
from nas.report.panels import axis_title, error, label_of, pairs
from nas.report.rungs import rung_section
from nas.report.sources import flags
from nas.report.strips import ffn_legend, mixer_legend, strip_svg
from nas.report.tables import fronts, noise_sentence, remarks
from nas.study.rows import Row, StudyResult

CONTENT_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_page(
    path: Path, result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]
) -> None:
    """Write the page; a study without trained designs gives a page that says so."""
    write_atomically(path, page(result, objectives, requirements))


def page(result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]) -> str:
    """The whole page as text."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    data = as_script_data(plot_data(result, objectives, requirements))
    title = escape(f"{result.study}: Pareto front")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{style}</style></head><body>",
            f"<h1>{title}</h1>",
            f"<p>{len(result.front)} of {len(trained(result.rows))} trained designs are on the front.</p>",
            '<div class="choice"><label>across <select id="x"></select></label>',
            '<label>up <select id="y"></select></label>',
            '<label><input type="checkbox" id="log"> logarithmic across</label></div>',
            '<div id="plot"></div>',
            *front_sections(result, objectives, requirements),
            *(f"<p>{escape(sentence)}</p>" for sentence in remarks(result)),
            noise_section(result),
            *rung_section(result, shown_objectives(objectives, requirements)),
            facts_section(result),
            f"<script>{get_plotlyjs()}</script>",
            f"<script>const DATA = {data};\n{script}</script>",
            "</body></html>",
        ]
    )


def as_script_data(data: dict[str, Any]) -> str:
    """JSON that is safe inside a script element; a number that is no number is an error."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plot_data(
    result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]
) -> dict[str, Any]:
    """What `page.js` draws: axes with titles, every trained row with its numbers, errors and text, and the start."""
    rows = trained(result.rows)
    shown = shown_objectives(objectives, requirements)
    scale = scales(rows, [o.name for o in shown], shown)
    levels = {r.name: required_level(r, result) for r in requirements}
    first = pairs(objectives, requirements)[0]
    axes = [
        {
            "name": o.name,
            "title": axis_title(o, scale[o.name]),
            "sign": 1 if o.direction == "minimize" else -1,
            "bar": None if (level := levels.get(o.name)) is None else level * scale[o.name].factor,
            "is_objective": o in objectives,
        }
        for o in shown
    ]
    trial = {"name": "trial", "title": "trial", "sign": 1, "bar": None, "is_objective": False}
    return {
        "axes": [*axes, trial],
        "start": ["trial" if first.x is None else first.x.name, first.y.name],
        "rows": [row_data(row, result, shown) | scaled(row, result, shown) for row in rows],
    }


def row_data(row: Row, result: StudyResult, shown: Sequence[Objective]) -> dict[str, Any]:
    on_front = row.number in {*result.front, *result.front_required}
    numbers = [in_full(name, row.values[name]) for name in value_names([row], shown) if name in row.values]
    disturbed = dict.fromkeys(flag for measurement in row.values.values() for flag in flags(measurement))
    lines = [f"trial {row.number} ({row.origin}), id {row.id}", *pattern_lines(row), *numbers, *disturbed]
    return {
        "number": row.number,
        "label": escape(label_of(row, on_front=on_front)),
        "on_front": row.number in result.front,
        "kind": "front" if on_front else "other",
        "meets": row.number in result.front_required or not on_front,
        "is_reference": row.is_reference,
        "robust": is_robust(row, result),
        "hover": "<br>".join(map(escape, [*lines, "robust"] if is_robust(row, result) else lines)),
    }


def pattern_lines(row: Row) -> list[str]:
    """The layers, 60 characters a line."""
    text = diagram(row.architecture)
    return [text[start : start + 60] for start in range(0, len(text), 60)]


def scaled(row: Row, result: StudyResult, shown: Sequence[Objective]) -> dict[str, Any]:
    """Values and errors in the units of the axes."""
    scale = scales(trained(result.rows), [o.name for o in shown], shown)
    found = [o for o in shown if o.name in row.values]
    return {
        "values": {o.name: row.values[o.name].value * scale[o.name].factor for o in found} | {"trial": row.number},
        "errors": {o.name: [e * scale[o.name].factor for e in error(row, o, result)] for o in found},
    }


def front_sections(
    result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]
) -> list[str]:
    """A heading and a table for the front with the requirements, when there are any, and for the one without."""
    sections = []
    for title, rows in fronts(result, requirements):
        body = front_table(rows, result, objectives, requirements) if rows else "<p>No design.</p>"
        sections.append(f"<h2>{escape(title)}</h2>{body}")
    return sections


def front_table(
    rows: Sequence[Row], result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]
) -> str:
    """One line a member, its architecture file and the notes on its numbers in fold-outs, the legend of the strips."""
    shown = shown_objectives(objectives, requirements)
    names = value_names(rows, shown)
    scale = scales(rows, names, shown)
    arrows = {o.name: f" {arrow(o)}" for o in shown}
    heads = ["trial", "id", "layers"]
    for name in names:
        beside = (unit_beside(name, scale[name].unit), scale[name].label, samples(rows, name))
        small = escape(", ".join(filter(None, beside)))
        heads.append(f"{escape(words(name))}{arrows.get(name, '')}<br><small>{small}</small>")
    heads += ["requirements"] if requirements else []
    lines = []
    for row in rows:
        cells = [escape(label_of(row, on_front=True)) + robust_mark(row, result), escape(row.id), strip_and_file(row)]
        cells += [with_spread(row.values[n], scale[n]) if n in row.values else "" for n in names]
        cells += ["met" if row.number in result.front_required else "missed"] if requirements else []
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>{legend(rows)}'


def strip_and_file(row: Row) -> str:
    notes = "\n".join(f"{words(name)}: {'; '.join(m.notes)}" for name, m in row.values.items() if m.notes)
    return (
        f"{strip_svg(row.architecture)}{fold_out('architecture file', to_yaml(row.architecture))}"
        f"{fold_out('notes on the numbers', notes) if notes else ''}"
    )


def fold_out(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def legend(rows: Sequence[Row]) -> str:
    architectures = [row.architecture for row in rows]
    entries = [(f"{part.letter} {part.name}", part.colour) for part in mixer_legend(architectures)]
    entries += ffn_legend(architectures)
    marks = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in entries)
    return f'<p class="legend">{marks}</p>'


def noise_section(result: StudyResult) -> str:
    """The numbers of the seeds, and which differences are none."""
    if not result.noise:
        return "<h2>Noise floor</h2><p>Not measured: which differences are none is not known.</p>"
    lines = "".join(
        f"<tr><td>{escape(words(floor.name))}</td><td>{escape(floor.unit)}</td>"
        f"<td>{', '.join(f'{v:.4g}' for v in floor.values)}</td><td>{floor.sd:.2g}</td>"
        f"<td>{'not known' if floor.design_sd is None else f'{floor.design_sd:.2g}'}</td></tr>"
        for floor in result.noise
    )
    sentences = "".join(f"<p>{escape(noise_sentence(floor))}</p>" for floor in result.noise)
    heads = ("number", "unit", "values of the seeds", "sd over seeds", "sd between reference designs")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f"<h2>Noise floor: one design, other seeds</h2><table><tr>{head}</tr>{lines}</table>{sentences}"


def facts_section(result: StudyResult) -> str:
    """Settings, environment, and how the proxy becomes the deployed network."""
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in facts(result))
    return f'<h2>Settings and environment</h2><table class="facts">{lines}</table>'
