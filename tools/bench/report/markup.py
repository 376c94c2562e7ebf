"""Elements of HTML and SVG as text; everything that is not ``Markup`` is escaped."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is markup and needs no escaping."""


def text(content: str) -> Markup:
    """Return escaped text."""
    return Markup(escape(content, quote=True))


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Return ``<name ...>children</name>``; children that are not ``Markup`` are escaped.

    Args:
        name: name of the element.
        *children: contents in order.
        **attributes: attributes; a trailing underscore of a name is dropped, others become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_shown(value))}"' for key, value in attributes.items()
    )
    inside = "".join(child if isinstance(child, Markup) else text(child) for child in children)
    return Markup(f"<{name}{given}>{inside}</{name}>")


def joined(*parts: Markup) -> Markup:
    """Return several elements, one after the other."""
    return Markup("".join(parts))


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
