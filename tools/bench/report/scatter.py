"""A scatter plot with logarithmic axes, on which equal distances are equal ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from precast.tools.bench.report.markup import Markup, element

WIDTH, HEIGHT = 680, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 205, 16, 52
_LINE = 14
"""Vertical distance of labels in pixels."""
_LETTER = 7.5


@dataclass(frozen=True)
class Point:
    """A contender in the plot.

    Attributes:
        name: label of the point.
        x: positive value on the x axis.
        y: positive value on the y axis.
        ours: whether the point is highlighted.
    """

    name: str
    x: float
    y: float
    ours: bool


@dataclass(frozen=True)
class _Axis:
    """A range of values and the pixels that it maps to."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> Markup:
    """Return a plot of labelled points; the upper left is best."""
    x = _axis([point.x for point in points], _LEFT, WIDTH - _RIGHT)
    y = _axis([point.y for point in points], HEIGHT - _BOTTOM, _TOP)
    lines = [*_ticks_x(x), *_ticks_y(y)]
    dots = [
        element("circle", cx=x.at(one.x), cy=y.at(one.y), r=6 if one.ours else 4.5, class_=_kind(one))
        for one in points
    ]
    names = [
        element("text", one.name, x=left, y=top + 4, class_=f"label {_kind(one)}")
        for one, left, top in _placed(points, x, y)
    ]
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    labels = [
        element("text", x_label, x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 10, class_="axis middle"),
        element("text", y_label, transform=f"translate(16 {middle:.0f}) rotate(-90)", class_="axis middle"),
    ]
    return element(
        "svg", *lines, *dots, *names, *labels, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
        aria_label=f"{y_label} against {x_label}",
    )  # fmt: skip


def ticks(low: float, high: float) -> list[float]:
    """Return the values between two limits that are 1, 2 or 5 times a power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    """Return an axis wider than the values, so that no point lies on its edge."""
    return _Axis(min(values) / 1.35, max(values) * 1.35, begin, end)


def _ticks_x(axis: _Axis) -> list[Markup]:
    found = []
    for value in ticks(axis.low, axis.high):
        at = axis.at(value)
        found.append(element("line", x1=at, x2=at, y1=_TOP, y2=HEIGHT - _BOTTOM, class_="grid"))
        found.append(element("text", f"{value:g}", x=at, y=HEIGHT - _BOTTOM + 16, class_="tick middle"))
    return found


def _ticks_y(axis: _Axis) -> list[Markup]:
    found = []
    for value in ticks(axis.low, axis.high):
        at = axis.at(value)
        found.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at, class_="grid"))
        found.append(element("text", f"{value:,.10g}", x=_LEFT - 8, y=at + 4, class_="tick end"))
    return found


def _placed(points: Sequence[Point], x: _Axis, y: _Axis) -> list[tuple[Point, float, float]]:
    """Place each name to the right of its point, and move it below names that it would overlap."""
    found: list[tuple[Point, float, float]] = []
    for one in sorted(points, key=lambda point: y.at(point.y)):
        left, top = x.at(one.x) + 10, y.at(one.y)
        for other, begin, height in sorted(found, key=lambda index: index[2]):
            wide = begin < left + len(one.name) * _LETTER and left < begin + len(other.name) * _LETTER
            if wide and abs(height - top) < _LINE:
                top = height + _LINE
        found.append((one, left, top))
    return found


def _kind(point: Point) -> str:
    return "ours" if point.ours else "peer"
