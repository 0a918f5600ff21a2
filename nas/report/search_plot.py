"""Curves of searches that were replayed on a known space: how much of the true front each has after how much training.

Colour and dash tell variants apart together, so that neither is needed alone; random search is a thick grey line.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas.report.files import replace_atomically

# Okabe and Ito's colours, without the grey of random search.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
RANDOM_COLOUR = "#9a9a9a"
PANEL_WIDTH, PANEL_HEIGHT, LINE_HEIGHT = 6.0, 4.6, 0.2  # inches
STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One problem. curves and errors: by variant, the mean over searches and its standard error after 1, 2, ... units
    of training."""

    title: str
    curves: Mapping[str, Sequence[float]]
    errors: Mapping[str, Sequence[float]]


def write_search_plot(path: Path, panels: Sequence[Panel], *, title: str, caption: str, baseline: str) -> None:
    """Write the picture as PNG, a panel beside the other. baseline: the variant that the others must beat."""
    with matplotlib.rc_context(STYLE):
        figure = draw(panels, title, caption, baseline)
        replace_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def draw(panels: Sequence[Panel], title: str, caption: str, baseline: str) -> Figure:
    width = max(9.0, PANEL_WIDTH * len(panels))
    lines = textwrap.wrap(caption, width=round(width * 15))
    heights = [PANEL_HEIGHT, LINE_HEIGHT * len(lines) + 0.1]
    figure = Figure(figsize=(width, sum(heights) + 0.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = top.subplots(1, len(panels), squeeze=False, sharey=True).flatten()
    styles = line_styles([name for panel in panels for name in panel.curves], baseline)
    for axis, panel in zip(axes, panels, strict=True):
        draw_panel(axis, panel, styles)
    axes[0].set_ylabel("hypervolume, share of the true front's")
    bottom.text(0.01, 0.5, "\n".join(lines), ha="left", va="center", fontsize=8, color="#444444")
    return figure


def line_styles(names: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """How each variant is drawn, the same in every panel."""
    styles: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        number = sum(other != baseline for other in styles)
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        styles[name] = {"color": COLOURS[number % len(COLOURS)], "linestyle": dash, "linewidth": 1.4}
    if baseline in styles:
        styles[baseline] = {"color": RANDOM_COLOUR, "linestyle": "-", "linewidth": 3.0}
    return styles


def draw_panel(axis: Axes, panel: Panel, styles: Mapping[str, dict[str, Any]]) -> None:
    """Curves, best last in the legend's order of merit, with bands of one standard error."""
    order = sorted(panel.curves, key=lambda name: -panel.curves[name][-1])
    for name in order:
        curve, error = panel.curves[name], panel.errors[name]
        units = range(1, len(curve) + 1)
        axis.plot(units, curve, label=f"{name} ({curve[-1]:.3f})", **styles[name])
        low = [value - spread for value, spread in zip(curve, error, strict=True)]
        high = [value + spread for value, spread in zip(curve, error, strict=True)]
        axis.fill_between(units, low, high, color=styles[name]["color"], alpha=0.12, linewidth=0)
    axis.set_title(panel.title, loc="left", fontsize=10)
    axis.set_xlabel("training done, in units of one architecture's full training")
    axis.legend(loc="lower right", frameon=True, framealpha=0.85, edgecolor="none", fontsize=8)
