"""Elements of HTML and SVG as text, with everything escaped that is not markup itself."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is markup already."""


def text(content: str) -> Markup:
    """Any text, escaped."""
    return Markup(escape(content, quote=True))


def element(name: str, *children: str, **attributes: object) -> Markup:
    """``<name ...>children</name>``; children that are no ``Markup`` are escaped.

    Args:
        name: of the element.
        *children: in order.
        **attributes: a trailing underscore is dropped, others become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_shown(value))}"' for key, value in attributes.items()
    )
    inside = "".join(child if isinstance(child, Markup) else text(child) for child in children)
    return Markup(f"<{name}{given}>{inside}</{name}>")


def joined(*parts: Markup) -> Markup:
    """Several elements, one after the other."""
    return Markup("".join(parts))


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
