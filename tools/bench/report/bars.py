"""Horizontal bar charts: stacked phases, or one bar per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from precast.tools.bench.report.markup import Markup, element

WIDTH = 640
_LEFT, _RIGHT, _ROW, _BAR, _FOOT = 190, 60, 26, 16, 34


def waterfall(rows: Mapping[str, Mapping[str, float]], ours: Sequence[str], label: str) -> Markup:
    """Return a chart with one stacked bar per row.

    Args:
        rows: for each row, its parts by name in order, with their sizes.
        ours: names of the highlighted rows.
        label: label of the axis.
    """
    longest = max(sum(parts.values()) for parts in rows.values()) or 1.0
    scale = (WIDTH - _LEFT - _RIGHT) / longest
    elements = []
    for index, (name, parts) in enumerate(rows.items()):
        top, left = index * _ROW + 6, float(_LEFT)
        elements.append(_name(name, top, name in ours))
        for number, (part, size) in enumerate(parts.items()):
            tooltip = element("title", f"{name}, {part}: {size:.3f}")
            elements.append(
                element(
                    "rect", tooltip, x=left, y=top, width=size * scale, height=_BAR, class_=f"part{number}"
                )
            )
            left += size * scale
        elements.append(element("text", f"{sum(parts.values()):.2f}", x=left + 6, y=top + 12, class_="tick"))
    return _svg(elements, len(rows), label)


def bars(rows: Mapping[str, float], ours: Sequence[str], label: str) -> Markup:
    """Return a chart with one bar per row.

    Args:
        rows: sizes by name.
        ours: names of the highlighted rows.
        label: label of the axis.
    """
    scale = (WIDTH - _LEFT - _RIGHT) / (max(rows.values()) or 1.0)
    elements = []
    for index, (name, size) in enumerate(rows.items()):
        top = index * _ROW + 6
        kind = "ours" if name in ours else "peer"
        elements.append(_name(name, top, name in ours))
        elements.append(element("rect", x=_LEFT, y=top, width=size * scale, height=_BAR, class_=kind))
        elements.append(element("text", f"{size:.2f}", x=_LEFT + size * scale + 6, y=top + 12, class_="tick"))
    return _svg(elements, len(rows), label)


def legend(parts: Sequence[str]) -> Markup:
    """Return the legend of a waterfall's colours."""
    entries = [
        element("span", element("i", class_=f"part{number}"), part) for number, part in enumerate(parts)
    ]
    return element("p", *entries, class_="legend")


def _name(name: str, top: float, ours: bool) -> Markup:
    kind = "label ours end" if ours else "label end"
    return element("text", name, x=_LEFT - 10, y=top + 12, class_=kind)


def _svg(elements: Sequence[Markup], rows: int, label: str) -> Markup:
    height = rows * _ROW + _FOOT
    axis = element("text", label, x=_LEFT, y=height - 10, class_="axis")
    return element("svg", *elements, axis, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)
