"""Plots as SVG inside the page.

Colours are classes of page.py's style sheet and follow its light, dark and print schemes. Every
line also has its own mark.
"""

import html
import math
from collections.abc import Sequence

from recllm_tasks.report.breakdowns import Point

# In units of a plot, which are pixels at full width.
WIDTH, LINE_HEIGHT, _LEFT, _RIGHT = 640, 18, 56, 28
_PLOT_HEIGHT = 240

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
    scale = _Scale((0, ticks[-1]), (_PLOT_HEIGHT, 12))
    step = (WIDTH - _LEFT - _RIGHT) / len(groups)
    parts = _frame(ticks, scale, y_title)
    for place, name in enumerate(groups):
        x = _LEFT + (place + 0.5) * step
        parts.append(_text(x, _PLOT_HEIGHT + 16, name, "middle"))
    parts.append(_text((WIDTH + _LEFT) / 2, _PLOT_HEIGHT + 36, x_title, "middle", "axis"))
    whiskers = any(not math.isnan(point.low) for _, points in lines for point in points)
    for number, (_, points) in enumerate(lines):
        # Side by side within a group, so that whiskers do not overlap.
        shift = (number - (len(lines) - 1) / 2) * min(9, step / (len(lines) + 1)) * whiskers
        xs = [_LEFT + (place + 0.5) * step + shift for place in range(len(groups))]
        parts += _line(number, [(x, p) for x, p in zip(xs, points)], scale)
    height = _legend(parts, [label for label, _ in lines], _PLOT_HEIGHT + 56)
    return _svg(title, height, parts)


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
    across = _Scale((0, x_ticks[-1]), (_LEFT, WIDTH - _RIGHT))
    scale = _Scale((y_ticks[0], y_ticks[-1]), (_PLOT_HEIGHT, 12))
    parts = _frame(y_ticks, scale, y_title)
    for tick in x_ticks:
        parts.append(_text(across(tick), _PLOT_HEIGHT + 16, f"{tick:,.0f}", "middle"))
    parts.append(_text((WIDTH + _LEFT) / 2, _PLOT_HEIGHT + 36, x_title, "middle", "axis"))
    for number, (_, points) in enumerate(lines):
        path = [(across(step), Point(value)) for step, value in points]
        parts += _line(number, path, scale, marks=max(1, len(path) // 6))
    height = _legend(parts, [label for label, _ in lines], _PLOT_HEIGHT + 56)
    return _svg(title, height, parts)


def forest_plot(
    title: str,
    rows: Sequence[tuple[str, int, Point, float | None]],
    x_title: str,
    origin: float = 0,
) -> str:
    """One row per method: (label, part of the table as a colour, value, the paper's value).

    The axis starts at `origin`, or at a lower value.
    """
    top = _highest([point] for _, _, point, _ in rows)
    top = max([top, *(paper for *_, paper in rows if paper)], default=0)
    if top <= 0:
        return ""
    left = min(300, 24 + 6.6 * max(len(label) for label, *_ in rows))
    lowest = [v for *_, p, paper in rows for v in (p.value, p.low, paper or top)]
    ticks = _ticks(min([origin, *(v for v in lowest if not math.isnan(v))]), top)
    across = _Scale((ticks[0], ticks[-1]), (left, WIDTH - _RIGHT))
    bottom = 8 + LINE_HEIGHT * len(rows)
    parts = []
    for tick in ticks:
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} 4V{bottom}"/>')
        parts.append(_text(x, bottom + 16, _number(tick, ticks), "middle"))
    for row, (label, colour, point, paper) in enumerate(rows):
        y = 8 + LINE_HEIGHT * (row + 0.5)
        parts.append(_text(left - 10, y + 4, _short(label, 44), "end"))
        if paper is not None:
            parts.append(f'<g class="paper">{_mark(3, across(paper), y, 5)}</g>')
        if not math.isnan(point.low):
            low, high = across(point.low), across(point.high)
            whisker = f"M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"
            parts.append(f'<path class="c{colour} whisker" d="{whisker}"/>')
        parts.append(f'<g class="c{colour} mark">{_mark(0, across(point.value), y, 3.5)}</g>')
    parts.append(_text((WIDTH + left) / 2, bottom + 36, x_title, "middle", "axis"))
    return _svg(title, bottom + 44, parts)


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
    parts = []
    for tick in ticks:
        y = scale(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(tick, ticks), "end"))
    middle = (_PLOT_HEIGHT + 12) / 2
    turned = f'transform="rotate(-90 12 {middle})"'
    parts.append(_text(12, middle, y_title, "middle", "axis", turned))
    return parts


def _line(number: int, path: Sequence[tuple[float, Point]], scale: _Scale, marks=1) -> list[str]:
    """A line through the points without NaN, with whiskers and every `marks`-th mark."""
    path = [(x, point) for x, point in path if not math.isnan(point.value)]
    drawn = "L".join(f"{x:.1f} {scale(point.value):.1f}" for x, point in path)
    parts = [f'<path class="c{number} line" d="M{drawn}"/>'] if path else []
    whiskers = "".join(
        f"M{x:.1f} {scale(point.low):.1f}V{scale(point.high):.1f}"
        for x, point in path
        if not math.isnan(point.low)
    )
    if whiskers:
        parts.append(f'<path class="c{number} whisker" d="{whiskers}"/>')
    shapes = "".join(
        _mark(number, x, scale(point.value), 4)
        for place, (x, point) in enumerate(path)
        if place % marks == 0
    )
    return [*parts, f'<g class="c{number} mark">{shapes}</g>']


def _mark(number: int, x: float, y: float, r: float) -> str:
    """One of seven shapes."""
    shapes = (
        "",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - r * 1.2:.1f}l{r * 1.2:.1f} {r * 2.1:.1f}h{-r * 2.4:.1f}z",
        f"M{x:.1f} {y - r * 1.3:.1f}l{r * 1.3:.1f} {r * 1.3:.1f}l{-r * 1.3:.1f} {r * 1.3:.1f}"
        f"l{-r * 1.3:.1f} {-r * 1.3:.1f}z",
        f"M{x:.1f} {y + r * 1.2:.1f}l{r * 1.2:.1f} {-r * 2.1:.1f}h{-r * 2.4:.1f}z",
        f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}",
        f"M{x - r * 1.2:.1f} {y:.1f}h{2.4 * r:.1f}M{x:.1f} {y - r * 1.2:.1f}v{2.4 * r:.1f}",
    )
    if number % len(shapes) == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    return f'<path d="{shapes[number % len(shapes)]}"/>'


def _legend(parts: list[str], labels: Sequence[str], top: float) -> float:
    """Adds one line per label; returns the required height."""
    for number, label in enumerate(labels):
        y = top + LINE_HEIGHT * number
        line = f'<path class="c{number} line" d="M{_LEFT} {y}h28"/>'
        parts.append(f'{line}<g class="c{number} mark">{_mark(number, _LEFT + 14, y, 4)}</g>')
        parts.append(_text(_LEFT + 36, y + 4, _short(label, 80), "start"))
    return top + LINE_HEIGHT * len(labels)


def _thinned(points: Sequence[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """Averages neighbours, leaving at most `most` points."""
    size = -(-len(points) // most)
    found = []
    for start in range(0, len(points), max(1, size)):
        part = points[start : start + size]
        found.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return found


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "", more: str = "") -> str:
    of = f' class="{kind}"' if kind else ""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text{of} {where} {more}>{html.escape(text)}</text>"


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    name = html.escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><div class="wide">'
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{name}">'
        f"{''.join(parts)}</svg></div></figure>\n"
    )
