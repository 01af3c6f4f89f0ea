"""Small charts as inline SVG: bars and dots with whiskers, columns, lines. Colours come from the page's style.

Every chart carries a title and a description for readers who do not see it, and every series has a shape of its own
beside its colour. Coordinates are rounded, so that equal figures give equal bytes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

BAR, LABELS, VALUES = 26, 226, 70  # height of a bar; room for labels at the left, for figures at the right
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 12, 46  # margins of a chart with two axes
LINE, LETTER = 14, 6.6  # height of a line of text, width of a letter


class Bar(NamedTuple):
    """A value with its interval."""

    label: str
    value: float
    ends: tuple[float, float] | None
    kind: str  # class of the colour
    chosen: bool


class Point(NamedTuple):
    """A point of a series; `ends` is its interval upwards and downwards."""

    x: float
    y: float
    ends: tuple[float, float] | None = None
    label: str = ""


class Series(NamedTuple):
    """Points of one colour and shape."""

    name: str
    points: list[Point]


class Axis(NamedTuple):
    """One axis: its title, and the labels of whole numbers where it counts categories."""

    title: str
    categories: tuple[str, ...] = ()
    from_zero: bool = False


class Scale(NamedTuple):
    """Values from `low` to `high` on pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers from `low` or below it to `high` or above it; `whole` ones lie at least 1 apart."""
    if high - low <= 1e-9 * max(abs(low), abs(high)) or high - low < 1e-12:  # one value
        high = low + (abs(low) if abs(low) > 1e-9 else 1.0)
    raw = max((high - low) / about, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(factor * power for factor in factors if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars with whiskers, the figure at the end of each."""
    width, height = 720, len(bars) * BAR + 34
    marks = ticks(0.0, max(max(bar.value, bar.ends[1] if bar.ends else 0.0) for bar in bars))
    scale = Scale(0.0, marks[-1], LABELS, width - VALUES)
    parts = [_vertical_grid(scale, marks, height - 26)]
    for row, bar in enumerate(bars):
        middle, end = row * BAR + BAR / 2 + 4, scale.at(bar.value)
        chosen = ' class="chosen"' if bar.chosen else ""
        parts.append(f'<text x="{LABELS - 8}" y="{middle + 4}" text-anchor="end"{chosen}>{escape(bar.label)}</text>')
        parts.append(f'<rect class="{bar.kind}" x="{LABELS}" y="{middle - 8}" width="{end - LABELS:.1f}" height="16"/>')
        after = end
        if bar.ends:
            low, after = scale.at(bar.ends[0]), scale.at(bar.ends[1])
            path = f"M{low:.1f} {middle}H{after:.1f}M{low:.1f} {middle - 4}v8M{after:.1f} {middle - 4}v8"
            parts.append(f'<path class="whisker" d="{path}"/>')
        parts.append(f'<text x="{after + 6:.1f}" y="{middle + 4}"{chosen}>{bar.value:.4f}</text>')
    described = "; ".join(f"{bar.label} {bar.value:.4f}" for bar in bars)
    return _svg(width, height, title, described, parts)


def column_chart(
    title: str, columns: Sequence[tuple[str, float]], x: str, y: str, size: tuple[int, int] = (620, 260)
) -> str:
    """Upright columns side by side, such as a histogram.

    Args:
        title: for readers who do not see the chart.
        columns: label and height of each; of labels that do not fit all, every second, third, … is drawn.
        x: title of the axis along the columns.
        y: title of the axis of heights.
        size: width and height, pixels.
    """
    width, height = size
    bottom = height - BOTTOM
    marks = ticks(0.0, max(value for _, value in columns), whole=True)
    across, up = Scale(0.0, len(columns), LEFT, width - RIGHT), Scale(0.0, marks[-1], bottom, TOP)
    step = across.at(1) - across.at(0)
    parts = [_horizontal_grid(up, marks, width), _titles(Axis(x), Axis(y), width, height, bottom)]
    for place, (label, value) in enumerate(columns):
        left, top = across.at(place) + 0.1 * step, up.at(value)
        box = f'x="{left:.1f}" y="{top:.1f}" width="{0.8 * step:.1f}" height="{bottom - top:.1f}"'
        parts.append(f'<g class="s1"><rect class="mark" {box}><title>{escape(label)}: {value:,.6g}</title></rect></g>')
    parts += [_label(across.at(place + 0.5), bottom + 17, [columns[place][0]]) for place in _labelled(columns, step)]
    described = "; ".join(f"{label} {value:.6g}" for label, value in columns)
    return _svg(width, height, title, f"{y} by {x}. {described}", parts)


def _labelled(columns: Sequence[tuple[str, float]], step: float) -> range:
    """Places of the columns whose labels fit beside each other."""
    longest = max(len(label) for label, _ in columns)
    return range(0, len(columns), max(math.ceil((longest + 1.5) * LETTER / step), 1))


def dot_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Dots with whiskers over categories, the series side by side within each."""
    step = 0.7 / max(len(series), 1)
    moved = [
        Series(s.name, [p._replace(x=p.x + (i - (len(series) - 1) / 2) * step) for p in s.points])
        for i, s in enumerate(series)
    ]
    return _chart(title, moved, x, y, (620, 300), joined=False)


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis, size: tuple[int, int] = (620, 300)) -> str:
    """Lines with a mark at every point."""
    return _chart(title, series, x, y, size, joined=True)


def key(names: Sequence[str]) -> str:
    """The legend of a chart, as a list."""
    entries = "".join(
        f'<li><svg viewBox="-7 -7 14 14" aria-hidden="true"><g class="s{i % 6}">{_mark(i, 0, 0)}</g></svg>'
        f"{escape(name)}</li>"
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{entries}</ul>'


def _chart(title: str, series: Sequence[Series], x: Axis, y: Axis, size: tuple[int, int], *, joined: bool) -> str:
    width, height = size
    across, labels = _x_axis(series, x, width)
    bottom = height - BOTTOM
    height += LINE * (max(len(lines) for _, lines in labels) - 1)
    ys = [value for s in series for p in s.points for value in (p.y, *(p.ends or ()))]
    marks = ticks(0.0 if y.from_zero else min(ys), max(ys))
    up = Scale(marks[0], marks[-1], bottom, TOP)
    parts = [_horizontal_grid(up, marks, width), *(_label(across.at(at), bottom + 17, lines) for at, lines in labels)]
    parts.append(_titles(x, y, width, height, bottom))
    parts += [f'<g class="s{i % 6}">{_drawn(s.points, across, up, i, joined=joined)}</g>' for i, s in enumerate(series)]
    described = "; ".join(f"{s.name}: " + ", ".join(f"{p.y:.4g}" for p in s.points) for s in series)
    return _svg(width, height, title, f"{y.title} over {x.title}. {described}", parts)


def _x_axis(series: Sequence[Series], x: Axis, width: int) -> tuple[Scale, list[tuple[float, list[str]]]]:
    """The scale, and each label's place and lines."""
    if x.categories:
        across = Scale(-0.5, len(x.categories) - 0.5, LEFT, width - RIGHT)
        letters = max(int((width - LEFT - RIGHT) / len(x.categories) / LETTER), 1)
        return across, [
            (float(i), textwrap.wrap(text, letters, break_long_words=False) or [""])
            for i, text in enumerate(x.categories)
        ]
    xs = [p.x for s in series for p in s.points]
    marks = ticks(min(xs), max(xs), whole=all(float(value).is_integer() for value in xs))
    return Scale(marks[0], marks[-1], LEFT + 6, width - RIGHT - 6), [(mark, [f"{mark:g}"]) for mark in marks]


def _label(x: float, y: float, lines: Sequence[str]) -> str:
    spans = "".join(f'<tspan x="{x:.1f}" y="{y + LINE * i:.1f}">{escape(line)}</tspan>' for i, line in enumerate(lines))
    return f'<text text-anchor="middle">{spans}</text>'


def _drawn(points: Sequence[Point], across: Scale, up: Scale, shape: int, *, joined: bool) -> str:
    parts = []
    if joined and len(points) > 1:
        path = "L".join(f"{across.at(p.x):.1f} {up.at(p.y):.1f}" for p in points)
        parts.append(f'<path class="line" d="M{path}"/>')
    for p in points:
        x, y = across.at(p.x), up.at(p.y)
        if p.ends:
            parts.append(f'<path class="line" d="M{x:.1f} {up.at(p.ends[0]):.1f}V{up.at(p.ends[1]):.1f}"/>')
        parts.append(_mark(shape, x, y))
        if p.label:
            parts.append(f'<text x="{x + 7:.1f}" y="{y - 6:.1f}">{escape(p.label)}</text>')
    return "".join(parts)


def _mark(shape: int, x: float, y: float) -> str:
    """Circle, square, triangle, diamond, cross bar or wedge."""
    at = f"M{x:.1f} {y:.1f}"
    return (
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>',
        f'<path class="mark" d="{at}m-4-4h8v8h-8z"/>',
        f'<path class="mark" d="{at}m0-5l5 9h-10z"/>',
        f'<path class="mark" d="{at}m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z"/>',
        f'<path class="mark" d="{at}m-5-1.8h10v3.6h-10z"/>',
        f'<path class="mark" d="{at}m0 5l5-9h-10z"/>',
    )[shape % 6]


def _titles(x: Axis, y: Axis, width: int, height: int, bottom: int) -> str:
    return (
        f'<text class="quiet" x="{(LEFT + width - RIGHT) / 2}" y="{height - 8}" text-anchor="middle">'
        f'{escape(x.title)}</text><text class="quiet" transform="translate(13 {(TOP + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.title)}</text>'
    )


def _horizontal_grid(up: Scale, marks: Sequence[float], width: int) -> str:
    lines = (
        f'<path class="grid" d="M{LEFT} {up.at(m):.1f}H{width - RIGHT}"/>'
        f'<text class="quiet" x="{LEFT - 6}" y="{up.at(m) + 4:.1f}" text-anchor="end">{_short(m)}</text>'
        for m in marks
    )
    return "".join(lines)


def _short(value: float) -> str:
    """A figure in a few characters: 20k, 1.5M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


def _vertical_grid(across: Scale, marks: Sequence[float], height: int) -> str:
    lines = (
        f'<path class="grid" d="M{across.at(m):.1f} 2V{height}"/>'
        f'<text class="quiet" x="{across.at(m):.1f}" y="{height + 18}" text-anchor="middle">{m:.4g}</text>'
        for m in marks
    )
    return "".join(lines)


def _svg(width: int, height: int, title: str, described: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(described)}</desc>{''.join(parts)}</svg>"
    )
