"""Places labels beside the points of a plot so that none covers a point, a line or another label.

Greedy: the labels are placed one after the other, each at the nearest of many positions around its point that is free
and nearer to its own point than to any other. A label far from its point is joined to it by a thin line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

DISTANCES = (7.0, 14.0, 24.0, 36.0, 50.0)  # points from the centre of the mark to the label
DIRECTIONS = 16
LEADER_FROM = 14.0  # points; nearer labels need no line
MARK_RADIUS = 4.5  # points


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at a point, in the coordinates of the data."""

    x: float
    y: float
    text: str
    bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A line along one axis that labels should not cover, in the coordinates of the data."""

    start: tuple[float, float]
    end: tuple[float, float]


def place_labels(
    axes: Axes,
    labels: Sequence[Label],
    marks: Sequence[tuple[float, float]],
    segments: Sequence[Segment],
    *,
    size: float,
) -> None:
    """Draw the labels clear of each other, `marks` and `segments`; the axes must have their final limits and size."""
    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[union-attr,attr-defined]
    pixels = figure.dpi / 72
    centres = [tuple(axes.transData.transform(mark)) for mark in marks]
    taken = [_box(x, y, 2 * MARK_RADIUS * pixels, 2 * MARK_RADIUS * pixels) for x, y in centres]
    taken += [_thin_box(axes, segment, pixels) for segment in segments]
    frame = axes.get_window_extent(renderer)
    for label in labels:
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            fontweight="bold" if label.bold else "normal",
            ha="center",
            va="center",
            zorder=6,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        extent = text.get_window_extent(renderer)
        x, y = axes.transData.transform((label.x, label.y))
        dx, dy, distance = _best_offset((x, y), extent.width, extent.height, taken, centres, frame, pixels)
        text.set_position((dx / pixels, dy / pixels))
        taken.append(_box(x + dx, y + dy, extent.width, extent.height))
        if distance >= LEADER_FROM:
            axes.annotate(
                "",
                (label.x, label.y),
                xytext=(dx / pixels, dy / pixels),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#777777", "lw": 0.6, "shrinkA": 6, "shrinkB": 4},
                zorder=1,
            )


def _thin_box(axes: Axes, segment: Segment, pixels: float) -> Bbox:
    x0, y0 = axes.transData.transform(segment.start)
    x1, y1 = axes.transData.transform(segment.end)
    return _box((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) + pixels, abs(y1 - y0) + pixels)


def _best_offset(
    point: tuple[float, float],
    width: float,
    height: float,
    taken: Sequence[Bbox],
    centres: Sequence[tuple[float, ...]],
    frame: Bbox,
    pixels: float,
) -> tuple[float, float, float]:
    """Offset in pixels and distance in points of the position with the least overlap, the nearest of those."""
    found: list[tuple[float, float, float, float]] = []
    for distance in DISTANCES:
        for step in range(DIRECTIONS):
            angle = 2 * math.pi * step / DIRECTIONS + math.pi / 4
            dx = math.cos(angle) * (distance * pixels + width / 2)
            dy = math.sin(angle) * (distance * pixels + height / 2)
            box = _box(point[0] + dx, point[1] + dy, width, height)
            overlap = sum(_overlap(box, other) for other in taken) + 4 * (_area(box) - _overlap(box, frame))
            own = _distance(box, point)
            strangers = sum(_distance(box, c) < own for c in centres if math.dist(c, point) > pixels)
            cost = overlap + strangers * _area(box) / 4
            if cost <= 0.5:
                return dx, dy, distance
            found.append((cost, dx, dy, distance))
    _, dx, dy, distance = min(found)
    return dx, dy, distance


def _distance(box: Bbox, point: Sequence[float]) -> float:
    """From the nearest edge of the box to the point."""
    dx = max(box.x0 - point[0], 0.0, point[0] - box.x1)
    dy = max(box.y0 - point[1], 0.0, point[1] - box.y1)
    return math.hypot(dx, dy)


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _area(box: Bbox) -> float:
    return float(box.width * box.height)


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(width, 0.0) * max(height, 0.0))
