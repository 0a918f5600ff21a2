"""`front.png`: the front in pairs of numbers, the layers of its members beneath, and under what it was measured.

Colours are those of Okabe and Ito; shape and filling say the same as colour. The front is a line of steps, because
between two members nothing was found: a straight line would promise designs that nobody trained.
"""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from nas.objectives import Objective, Requirement
from nas.report.facts import environment
from nas.report.files import replace_atomically
from nas.report.labels import Label, Segment, place_labels
from nas.report.numbers import (
    Scale,
    heading,
    is_robust,
    members,
    required_level,
    robust_sentence,
    samples,
    scales,
    shown_objectives,
    trained,
    with_spread,
    words,
)
from nas.report.panels import Pair, axis_title, columns, error, label_of, pairs, points, staircase, wide_range
from nas.report.sources import flag_sentences
from nas.report.strips import Cell, ffn_legend, ink_on, mixer_legend, strip
from nas.study.rows import Row, StudyResult

FRONT, OTHER, BAR = "#0072b2", "#9a9a9a", "#d55e00"
MAX_STRIPS = 24
RING = 12  # points, of the circle around a robust member
MAX_LETTERED = 32  # layers; in narrower cells a letter could not be read
PANEL_WIDTH, PANEL_HEIGHT, STRIP_HEIGHT, LINE_HEIGHT = 5.6, 4.0, 0.34, 0.2  # inches
STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
}


def write_plot(
    path: Path, result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]
) -> None:
    """Write the picture as PNG; a study without trained designs gives a picture that says so."""
    with matplotlib.rc_context(STYLE):
        figure = draw(result, objectives, requirements)
        replace_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def draw(result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]) -> Figure:
    """The whole figure: title, panels, strips, caption from top to bottom; sizes in inches."""
    panels = pairs(objectives, requirements)
    width = max(PANEL_WIDTH * columns(panels), 9.0)
    lines = -(-len(panels) // columns(panels))
    shown = members(result)[:MAX_STRIPS]
    caption = textwrap.wrap(caption_text(result, objectives), width=round(width * 15))
    quantities = shown_objectives(objectives, requirements)
    strips = 0.43 + STRIP_HEIGHT * (len(shown) + heads_height(shown, quantities)) if shown else 0.0
    heights = [PANEL_HEIGHT * lines, max(strips, 0.01), LINE_HEIGHT * len(caption) + 0.1]
    figure = Figure(figsize=(width, sum(heights) + 0.9), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06)  # type: ignore[union-attr]
    figure.suptitle(title_text(result), x=0.01, ha="left", fontsize=12, fontweight="bold")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = top.subplots(lines, columns(panels), squeeze=False).flatten()
    for axis, panel in zip(axes, panels, strict=False):
        draw_panel(axis, panel, result, objectives, requirements)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    top.legend(handles=mark_legend(result, requirements), loc="outside upper left", ncols=6, frameon=False)
    if shown:
        draw_strips(middle.subplots(), shown, result, quantities)
    bottom.text(0.01, 0.5, "\n".join(caption), ha="left", va="center", fontsize=8, color="#444444")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis, panel in zip(axes, panels, strict=False):
        label_points(axis, panel, result, requirements)
    return figure


def title_text(result: StudyResult) -> str:
    return f"{result.study}: {len(result.front)} of {len(trained(result.rows))} trained designs on the Pareto front"


def caption_text(result: StudyResult, objectives: Sequence[Objective]) -> str:
    """What ring and error bars are, which times were disturbed, the noise floor, n of each number, device, versions."""
    rows = trained(result.rows)
    text = (
        "Error bars: 20th to 80th percentile of measurements; of scores, one standard error or the standard deviation "
        "over seeds, whichever is larger."
    )
    floors = [f"{words(f.name)} {f.sd:.2g} {f.unit} (n={len(f.values)} seeds)" for f in result.noise]
    taken = [f"{words(o.name)} {samples(rows, o.name)}" for o in objectives if samples(rows, o.name)]
    facts = [f"{name.removeprefix('versions.')} {value}" for name, value in environment(result)]
    hidden = len(members(result)) - MAX_STRIPS
    sentences = [
        robust_sentence(result, "ringed"),
        *flag_sentences(result.rows),
        f"The layers of {hidden} more members are in front.csv." if hidden > 0 else "",
        f"Standard deviation over seeds: {', '.join(floors)}." if floors else "",
        f"Samples: {', '.join(taken)}." if taken else "",
        f"{', '.join(facts)}." if facts else "",
    ]
    return " ".join(filter(None, [text, *sentences]))


def names(objectives: Sequence[Objective]) -> list[str]:
    return [o.name for o in objectives]


def scale_of(panel: Pair, result: StudyResult) -> tuple[Scale, Scale]:
    """Scales of both axes, over all trained rows."""
    shown = [o for o in (panel.x, panel.y) if o is not None]
    found = scales(trained(result.rows), names(shown), shown)
    trial = Scale(factor=1.0, unit="", decimals=0)
    return (trial if panel.x is None else found[panel.x.name]), found[panel.y.name]


def draw_panel(
    axes: Axes, panel: Pair, result: StudyResult, objectives: Sequence[Objective], requirements: Sequence[Requirement]
) -> None:
    scale_x, scale_y = scale_of(panel, result)
    axes.set_xlabel(axis_title(panel.x, scale_x))
    axes.set_ylabel(axis_title(panel.y, scale_y))
    axes.margins(0.12, 0.14)
    if panel.x is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    found = [(row, x * scale_x.factor, y * scale_y.factor) for row, x, y in points(result, panel)]
    if not found:
        axes.text(0.5, 0.5, "no trained design", transform=axes.transAxes, ha="center", color=OTHER)
        axes.set(xticks=[], yticks=[])
        return
    for row, x, y in found:
        x_error = [[e * scale_x.factor] for e in error(row, panel.x, result)]
        y_error = [[e * scale_y.factor] for e in error(row, panel.y, result)]
        draw_point(axes, row, x, y, x_error, y_error, result)
    if steps := corners(panel, result):
        axes.plot(*zip(*steps, strict=True), color=FRONT, linewidth=1.3, alpha=0.75, zorder=2)
    for axis, level in bars(panel, result, requirements):
        line = axes.axhline if axis == "y" else axes.axvline
        line(level, color=BAR, linestyle="--", linewidth=1.1, zorder=1)
    if panel.x is not None and wide_range([x for _, x, _ in found]):
        use_log_axis(axes)


def corners(panel: Pair, result: StudyResult) -> list[tuple[float, float]]:
    """The front's line in the scales of the panel; empty where it is no staircase."""
    if panel.x is None or not panel.has_staircase:
        return []
    scale_x, scale_y = scale_of(panel, result)
    front = [
        (x * scale_x.factor, y * scale_y.factor) for row, x, y in points(result, panel) if row.number in result.front
    ]
    return staircase(front, maximize_x=panel.x.direction == "maximize", maximize_y=panel.y.direction == "maximize")


def bars(panel: Pair, result: StudyResult, requirements: Sequence[Requirement]) -> list[tuple[str, float]]:
    """Axis (`x` or `y`) and level, in the panel's scale, of each requirement on one of its numbers."""
    axes = (("x", panel.x, scale_of(panel, result)[0]), ("y", panel.y, scale_of(panel, result)[1]))
    found = [
        (axis, required_level(requirement, result), scale.factor)
        for requirement in requirements
        for axis, objective, scale in axes
        if requirement.objective == objective
    ]
    return [(axis, level * factor) for axis, level, factor in found if level is not None]


def use_log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_point(
    axes: Axes,
    row: Row,
    x: float,
    y: float,
    x_error: list[list[float]],
    y_error: list[list[float]],
    result: StudyResult,
) -> None:
    on_front = row.number in {*result.front, *result.front_required}
    colour = FRONT if on_front else OTHER
    hollow = on_front and row.number not in result.front_required
    if is_robust(row, result):
        axes.plot(x, y, "o", markersize=RING, markerfacecolor="none", markeredgecolor=FRONT, zorder=4)
    axes.errorbar(
        x,
        y,
        xerr=x_error,
        yerr=y_error,
        fmt="D" if row.is_reference else "o",
        markersize=7 if on_front else 5,
        color=colour,
        markerfacecolor="white" if hollow else colour,
        markeredgewidth=1.4,
        ecolor=colour,
        elinewidth=0.8,
        capsize=0,
        zorder=4 if on_front else 3,
    )


def mark_legend(result: StudyResult, requirements: Sequence[Requirement]) -> list[Line2D]:
    """What the marks mean; only what can occur."""

    def mark(text: str, shape: str, colour: str, fill: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=shape, color=colour, markerfacecolor=fill, label=text, markersize=7)

    handles = [mark("on the front", "o", FRONT, FRONT)]
    if any(number not in result.front_required for number in result.front):
        handles.append(mark("on the front, misses the requirement", "o", FRONT, "white"))
    if result.robust:
        handles.append(Line2D([], [], linestyle="", marker="o", color=FRONT, fillstyle="none", label="robust", ms=RING))
    if any(row.number not in {*result.front, *result.front_required} for row in trained(result.rows)):
        handles.append(mark("beaten", "o", OTHER, OTHER))
    if any(row.is_reference for row in result.rows):
        handles.append(mark("reference design", "D", "#444444", "#444444"))
    if requirements:
        handles.append(Line2D([], [], color=BAR, linestyle="--", label="required"))
    return handles


def label_points(axes: Axes, panel: Pair, result: StudyResult, requirements: Sequence[Requirement]) -> None:
    """Names beside references and members of the front, clear of marks, error bars and the front's line."""
    scale_x, scale_y = scale_of(panel, result)
    on_front = {*result.front, *result.front_required}
    line = corners(panel, result)
    segments = [Segment(start=start, end=end) for start, end in pairwise(line)]
    for axis, level in bars(panel, result, requirements):
        low, high = axes.get_xlim() if axis == "y" else axes.get_ylim()
        ends = ((low, level), (high, level)) if axis == "y" else ((level, low), (level, high))
        segments.append(Segment(start=ends[0], end=ends[1]))
    labels, marks = [], []
    for row, data_x, data_y in points(result, panel):
        x, y = data_x * scale_x.factor, data_y * scale_y.factor
        left, right = (e * scale_x.factor for e in error(row, panel.x, result))
        down, up = (e * scale_y.factor for e in error(row, panel.y, result))
        marks.append((x, y))
        segments += [
            Segment(start=(x - left, y), end=(x + right, y)),
            Segment(start=(x, y - down), end=(x, y + up)),
        ]
        if text := label_of(row, on_front=row.number in on_front):
            labels.append(Label(x=x, y=y, text=text, bold=row.number in on_front))
    place_labels(axes, labels, marks, segments, size=7.5)


def heads(rows: Sequence[Row], shown: Sequence[Objective]) -> list[str]:
    """The heads of the numbers beside the strips, in lines."""
    scale = scales(rows, names(shown), shown)
    return [heading(objective, scale[objective.name]) for objective in shown]


def heads_height(rows: Sequence[Row], shown: Sequence[Objective]) -> float:
    """Room for the heads, in strips."""
    return 0.1 + 0.5 * max(head.count("\n") + 1 for head in heads(rows, shown))


def draw_strips(axes: Axes, rows: Sequence[Row], result: StudyResult, shown: Sequence[Objective]) -> None:
    """One strip a member: mixers above, FFNs in a thin row below; its numbers to the right."""
    longest = max(len(row.architecture.blocks) for row in rows)
    axes.set(xlim=(-0.28 * longest, 1.9 * longest), ylim=(-len(rows), heads_height(rows, shown)))
    axes.set_axis_off()
    scale = scales(rows, names(shown), shown)
    text = {"va": "center", "fontsize": 8}
    step = 0.88 * longest / max(len(shown), 1)
    for index, head in enumerate(heads(rows, shown)):
        axes.text(1.03 * longest + index * step, 0.1, head, va="bottom", fontsize=8, color="#444444")
    for index, row in enumerate(rows):
        centre = -index - 0.5
        weight = "bold" if row.number in result.front_required else "normal"
        axes.text(-0.01 * longest, centre, label_of(row, on_front=True), ha="right", fontweight=weight, **text)
        for layer, cell in enumerate(strip(row.architecture)):
            draw_cell(axes, layer, centre, cell, lettered=longest <= MAX_LETTERED)
        for column, objective in enumerate(shown):
            number = row.values.get(objective.name)
            shown_number = "" if number is None else with_spread(number, scale[objective.name])
            axes.text(1.03 * longest + column * step, centre, shown_number, **text)
    handles = [
        Patch(facecolor=p.colour, edgecolor="#444444", label=f"{p.letter}  {p.name}")
        for p in mixer_legend(r.architecture for r in rows)
    ]
    handles += [Patch(facecolor=c, edgecolor="#444444", label=n) for n, c in ffn_legend(r.architecture for r in rows)]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=6, frameon=False, fontsize=8)


def draw_cell(axes: Axes, layer: int, centre: float, cell: Cell, *, lettered: bool) -> None:
    left = float(layer)
    for part in cell.parts:
        axes.add_patch(Rectangle((left, centre - 0.14), part.share, 0.5, facecolor=part.colour, edgecolor="none"))
        if lettered:
            colour, middle = ink_on(part.colour), left + part.share / 2
            axes.text(middle, centre + 0.1, part.letter, ha="center", va="center", fontsize=7, color=colour)
        left += part.share
    axes.add_patch(Rectangle((layer, centre - 0.36), 1, 0.18, facecolor=cell.ffn_colour, edgecolor="none"))
    axes.add_patch(Rectangle((layer, centre - 0.36), 1, 0.72, facecolor="none", edgecolor="#444444", linewidth=0.6))
