"""Charts: arrays in, SVG text out. Colours come from the page's style sheet, and never stand alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from onepass.features.names import printable

WIDTH = 460
"""Units of every chart across; a phone shows it whole, a wide page two side by side."""

SHAPES = 8
"""Shapes of marks; the same, in the same order, as those of the map."""

_LEFT, _RIGHT, _BOTTOM, _TOP = 46, 14, 44, 30


@dataclass(frozen=True)
class Mark:
    """A value on the line of a row: which, and in which series."""

    value: float
    series: int = 0


@dataclass(frozen=True)
class Line:
    """A row of `rows_chart`.

    Attributes:
        name: On its left.
        text: On its right.
        marks: Values.
        span: From where to where a line runs: an interval, or from one value to another.
        strong: Whether the name stands out.
    """

    name: str
    text: str
    marks: Sequence[Mark]
    span: tuple[float, float] | None = None
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it is.
        low, high: Its ends.
        percent: Whether values are shares.
        log: Whether equal ratios take equal room.
    """

    label: str
    low: float
    high: float
    percent: bool = False
    log: bool = False

    @classmethod
    def around(cls, label: str, values: Sequence[float], *, percent: bool = False, log: bool = False) -> "Axis":
        """An axis with a little room around finite values; of shares it ends at 0 and 1."""
        known = [float(value) for value in values if math.isfinite(value) and (value > 0 or not log)] or [0.1, 1.0]
        low, high = min(known), max(known)
        if log:
            return cls(label, low / 1.3, high * 1.3, percent, log)
        room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        ends = (max(low - room, 0.0), min(high + room, 1.0)) if percent else (low - room, high + room)
        return cls(label, *ends, percent, log)

    def at(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        low, high, value = (math.log(max(v, 1e-12)) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / ((high - low) or 1.0)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values between the ends.

        >>> Axis("x", 0.0, 1.0).ticks(), Axis("seconds", 0.03, 40.0, log=True).ticks()
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.1, 1.0, 10.0])
        >>> Axis("images", 150, 5800, log=True).ticks()
        [200.0, 500.0, 1000.0, 2000.0, 5000.0]
        """
        if self.log:
            powers = [
                10.0**power for power in range(math.floor(math.log10(self.low)), 1 + math.ceil(math.log10(self.high)))
            ]
            between = [
                [tick for power in powers for factor in factors if self.low <= (tick := factor * power) <= self.high]
                for factors in ((1,), (1, 2, 5))
            ]
            few = between[1] if len(between[1]) > 1 else [self.low, self.high]
            return next((found for found in between if len(found) > 2), few)
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.85 * rough)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) + 0.0 for i in range(first, last + 1)]

    def text(self, value: float) -> str:
        if self.percent:
            return f"{100 * value:.3g} %"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class Series:
    """A line of `plot`.

    Attributes:
        name: In the legend; "" for none there.
        x, y: (n,) its points.
        low, high: (n,) a band around it, if it has one.
        joined: Whether a line runs through the points.
        marked: Whether points are marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    joined: bool = True
    marked: bool = True


def hardest(lines: Sequence[Line], most: int = 30) -> list[Line]:
    """The lines with the lowest values, in their order: what a chart shows of many, whose table has all."""
    order = sorted(range(len(lines)), key=lambda i: sum(mark.value for mark in lines[i].marks))
    return [lines[i] for i in sorted(order[:most])]


def rows_chart(lines: Sequence[Line], axis: Axis, *, alt: str, legend: Sequence[str] = ()) -> str:
    """Rows of marks on one axis: intervals, or several values of each name."""
    step, top = 38, 10 + 20 * len(_legend_lines(legend))
    bottom = top + step * len(lines)
    height = bottom + (42 if axis.label else 26)

    def x(value: float) -> float:
        return 8 + min(max(axis.at(value), 0.0), 1.0) * (WIDTH - 16)

    parts = [*_legend(legend)]
    for tick in axis.ticks():
        parts.append(_line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(_text(x(tick), bottom + 16, axis.text(tick), _anchor(x(tick)), "tick"))
    for i, line in enumerate(lines):
        y = top + step * i
        shown = _cut(line.name, 58 - len(line.text))
        parts.append(_text(4, y + 15, shown, "start", "name strong" if line.strong else "name"))
        parts.append(_text(WIDTH - 4, y + 15, line.text, "end", "value"))
        if line.span:
            parts.append(_line(x(line.span[0]), y + 27, x(line.span[1]), y + 27, f"span s{line.marks[0].series}"))
        parts += [_mark(x(mark.value), y + 27, mark.series) for mark in line.marks if math.isfinite(mark.value)]
    parts.append(_text(WIDTH / 2, bottom + 34, axis.label, "middle", "label"))
    return _svg(height, parts, alt)


def plot(series: Sequence[Series], x: Axis, y: Axis, *, alt: str, diagonal: bool = False) -> str:
    """Lines or points over two axes."""
    names = [one.name for one in series if one.name]
    top = _TOP + 20 * len(_legend_lines(names))
    height = top + 300

    def place(a: float, b: float) -> tuple[float, float]:
        return (
            _LEFT + x.at(a) * (WIDTH - _LEFT - _RIGHT),
            height - _BOTTOM - y.at(b) * (height - _BOTTOM - top),
        )

    parts = [*_legend(names), *_axes(x, y, top, height)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(_line(*place(low, low), *place(high, high), "diagonal"))
    for i, one in enumerate(series):
        points = [place(a, b) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(a) and math.isfinite(b)]
        if one.low is not None and one.high is not None:
            upper = [place(a, b) for a, b in zip(one.x, one.high, strict=True)]
            lower = [place(a, b) for a, b in zip(one.x, one.low, strict=True)]
            if one.joined:
                parts.append(f'<path class="band s{i}" d="{_path([*upper, *lower[::-1]])}Z"/>')
            else:
                parts += [_line(*a, *b, f"span s{i}") for a, b in zip(upper, lower, strict=True)]
        if one.joined and points:
            parts.append(f'<path class="line s{i} d{i % 4}" d="{_path(points)}"/>')
        if one.marked:
            size = 5.0 if len(points) <= 60 else 3.0
            parts += [_mark(*point, i, size) for point in points]
    return _svg(height, parts, alt)


def named_points(
    names: Sequence[str], x_values: Sequence[float], y_values: Sequence[float], x: Axis, y: Axis, *, alt: str
) -> str:
    """Points with their names beside them; a name goes where it covers no other."""
    height = _TOP + 320
    parts = _axes(x, y, _TOP, height)
    places = [
        (_LEFT + x.at(a) * (WIDTH - _LEFT - _RIGHT), height - _BOTTOM - y.at(b) * (height - _BOTTOM - _TOP))
        for a, b in zip(x_values, y_values, strict=True)
    ]
    taken = [(left - 7, left + 7, top + 4) for left, top in places]
    for i, (name, (left, top)) in enumerate(zip(names, places, strict=True)):
        name = _cut(name, 24)
        length = 7.0 * len(name)
        backwards = left + 9 + length > WIDTH
        start = left - 9 - length if backwards else left + 9
        down = top + 4
        while any(abs(down - t) < 13 and start < e and s < start + length for s, e, t in taken):
            down += 13
        taken.append((start, start + length, down))
        parts.append(_mark(left, top, i, 6.0))
        parts.append(_text(start + length if backwards else start, down, name, "end" if backwards else "start", "name"))
    return _svg(height, parts, alt)


def histogram(values: np.ndarray, x: Axis, *, alt: str, bins: int = 20) -> str:
    """How many of (n,) values lie where."""
    counts, edges = np.histogram(np.clip(values, x.low, x.high), bins=bins, range=(x.low, x.high))
    height, y = _TOP + 240, Axis("images", 0.0, float(max(counts.max() * 1.06, 1)))
    parts = _axes(x, y, _TOP, height)
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        left, right = (_LEFT + x.at(v) * (WIDTH - _LEFT - _RIGHT) for v in (low, high))
        tall = y.at(count) * (height - _BOTTOM - _TOP)
        parts.append(
            f'<rect class="bar s0" x="{left + 1:.1f}" y="{height - _BOTTOM - tall:.1f}" '
            f'width="{right - left - 2:.1f}" height="{tall:.1f}"/>'
        )
    return _svg(height, parts, alt)


def _axes(x: Axis, y: Axis, top: float, height: float) -> list[str]:
    parts, floor = [], height - _BOTTOM
    for tick in y.ticks():
        at = floor - y.at(tick) * (floor - top)
        parts.append(_line(_LEFT, at, WIDTH - _RIGHT, at, "grid"))
        parts.append(_text(_LEFT - 6, at + 4, y.text(tick), "end", "tick"))
    for tick in x.ticks():
        at = _LEFT + x.at(tick) * (WIDTH - _LEFT - _RIGHT)
        parts.append(_line(at, floor, at, floor + 4, "axis"))
        parts.append(_text(at, floor + 17, x.text(tick), _anchor(at), "tick"))
    parts.append(_line(_LEFT, floor, WIDTH - _RIGHT, floor, "axis"))
    parts.append(_text((WIDTH + _LEFT) / 2, height - 8, x.label, "middle", "label"))
    parts.append(_text(0, top - 12, y.label, "start", "label"))
    return parts


def _legend_lines(names: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Names with their numbers, as many on a line as fit."""
    lines: list[list[tuple[int, str]]] = []
    room = 0.0
    for i, name in enumerate(names):
        length = 26 + 6.8 * len(_cut(name, 30))
        if not lines or room < length:
            lines.append([])
            room = float(WIDTH)
        lines[-1].append((i, _cut(name, 30)))
        room -= length
    return lines


def _legend(names: Sequence[str]) -> Iterator[str]:
    for row, line in enumerate(_legend_lines(names)):
        at = 8.0
        for i, name in line:
            yield _mark(at, 10 + 20 * row, i)
            yield _text(at + 10, 14 + 20 * row, name, "start", "name")
            at += 26 + 6.8 * len(name)


def _mark(x: float, y: float, series: int, size: float = 5.0) -> str:
    """A mark whose colour and shape both tell the series."""
    a, shape = size, (series % SHAPES)
    paths = (
        f"M{x - a:.1f} {y:.1f}a{a} {a} 0 1 0 {2 * a} 0a{a} {a} 0 1 0 {-2 * a} 0Z",
        f"M{x - a * 0.85:.1f} {y - a * 0.85:.1f}h{a * 1.7:.1f}v{a * 1.7:.1f}h{-a * 1.7:.1f}Z",
        f"M{x:.1f} {y - a * 1.1:.1f}L{x + a * 1.1:.1f} {y + a * 0.8:.1f}H{x - a * 1.1:.1f}Z",
        _path([(x, y - 1.25 * a), (x + 1.25 * a, y), (x, y + 1.25 * a), (x - 1.25 * a, y)]) + "Z",
        f"M{x:.1f} {y + a * 1.1:.1f}L{x + a * 1.1:.1f} {y - a * 0.8:.1f}H{x - a * 1.1:.1f}Z",
        _cross(x, y, a, 0.0),
        _cross(x, y, a, math.pi / 4),
        _star(x, y, a * 1.3),
    )
    return f'<path class="mark s{series % SHAPES}" d="{paths[shape]}"/>'


def _cross(x: float, y: float, a: float, turn: float) -> str:
    b, a = 0.36 * a, 1.1 * a
    corners = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]
    cos, sin = math.cos(turn), math.sin(turn)
    return _path([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners]) + "Z"


def _star(x: float, y: float, a: float) -> str:
    turns = [(i * math.pi / 5 - math.pi / 2, a if i % 2 == 0 else 0.45 * a) for i in range(10)]
    return _path([(x + r * math.cos(t), y + r * math.sin(t)) for t, r in turns]) + "Z"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    if not text:
        return ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(printable(text))}</text>'


def _anchor(x: float) -> str:
    """Keeps a text under a tick within the chart."""
    return "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"


def _cut(text: str, most: int) -> str:
    most = max(most, 8)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _svg(height: float, parts: Sequence[str], alt: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(printable(alt))}">'
        f"{''.join(parts)}</svg>"
    )
