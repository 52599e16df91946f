"""Plots as SVG inside the page.

They are as wide as the window: lengths across are per cent, lengths down are pixels, so that text
keeps its size. Colours are classes of page.py's style sheet and follow its light, dark and print
schemes. Every line also has its own mark.
"""

import html
import math
from collections.abc import Sequence

from recllm_tasks.report.breakdowns import Point

# Per cent of a plot's width, and pixels.
_LEFT, _RIGHT = 13.0, 97.0
_TOP, _BOTTOM = 26, 240
_ROW = 20

# The palette's number of colours; tables hold the rest.
MOST_LINES = 7

_TICKS = 5


def line_plot(
    title: str,
    groups: Sequence[str],
    lines: Sequence[tuple[str, Sequence[Point]]],
    x_title: str,
    y_title: str,
) -> str:
    """Values over named groups, with whiskers where there are intervals."""
    lines = lines[:MOST_LINES]
    top = _highest(points for _, points in lines)
    if not groups or top <= 0:
        return ""
    ticks = _ticks(0, top)
    scale = _Scale((0, ticks[-1]), (_BOTTOM, _TOP))
    step = (_RIGHT - _LEFT) / len(groups)
    parts = _frame(ticks, scale, y_title)
    for place, name in enumerate(groups):
        parts.append(_text(_LEFT + (place + 0.5) * step, _BOTTOM + 16, name, "middle"))
    whiskers = any(not math.isnan(point.low) for _, points in lines for point in points)
    for number, (_, points) in enumerate(lines):
        # Side by side within a group, so that whiskers do not overlap.
        shift = (number - (len(lines) - 1) / 2) * min(1.4, step / (len(lines) + 1)) * whiskers
        xs = [_LEFT + (place + 0.5) * step + shift for place in range(len(groups))]
        parts += _line(number, list(zip(xs, points)), scale)
    return _plot(title, parts, x_title, [label for label, _ in lines])


def curve_plot(
    title: str,
    lines: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    x_title: str,
    y_title: str,
) -> str:
    """Values over steps or epochs of training; lines are thinned to the visible resolution."""
    lines = [(label, _thinned(points)) for label, points in lines[:MOST_LINES] if points]
    values = [value for _, points in lines for _, value in points]
    if not values:
        return ""
    last = max(points[-1][0] for _, points in lines)
    x_ticks, y_ticks = _ticks(0, max(last, 1)), _ticks(min(0, *values, 0), max(values))
    across = _Scale((0, x_ticks[-1]), (_LEFT, _RIGHT))
    scale = _Scale((y_ticks[0], y_ticks[-1]), (_BOTTOM, _TOP))
    parts = _frame(y_ticks, scale, y_title)
    for tick in x_ticks:
        parts.append(_text(across(tick), _BOTTOM + 16, f"{tick:,.0f}", "middle"))
    for number, (_, points) in enumerate(lines):
        path = [(across(step), Point(value)) for step, value in points]
        parts += _line(number, path, scale, marks=max(1, len(path) // 6))
    return _plot(title, parts, x_title, [label for label, _ in lines])


def forest_plot(
    title: str,
    rows: Sequence[tuple[str, int, Point, float | None]],
    x_title: str,
    origin: float = 0,
) -> str:
    """One row per method: (label, part of the table as a colour, value, the paper's value).

    The axis starts at `origin`, or at a lower value. Labels are beside their rows, or above them
    in a narrow window.
    """
    top = _highest([point] for _, _, point, _ in rows)
    top = max([top, *(paper for *_, paper in rows if paper)], default=0)
    if top <= 0:
        return ""
    lowest = [v for *_, p, paper in rows for v in (p.value, p.low, paper or top)]
    ticks = _ticks(min([origin, *(v for v in lowest if not math.isnan(v))]), top)
    across = _Scale((ticks[0], ticks[-1]), (3, _RIGHT))
    grid = "".join(_straight("grid", across(tick), 0, across(tick), "100%") for tick in ticks)
    parts, middle = [], _ROW / 2
    for label, colour, point, paper in rows:
        strip = [grid]
        if paper is not None:
            strip.append(f'<g class="paper">{_mark(3, across(paper), middle, 5)}</g>')
        if not math.isnan(point.low):
            kind, low, high = f"c{colour} whisker", across(point.low), across(point.high)
            strip.append(_straight(kind, low, middle, high, middle))
            strip += [_straight(kind, x, middle - 4, x, middle + 4) for x in (low, high)]
        strip.append(f'<g class="c{colour} mark">{_mark(0, across(point.value), middle, 3.5)}</g>')
        parts.append(f"<span>{html.escape(label)}</span>{_svg(strip, _ROW)}")
    numbers = [_text(across(tick), 14, _number(tick, ticks), "middle") for tick in ticks]
    parts.append(f'<span class="corner"></span>{_svg(numbers, _ROW)}')
    drawn = f'<div class="rows">{"".join(parts)}</div>'
    return _figure(title, drawn, x_title)


class _Scale:
    """Maps values to coordinates linearly."""

    def __init__(self, values: tuple[float, float], places: tuple[float, float]):
        self._low, self._start = values[0], places[0]
        self._slope = (places[1] - places[0]) / ((values[1] - values[0]) or 1)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._slope


def _highest(lines) -> float:
    tops = [value for points in lines for p in points for value in (p.value, p.high)]
    return max((value for value in tops if not math.isnan(value)), default=0)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = (high - low) or 1
    step = 10 ** math.floor(math.log10(span / _TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= _TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _number(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _frame(ticks: Sequence[float], scale: _Scale, y_title: str) -> list[str]:
    parts = [_text(0, 12, y_title, "start", "axis")]
    for tick in ticks:
        y = scale(tick)
        parts.append(_straight("grid", _LEFT, y, _RIGHT, y))
        parts.append(_text(_LEFT - 1, y + 4, _number(tick, ticks), "end"))
    return parts


def _line(number: int, path: Sequence[tuple[float, Point]], scale: _Scale, marks=1) -> list[str]:
    """A line through the points without NaN, with whiskers and every `marks`-th mark."""
    path = [(x, point) for x, point in path if not math.isnan(point.value)]
    drawn = "L".join(f"{x:.2f} {scale(point.value):.1f}" for x, point in path)
    # Stretched across only: a path has no lengths in per cent.
    stretch = f'height="{_BOTTOM}" viewBox="0 0 100 {_BOTTOM}" preserveAspectRatio="none"'
    line = f'<path class="c{number} line" vector-effect="non-scaling-stroke" d="M{drawn}"/>'
    parts = [f'<svg width="100%" {stretch}>{line}</svg>'] if path else []
    parts += [
        _straight(f"c{number} whisker", x, scale(point.low), x, scale(point.high))
        for x, point in path
        if not math.isnan(point.low)
    ]
    shapes = "".join(
        _mark(number, x, scale(point.value), 4)
        for place, (x, point) in enumerate(path)
        if place % marks == 0
    )
    return [*parts, f'<g class="c{number} mark">{shapes}</g>']


def _mark(number: int, x: float, y: float, r: float, unit: str = "%") -> str:
    """One of seven shapes."""
    shapes = (
        "",
        f"M{-r} {-r}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M0 {-r * 1.2:.1f}l{r * 1.2:.1f} {r * 2.1:.1f}h{-r * 2.4:.1f}z",
        f"M0 {-r * 1.3:.1f}l{r * 1.3:.1f} {r * 1.3:.1f}l{-r * 1.3:.1f} {r * 1.3:.1f}"
        f"l{-r * 1.3:.1f} {-r * 1.3:.1f}z",
        f"M0 {r * 1.2:.1f}l{r * 1.2:.1f} {-r * 2.1:.1f}h{-r * 2.4:.1f}z",
        f"M{-r} {-r}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}",
        f"M{-r * 1.2:.1f} 0h{2.4 * r:.1f}M0 {-r * 1.2:.1f}v{2.4 * r:.1f}",
    )
    if number % len(shapes) == 0:
        return f'<circle cx="{x:.2f}{unit}" cy="{y:.1f}" r="{r}"/>'
    where = f'x="{x:.2f}{unit}" y="{y:.1f}" overflow="visible"'
    return f'<svg {where}><path d="{shapes[number % len(shapes)]}"/></svg>'


def _thinned(points: Sequence[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """Averages neighbours, leaving at most `most` points."""
    size = -(-len(points) // most)
    found = []
    for start in range(0, len(points), max(1, size)):
        part = points[start : start + size]
        found.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return found


def _straight(kind: str, x1: float, y1: float, x2: float, y2: float | str) -> str:
    return f'<line class="{kind}" x1="{x1:.2f}%" y1="{y1}" x2="{x2:.2f}%" y2="{y2}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    of = f' class="{kind}"' if kind else ""
    where = f'x="{x:.2f}%" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text{of} {where}>{html.escape(text)}</text>"


def _svg(parts: Sequence[str], height: int | str) -> str:
    return f'<svg width="100%" height="{height}" aria-hidden="true">{"".join(parts)}</svg>'


def _plot(title: str, parts: Sequence[str], x_title: str, labels: Sequence[str]) -> str:
    """A figure with a legend that wraps as text does."""
    entries = []
    for number, label in enumerate(labels):
        line = f'<path class="c{number} line" d="M0 8h28"/>'
        mark = f'<g class="c{number} mark">{_mark(number, 14, 8, 4, "")}</g>'
        drawn = f'<svg width="28" height="16" aria-hidden="true">{line}{mark}</svg>'
        entries.append(f"<li>{drawn}<span>{html.escape(label)}</span></li>")
    legend = f'<ul class="legend">{"".join(entries)}</ul>'
    return _figure(title, _svg(parts, _BOTTOM + 22), x_title, legend)


def _figure(title: str, drawn: str, x_title: str, legend: str = "") -> str:
    name = html.escape(title)
    return (
        f"<figure><figcaption>{name}</figcaption>"
        f'<div class="plot" role="img" aria-label="{name}">{drawn}'
        f'<p class="axis">{html.escape(x_title)}</p></div>{legend}</figure>\n'
    )
