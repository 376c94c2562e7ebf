"""Cast a Hugging Face encoder or encoder-decoder ahead of time; replay it in a minimal runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precast.compiler import compile as compile
    from precast.runtime import load as load

__all__ = ["compile", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Resolve on first use: importing precast must not import the compiler, nor torch."""
    if name == "load":
        from precast.runtime import load

        return load
    if name == "compile":
        from precast.compiler import compile

        return compile
    raise AttributeError(f"module 'precast' has no attribute {name!r}; it has {__all__}")
