"""Plots as SVG: lines over one axis each way, nothing that needs a script or a second file."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 32
COLOURS: Final = ("#1f77b4", "#ff7f0e", "#d62728", "#2ca02c")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What is along one side: its ticks, and where a value lies between 0 and 1."""

    ticks: tuple[tuple[float, str], ...]
    place: Callable[[float], float]


def linear(highest: float, unit: str = "") -> Axis:
    """From zero to a round number that is no less than `highest`."""
    highest = max(highest, 1e-9)
    step = 10 ** math.floor(math.log10(highest / 4))
    step = next(step * by for by in (1, 2, 5, 10, 20) if step * by * 5 >= highest)
    count = math.ceil(highest / step - 1e-9)
    end = count * step
    ticks = tuple((n * step, f"{n * step:g}{unit}") for n in range(count + 1))
    return Axis(ticks=ticks, place=lambda value: min(max(value / end, 0.0), 1.0))


def logarithmic(lowest: float, highest: float, unit: str = "") -> Axis:
    """Powers of ten around both, which are above zero."""
    low = math.floor(math.log10(max(lowest, 1e-9)))
    high = max(math.ceil(math.log10(max(highest, 1e-9))), low + 1)
    ticks = tuple((10.0**n, f"{10.0**n:g}{unit}") for n in range(low, high + 1))

    def place(value: float) -> float:
        return min(max((math.log10(max(value, 1e-9)) - low) / (high - low), 0.0), 1.0)

    return Axis(ticks=ticks, place=place)


def percentiles(nines: int) -> Axis:
    """Shares from 0 to so many nines, each nine as wide as the one before."""
    shares = [0.0, 0.5, *(1 - 10.0**-n for n in range(1, nines + 1))]
    ticks = tuple((share, f"{round(share * 100, 6):g} %") for share in shares)

    def place(share: float) -> float:
        return min(1.0, -math.log10(max(1 - share, 1e-12)) / nines)

    return Axis(ticks=ticks, place=place)


def plot(
    title: str,
    across: Axis,
    up: Axis,
    lines: Sequence[tuple[str, Points]],
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """One figure with a legend; lines with no points are left out.

    `marks` are moments along the bottom, each with a word.
    """
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + wide * across.place(x), TOP + high * (1 - up.place(y))

    parts = []
    for value, label in up.ticks:
        y = TOP + high * (1 - up.place(value))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in across.ticks:
        x = LEFT + wide * across.place(value)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{label}</text>')
    for number, (value, word) in enumerate(marks):
        y = TOP + 9 + 12 * (number % 2)  # neighbours do not cover each other
        x = LEFT + wide * across.place(value)
        parts.append(f'<path class="mark" d="M{x:.1f} {TOP}V{TOP + high}"/>')
        parts.append(f'<text class="marked" x="{x + 3:.1f}" y="{y}">{html.escape(word)}</text>')
    legend = []
    for (name, points), colour in zip(lines, COLOURS, strict=False):
        if not points:
            continue
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{way}"/>')
        if len(points) == 1:
            x, y = at(*points[0])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        legend.append(f'<span style="color:{colour}">{html.escape(name)}</span>')
    escaped = html.escape(title)
    return (
        f"<figure><figcaption><b>{escaped}</b> {' '.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped}">'
        f"{''.join(parts)}</svg></figure>"
    )
