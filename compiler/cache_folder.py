"""The directory of the compiler's caches."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$PRECAST_CACHE``, else ``precast`` in the user's cache folder."""
    named = os.environ.get("PRECAST_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "precast"
